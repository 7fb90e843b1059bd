import type { KernelSnapshot } from '../../backend/hostgw/mirror.ts';
import {
  bridgeAddress,
  type Family,
  familiesOf,
  formatAddress,
  type PerFamily,
  parseSubnet,
  type Subnet,
} from '../../ip/ip.ts';
import type { Kernel, RouteFinder, Sender } from '../../kernel/kernel.ts';
import type { Files } from '../../runtime/effects.ts';
import { counted } from '../../runtime/texts.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import { subnetsPrefix } from '../../subnet/keys.ts';
import { familiesText } from '../../subnet/lease/own-lease.ts';
import type { StatusView } from '../ask-daemon.ts';
import type { ChooseInterface, ChosenInterface } from '../lease.ts';
import {
  type DaemonAnswer,
  type DaemonState,
  daemonFindings,
  daemonRemedy,
  daemonState,
  unlessElsewhere,
  unseenFindings,
  worksWithFormerConfig,
} from './check-daemon.ts';
import { checkBridge, checkDaemonJson } from './check-docker.ts';
import { checkEtcd, type EtcdFacts } from './check-etcd.ts';
import { checkFirewall, type FirewallFacts } from './check-firewall.ts';
import { type AddressFacts, checkAddress, checkFiles, checkForwarding, checkPools } from './check-host.ts';
import { checkLeases, type LeaseReport } from './check-leases.ts';
import { checkPackets, type PacketFacts } from './check-packets.ts';
import { checkPaths } from './check-paths.ts';
import { checkRoutes } from './check-routes.ts';
import { attempt, type Finding, failed, linesOf, note, ok, problem } from './finding.ts';
import { peersOf } from './peers.ts';

/** What subnet.env says. */
export interface SubnetFile {
  readonly subnets: PerFamily<Subnet>;
  readonly networks: PerFamily<Subnet>;
}

export interface DoctorOptions extends EtcdFacts, FirewallFacts, PacketFacts, AddressFacts {
  readonly kernel: Kernel & RouteFinder;
  readonly files: Files;
  readonly subnetFile: string;
  readonly dockerOptsFile?: string;
  readonly renewMarginMs: number;
  readonly chooseInterface: ChooseInterface;
  /** Asks the running daemon. */
  readonly askDaemon: () => Promise<DaemonAnswer>;
  /** Undefined when the text is no subnet.env. */
  readonly parseSubnetFile: (text: string) => SubnetFile | undefined;
  /** Those that etcd was tried at. */
  readonly etcdAddresses: () => readonly string[];
  /** Takes each line of the report. */
  readonly write: (line: string) => void;
}

type Tell = (findings: readonly Finding[]) => void;

/** What is known of this host's place in the network: by its daemon, by etcd, by subnet.env, in this order. */
interface Place {
  readonly own: PerFamily<Subnet>;
  readonly networks: PerFamily<Subnet>;
  /** Whether it is known by subnet.env alone. */
  readonly byFile: boolean;
  readonly daemon: DaemonState;
  /** What the daemon says, and no other check has found. */
  readonly unseen: (found: readonly Finding[]) => readonly Finding[];
  readonly view?: StatusView;
  readonly config?: NetworkConfig;
  readonly report?: LeaseReport;
  readonly chosen?: ChosenInterface;
}

