import { readBlockages } from '../../firewall/blockages.ts';
import type { FirewallNetwork } from '../../firewall/rules.ts';
import { type FirewallSettings, familyTasks } from '../../firewall/tasks.ts';
import { type Family, formatAddress, type PerFamily, parseSubnet, type Subnet } from '../../ip/ip.ts';
import { type Kernel, linkInside, type Route } from '../../kernel/kernel.ts';
import { CommandError, type Commands } from '../../runtime/effects.ts';
import { counted } from '../../runtime/texts.ts';
import { attempt, type Finding, note, ok, problem } from './finding.ts';

type Mode = FirewallSettings['mode'];

export interface LocalContainer {
  readonly address: string;
  /** The file of its network namespace. */
  readonly namespace: string;
}

interface PingFacts {
  readonly commands: Commands;
  readonly kernel: Pick<Kernel, 'links' | 'addresses' | 'routes'>;
  /** rtm_protocol of our routes. */
  readonly routeProtocol: number;
  /** A running container with an address in this host's subnet; undefined when none is visible. */
  readonly findContainer: (own: Subnet) => Promise<LocalContainer | undefined>;
}

export interface PacketFacts extends PingFacts {
  readonly ipMasq: boolean;
  readonly ipMasqFullyRandom: boolean;
  readonly iptablesForwardRules: boolean;
  readonly iptablesForwardPosition: FirewallSettings['forwardPosition'];
}

export interface FirewallPlace {
  /** The mode in the network configuration; absent: not known, either is fine. */
  readonly mode: Mode | undefined;
  readonly networks: PerFamily<Subnet>;
  readonly own: PerFamily<Subnet>;
  readonly uplink: string | undefined;
  readonly remedy: string;
}

/** Whether our rules are in place, and whether other rules drop packets. Changes nothing. */
export async function checkFirewall(
  facts: PacketFacts,
  { networks, own, remedy, mode, uplink }: FirewallPlace,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const family of ['ipv4', 'ipv6'] as const) {
    const [network, subnet] = [networks[family], own[family]];
    if (network === undefined || subnet === undefined) continue;
    const pair = { network, subnet };
    const isFine = (found: readonly Finding[]) => found.every(({ level }) => level === 'ok');
    const first = await checkRules(facts, mode ?? 'iptables', pair, remedy, signal);
    const isSure = mode !== undefined || isFine(first);
    const second = isSure ? first : await checkRules(facts, 'nftables', pair, remedy, signal);
    findings.push(...(isFine(second) ? second : first));
    /** Any rule that drops packets of containers, ours or not. */
    const checkPassage = async () => {
      const bridge = await linkInside(facts.kernel, subnet, signal);
      const passages = [{ ...pair, ...(uplink && { uplink }), ...(bridge && { bridge }) }];
      const options = { commands: facts.commands, passages, mode: mode ?? 'iptables' };
      const found = await readBlockages(options, signal);
      return found.length === 0
        ? [ok(`no firewall rule drops packets between containers (${network.text})`)]
        : found.map(({ effect, text, remedy: its }) => (effect === 'closed' ? problem : note)(text, its));
    };
    findings.push(...(await attempt('cannot read the packet filter', signal, checkPassage)));
  }
  return findings.filter((one, index) => findings.findIndex(({ text }) => text === one.text) === index);
}

async function checkRules(
  facts: PacketFacts,
  mode: Mode,
  network: FirewallNetwork,
  remedy: string,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const settings = {
    mode,
    masquerade: facts.ipMasq,
    fullyRandom: facts.ipMasqFullyRandom,
    forwardRules: facts.iptablesForwardRules,
    forwardPosition: facts.iptablesForwardPosition,
  };
  const { wanted } = familyTasks(facts.commands, settings, network.subnet.family, network);
  const findings: Finding[] = [];
  for (const task of wanted) {
    const { name } = task;
    const check = async () => [
      (await task.isDone(signal))
        ? ok(`${name}: our rules are in place`)
        : problem(`${name}: our rules are missing or changed`, remedy),
    ];
    findings.push(...(await attempt(name, signal, check)));
  }
  return findings;
}

