import { containsSubnet, parseSubnet, type Subnet } from '../../ip/ip.ts';
import type { Route, RouteSpec } from '../../kernel/kernel.ts';

/** rtm_protocol of routes flanneld installs: it names none, so the kernel says `boot`. */
const protocolBoot = 3;
/** rtm_protocol of routes the kernel makes itself, for connected networks. */
const protocolKernel = 2;

/**
 * Which routes are this daemon's to change. Ours carry a protocol number of their own; a route of a peer's that flanneld installed is adopted
 * without a gap. Routes with our number are removed only inside the cluster's network, or if this process installed them, so that two
 * daemons with two networks on one host leave each other alone.
 */
export interface Ownership {
  /** rtm_protocol of our routes. */
  readonly protocol: number;
  /** The cluster's network and the length of its subnets. */
  readonly network: Subnet;
  readonly subnetLength: number;
}

/**
 * - `own`: our protocol number.
 * - `legacy`: exactly what flanneld installs over our interface (proto boot, unicast, metric 0, tos 0, a gateway).
 * - `kernel`: made by the kernel for an address; never touched.
 * - `foreign`: everything else.
 */
export type Owner = 'own' | 'legacy' | 'kernel' | 'foreign';

/** Who a route of the main table belongs to; `linkIndex` is our interface, undefined when it does not exist just now. */
export function ownerOf(route: Route, ownership: Ownership, linkIndex: number | undefined): Owner {
  if (route.protocol === ownership.protocol) return 'own';
  if (route.protocol === protocolKernel) return 'kernel';
  const isOverLink = route.gateway !== undefined && route.linkIndex === linkIndex;
  return isOverLink && isAsFlanneldMakes(route, 'unicast') ? 'legacy' : 'foreign';
}

function isAsFlanneldMakes(
  { protocol, type, metric, tos, special, source, family }: Route,
  made: Route['type'],
): boolean {
  const isPlain = tos === 0 && !special && source === undefined && metric === metricOf(family);
  return isPlain && type === made && protocol === protocolBoot;
}

/**
 * Whether a route is flanneld's `--ip-blackhole-route` for its own subnet, to the last field. In IPv4 it is in the way: put
 * there before docker0 has its address it wins over docker0's route, and containers get nothing.
 */
export function isLegacyBlackhole(route: Route): boolean {
  return isAsFlanneldMakes(route, 'blackhole');
}

/**
 * Metric of our blackhole for the own subnet: behind docker0's route of the same destination whenever that exists. IPv6 has
 * room before the default metric (a connected route has 256), and flanneld's own form is kept.
 */
export function blackholeMetricOf(family: 4 | 6): number {
  return family === 4 ? 2_147_483_647 : metricOf(6);
}

/** Metric of the routes we and flanneld install: none for IPv4; IPv6's default, which the kernel fills in for 0. */
export function metricOf(family: 4 | 6): number {
  return family === 4 ? 0 : 1024;
}

/**
 * Whether an own or legacy route that no lease asks for may be removed: only inside the cluster's network, with the length
 * of its subnets. Outside it a legacy route may be an operator's, and one with our protocol another daemon's on this host
 * (a second network with its own prefix).
 */
export function isRemovable(route: Route, owner: Owner, ownership: Ownership): boolean {
  const dst = parseSubnet(route.dst);
  if (dst === undefined || !containsSubnet(ownership.network, dst)) return false;
  return owner === 'own' || (owner === 'legacy' && dst.length === ownership.subnetLength);
}

/** Whether it is a subnet of the network as hosts lease them. */
export function isLeasable({ network, subnetLength }: Ownership, subnet: Subnet): boolean {
  return subnet.length === subnetLength && containsSubnet(network, subnet);
}

/** Whether the kernel's route is exactly the one wanted, so that nothing has to be sent. */
export function isInstalled(route: Route, wanted: RouteSpec): boolean {
  return (
    route.protocol === wanted.protocol &&
    route.type === (wanted.type ?? 'unicast') &&
    !route.special &&
    route.gateway === wanted.gateway &&
    route.linkIndex === wanted.linkIndex &&
    route.source === undefined
  );
}

/** What the exact removal of this route names; undefined when it has a shape that we never make. */
export function removalOf(route: Route): RouteSpec | undefined {
  const { family, dst, metric, protocol, gateway, linkIndex, type, tos } = route;
  if (tos !== 0) return undefined;
  const key = { family, dst, metric, protocol };
  if (type === 'blackhole') return { ...key, type };
  // Without a gateway and a link the kernel would delete the first match, whoever owns it.
  return gateway === undefined || linkIndex === undefined ? undefined : { ...key, gateway, linkIndex };
}

/** Whether a removal that names `b` fits `a`. */
export function sameRemoval(a: Pick<Route, keyof RouteSpec> | RouteSpec, b: RouteSpec): boolean {
  return (
    a.metric === b.metric &&
    a.protocol === b.protocol &&
    a.gateway === b.gateway &&
    a.linkIndex === b.linkIndex &&
    (a.type === 'blackhole') === (b.type === 'blackhole')
  );
}
