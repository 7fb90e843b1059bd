import type { ForwardPosition } from '../../firewall/forward.ts';
import { readClosedContainers, readObstacles } from '../../firewall/obstacles.ts';
import { familyTasks } from '../../firewall/tasks.ts';
import type { PerFamily, Subnet } from '../../ip/ip.ts';
import type { Commands } from '../../runtime/commands.ts';
import type { NetworkConfig } from '../../subnet/config.ts';
import { type Finding, failed, note, ok, problem } from './finding.ts';

/** How the daemon is to set its rules. */
export interface FirewallFacts {
  readonly commands: Commands;
  readonly ipMasq: boolean;
  readonly ipMasqFullyRandom: boolean;
  readonly iptablesForwardRules: boolean;
  readonly iptablesForwardPosition: ForwardPosition;
}

/** What the rules are for. */
export interface FirewallPlace {
  /** Absent: etcd does not say which mode is on, so either will do. */
  readonly config?: NetworkConfig;
  readonly networks: PerFamily<Subnet>;
  readonly own: PerFamily<Subnet>;
}

type Mode = 'iptables' | 'nftables';

/** Whether our rules are there, and whether others stand in their way. Changes nothing; what cannot be read is a finding. */
export async function checkFirewall(
  facts: FirewallFacts,
  { config, networks, own }: FirewallPlace,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  const modes: readonly Mode[] =
    config === undefined ? ['iptables', 'nftables'] : [config.enableNFTables ? 'nftables' : 'iptables'];
  for (const family of ['ipv4', 'ipv6'] as const) {
    const network = networks[family];
    const subnet = own[family];
    if (network === undefined) continue;
    if (subnet !== undefined) findings.push(...(await checkRules(facts, modes, { network, subnet }, signal)));
    const mode = modes.length === 1 && modes[0] === 'nftables' ? 'none' : facts.iptablesForwardPosition;
    findings.push(...(await checkObstacles(facts, mode, network, signal)));
  }
  return findings.filter((one, index) => findings.findIndex(({ text }) => text === one.text) === index);
}

/** The findings of the mode that is on; of several that of the first in which all is well, else of the first. */
async function checkRules(
  facts: FirewallFacts,
  modes: readonly Mode[],
  network: { readonly network: Subnet; readonly subnet: Subnet },
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  let first: readonly Finding[] | undefined;
  for (const mode of modes) {
    const found = await rulesOfMode(facts, mode, network, signal);
    if (found.every(({ level }) => level === 'ok')) return found;
    first ??= found;
  }
  return first ?? [];
}

async function rulesOfMode(
  { commands, ...facts }: FirewallFacts,
  mode: Mode,
  network: { readonly network: Subnet; readonly subnet: Subnet },
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { family } = network.subnet;
  const settings = {
    mode,
    networks: {},
    masquerade: facts.ipMasq,
    fullyRandom: facts.ipMasqFullyRandom,
    forwardRules: facts.iptablesForwardRules,
    forwardPosition: facts.iptablesForwardPosition,
  };
  const findings: Finding[] = [];
  for (const task of familyTasks(commands, settings, family, network, () => {}).wanted) {
    try {
      findings.push(
        (await task.isDone(signal))
          ? ok(`${task.name}: our rules are in place`)
          : problem(
              `${task.name}: our rules are missing, or not as they should be`,
              'A running daemon puts them right within seconds (--iptables-resync), and its log says what keeps it from that.',
            ),
      );
    } catch (error) {
      signal.throwIfAborted();
      findings.push(failed(task.name, error));
    }
  }
  return findings;
}

async function checkObstacles(
  { commands, iptablesForwardRules }: FirewallFacts,
  jump: ForwardPosition | 'none',
  network: Subnet,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  if (!iptablesForwardRules) return [];
  try {
    const obstacles = await readObstacles(commands, network.family, jump, signal);
    const closed = await readClosedContainers(commands, network, signal);
    return [
      ...obstacles.map((text) => note(text)),
      ...(closed === 0
        ? []
        : [
            problem(
              `Docker lets no packet of another host reach ${closed} of this host's containers (table raw, IPv${network.family})`,
              '"allow-direct-routing": true in /etc/docker/daemon.json (Docker 28.2 and later), then restart Docker.',
            ),
          ]),
    ];
  } catch (error) {
    signal.throwIfAborted();
    return [failed('the firewall could not be looked at', error)];
  }
}
