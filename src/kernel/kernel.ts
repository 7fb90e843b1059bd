import { containsAddress, type Family, type Subnet } from '../ip/ip.ts';
import { FlannelError } from '../runtime/errors.ts';

/**
 * The kernel's links, addresses and routes as the daemon needs them: one network namespace, the main table.
 * The contract tests (test/contract/kernel.ts) hold both implementations to the same behaviour.
 *
 * Calls reject with {@link KernelError}, or with `signal.reason` when their signal aborts.
 */
export interface Kernel {
  /** Capabilities that this process lacks for its work, e.g. `CAP_NET_ADMIN`; empty when it lacks none. */
  missingCapabilities(): Promise<readonly string[]>;
  /**
   * Subscribes to notifications of links, addresses and routes. Delivers every event that happens after it
   * has resolved, in the kernel's order. Subscribe first, then dump: that leaves no gap.
   */
  subscribe(): Promise<KernelEvents>;
  links(signal?: AbortSignal): Promise<readonly Link[]>;
  addresses(signal?: AbortSignal): Promise<readonly LinkAddress[]>;
  /** All routes of one family in the main table, in the kernel's order: it uses the first of each key. */
  routes(family: Family, signal?: AbortSignal): Promise<readonly Route[]>;
  /**
   * A text that differs when `routes` would: it tells at a tenth of the cost that there is nothing to read. It may
   * differ without need.
   */
  routesDigest(family: Family, signal?: AbortSignal): Promise<string>;
  /**
   * How the kernel would send to this address (canonical text), by all tables and rules; undefined: it would
   * not.
   */
  routeTo(address: string, signal?: AbortSignal): Promise<RouteLookup | undefined>;
  /**
   * Sends all changes as one batch and resolves to one result per change, in order. A failed change does not
   * stop the later ones. `unknown`: the kernel's answer was lost and the change may have taken effect; dump
   * to find out. This holds for all changes when the call rejects because its signal aborted.
   */
  apply(changes: readonly RouteChange[], signal?: AbortSignal): Promise<readonly ChangeResult[]>;
  /** Frees all sockets, timers and threads. */
  close(): void;
}

/** By which route the kernel itself sends a packet: all tables and policy rules count. */
export interface RouteFinder {
  /**
   * The route for packets to this address (canonical text): for this host's own, or for those of `sender`
   * that it forwards. Undefined when no route leads there, or one that drops or refuses.
   */
  routeFor(address: string, signal?: AbortSignal, sender?: Sender): Promise<UsedRoute | undefined>;
  /** The policy rules of one family, in the order in which the kernel applies them. */
  rules(family: Family, signal?: AbortSignal): Promise<readonly PolicyRule[]>;
}

/** A sender of packets to forward: a container's address and the link behind which it is. */
export interface Sender {
  readonly address: string;
  readonly linkIndex: number;
}

/** A route and the number of its table: 254 main, 255 local. */
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
  /** The table to look into; absent for a rule that drops, refuses or jumps. */
  readonly table?: number;
  /** Asks for more than `from` and `to`, such as an interface or a mark, or is negated. */
  readonly conditional: boolean;
}

/** An ordered stream of events for one consumer. */
export interface KernelEvents {
  /**
   * Waits for events and returns all that are there, in order. Rejects with `signal.reason`; the next call
   * then returns what came. An `overflow` comes alone: the kernel lost events, earlier ones are dropped, and
   * the caller must dump everything again. A dump started after that, with the events that follow, is
   * complete.
   */
  next(signal: AbortSignal): Promise<readonly KernelEvent[]>;
  /**
   * Resolves with every event that the kernel sent before this call and that `next` has not returned, in
   * order. After `apply` has resolved, that includes the batch's own events. No call of `next` may run
   * meanwhile.
   */
  drain(signal?: AbortSignal): Promise<readonly KernelEvent[]>;
  close(): void;
}

export interface Link {
  readonly index: number;
  readonly name: string;
  readonly mtu: number;
  /** IFF_UP, set by the administrator. Without it the kernel has no routes over the link. */
  readonly up: boolean;
  /** IFF_LOWER_UP. Routes stay without it. */
  readonly carrier: boolean;
  readonly loopback: boolean;
  /** Its Ethernet address, as `02:00:00:00:00:01`; absent when it has none or does no ARP. */
  readonly mac?: string;
  /** Names set by `ip link property add … altname`; absent when there are none. */
  readonly altNames?: readonly string[];
}

export interface LinkAddress {
  readonly family: Family;
  readonly linkIndex: number;
  /** Canonical text of the address itself, never of a point-to-point peer. */
  readonly address: string;
  readonly prefixLength: number;
  /** IPv4: a label such as `eth0:1`; absent when it is the link's name. */
  readonly label?: string;
  readonly scope: 'global' | 'link' | 'host' | 'other';
  readonly deprecated: boolean;
  readonly temporary: boolean;
  readonly permanent: boolean;
  /**
   * IPv6: duplicate address detection is still running, and the kernel sends nothing from the address.
   * Optimistic addresses have the mark as well.
   */
  readonly tentative: boolean;
  /** IPv6: another host has the address. The kernel keeps it and does not use it. */
  readonly dadFailed: boolean;
}

