import { containsAddress, type Family, type Subnet } from '../ip/ip.ts';
import { FlannelError } from '../runtime/errors.ts';

/**
 * The kernel's links, addresses and routes, as the daemon needs them: one network namespace, main table.
 * The rules of behaviour that both implementations keep are in the contract tests (test/contract/kernel.ts).
 *
 * Calls reject with {@link KernelError}, or with `signal.reason` when their signal aborts.
 */
export interface Kernel {
  /** Names of the capabilities this process lacks for its work, e.g. `CAP_NET_ADMIN`; empty when it can go on. */
  missingCapabilities(): Promise<readonly string[]>;
  /**
   * Subscribes to link, address and route notifications. Events that happen after it has resolved are delivered, in the
   * kernel's order. Subscribe first, then dump: nothing falls in between.
   */
  subscribe(): Promise<KernelEvents>;
  links(signal?: AbortSignal): Promise<readonly Link[]>;
  addresses(signal?: AbortSignal): Promise<readonly LinkAddress[]>;
  /** All routes of the main table of one family, in the kernel's order (within one key: the first is the one in use). */
  routes(family: Family, signal?: AbortSignal): Promise<readonly Route[]>;
  /** How the kernel would send to this address (canonical text), all tables and rules included; undefined: it would not. */
  routeTo(address: string, signal?: AbortSignal): Promise<RouteLookup | undefined>;
  /**
   * Sends all changes as one batch and resolves to one result per change, in order. A failed change does not stop the
   * later ones. `outcome: 'unknown'` when the kernel's answer was lost: it may have taken effect, dump to find out. The
   * same holds for all changes when the call rejects because its signal aborted.
   */
  apply(changes: readonly RouteChange[], signal?: AbortSignal): Promise<readonly ChangeResult[]>;
  /** Frees sockets. No timer, thread or descriptor is left. */
  close(): void;
}

/** What the kernel itself says about the way of packets: all of its tables and policy rules count. */
export interface RouteFinder {
  /**
   * The route that packets to this address (canonical text) take, this host's own or those of `sender` that it passes on;
   * undefined: none does, or one that drops or refuses them.
   */
  routeFor(address: string, signal?: AbortSignal, sender?: Sender): Promise<UsedRoute | undefined>;
  /** The policy rules of one family, in the order in which the kernel asks them. */
  rules(family: Family, signal?: AbortSignal): Promise<readonly PolicyRule[]>;
}

/** Whose packets come in: a container's address, and the link that it is behind. */
export interface Sender {
  readonly address: string;
  readonly linkIndex: number;
}

/** A route, and the number of the table that it stands in: 254 main, 255 local. */
export interface UsedRoute {
  readonly table: number;
  /** Kernels before 4.14 answer with the address alone as destination. */
  readonly route: Route;
}

export interface PolicyRule {
  readonly priority: number;
  /** Canonical CIDRs; absent: any. */
  readonly from?: string;
  readonly to?: string;
  /** The table it sends to; absent for a rule that drops, refuses or jumps. */
  readonly table?: number;
  /** It asks for more than `from` and `to`, such as an interface or a mark, or is a negation. */
  readonly conditional: boolean;
}

/** An ordered stream of what happened. One consumer. */
export interface KernelEvents {
  /**
   * Waits until something happened and returns what is there, in order; rejects with `signal.reason` (nothing is lost
   * then: the next call returns it). An `overflow` comes alone: events were lost, those received before it are dropped, and
   * whatever is known must be dumped again. A dump started after it was returned, and the events that follow, are complete.
   */
  next(signal: AbortSignal): Promise<readonly KernelEvent[]>;
  /**
   * Resolves with every event the kernel had sent before this call and `next` has not returned yet, the latter in order.
   * After `apply` has resolved, `drain` returns at least that batch's own notifications. No call of `next` may be
   * waiting or be made meanwhile.
   */
  drain(signal?: AbortSignal): Promise<readonly KernelEvent[]>;
  close(): void;
}

export interface Link {
  readonly index: number;
  readonly name: string;
  readonly mtu: number;
  /** Administratively up (IFF_UP). Without it the kernel has no routes over the link. */
  readonly up: boolean;
  /** Has carrier (IFF_LOWER_UP). Without it routes stay. */
  readonly carrier: boolean;
  readonly loopback: boolean;
  /** Its Ethernet address, as `02:00:00:00:00:01`; absent when it has none, or does no ARP. */
  readonly mac?: string;
  /** Further names (`ip link property add … altname`); absent when there is none. */
  readonly altNames?: readonly string[];
}

