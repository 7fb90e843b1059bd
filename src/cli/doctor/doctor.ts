import type { StationOptions } from '../../arp/station.ts';
import { poolOverlaps } from '../../backend/hostgw/host-networks.ts';
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
import { counted } from '../../runtime/texts.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import { subnetsPrefix } from '../../subnet/keys.ts';
import type { Lease } from '../../subnet/lease/lease.ts';
import { familiesText } from '../../subnet/lease/own-lease.ts';
import type { StatusView } from '../ask-daemon.ts';
import type { ChooseInterface, ChosenInterface } from '../lease.ts';
import { checkBridge, checkDaemonJson } from './check-docker.ts';
import { checkEtcd, type EtcdFacts } from './check-etcd.ts';
import { checkFirewall, type FirewallFacts } from './check-firewall.ts';
import { checkAddress, checkFiles, checkForwarding, type FileFacts } from './check-host.ts';
import { checkLeases } from './check-leases.ts';
import { checkPackets, type PacketFacts } from './check-packets.ts';
import { checkPaths } from './check-paths.ts';
import { checkRoutes } from './check-routes.ts';
import {
  attempt,
  type DaemonAnswer,
  type DaemonState,
  daemonFindings,
  daemonRemedy,
  daemonState,
  type Finding,
  failed,
  linesOf,
  note,
  ok,
  problem,
  unlessElsewhere,
  unseenFindings,
  worksWithFormerConfig,
} from './finding.ts';

/** What subnet.env says. */
export interface SubnetFile {
  readonly subnets: PerFamily<Subnet>;
  readonly networks: PerFamily<Subnet>;
}

export interface DoctorOptions extends EtcdFacts, FirewallFacts, PacketFacts, StationOptions, FileFacts {
  readonly kernel: Kernel & RouteFinder;
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
  readonly daemon: DaemonState;
  readonly view: StatusView | undefined;
  readonly config: NetworkConfig | undefined;
  /** Those of other hosts, as far as etcd says. */
  readonly leases: readonly Lease[] | undefined;
  readonly chosen: ChosenInterface | undefined;
}

/**
 * Looks at everything that containers on other hosts are reached by, and prints what is wrong with it and what to do: the daemon's
 * own words, etcd, the configuration, the interface, leases, files, Docker, routes, firewall; then it sends a packet. Goes on
 * without etcd and without a daemon, with what can be seen here. Changes nothing. Resolves to the exit code: 0 when there is no problem, else 1.
 */
export async function runDoctor(options: DoctorOptions, signal: AbortSignal): Promise<0 | 1> {
  const found: Finding[] = [];
  const tell = (findings: readonly Finding[]) => {
    found.push(...findings);
    for (const line of findings.flatMap(linesOf)) options.write(line);
  };
  try {
    await examine(options, found, tell, signal);
  } catch (error) {
    signal.throwIfAborted();
    tell([failed('the rest could not be looked at', error)]);
  }
  const problems = found.filter(({ level }) => level === 'problem').length;
  options.write(problems === 0 ? 'No problem was found.' : `${counted(problems, 'problem')} found.`);
  return problems === 0 ? 0 : 1;
}

async function examine(
  options: DoctorOptions,
  found: readonly Finding[],
  tell: Tell,
  signal: AbortSignal,
): Promise<void> {
  const step = async (what: string, check: () => Promise<readonly Finding[]>) =>
    tell(await attempt(what, signal, check));
  const prefix = subnetsPrefix(options.etcdPrefix);
  const answer = unlessElsewhere(await options.askDaemon(), prefix);
  const { findings, configFindings, registry, config: stored } = await checkEtcd(options, signal);
  const isFormer = worksWithFormerConfig(answer);
  const config = isFormer ? undefined : stored;
  const listed = config && prefix;
  tell(daemonFindings(answer, listed));
  // The daemon's notice says what has become of the configuration.
  tell(isFormer ? findings : [...findings, ...configFindings]);
  const place = await findPlace(options, answer, config, tell, signal);
  const { view, daemon, chosen } = place;
  if (registry === undefined || config === undefined) tell([sourceOf(place)]);
  const facts = { ...options, subnetsPrefix: prefix, view, daemon };
  const report =
    registry && config && chosen
      ? await checkLeases({ ...facts, registry, config, addresses: chosen.addresses }, signal)
      : undefined;
  tell(report?.findings ?? []);
  const own = view?.lease || report === undefined ? place.own : (report.own?.subnets ?? {});
  await examineHost(options, { ...place, own, leases: report?.peers }, step, signal);
  tell(unseenFindings(answer, listed, found));
}

/** Looks at what lies on this host. */
async function examineHost(
  options: DoctorOptions,
  place: Place,
  step: (what: string, check: () => Promise<readonly Finding[]>) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const { own, networks, config, chosen, daemon } = place;
  await step('addresses of this host', () => hostFindings(options, place, signal));
  await step('Docker', () => checkDaemonJson(options.files, own));
  await step('routes', () => routeFindings(options, place, signal));
  const mode = config && (config.enableNFTables ? 'nftables' : 'iptables');
  const remedy = daemonRemedy(daemon, 'puts them right within seconds (--iptables-resync)');
  await step('firewall', () =>
    checkFirewall(options, { mode, networks, own, uplink: chosen?.name, remedy }, signal),
  );
  for (const subnet of [own.ipv4, own.ipv6])
    if (subnet) await step('packets to peers', () => checkPackets(options, subnet, signal));
}

