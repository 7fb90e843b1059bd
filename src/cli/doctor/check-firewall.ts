import { readBlockages } from '../../firewall/blockages.ts';
import type { FirewallNetwork } from '../../firewall/rules.ts';
import { type FirewallSettings, familyTasks } from '../../firewall/tasks.ts';
import type { PerFamily, Subnet } from '../../ip/ip.ts';
import type { Kernel } from '../../kernel/kernel.ts';
import { linkInside } from '../../kernel/rtnetlink.ts';
import type { Commands } from '../../runtime/effects.ts';
import { attempt, type Finding, failed, note, ok, problem } from './finding.ts';

type Mode = FirewallSettings['mode'];

/** How the daemon is to set its rules. */
export interface FirewallFacts {
  readonly commands: Commands;
  readonly kernel: Pick<Kernel, 'links' | 'addresses'>;
  readonly ipMasq: boolean;
  readonly ipMasqFullyRandom: boolean;
  readonly iptablesForwardRules: boolean;
  readonly iptablesForwardPosition: FirewallSettings['forwardPosition'];
}

/** What the rules are for. */
export interface FirewallPlace {
  /** The mode that is on; absent: etcd does not say which, so either will do. */
  readonly mode: Mode | undefined;
  readonly networks: PerFamily<Subnet>;
  readonly own: PerFamily<Subnet>;
  /** Name of the interface that peers are reached by, where it is known. */
  readonly uplink: string | undefined;
  /** What to do about rules that are missing. */
  readonly remedy: string;
}

/** Whether our rules are there, and whether others stand in their way. Changes nothing; what cannot be read is a finding. */
export async function checkFirewall(
  facts: FirewallFacts,
  place: FirewallPlace,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { networks, own, remedy, mode } = place;
  const findings: Finding[] = [];
  for (const family of ['ipv4', 'ipv6'] as const) {
    const [network, subnet] = [networks[family], own[family]];
    if (network === undefined || subnet === undefined) continue;
    const pair = { network, subnet };
    const checkRules = (one: Mode) => rulesOfMode(facts, one, pair, remedy, signal);
    const found = await checkRules(mode ?? 'iptables');
    const isDone = mode !== undefined || found.every(({ level }) => level === 'ok');
    const other = isDone ? found : await checkRules('nftables');
    findings.push(...(other.every(({ level }) => level === 'ok') ? other : found));
    const check = () => checkPassage(facts, place, pair, signal);
    findings.push(...(await attempt('the packet filter could not be searched', signal, check)));
  }
  return findings.filter((one, index) => findings.findIndex(({ text }) => text === one.text) === index);
}

async function rulesOfMode(
  facts: FirewallFacts,
  mode: Mode,
  network: FirewallNetwork,
  remedy: string,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const settings = {
    mode,
    networks: {},
    masquerade: facts.ipMasq,
    fullyRandom: facts.ipMasqFullyRandom,
    forwardRules: facts.iptablesForwardRules,
    forwardPosition: facts.iptablesForwardPosition,
  };
  const findings: Finding[] = [];
  const { family } = network.subnet;
  for (const task of familyTasks(facts.commands, settings, family, network, () => {}).wanted) {
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
  { mode = 'iptables', uplink }: FirewallPlace,
  network: FirewallNetwork,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const bridge = await linkInside(kernel, network.subnet, signal);
  const passage = { ...network, ...(uplink && { uplink }), ...(bridge && { bridge }) };
  const found = await readBlockages({ commands, passages: [passage], mode }, signal);
  if (found.length === 0)
    return [ok(`no firewall rule drops packets between containers (${network.network.text})`)];
  return found.map(({ effect, text, remedy }) => (effect === 'closed' ? problem : note)(text, remedy));
}
