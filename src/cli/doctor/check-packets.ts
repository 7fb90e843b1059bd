import { type Family, formatAddress, parseSubnet, type Subnet } from '../../ip/ip.ts';
import type { Kernel, Route } from '../../kernel/kernel.ts';
import { CommandError, type Commands } from '../../runtime/effects.ts';
import { counted } from '../../runtime/texts.ts';
import { type Finding, note, ok, problem } from './finding.ts';

/** A container that runs on this host. */
export interface LocalContainer {
  readonly address: string;
  /** The file of its network namespace. */
  readonly namespace: string;
}

/** Where pings come from, and where they go. */
export interface PacketFacts {
  readonly commands: Commands;
  readonly kernel: Pick<Kernel, 'routes'>;
  /** rtm_protocol of our routes. */
  readonly routeProtocol: number;
  /** A running container with an address in this host's subnet; undefined when none is visible. */
  readonly findContainer: (own: Subnet) => Promise<LocalContainer | undefined>;
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
  { commands, kernel, routeProtocol, findContainer }: PacketFacts,
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
