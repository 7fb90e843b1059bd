import { readBlockages } from '../../firewall/blockages.ts';
import type { ForwardPosition } from '../../firewall/iptables-plan.ts';
import type { FirewallNetwork } from '../../firewall/rules.ts';
import { familyTasks } from '../../firewall/tasks.ts';
import type { PerFamily, Subnet } from '../../ip/ip.ts';
import { type Kernel, linkInside } from '../../kernel/kernel.ts';
import type { Commands } from '../../runtime/effects.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import { type DaemonState, daemonRemedy } from './check-daemon.ts';
import { attempt, type Finding, failed, note, ok, problem } from './finding.ts';

/** How the daemon is to set its rules. */
export interface FirewallFacts {
  readonly commands: Commands;
  readonly kernel: Pick<Kernel, 'links' | 'addresses'>;
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
  /** Name of the interface that peers are reached by, where it is known. */
  readonly uplink?: string;
  readonly daemon: DaemonState;
}

type Mode = 'iptables' | 'nftables';

interface RuleFacts extends FirewallFacts {
  /** What to do about rules that are missing. */
  readonly remedy: string;
}

/** Whether our rules are there, and whether others stand in their way. Changes nothing; what cannot be read is a finding. */
export async function checkFirewall(
  facts: FirewallFacts,
  { config, networks, own, uplink, daemon }: FirewallPlace,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  const remedy = daemonRemedy(daemon, 'puts them right within seconds (--iptables-resync)');
  const modes: readonly Mode[] =
    config === undefined ? ['iptables', 'nftables'] : [config.enableNFTables ? 'nftables' : 'iptables'];
  for (const family of ['ipv4', 'ipv6'] as const) {
    const network = networks[family];
    const subnet = own[family];
    if (network === undefined || subnet === undefined) continue;
    const pair = { network, subnet };
    findings.push(...(await checkRules({ ...facts, remedy }, modes, pair, signal)));
    const mode = modes.length === 1 && modes[0] === 'nftables' ? 'nftables' : 'iptables';
    const check = () => checkPassage(facts, mode, pair, uplink, signal);
    findings.push(...(await attempt('the packet filter could not be searched', signal, check)));
  }
  return findings.filter((one, index) => findings.findIndex(({ text }) => text === one.text) === index);
}

/** The findings of the mode that is on; of several that of the first in which all is well, else of the first. */
async function checkRules(
  facts: RuleFacts,
  modes: readonly Mode[],
  network: FirewallNetwork,
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
  { commands, remedy, ...facts }: RuleFacts,
  mode: Mode,
  network: FirewallNetwork,
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
          : problem(`${task.name}: our rules are missing, or not as they should be`, remedy),
      );
    } catch (error) {
      signal.throwIfAborted();
      findings.push(failed(task.name, error));
    }
  }
  return findings;
}

/** What drops containers' packets, whoever's rule it is. */
async function checkPassage(
  { commands, kernel }: FirewallFacts,
  mode: Mode,
  network: FirewallNetwork,
  uplink: string | undefined,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const bridge = await linkInside(kernel, network.subnet, signal);
  const passage = { ...network, ...(uplink && { uplink }), ...(bridge && { bridge }) };
  const found = await readBlockages({ commands, passages: [passage], mode }, signal);
  if (found.length === 0)
    return [ok(`no firewall rule drops packets between containers (${network.network.text})`)];
  return found.map(({ effect, text, remedy }) => (effect === 'closed' ? problem : note)(text, remedy));
}