/** The kernel's answer for one address. */
export interface RouteLookup {
  /** `local`: an address of this host; `other`: broadcast, multicast, … */
  readonly type: 'unicast' | 'local' | 'other';
  /** The output link; loopback's for `local`. */
  readonly linkIndex: number;
  /** The source address that the kernel would choose. */
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
  /** `other`: unreachable, prohibit, throw, … */
  readonly type: 'unicast' | 'blackhole' | 'other';
  /** rtm_scope: 0 universe, 253 link, … */
  readonly scope: number;
  /** Canonical text; absent without a gateway, and for `via inet6`, multipath and nexthop objects. */
  readonly gateway?: string;
  /** Output link; absent as for `gateway`, and for a blackhole. */
  readonly linkIndex?: number;
  readonly source?: string;
  /**
   * Has more than the fields above: several nexthops, `via` another family, encapsulation, a nexthop object,
   * `onlink`, metrics such as an MTU, a realm, or an attribute not known here. It never equals one of ours.
   */
  readonly special: boolean;
  /** `special` for several nexthops of its own, not a nexthop object's. */
  readonly multipath?: true;
}

/** A route that this daemon programs: main table, tos 0, no source, scope universe. */
export type RouteSpec = GatewayRoute | BlackholeRoute;

type RouteKey = Pick<Route, 'family' | 'dst' | 'metric' | 'protocol'>;

export interface GatewayRoute extends RouteKey {
  readonly type?: 'unicast';
  readonly gateway: string;
  readonly linkIndex: number;
}

export interface BlackholeRoute extends RouteKey {
  readonly type: 'blackhole';
  readonly gateway?: undefined;
  readonly linkIndex?: undefined;
}

export type RouteChange =
  /** CREATE|EXCL: fails with EEXIST when another route has the key (dst, tos, metric). */
  | { readonly op: 'add'; readonly route: RouteSpec }
  /**
   * CREATE: puts the route before the others of its key and removes none. IPv4 fails with EEXIST when the
   * very same route is there. IPv6 would merge it with those that have a gateway.
   */
  | { readonly op: 'prepend'; readonly route: RouteSpec }
  /**
   * CREATE|REPLACE: replaces the first route of the key, whoever owns it, without a gap; creates one when
   * there is none. IPv4 fails with EEXIST when the very same route stands behind another of its key: remove
   * it first. IPv6 takes the first route that has a gateway if the new one has, or that has none if it has
   * none; otherwise the first of all. A nexthop object counts as none. A multipath route goes as a whole.
   */
  | { readonly op: 'replace'; readonly route: RouteSpec }
  /**
   * DELROUTE with type, protocol, gateway, link and metric: removes that very route, or fails with ESRCH.
   * Metric 0 means any: without a route of metric 0 the kernel takes one that differs in the metric alone.
   */
  | { readonly op: 'remove'; readonly route: RouteSpec };

export type ChangeResult =
  | { readonly outcome: 'done' }
  /** `errno` by name, e.g. `ENETUNREACH`; `message`: the kernel's own explanation, if it gave one. */
  | { readonly outcome: 'failed'; readonly errno: string; readonly message?: string }
  | { readonly outcome: 'unknown' };

export type KernelEvent =
  /**
   * The place of the route among those of its key (family, dst, tos, metric): `replaced`: it took the place
   * of the first, whoever owned that; `appended`: it is the last; neither: it is the first. In IPv4 these
   * events and a dump after each silent flush are enough to know every key. In IPv6 the kernel merges a route
   * with others of its key into one multipath route: the event is `special`, and only a dump tells what the
   * key holds.
   */
  | {
      readonly type: 'route-added';
      readonly route: Route;
      readonly replaced: boolean;
      readonly appended: boolean;
    }
  /** The route of the key that equals `route` in all fields is gone. IPv4 flushes routes without an event. */
  | { readonly type: 'route-removed'; readonly route: Route }
  | { readonly type: 'link-changed'; readonly link: Link }
  | { readonly type: 'link-removed'; readonly linkIndex: number; readonly name: string }
  | { readonly type: 'address-added'; readonly address: LinkAddress }
  | { readonly type: 'address-removed'; readonly address: LinkAddress }
  /** The kernel lost events, see {@link KernelEvents.next}. */
  | { readonly type: 'overflow' };

/** Whether an event is about links or addresses: routes come and go by the thousand. */
export function concernsHost({ type }: KernelEvent): boolean {
  return type !== 'route-added' && type !== 'route-removed';
}

/** Whether two routes agree in all fields. */
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

/** Whether IPv6 counts the route among those with a gateway: REPLACE prefers these, and merges them. */
export function hasGateway(route: Route): boolean {
  return route.gateway !== undefined || route.multipath === true;
}

/**
 * Name of the link with an address in `subnet`, such as the containers' bridge; undefined when there is none.
 */
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

/** A setting of the kernel: `0` or `1`. Its file is absent where the kernel lacks the feature. */
export interface Sysctl {
  readonly path: string;
  readonly name: string;
}

/** Whether the host forwards packets. */
export const forwarding: Readonly<Record<Family, Sysctl>> = {
  4: { path: '/proc/sys/net/ipv4/ip_forward', name: 'net.ipv4.ip_forward' },
  6: { path: '/proc/sys/net/ipv6/conf/all/forwarding', name: 'net.ipv6.conf.all.forwarding' },
};

/**
 * Whether the host forwards IPv4 packets that arrive on a link. Setting {@link forwarding} sets it for all.
 */
export function linkForwarding(link: string): Sysctl {
  // sysctl(8) separates names by dots, so it writes the dot in a VLAN's name as a slash.
  return {
    path: `/proc/sys/net/ipv4/conf/${link}/forwarding`,
    name: `net.ipv4.conf.${link.replaceAll('.', '/')}.forwarding`,
  };
}

/** Whether bridged packets pass iptables; the files exist once br_netfilter is loaded. */
export const bridgeFilter: Readonly<Record<Family, Sysctl>> = {
  4: { path: '/proc/sys/net/bridge/bridge-nf-call-iptables', name: 'net.bridge.bridge-nf-call-iptables' },
  6: { path: '/proc/sys/net/bridge/bridge-nf-call-ip6tables', name: 'net.bridge.bridge-nf-call-ip6tables' },
};