/**
 * Looks at everything that containers on other hosts are reached by, and prints what is wrong with it and what to do: the daemon's
 * own words, etcd, the configuration, the interface, leases, files, Docker, routes, firewall; then it sends a packet. Goes on
 * without etcd and without a daemon, with what can be seen here. Changes nothing. Resolves to the exit code: 0 when there is no problem, else 1.
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

async function examine(options: DoctorOptions, write: Tell, signal: AbortSignal): Promise<void> {
  const found: Finding[] = [];
  const tell = (findings: readonly Finding[]) => {
    found.push(...findings);
    write(findings);
  };
  const step = async (what: string, check: () => Promise<readonly Finding[]>) =>
    tell(await attempt(what, signal, check));
  const place = await findPlace(options, tell, signal);
  const { own, networks, config, chosen, daemon, unseen } = place;
  await step('addresses of this host', () => hostFindings(options, place, signal));
  await step('Docker', () => checkDaemonJson(options.files, own));
  await step('routes', () => routeFindings(options, place, signal));
  await step('firewall', () =>
    checkFirewall(
      options,
      { ...(config && { config }), networks, own, daemon, ...(chosen && { uplink: chosen.name }) },
      signal,
    ),
  );
  for (const subnet of [own.ipv4, own.ipv6])
    if (subnet) await step('packets to peers', () => checkPackets(options, subnet, signal));
  tell(unseen(found));
}

/** Asks daemon and etcd, and says what they say. */
async function findPlace(options: DoctorOptions, tell: Tell, signal: AbortSignal): Promise<Place> {
  const answer = unlessElsewhere(await options.askDaemon(), subnetsPrefix(options.etcdPrefix));
  const view = 'view' in answer ? answer.view : undefined;
  const { findings, registry, ...stored } = await checkEtcd(options, signal);
  const isFormer = worksWithFormerConfig(answer);
  const config = isFormer ? undefined : stored.config;
  const listed = config && subnetsPrefix(options.etcdPrefix);
  tell(daemonFindings(answer, listed));
  // The daemon's notice says what has become of the configuration.
  tell(isFormer ? findings : [...findings, ...stored.configFindings]);
  const told = view?.lease ? subnetsIn(view.lease.subnets) : undefined;
  const file = await readSubnetFile(options);
  const known = told ?? file?.subnets ?? {};
  const families = familiesOf(config ?? known);
  const used: readonly Family[] = families.length > 0 ? families : [4];
  const chosen =
    (await interfaceOfDaemon(options.kernel, view, signal)) ?? (await options.chooseInterface(used, signal));
  if (typeof chosen === 'string') tell([problem(chosen, interfaceRemedy(chosen))]);
  else {
    tell([ok(`peers reach this host at ${familiesText(chosen.addresses)} on ${chosen.name}`)]);
    tell(await attempt('address of this host', signal, () => checkAddress(options, chosen, signal)));
  }
  tell(await checkForwarding(options.files, used, typeof chosen === 'string' ? [] : [chosen.name]));
  const byConfig = {
    ...(config?.ipv4 && { ipv4: config.ipv4.network }),
    ...(config?.ipv6 && { ipv6: config.ipv6.network }),
  };
  const place = {
    own: known,
    networks: config === undefined ? (file?.networks ?? {}) : byConfig,
    byFile: told === undefined,
    daemon: daemonState(answer),
    unseen: (found: readonly Finding[]) => unseenFindings(answer, listed, found),
    ...(view && { view }),
    ...(config && { config }),
    ...(typeof chosen === 'string' ? {} : { chosen }),
  };
  if (registry === undefined || config === undefined) return { ...place, ...withoutEtcd(tell, place) };
  if (typeof chosen === 'string') return place;
  const { addresses } = chosen;
  const facts = { ...options, registry, subnetsPrefix: subnetsPrefix(options.etcdPrefix), config, addresses };
  const report = await checkLeases({ ...facts, daemon: place.daemon, ...(view && { view }) }, signal);
  tell(report.findings);
  return { ...place, own: told ?? report.own?.subnets ?? {}, byFile: false, report };
}

/** Says by what the rest is judged. */
function withoutEtcd(tell: Tell, { own, view }: Place): Partial<Place> {
  const subnets = familiesText(own);
  if (subnets === '')
    tell([note('without etcd and without subnet.env the subnet of this host is not known')]);
  else
    tell([
      note(
        `what follows goes by ${view?.lease ? 'what the daemon knows' : 'subnet.env'}: this host has ${subnets}`,
      ),
    ]);
  return {};
}

/** What the running daemon uses is right, whatever the flags of this command would choose. */
async function interfaceOfDaemon(
  kernel: Kernel,
  view: StatusView | undefined,
  signal: AbortSignal,
): Promise<ChosenInterface | undefined> {
  const used = view?.lease?.addresses ?? [];
  const held = (await kernel.addresses(signal)).filter(({ address }) => used.includes(address));
  const link = (await kernel.links(signal)).find(({ index }) => index === held[0]?.linkIndex);
  if (link === undefined || held.length < used.length) return undefined;
  const of = (family: Family) => held.find((one) => one.family === family)?.address;
  const [ipv4, ipv6] = [of(4), of(6)];
  return { name: link.name, index: link.index, addresses: { ...(ipv4 && { ipv4 }), ...(ipv6 && { ipv6 }) } };
}