/** By daemon, configuration and subnet.env; says which interface it is, and whether packets are passed on. */
async function findPlace(
  options: DoctorOptions,
  answer: DaemonAnswer,
  config: NetworkConfig | undefined,
  tell: Tell,
  signal: AbortSignal,
): Promise<Place> {
  const { files, kernel, subnetFile, parseSubnetFile, chooseInterface } = options;
  const view = 'view' in answer ? answer.view : undefined;
  const text = await files.readText(subnetFile).catch(() => undefined);
  const file = text === undefined ? undefined : parseSubnetFile(text);
  const told = view?.lease?.subnets.flatMap((one) => parseSubnet(one) ?? []);
  const own = told ? byFamily(told) : (file?.subnets ?? {});
  const families = familiesOf(config ?? own);
  const used: readonly Family[] = families.length > 0 ? families : [4];
  const found = (await interfaceOfDaemon(kernel, view, signal)) ?? (await chooseInterface(used, signal));
  const chosen = typeof found === 'string' ? undefined : found;
  if (typeof found === 'string') tell([problem(found, interfaceRemedy(found))]);
  else {
    tell([ok(`peers reach this host at ${familiesText(found.addresses)} on ${found.name}`)]);
    tell(await attempt('address of this host', signal, () => checkAddress(options, found, signal)));
  }
  tell(await checkForwarding(files, used, chosen ? [chosen.name] : []));
  const pools = [config?.ipv4, config?.ipv6].flatMap((pool) => pool?.network ?? []);
  const networks = config === undefined ? (file?.networks ?? {}) : byFamily(pools);
  return { own, networks, daemon: daemonState(answer), view, config, leases: undefined, chosen };
}

/** By what the rest is judged without etcd. */
function sourceOf({ own, view }: Place): Finding {
  const subnets = familiesText(own);
  if (subnets === '') return note('without etcd and without subnet.env the subnet of this host is not known');
  const source = view?.lease ? 'what the daemon knows' : 'subnet.env';
  return note(`what follows goes by ${source}: this host has ${subnets}`);
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
  const { ipv4, ipv6 } = byFamily(held);
  const addresses = { ...(ipv4 && { ipv4: ipv4.address }), ...(ipv6 && { ipv6: ipv6.address }) };
  return { name: link.name, index: link.index, addresses };
}

/** The first of each family. */
function byFamily<T extends { readonly family: Family }>(items: readonly T[]): PerFamily<T> {
  const [ipv4, ipv6] = ([4, 6] as const).map((family) => items.find((one) => one.family === family));
  return { ...(ipv4 && { ipv4 }), ...(ipv6 && { ipv6 }) };
}

/** What to do about a reason; nothing where that says it already, or where waiting helps. */
const interfaceRemedies: readonly (readonly [reason: RegExp, remedy?: string])[] = [
  [/\bgive --iface\b|\bso give\b|leave --public|use --iface=|take a global|still being checked/],
  [/duplicate address detection failed/, 'Give one of the two hosts another address.'],
  [/there is no interface/, 'Correct --iface: name one of these.'],
  [/--iface-regex/, 'Correct --iface-regex, or give --iface=NAME.'],
  [/has no usable/, 'Give that interface an address, or name another one: --iface=NAME.'],
  [/no interface has the address|is no address|is of IPv/, 'Correct the address, or give --iface=NAME.'],
  [/^/, 'Name the interface that the other hosts are reached by: --iface=NAME.'],
];

function interfaceRemedy(reason: string): string | undefined {
  return interfaceRemedies.find(([pattern]) => pattern.test(reason))?.[1];
}

async function hostFindings(
  options: DoctorOptions,
  { own, view, leases, config, chosen, daemon }: Place,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const { kernel } = options;
  const [links, addresses] = [await kernel.links(signal), await kernel.addresses(signal)];
  const mtu = links.find(({ index }) => index === chosen?.index)?.mtu;
  const isKnown = familiesOf(own).length > 0;
  const byFile = !view?.lease && leases === undefined;
  // They may cut this host off, and keep the daemon from starting.
  const overlaps =
    config && chosen
      ? poolOverlaps({ links, addresses, own: [own], interfaceIndex: chosen.index }, config)
      : [];
  return [
    ...overlaps.map((overlap) => problem(overlap.problem, overlap.remedy)),
    ...(isKnown || byFile ? await checkFiles(options, own, mtu, daemonRemedy(daemon, 'writes it')) : []),
    ...(isKnown ? checkBridge({ links, addresses, mtu }, own) : []),
  ];
}

async function routeFindings(
  { kernel: finder, routeProtocol: protocol, etcdAddresses }: DoctorOptions,
  { own, networks, leases, chosen, daemon, view }: Place,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  const [links, addresses] = [await finder.links(signal), await finder.addresses(signal)];
  const remedy = daemonRemedy(daemon, 'puts routes right within seconds');
  for (const family of ['ipv4', 'ipv6'] as const) {
    const [network, subnet, address] = [networks[family], own[family], chosen?.addresses[family]];
    if (subnet === undefined || chosen === undefined || address === undefined) continue;
    const kernel = { links, addresses, routes: await finder.routes(subnet.family, signal) };
    const self = { subnet, address, ...(network && { network }) };
    const facts = {
      self,
      kernel,
      link: chosen,
      protocol,
      etcdAddresses: etcdAddresses(),
      remedy,
      leases,
      view,
    };
    const { findings: found, routed } = checkRoutes(facts);
    const paths = { finder, kernel, family: subnet.family, linkIndex: chosen.index };
    const ways = await checkPaths(routed, { ...paths, sender: senderIn(subnet, kernel) }, signal);
    findings.push(...found, ...ways);
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