/** The bridge of a peer, which has the first address of its subnet, and the peer's own address. */
interface Target {
  readonly address: string;
  readonly gateway: string;
}

const mostAsked = 3;
/** The first packet may be lost during neighbour discovery. */
const mostSent = 3;
/** One echo request, and a second for the answer. */
const ping = ['ping', '-q', '-c', '1', '-W', '1'];
const timeoutMs = 5_000;

/**
 * Pings a few peers from a container of this host. An answer shows that both hosts forward and route packets.
 * Without a container there is no check: a ping of the host itself passes neither its FORWARD chain nor the
 * peer's route to its subnet.
 */
export async function checkPackets(
  { commands, kernel, routeProtocol, findContainer }: PingFacts,
  own: Subnet,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const routes = await kernel.routes(own.family, signal);
  const targets = targetsOf(routes.filter(({ protocol }) => protocol === routeProtocol));
  const container = targets.length === 0 ? undefined : await findContainer(own);
  if (container === undefined) return [];
  const answers = (from: readonly string[], { address }: Target) =>
    isAnswered(commands, [...from, ...ping, address], signal);
  try {
    const asked = await Promise.all(
      targets.map(async (target) => {
        const inside = answers(['nsenter', `--net=${container.namespace}`], target);
        const [reached, fromHost] = await Promise.all([inside, answers([], target)]);
        return { target, outcome: reached ? 'reached' : fromHost ? 'closed' : 'silent' } as const;
      }),
    );
    return (['reached', 'closed', 'silent'] as const).flatMap((kind) => {
      const found = asked.flatMap(({ target, outcome }) => (outcome === kind ? [target] : []));
      return found.length === 0 ? [] : [judge(kind, own.family, container, found)];
    });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    return [note(`no packet was sent to a peer: ${error.message}`)];
  }
}

async function isAnswered(
  commands: Commands,
  [program = '', ...words]: readonly string[],
  signal: AbortSignal,
): Promise<boolean> {
  for (let sent = 0; sent < mostSent; sent++) {
    const { exitCode, stderr } = await commands.run(program, words, { timeoutMs }, signal);
    if (exitCode === 0) return true;
    // ping exits with 1 or 2; a higher code is from nsenter, which could not run it.
    if (exitCode > 2) throw new CommandError('COMMAND_FAILED', stderr.trim() || `${program} failed`);
  }
  return false;
}

function judge(
  kind: 'reached' | 'closed' | 'silent',
  family: Family,
  { address: from }: LocalContainer,
  targets: readonly Target[],
): Finding {
  const to = targets.map(({ address }) => address).join(', ');
  const hosts = targets.map(({ gateway }) => gateway).join(', ');
  if (kind === 'reached')
    return ok(`IPv${family}: ${from}, a container of this host, gets answers from ${to}`);
  return kind === 'closed'
    ? problem(
        `${from}, a container of this host, gets no answer from ${to}, but this host itself does`,
        `If no line above says what drops packets here, run doctor on ${hosts}: it has no route to this host's subnet, or drops its packets.`,
      )
    : note(
        `${counted(targets.length, 'peer')} answered neither a container of this host nor the host itself: ${to}`,
        `Run doctor on ${hosts}: it may be down, drop pings, or have no bridge because Docker has not started.`,
      );
}

/** The first, the middle and the last peer that has a route. */
function targetsOf(routes: readonly Route[]): readonly Target[] {
  const targets = routes.flatMap(({ dst, gateway }): Target[] => {
    const subnet = parseSubnet(dst);
    if (subnet === undefined || gateway === undefined) return [];
    return [{ address: formatAddress(subnet.family, subnet.first + 1n), gateway }];
  });
  if (targets.length <= mostAsked) return targets;
  return [0, targets.length >> 1, targets.length - 1].flatMap((index) => targets[index] ?? []);
}