function subnetsIn(texts: readonly string[]): PerFamily<Subnet> {
  const subnets = texts.flatMap((text) => parseSubnet(text) ?? []);
  const [ipv4, ipv6] = ([4, 6] as const).map((family) => subnets.find((one) => one.family === family));
  return { ...(ipv4 && { ipv4 }), ...(ipv6 && { ipv6 }) };
}

async function readSubnetFile({ files, subnetFile, parseSubnetFile }: DoctorOptions) {
  const text = await files.readText(subnetFile).catch(() => undefined);
  return text === undefined ? undefined : parseSubnetFile(text);
}

/** By the reason, where that does not say it already. */
function interfaceRemedy(reason: string): string | undefined {
  if (/\bgive --iface\b|\bso give\b|leave --public|use --iface=|take a global/.test(reason)) return undefined;
  if (/duplicate address detection failed/.test(reason)) return 'Give one of the two hosts another address.';
  if (/still being checked/.test(reason)) return undefined;
  if (/there is no interface/.test(reason)) return 'Correct --iface: name one of these.';
  if (/--iface-regex/.test(reason)) return 'Correct --iface-regex, or give --iface=NAME.';
  if (/has no usable/.test(reason))
    return 'Give that interface an address, or name another one: --iface=NAME.';
  if (/no interface has the address|is no address|is of IPv/.test(reason))
    return 'Correct the address, or give --iface=NAME.';
  return 'Name the interface that the other hosts are reached by: --iface=NAME.';
}

async function hostFindings(
  options: DoctorOptions,
  { own, byFile, config, chosen, daemon }: Place,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { kernel } = options;
  const [links, addresses] = [await kernel.links(signal), await kernel.addresses(signal)];
  const mtu = links.find(({ index }) => index === chosen?.index)?.mtu;
  const remedy = daemonRemedy(daemon, 'writes it');
  const facts = { ...options, links, addresses, remedy, ...(mtu !== undefined && { mtu }) };
  const isKnown = familiesOf(own).length > 0;
  return [
    ...(config && chosen ? checkPools(facts, config, own, chosen.index) : []),
    ...(isKnown || byFile ? await checkFiles(facts, own) : []),
    ...(isKnown ? checkBridge(facts, own) : []),
  ];
}

async function routeFindings(
  { kernel, routeProtocol: protocol, etcdAddresses }: DoctorOptions,
  { own, networks, report, chosen, daemon, view }: Place,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  const [links, addresses] = [await kernel.links(signal), await kernel.addresses(signal)];
  for (const family of ['ipv4', 'ipv6'] as const) {
    const [network, subnet, address] = [networks[family], own[family], chosen?.addresses[family]];
    if (subnet === undefined || chosen === undefined || address === undefined) continue;
    const routes = await kernel.routes(subnet.family, signal);
    const snapshot: KernelSnapshot = { links, addresses, routes };
    const self = { subnet, address, ...(network && { network }) };
    const sources = { routes, protocol, ...(report && { leases: report.peers }), ...(view && { view }) };
    const { findings: found, routed } = checkRoutes(peersOf(self, sources), {
      self,
      kernel: snapshot,
      link: chosen,
      protocol,
      etcdAddresses: etcdAddresses(),
      remedy: daemonRemedy(daemon, 'puts routes right within seconds'),
    });
    findings.push(...found);
    const sender = senderIn(subnet, snapshot);
    const facts = { finder: kernel, kernel: snapshot, family: subnet.family, linkIndex: chosen.index };
    findings.push(...(await checkPaths(routed, { ...facts, ...(sender && { sender }) }, signal)));
  }
  return findings;
}

/** A container in this host's subnet, behind the bridge that has its first address. */
function senderIn(own: Subnet, { links, addresses }: KernelSnapshot): Sender | undefined {
  const bridge = addresses.find(
    ({ address, prefixLength }) => `${address}/${prefixLength}` === bridgeAddress(own),
  );
  if (bridge === undefined || links.find(({ index }) => index === bridge.linkIndex)?.up !== true)
    return undefined;
  return { address: formatAddress(own.family, own.first + 2n), linkIndex: bridge.linkIndex };
}
