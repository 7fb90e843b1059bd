import type { StationOptions } from '../../arp/arp.ts';
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
import type { Kernel, Link, LinkAddress, RouteFinder, Sender } from '../../kernel/kernel.ts';
import { counted } from '../../runtime/texts.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import { subnetsPrefix } from '../../subnet/keys.ts';
import type { Lease } from '../../subnet/lease/lease.ts';
import { familiesText } from '../../subnet/lease/own-lease.ts';
import type { StatusView } from '../ask-daemon.ts';
import type { ChooseInterface, ChosenInterface } from '../lease.ts';
import { checkEtcd, checkLeases, type EtcdFacts } from './check-etcd.ts';
import {
  checkAddress,
  checkBridge,
  checkDaemonJson,
  checkFiles,
  checkForwarding,
  type FileFacts,
} from './check-host.ts';
import { checkFirewall, checkPackets, type PacketFacts } from './check-packets.ts';
import { checkPaths } from './check-paths.ts';
import { checkRoutes } from './check-routes.ts';
import { checkV2, type V2Facts } from './check-v2.ts';
import {
  attempt,
  type DaemonAnswer,
  type DaemonState,
  daemonRemedy,
  daemonReport,
  daemonState,
  type Finding,
  failed,
  linesOf,
  note,
  ok,
  problem,
  unlessElsewhere,
  worksWithFormerConfig,
} from './finding.ts';

export interface DoctorOptions extends EtcdFacts, V2Facts, PacketFacts, StationOptions, FileFacts {
  readonly kernel: Kernel & RouteFinder;
  readonly renewMarginMs: number;
  readonly chooseInterface: ChooseInterface;
  readonly askDaemon: () => Promise<DaemonAnswer>;
  /** What subnet.env says; undefined when the text is none. */
  readonly parseSubnetFile: (
    text: string,
  ) => (Pick<Standing, 'networks'> & { readonly subnets: Standing['own'] }) | undefined;
  readonly etcdAddresses: () => readonly string[];
  readonly write: (line: string) => void;
}

/** This host's standing in the network, as its daemon, etcd or subnet.env says, in this order. */
interface Standing {
  readonly own: PerFamily<Subnet>;
  readonly networks: PerFamily<Subnet>;
  readonly daemon: DaemonState;
  readonly view: StatusView | undefined;
  readonly config: NetworkConfig | undefined;
  /** Leases of other hosts; absent without etcd. */
  readonly leases?: readonly Lease[] | undefined;
  readonly chosen: ChosenInterface | undefined;
}

/**
 * Checks all that containers need to reach other hosts, and prints each problem with its remedy: the daemon's
 * report, etcd, the configuration, the interface, leases, files, Docker, routes, firewall, and pings. Works
 * without etcd and without a daemon, with what this host shows. Changes nothing. Resolves to the exit code: 0
 * when there is no problem, else 1.
 */
export async function runDoctor(options: DoctorOptions, signal: AbortSignal): Promise<0 | 1> {
  const doctor = new Doctor(options, signal);
  try {
    await doctor.examine();
  } catch (error) {
    signal.throwIfAborted();
    doctor.tell([failed('doctor cannot check the rest', error)]);
  }
  const problems = doctor.found.filter(({ level }) => level === 'problem').length;
  options.write(problems === 0 ? 'No problems found.' : `${counted(problems, 'problem')} found.`);
  return problems === 0 ? 0 : 1;
}

class Doctor {
  readonly found: Finding[] = [];
  readonly #options: DoctorOptions;
  readonly #signal: AbortSignal;

  constructor(options: DoctorOptions, signal: AbortSignal) {
    this.#options = options;
    this.#signal = signal;
  }

  tell(findings: readonly Finding[]): void {
    this.found.push(...findings);
    for (const line of findings.flatMap(linesOf)) this.#options.write(line);
  }

