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

/** Whether our rules are there, and whether others stand in their way. Changes nothing; what cannot be read is a finding. */
export async function checkFirewall(
  facts: FirewallFacts,
  config: NetworkConfig,
  own: PerFamily<Subnet>,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const family of ['ipv4', 'ipv6'] as const) {
    const pool = config[family];
    const subnet = own[family];
    if (pool === undefined) continue;
    if (subnet !== undefined)
      findings.push(...(await checkRules(facts, config, { network: pool.network, subnet }, signal)));
    findings.push(...(await checkObstacles(facts, config, pool.network, signal)));
  }
  return findings.filter((one, index) => findings.findIndex(({ text }) => text === one.text) === index);
}

async function checkRules(
  { commands, ...facts }: FirewallFacts,
  { enableNFTables }: NetworkConfig,
  network: { readonly network: Subnet; readonly subnet: Subnet },
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { family } = network.subnet;
  const settings = {
    mode: enableNFTables ? ('nftables' as const) : ('iptables' as const),
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
  { commands, iptablesForwardRules, iptablesForwardPosition }: FirewallFacts,
  { enableNFTables }: NetworkConfig,
  network: Subnet,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  if (!iptablesForwardRules) return [];
  const jump = enableNFTables ? 'none' : iptablesForwardPosition;
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