export interface LinkAddress {
  readonly family: Family;
  readonly linkIndex: number;
  /** Canonical text of the address itself, never of a point-to-point peer. */
  readonly address: string;
  readonly prefixLength: number;
  /** IPv4: `eth0:1`, as ifconfig shows an address by itself; absent when it is the name of the link or there is none. */
  readonly label?: string;
  readonly scope: 'global' | 'link' | 'host' | 'other';
  readonly deprecated: boolean;
  readonly temporary: boolean;
  readonly permanent: boolean;
  /**
   * IPv6: duplicate address detection is not over. The kernel sends nothing from it yet. One that is used meanwhile
   * (optimistic) has the mark as well.
   */
  readonly tentative: boolean;
  /** IPv6: another host has it. The kernel keeps it and uses it for nothing. */
  readonly dadFailed: boolean;
}

/** What the kernel's lookup for one address found. */
export interface RouteLookup {
  /** `local`: the address is this host's own; `other`: broadcast, multicast, … */
  readonly type: 'unicast' | 'local' | 'other';
  /** The output link; loopback's for `local`. */
  readonly linkIndex: number;
  /** The source address the kernel would choose. */
  readonly source?: string;
}

export interface Route {
  readonly family: Family;
  /** Canonical CIDR; the default route is `0.0.0.0/0` or `::/0`. */
  readonly dst: string;
  readonly tos: number;
  /** RTA_PRIORITY; 0 when absent. */
  readonly metric: number;
  /** rtm_protocol: 2 kernel, 3 boot, 4 static, … */
  readonly protocol: number;
  /** Everything that is neither unicast nor blackhole (unreachable, prohibit, throw, …) is 'other'. */
  readonly type: 'unicast' | 'blackhole' | 'other';
  /** rtm_scope: 0 universe, 253 link, … */
  readonly scope: number;
  /** Canonical text; absent for a route without one, or with a nexthop of its own kind (`via inet6`, multipath, nexthop object). */
  readonly gateway?: string;
  /** Output link; absent as for `gateway` and for blackhole routes. */
  readonly linkIndex?: number;
  /** Preferred source address, when set. */
  readonly source?: string;
  /**
   * Has more than the fields above: multipath, `via` another family, encapsulated, nexthop object, `onlink`, metrics such as
   * an MTU, a realm, or an attribute not known here. A route that never equals one of ours.
   */
  readonly special: boolean;
  /** Set when it is `special` for its several nexthops, which are its own and not a nexthop object's. */
  readonly multipath?: true;
}

/** A route this daemon programs: main table, tos 0, no source; scope universe. */
export type RouteSpec = GatewayRoute | BlackholeRoute;

type RouteKey = Pick<Route, 'family' | 'dst' | 'metric' | 'protocol'>;

/** A unicast route. */
export interface GatewayRoute extends RouteKey {
  readonly type?: 'unicast';
  readonly gateway: string;
  readonly linkIndex: number;
}

/** Drops what is sent to it, without a word. */
export interface BlackholeRoute extends RouteKey {
  readonly type: 'blackhole';
  readonly gateway?: undefined;
  readonly linkIndex?: undefined;
}

export type RouteChange =
  /** CREATE|EXCL: fails with EEXIST when the key (dst, tos, metric) is taken. */
  | { readonly op: 'add'; readonly route: RouteSpec }
  /**
   * CREATE: puts the route before the others of its key and takes none of them away; IPv4 fails with EEXIST when the very same
   * route is there. IPv6 would merge it with those that have a gateway.
   */
  | { readonly op: 'prepend'; readonly route: RouteSpec }
  /**
   * CREATE|REPLACE: replaces the first route of the key whoever owns it, without a gap; creates when there is none. IPv4
   * fails with EEXIST when the very same route stands behind another of its key: remove it first, then replace. IPv6 takes
   * the first that has a gateway as the new one has, or has none as it has none, nexthop objects among these; the first of
   * all when there is no such. A multipath route goes whole.
   */
  | { readonly op: 'replace'; readonly route: RouteSpec }
  /**
   * DELROUTE naming type, protocol, gateway, link and metric: removes that very route, or fails with ESRCH. To the kernel a
   * metric of 0 means any: without a route of metric 0 it takes one of another metric that is the same otherwise.
   */
  | { readonly op: 'remove'; readonly route: RouteSpec };