  async #step(what: string, check: () => Promise<readonly Finding[]>): Promise<void> {
    this.tell(await attempt(what, this.#signal, check));
  }

  async examine(): Promise<void> {
    const options = this.#options;
    const prefix = subnetsPrefix(options.etcdPrefix);
    const answer = unlessElsewhere(await options.askDaemon(), prefix);
    const { findings, configFindings, registry, config: stored } = await checkEtcd(options, this.#signal);
    const isFormer = worksWithFormerConfig(answer);
    const config = isFormer ? undefined : stored;
    const said = daemonReport(answer, config && prefix);
    this.tell(said.findings);
    // The daemon's notice says how the configuration changed.
    this.tell(isFormer ? findings : [...findings, ...configFindings]);
    if (registry) await this.#step("etcd's v2 store", () => checkV2(options, registry, this.#signal));
    const standing = await this.#findStanding(answer, config);
    const { view, daemon, chosen, own } = standing;
    if (registry === undefined || config === undefined) this.tell([sourceOf(standing)]);
    if (registry === undefined || config === undefined || chosen === undefined)
      await this.#examineHost(standing);
    else {
      const { addresses } = chosen;
      const facts = { ...options, subnetsPrefix: prefix, view, daemon, registry, config, addresses };
      let known = standing;
      await this.#step('leases', async () => {
        const report = await checkLeases(facts, this.#signal);
        const leased = view?.lease ? own : (report.own?.subnets ?? {});
        known = { ...standing, own: leased, leases: report.peers };
        return report.findings;
      });
      if (known.leases === undefined) this.tell([sourceOf(known)]);
      await this.#examineHost(known);
    }
    this.tell(said.unseen(this.found));
  }

  /** Also reports the interface, its address and forwarding. */
  async #findStanding(answer: DaemonAnswer, config: NetworkConfig | undefined): Promise<Standing> {
    const { files, subnetFile, parseSubnetFile, chooseInterface } = this.#options;
    const view = 'view' in answer ? answer.view : undefined;
    const text = await files.readText(subnetFile).catch(() => undefined);
    const file = text === undefined ? undefined : parseSubnetFile(text);
    const told = view?.lease?.subnets.flatMap((one) => parseSubnet(one) ?? []);
    const own = told ? byFamily(told) : (file?.subnets ?? {});
    const families = familiesOf(config ?? own);
    const used: readonly Family[] = families.length > 0 ? families : [4];
    const found = (await this.#interfaceOf(view)) ?? (await chooseInterface(used, this.#signal));
    const chosen = typeof found === 'string' ? undefined : found;
    if (typeof found === 'string') this.tell([problem(found, interfaceRemedy(found))]);
    else {
      this.tell([ok(`peers reach this host at ${familiesText(found.addresses)} on ${found.name}`)]);
      await this.#step('address of this host', () => checkAddress(this.#options, found, this.#signal));
    }
    this.tell(await checkForwarding(files, used, chosen ? [chosen.name] : []));
    const pools = [config?.ipv4, config?.ipv6].flatMap((pool) => pool?.network ?? []);
    const networks = config === undefined ? (file?.networks ?? {}) : byFamily(pools);
    return { own, networks, daemon: daemonState(answer), view, config, chosen };
  }

  /** The interface that the running daemon uses, whatever the flags of this command would choose. */
  async #interfaceOf(view: StatusView | undefined): Promise<ChosenInterface | undefined> {
    const [links, addresses] = await this.#readKernel();
    const used = view?.lease?.addresses ?? [];
    const held = addresses.filter(({ address }) => used.includes(address));
    const link = links.find(({ index }) => index === held[0]?.linkIndex);
    if (link === undefined || held.length < used.length) return undefined;
    const { ipv4, ipv6 } = byFamily(held);
    const own = { ...(ipv4 && { ipv4: ipv4.address }), ...(ipv6 && { ipv6: ipv6.address }) };
    return { name: link.name, index: link.index, addresses: own };
  }

