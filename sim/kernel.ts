import type { Family } from '../src/ip/ip.ts';
import {
  type Kernel,
  KernelError,
  type KernelEvent,
  type Link,
  type LinkAddress,
  type Route,
  type RouteFinder,
  type RouteLookup,
  type UsedRoute,
} from '../src/kernel/kernel.ts';
import type { Clock } from '../src/runtime/effects.ts';
import { AddressTable, addressOn, connectedRoute } from './kernel-addresses.ts';
import { SimKernelConnection } from './kernel-connection.ts';
import { SimEventStream } from './kernel-events.ts';
import { KernelFaults } from './kernel-faults.ts';
import { findRoute, lookUp } from './kernel-lookup.ts';
import { refusal } from './kernel-refusal.ts';
import { destination, type InsertMode, type RouteMatch, RouteTable } from './kernel-table.ts';

export interface SimKernelOptions {
  /** For latency and slow dumps; without it everything happens at once. */
  readonly clock?: Clock;
  /** How long a batch or a dump takes. Default 0. */
  readonly latencyMs?: number;
  /** The first four bytes of its links' MAC addresses; of each host other ones. Default `02:00:00:00`. */
  readonly macPrefix?: string;
}

/** What an operator (or another program) puts into the table; unicast, protocol boot, metric 0 unless said otherwise. */
export interface OperatorRoute extends RouteMatch {
  readonly source?: string;
  /** A route with a nexthop of its own kind: multipath, nexthop object, … */
  readonly special?: boolean;
}

/** What a daemon's message did to the routes of one destination. */
export interface DaemonChange {
  readonly family: Family;
  readonly dst: string;
  readonly before: readonly Route[];
  readonly after: readonly Route[];
}

/** Requests that have reached the kernel, by all connections. */
export interface KernelCounters {
  dumps: number;
  digests: number;
  batches: number;
  messages: number;
}

/**
 * One host's links, addresses and main-table routes in memory, behaving as Linux does (measured on 6.18, and kept honest
 * by the contract tests): what is refused and how, what is flushed without a word, who is told what. Its methods are the
 * operator's actions; the daemon's view is a connection. Not modelled: link-local addresses that IPv6 makes by itself.
 */
export class SimKernel {
  readonly faults = new KernelFaults();
  readonly counters: KernelCounters = { dumps: 0, digests: 0, batches: 0, messages: 0 };
  readonly clock: Clock | undefined;
  /** When the slow dump that is under way ends (monotonic ms). */
  slowDumpUntilMs = Number.NEGATIVE_INFINITY;
  readonly latencyMs: number;
  /** Told when an address has come or gone. */
  onAddresses: () => void = () => {};
  /** Told of every message of a daemon's that was carried out. */
  onDaemonChange: (change: DaemonChange) => void = () => {};
  /** Told of every change of a link. */
  onLinkChange: () => void = () => {};
  readonly #tables = { 4: new RouteTable(4), 6: new RouteTable(6) } as const;
  readonly #links = new Map<number, Link>();
  readonly #addresses = new AddressTable();
  readonly #streams = new Set<SimEventStream>();
  readonly #macPrefix: string;
  #lastIndex = 0;

  /** A fresh namespace: `lo` alone, up. */
  constructor(options: SimKernelOptions = {}) {
    this.clock = options.clock;
    this.latencyMs = options.latencyMs ?? 0;
    this.#macPrefix = options.macPrefix ?? '02:00:00:00';
    this.createLink('lo', { loopback: true, mtu: 65536 });
    this.addAddress('lo', '127.0.0.1/8');
  }

  /** How many streams of events are open. */
  get listeners(): number {
    return this.#streams.size;
  }

  /** The daemon's connection; a restarted daemon opens another one. */
  open(): Kernel & RouteFinder {
    return new SimKernelConnection(this);
  }

