import { readBlockages } from '../../firewall/blockages.ts';
import type { FirewallNetwork } from '../../firewall/rules.ts';
import { type FirewallSettings, familyTasks } from '../../firewall/tasks.ts';
import type { PerFamily, Subnet } from '../../ip/ip.ts';
import type { Kernel } from '../../kernel/kernel.ts';
import { linkInside } from '../../kernel/rtnetlink.ts';
import type { Commands } from '../../runtime/effects.ts';
import { attempt, type Finding, note, ok, problem } from './finding.ts';

type Mode = FirewallSettings['mode'];

/** How the daemon sets its rules. */
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
  /** The mode in the network configuration; absent: not known, either is fine. */
  readonly mode: Mode | undefined;
  readonly networks: PerFamily<Subnet>;
  readonly own: PerFamily<Subnet>;
  /** Name of the interface to the peers, if known. */
  readonly uplink: string | undefined;
  /** What to do about rules that are missing. */
  readonly remedy: string;
}

/** Whether our rules are in place, and whether other rules drop packets. Changes nothing. */
export async function checkFirewall(
  facts: FirewallFacts,
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
  const { wanted } = familyTasks(facts.commands, settings, network.subnet.family, network, () => {});
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
