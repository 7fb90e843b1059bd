import { familiesOf } from '../../ip/ip.ts';
import type { Kernel } from '../../kernel/kernel.ts';
import type { Files } from '../../runtime/files.ts';
import { counted } from '../../runtime/plural.ts';
import type { NetworkConfig } from '../../subnet/config.ts';
import type { Lease } from '../../subnet/lease.ts';
import { familiesText } from '../../subnet/own-lease.ts';
import { subnetsPrefix } from '../../subnet/subnet-key.ts';
import type { ChooseInterface, ChosenInterface } from '../this-host.ts';
import { checkEtcd, type EtcdFacts } from './check-etcd.ts';
import { checkFirewall, type FirewallFacts } from './check-firewall.ts';
import { checkBridge, checkFiles, checkForwarding, checkPools, type HostFacts } from './check-host.ts';
import { checkLeases } from './check-leases.ts';
import { checkRoutes } from './check-routes.ts';
import { attempt, type Finding, failed, linesOf, ok, problem } from './finding.ts';

export interface DoctorOptions extends EtcdFacts, FirewallFacts {
  readonly kernel: Kernel;
  readonly files: Files;
  readonly subnetFile: string;
  readonly dockerOptsFile?: string;
  readonly routeProtocol: number;
  readonly renewMarginMs: number;
  readonly chooseInterface: ChooseInterface;
  /** Takes each line of the report. */
  readonly write: (line: string) => void;
}

/**
 * Looks at everything that containers on other hosts are reached by, and prints what is wrong with it and what to do: etcd,
 * the configuration, the interface, leases, files, Docker's bridge, routes, firewall. Changes nothing. Resolves to the
 * exit code: 0 when there is no problem, else 1.
 */
export async function runDoctor(options: DoctorOptions, signal: AbortSignal): Promise<0 | 1> {
  let problems = 0;
  const tell = (findings: readonly Finding[]) => {
    for (const finding of findings) {
      if (finding.level === 'problem') problems++;
      for (const line of linesOf(finding)) options.write(line);
    }
  };
  try {
    await examine(options, tell, signal);
  } catch (error) {
    signal.throwIfAborted();
    tell([failed('the rest could not be looked at', error)]);
  }
  options.write(problems === 0 ? 'No problem was found.' : `${counted(problems, 'problem')} found.`);
  return problems === 0 ? 0 : 1;
}

async function examine(
  options: DoctorOptions,
  tell: (findings: readonly Finding[]) => void,
  signal: AbortSignal,
): Promise<void> {
  const { etcdPrefix, files } = options;
  const { findings, registry, config } = await checkEtcd(options, signal);
  tell(findings);
  if (registry === undefined || config === undefined) return;
  tell(await checkForwarding(files, config));
  const chosen = await options.chooseInterface(familiesOf(config), signal);
  if (typeof chosen === 'string')
    return tell([problem(chosen, 'Give --iface, or correct the addresses of this host.')]);
  const { addresses } = chosen;
  tell([ok(`peers reach this host at ${familiesText(addresses)} on ${chosen.name}`)]);
  const asked = { ...options, registry, subnetsPrefix: subnetsPrefix(etcdPrefix), config, addresses };
  const report = await checkLeases(asked, signal);
  tell(report.findings);
  const own = report.own?.subnets ?? {};
  const step = async (what: string, check: () => Promise<readonly Finding[]>) =>
    tell(await attempt(what, signal, check));
  await step('addresses of this host', () => hostFindings(options, config, report.own, chosen, signal));
  await step('routes', () => routeFindings(options, config, report, chosen, signal));
  await step('firewall', () => checkFirewall(options, config, own, signal));
}

async function hostFindings(
  options: DoctorOptions,
  config: NetworkConfig,
  own: Lease | undefined,
  { index: interfaceIndex }: ChosenInterface,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { kernel } = options;
  const [links, addresses] = [await kernel.links(signal), await kernel.addresses(signal)];
  const facts: HostFacts = { ...options, links, addresses };
  const subnets = own?.subnets ?? {};
  return [
    ...checkPools(facts, config, subnets, interfaceIndex),
    ...(own === undefined ? [] : await checkFiles(facts, subnets)),
    ...(subnets.ipv4 === undefined ? [] : [checkBridge(facts, subnets.ipv4)]),
  ];
}

async function routeFindings(
  { kernel, routeProtocol: protocol }: DoctorOptions,
  config: NetworkConfig,
  { leases, own }: { readonly leases: readonly Lease[]; readonly own?: Lease },
  { index: linkIndex, addresses }: ChosenInterface,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const family of ['ipv4', 'ipv6'] as const) {
    const [pool, subnet, address] = [config[family], own?.subnets[family], addresses[family]];
    if (pool === undefined || subnet === undefined || address === undefined) continue;
    const routes = await kernel.routes(subnet.family, signal);
    const facts = { self: { subnet, address }, network: pool.network, routes, linkIndex, protocol };
    findings.push(...checkRoutes(leases, facts));
  }
  return findings;
}
