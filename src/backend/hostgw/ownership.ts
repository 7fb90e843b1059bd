import { containsSubnet, parseSubnet, type Subnet } from '../../ip/ip.ts';
import type { Route, RouteSpec } from '../../kernel/kernel.ts';

/** rtm_protocol of flanneld's routes: it sets none, so the kernel says `boot`. */
const protocolBoot = 3;
/** rtm_protocol of the routes that the kernel makes for connected networks. */
const protocolKernel = 2;

/**
 * Which routes this daemon may change. Facts that complicate it:
 * - The kernel keeps no owner of a route. rtm_protocol is the only mark, so ours carry a number of their own.
 * - flanneld sets no protocol. Its routes look like those of an operator's plain `ip route add`, so only a
 *   route that equals flanneld's in every field, over our interface, counts as flanneld's. The daemon adopts
 *   such a route to the right gateway without a gap.
 * - Two daemons with two networks may run on one host under the same number. So the daemon removes a route
 *   with our number only inside its own network, or where this process installed it.
 * - IPv4 keeps metric 0; IPv6 stores 1024 for it, and 256 for connected routes.
 * - A removal cannot name everything a route has (see plan.ts), and without gateway and link it hits any
 *   route.
 */
export interface Ownership {
  /** rtm_protocol of our routes. */
  readonly protocol: number;
  /** The cluster's network and the length of its subnets. */
  readonly network: Subnet;
  readonly subnetLength: number;
}

/**
 * - `own`: it has our protocol number.
 * - `legacy`: it equals a route of flanneld's over our interface.
 * - `kernel`: the kernel made it for an address; the daemon never touches it.
 * - `foreign`: everything else.
 */
export type Owner = 'own' | 'legacy' | 'kernel' | 'foreign';

/** The owner of a route in the main table; `linkIndex`: our interface, undefined while it does not exist. */
export function ownerOf(route: Route, ownership: Ownership, linkIndex: number | undefined): Owner {
  if (route.protocol === ownership.protocol) return 'own';
  if (route.protocol === protocolKernel) return 'kernel';
  const isOverLink = route.gateway !== undefined && route.linkIndex === linkIndex;
  return isOverLink && isAsFlanneldMakes(route, 'unicast') ? 'legacy' : 'foreign';
}

function isAsFlanneldMakes(route: Route, type: Route['type']): boolean {
  const { protocol, metric, tos, special, source, family } = route;
  const isPlain = tos === 0 && !special && source === undefined && metric === metricOf(family);
  return isPlain && route.type === type && protocol === protocolBoot;
}

/**
 * Whether a route is flanneld's `--ip-blackhole-route` for its own subnet. In IPv4 it does harm: if it is
 * there before docker0 has its address it wins over docker0's route, and containers get no packets.
 */
export function isLegacyBlackhole(route: Route): boolean {
  return isAsFlanneldMakes(route, 'blackhole');
}

/**
 * Metric of our blackhole for the own subnet: behind docker0's route whenever that exists. In IPv6 the
 * default metric is behind it already (a connected route has 256), so the daemon keeps flanneld's form.
 */
export function blackholeMetricOf(family: 4 | 6): number {
  return family === 4 ? 2_147_483_647 : metricOf(6);
}

/** Metric of our routes and flanneld's: none for IPv4; for IPv6 the default that the kernel stores for 0. */
export function metricOf(family: 4 | 6): number {
  return family === 4 ? 0 : 1024;
}

/**
 * Whether the daemon may remove an own or legacy route that no lease asks for: only inside the cluster's
 * network, and a legacy one only with the length of its subnets. Outside, it may be an operator's or another
 * daemon's.
 */
export function isRemovable(route: Route, owner: Owner, ownership: Ownership): boolean {
  const dst = parseSubnet(route.dst);
  if (dst === undefined || !containsSubnet(ownership.network, dst)) return false;
  return owner === 'own' || (owner === 'legacy' && dst.length === ownership.subnetLength);
}

/** Whether {@link isRemovable} may hold for a route, over whatever link. Most routes of other programs cost one comparison. */
export function mayBeRemoved(route: Route, ownership: Ownership): boolean {
  if (route.protocol === ownership.protocol) return true;
  return isAsFlanneldMakes(route, 'unicast') && isRemovable(route, 'legacy', ownership);
}

/** Whether hosts lease subnets of this form. */
export function isLeasable({ network, subnetLength }: Ownership, subnet: Subnet): boolean {
  return subnet.length === subnetLength && containsSubnet(network, subnet);
}

/** Whether the kernel's route is exactly the wanted one, so that there is nothing to send. */
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

/** The names in an exact removal of this route; undefined when it has a shape that we never make. */
export function removalOf(route: Route): RouteSpec | undefined {
  const { family, dst, metric, protocol, gateway, linkIndex, type, tos } = route;
  if (tos !== 0) return undefined;
  const key = { family, dst, metric, protocol };
  if (type === 'blackhole') return { ...key, type };
  // Without a gateway and a link the kernel removes the first match, whoever owns it.
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