  async #readKernel(): Promise<readonly [readonly Link[], readonly LinkAddress[]]> {
    const { kernel } = this.#options;
    return [await kernel.links(this.#signal), await kernel.addresses(this.#signal)];
  }

  /** The checks of this host, and the pings. */
  async #examineHost(standing: Standing): Promise<void> {
    const options = this.#options;
    const { own, networks, config, chosen, daemon } = standing;
    await this.#step('addresses of this host', () => this.#hostFindings(standing));
    await this.#step('Docker', () => checkDaemonJson(options.files, own));
    await this.#step('routes', () => this.#routeFindings(standing));
    const mode = config && (config.enableNFTables ? 'nftables' : 'iptables');
    const remedy = daemonRemedy(daemon, 'corrects rules within seconds (--iptables-resync)');
    const rules = { mode, networks, own, uplink: chosen?.name, remedy } as const;
    await this.#step('firewall', () => checkFirewall(options, rules, this.#signal));
    for (const subnet of [own.ipv4, own.ipv6])
      if (subnet) await this.#step('packets to peers', () => checkPackets(options, subnet, this.#signal));
  }

  async #hostFindings({ own, view, leases, config, chosen, daemon }: Standing): Promise<readonly Finding[]> {
    const [links, addresses] = await this.#readKernel();
    const mtu = links.find(({ index }) => index === chosen?.index)?.mtu;
    const isKnown = familiesOf(own).length > 0;
    const byFile = !view?.lease && leases === undefined;
    const findings: Finding[] = [];
    // A pool that overlaps a network of this host may cut it off, so the daemon does not start.
    if (config && chosen)
      for (const overlap of poolOverlaps(
        { links, addresses, own: [own], interfaceIndex: chosen.index },
        config,
      ))
        findings.push(problem(overlap.problem, overlap.remedy));
    if (isKnown || byFile)
      findings.push(...(await checkFiles(this.#options, own, mtu, daemonRemedy(daemon, 'writes it'))));
    return isKnown ? [...findings, ...checkBridge({ links, addresses, mtu }, own)] : findings;
  }

  async #routeFindings(standing: Standing): Promise<readonly Finding[]> {
    const { kernel: finder, routeProtocol: protocol } = this.#options;
    const { own, networks, leases, chosen: link, daemon, view } = standing;
    const [links, addresses] = await this.#readKernel();
    const remedy = daemonRemedy(daemon, 'corrects routes within seconds');
    const etcdAddresses = this.#options.etcdAddresses();
    const findings: Finding[] = [];
    for (const family of ['ipv4', 'ipv6'] as const) {
      const [network, subnet, address] = [networks[family], own[family], link?.addresses[family]];
      if (subnet === undefined || link === undefined || address === undefined) continue;
      const kernel = { links, addresses, routes: await finder.routes(subnet.family, this.#signal) };
      const self = { subnet, address, ...(network && { network }) };
      const checked = checkRoutes({ self, kernel, link, protocol, etcdAddresses, remedy, leases, view });
      const sender = senderIn(subnet, kernel);
      const facts = { finder, kernel, family: subnet.family, linkIndex: link.index, sender };
      findings.push(...checked.findings, ...(await checkPaths(checked.routed, facts, this.#signal)));
    }
    return findings;
  }
}

/** What the other checks rely on without the leases in etcd. */
function sourceOf({ own, view }: Standing): Finding {
  const subnets = familiesText(own);
  if (subnets === '') return note('the subnet of this host is unknown without the leases and subnet.env');
  const source = view?.lease ? 'the daemon' : 'subnet.env';
  return note(`the checks below rely on ${source}: this host has ${subnets}`);
}

/** The first of each family. */
function byFamily<T extends { readonly family: Family }>(items: readonly T[]): PerFamily<T> {
  const [ipv4, ipv6] = ([4, 6] as const).map((family) => items.find((one) => one.family === family));
  return { ...(ipv4 && { ipv4 }), ...(ipv6 && { ipv6 }) };
}

/** The remedy for a reason; none when the reason contains it, or when waiting helps. */
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

/** A container in this host's subnet, behind the bridge that has its first address. */
function senderIn(own: Subnet, { links, addresses }: KernelSnapshot): Sender | undefined {
  const bridge = addresses.find(
    ({ address, prefixLength }) => `${address}/${prefixLength}` === bridgeAddress(own),
  );
  if (bridge === undefined || links.find(({ index }) => index === bridge.linkIndex)?.up !== true)
    return undefined;
  return { address: formatAddress(own.family, own.first + 2n), linkIndex: bridge.linkIndex };
}