  links(): readonly Link[] {
    return [...this.#links.values()];
  }

  /** IPv4 before IPv6, by link; IPv4 oldest first, IPv6 newest first. */
  addresses(): readonly LinkAddress[] {
    return this.#addresses.list();
  }

  routes(family: Family): readonly Route[] {
    return this.#tables[family].list();
  }

  /** Creates a link, up unless told otherwise; indexes are never used twice, nor MAC addresses. Returns its index. */
  createLink(name: string, options: Partial<Omit<Link, 'index' | 'name'>> = {}): number {
    const index = ++this.#lastIndex;
    const bytes = [index >> 8, index & 0xff].map((byte) => byte.toString(16).padStart(2, '0'));
    const mac = options.loopback ? {} : { mac: [this.#macPrefix, ...bytes].join(':') };
    const defaults = { mtu: 1500, up: true, carrier: options.up ?? true, loopback: false };
    this.#changeLink({ index, name, ...defaults, ...mac, ...options });
    return index;
  }

  /** Deletes a link with its addresses and, silently, its IPv4 routes. */
  deleteLink(name: string): void {
    const link = this.link(name);
    if (link.up) this.setLinkUp(name, false);
    for (const address of this.#addresses.of(link.index)) this.#dropAddress(address);
    this.#links.delete(link.index);
    this.#emit({ type: 'link-removed', linkIndex: link.index, name });
    this.onLinkChange();
  }

  /**
   * Down: IPv4 routes over the link vanish without a word; IPv6 says DELROUTE for each and drops the addresses too.
   * Up: the connected routes return, nothing else.
   */
  setLinkUp(name: string, up: boolean): void {
    const link = this.link(name);
    if (link.up === up) return;
    this.#changeLink({ ...link, up, carrier: up });
    if (up) {
      for (const address of this.#addresses.of(link.index)) this.#connect(address);
      return;
    }
    this.#tables[4].flush((route) => route.linkIndex === link.index);
    for (const route of this.#tables[6].flush((r) => r.linkIndex === link.index)) {
      this.#emit({ type: 'route-removed', route });
    }
    const lost = this.#addresses.of(link.index).filter((a) => a.family === 6);
    for (const address of lost) this.#dropAddress(address);
  }

  /** Pulls or plugs the cable: routes stay. */
  setCarrier(name: string, carrier: boolean): void {
    this.#changeLink({ ...this.link(name), carrier });
  }

  /** Undefined: the link does no ARP from now on. */
  setMac(name: string, mac: string | undefined): void {
    const { mac: _, ...link } = this.link(name);
    this.#changeLink({ ...link, ...(mac !== undefined && { mac }) });
  }

  setMtu(name: string, mtu: number): void {
    this.#changeLink({ ...this.link(name), mtu });
  }

  /** `cidr`: address and prefix length, e.g. `10.211.55.100/24`. Throws {@link KernelError} EEXIST. */
  addAddress(name: string, cidr: string, flags: Partial<LinkAddress> = {}): void {
    const link = this.link(name);
    const address: LinkAddress = { ...addressOn(link, cidr), ...flags };
    if (this.#addresses.find(address) !== undefined)
      throw new KernelError('EEXIST', `${cidr} is there already`);
    this.#addresses.add(address);
    this.#emit({ type: 'address-added', address });
    this.#connect(address);
    this.onAddresses();
  }

  /** Changes the flags of an address, as the end of duplicate address detection does. Throws EADDRNOTAVAIL. */
  changeAddress(name: string, cidr: string, flags: Partial<LinkAddress>): void {
    const held = this.#addresses.find(addressOn(this.link(name), cidr));
    if (held === undefined) throw new KernelError('EADDRNOTAVAIL', `${cidr} is not on ${name}`);
    const address = { ...held, ...flags };
    this.#addresses.change(held, address);
    this.#emit({ type: 'address-added', address });
  }

  /** Removes an address, and with an IPv4 primary its secondaries (promote_secondaries=0). Throws EADDRNOTAVAIL. */
  removeAddress(name: string, cidr: string): void {
    const link = this.link(name);
    const address = this.#addresses.find(addressOn(link, cidr));
    if (address === undefined) throw new KernelError('EADDRNOTAVAIL', `${cidr} is not on ${name}`);
    const secondaries = this.#addresses.isSecondary(address) ? [] : this.#addresses.sameSubnet(address);
    for (const gone of [...secondaries.filter((a) => a !== address && a.family === 4), address]) {
      this.#dropAddress(gone);
    }
    const lastOne = !this.#addresses.of(link.index).some((a) => a.family === 4);
    if (address.family === 4 && lastOne) this.#tables[4].flush((route) => route.linkIndex === link.index);
  }

  flushAddresses(name: string): void {
    const { index } = this.link(name);
    for (;;) {
      const [address] = this.#addresses.of(index);
      if (address === undefined) return;
      this.removeAddress(name, `${address.address}/${address.prefixLength}`);
    }
  }

  /** As `ip route add|append|prepend|replace`. Throws {@link KernelError} as the kernel refuses. */
  addRoute(spec: OperatorRoute, mode: InsertMode = 'add'): void {
    const family: Family = spec.dst.includes(':') ? 6 : 4;
    const direct = spec.gateway === undefined && spec.type === undefined && !spec.special;
    const route: Route = {
      family,
      tos: 0,
      metric: family === 6 ? 1024 : 0,
      protocol: 3,
      type: 'unicast',
      scope: family === 4 && direct ? 253 : 0,
      special: false,
      ...spec,
    };
    const errno = this.insert(route, mode, undefined);
    if (errno !== undefined) throw new KernelError(errno, `cannot ${mode} ${spec.dst}`);
  }

  /** As `ip route del`: the first route that fits. Throws {@link KernelError} ESRCH. */
  deleteRoute(match: RouteMatch): void {
    const errno = this.remove(match.dst.includes(':') ? 6 : 4, match, undefined);
    if (errno !== undefined) throw new KernelError(errno, `no route ${match.dst}`);
  }

  /** All listeners lose what waits for them. */
  overflowEvents(): void {
    for (const stream of this.#streams) stream.overflow();
  }

  /** NEWROUTE by `origin` (a connection, undefined for the operator). Returns the errno's name, undefined for success. */
  insert(route: Route, mode: InsertMode, origin: object | undefined): string | undefined {
    const dst = destination(route.family, route.dst);
    // IPv6 clears host bits, IPv4 refuses them.
    if (dst === undefined || (route.family === 4 && dst !== route.dst)) return 'EINVAL';
    const link = this.#links.get(route.linkIndex ?? 0);
    const errno = refusal(route, { link, addresses: this.#addresses, table: this.#tables[route.family] });
    if (errno !== undefined) return errno;
    const table = this.#tables[route.family];
    const before = table.at(dst);
    const result = table.insert({ ...route, dst }, mode);
    if ('errno' in result) return result.errno;
    if (result.notify) this.#emit({ type: 'route-added', ...result.notify });
    if (origin) this.onDaemonChange({ family: route.family, dst, before, after: table.at(dst) });
    return undefined;
  }

  /** DELROUTE by `origin`. Returns the errno's name, undefined for success. */
  remove(family: Family, match: RouteMatch, origin: object | undefined): string | undefined {
    const dst = destination(family, match.dst);
    if (dst === undefined || (family === 4 && dst !== match.dst)) return 'EINVAL';
    const before = this.#tables[family].at(dst);
    const route = this.#tables[family].remove({ ...match, dst });
    if (route === undefined) return 'ESRCH';
    this.#emit({ type: 'route-removed', route });
    if (origin) this.onDaemonChange({ family, dst, before, after: this.#tables[family].at(dst) });
    return undefined;
  }

  /** As `ip route get`. */
  lookUp(address: string): RouteLookup | undefined {
    return lookUp(address, this.#lookupTables);
  }

  /** The route behind {@link lookUp}. */
  findRoute(address: string): UsedRoute | undefined {
    return findRoute(address, this.#lookupTables);
  }

  get #lookupTables() {
    const table = (family: Family) => this.#tables[family];
    return { addresses: this.#addresses, table, loopbackIndex: this.link('lo').index };
  }

  subscribe(): SimEventStream {
    const stream = new SimEventStream((closed) => this.#streams.delete(closed));
    this.#streams.add(stream);
    return stream;
  }

  /** The link of that name. Throws {@link KernelError} ENODEV. */
  link(name: string): Link {
    const found = this.links().find((link) => link.name === name);
    if (found === undefined) throw new KernelError('ENODEV', `no link ${name}`);
    return found;
  }

  /** The connected route of an address: none on loopback (another table), for host addresses and for IPv4 secondaries. */
  #connect(address: LinkAddress): void {
    const link = this.#links.get(address.linkIndex);
    if (!link?.up || link.loopback || this.#addresses.isSecondary(address)) return;
    const route = connectedRoute(address);
    if (route !== undefined) this.insert(route, 'append', undefined);
  }

  #dropAddress(address: LinkAddress): void {
    const route = this.#addresses.isSecondary(address) ? undefined : connectedRoute(address);
    this.#addresses.delete(address);
    this.#emit({ type: 'address-removed', address });
    const stillNeeded = address.family === 6 && this.#addresses.sameSubnet(address).length > 0;
    if (route !== undefined && !stillNeeded) this.remove(route.family, route, undefined);
    this.#tables[4].flush((r) => r.source === address.address);
  }

  #changeLink(link: Link): void {
    this.#links.set(link.index, link);
    this.#emit({ type: 'link-changed', link });
    this.onLinkChange();
  }

  #emit(event: KernelEvent): void {
    for (const stream of this.#streams) stream.push(event);
  }
}