export type ChangeResult =
  | { readonly outcome: 'done' }
  /** `errno` by name, e.g. `ENETUNREACH`; `message` is the kernel's own explanation when it gave one. */
  | { readonly outcome: 'failed'; readonly errno: string; readonly message?: string }
  | { readonly outcome: 'unknown' };

export type KernelEvent =
  /**
   * Where it stands among the routes of its key (family, dst, tos, metric): with `replaced` it took the place of the
   * first, whoever owned that; with `appended` it is the last; with neither it is the first. In IPv4 that is all there is
   * to know: a list of routes per key can be kept from these events alone (but for silent flushes). In IPv6 a route added
   * beside another of its key merges with it into one multipath route: the event then is `special`, and only a dump
   * tells what the key holds now.
   */
  | {
      readonly type: 'route-added';
      readonly route: Route;
      readonly replaced: boolean;
      readonly appended: boolean;
    }
  /** The one route of the key that equals `route` in all fields is gone. Flushes by the kernel are silent in IPv4. */
  | { readonly type: 'route-removed'; readonly route: Route }
  /** A link appeared or changed in any way. */
  | { readonly type: 'link-changed'; readonly link: Link }
  | { readonly type: 'link-removed'; readonly linkIndex: number; readonly name: string }
  | { readonly type: 'address-added'; readonly address: LinkAddress }
  | { readonly type: 'address-removed'; readonly address: LinkAddress }
  /** Events were lost, see {@link KernelEvents.next}. */
  | { readonly type: 'overflow' };

/** Whether two routes are the same in all that {@link Route} tells. */
export function sameRoute(a: Route, b: Route): boolean {
  return (
    a.dst === b.dst &&
    a.tos === b.tos &&
    a.metric === b.metric &&
    a.protocol === b.protocol &&
    a.type === b.type &&
    a.scope === b.scope &&
    a.gateway === b.gateway &&
    a.linkIndex === b.linkIndex &&
    a.source === b.source &&
    a.special === b.special &&
    a.multipath === b.multipath
  );
}

/** Whether IPv6 counts it among those with a gateway, which a REPLACE by such a one prefers and a second one is merged with. */
export function hasGateway(route: Route): boolean {
  return route.gateway !== undefined || route.multipath === true;
}

/** The name of the link with an address in `subnet`: of the bridge of this host's containers; undefined when there is none. */
export async function linkInside(
  kernel: Pick<Kernel, 'links' | 'addresses'>,
  subnet: Subnet,
  signal: AbortSignal,
): Promise<string | undefined> {
  const [links, addresses] = [await kernel.links(signal), await kernel.addresses(signal)];
  const inside = addresses.find(({ address }) => containsAddress(subnet, address));
  return links.find(({ index }) => index === inside?.linkIndex)?.name;
}

/** A kernel call that failed as a whole. `errno` by name, e.g. `EPERM`; `TIMEOUT` when no answer came. */
export class KernelError extends FlannelError {
  readonly errno: string;

  constructor(errno: string, message: string, options: { cause?: unknown; remedy?: string } = {}) {
    super(`KERNEL_${errno}`, message, options);
    this.errno = errno;
  }
}

/** A setting of the kernel: `0` or `1`, and absent where the kernel lacks what it is about. */
export interface Sysctl {
  readonly path: string;
  /** For sysctl(8). */
  readonly name: string;
}

/** Whether packets are passed on. */
export const forwarding: Readonly<Record<Family, Sysctl>> = {
  4: { path: '/proc/sys/net/ipv4/ip_forward', name: 'net.ipv4.ip_forward' },
  6: { path: '/proc/sys/net/ipv6/conf/all/forwarding', name: 'net.ipv6.conf.all.forwarding' },
};

/** Whether IPv4 packets that arrive on a link are passed on. Setting {@link forwarding} sets it for every link. */
export function linkForwarding(link: string): Sysctl {
  // In a name of sysctl(8) a dot separates; that of a VLAN is written with a slash.
  return {
    path: `/proc/sys/net/ipv4/conf/${link}/forwarding`,
    name: `net.ipv4.conf.${link.replaceAll('.', '/')}.forwarding`,
  };
}

/** Whether what a bridge passes on goes through iptables; there once br_netfilter is loaded. */
export const bridgeFilter: Readonly<Record<Family, Sysctl>> = {
  4: { path: '/proc/sys/net/bridge/bridge-nf-call-iptables', name: 'net.bridge.bridge-nf-call-iptables' },
  6: { path: '/proc/sys/net/bridge/bridge-nf-call-ip6tables', name: 'net.bridge.bridge-nf-call-ip6tables' },
};
