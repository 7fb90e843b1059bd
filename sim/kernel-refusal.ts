import { parseAddress } from '../src/ip/ip.ts';
import type { Link, Route } from '../src/kernel/kernel.ts';
import type { AddressTable } from './kernel-addresses.ts';
import type { RouteTable } from './kernel-table.ts';

/** What a nexthop is checked against; `link` is the route's, undefined when there is none of that index. */
interface Surroundings {
  readonly link: Link | undefined;
  readonly addresses: AddressTable;
  readonly table: RouteTable;
}

/** The errno with which the kernel refuses a route for its nexthop; undefined when it takes it. */
export function refusal(route: Route, around: Surroundings): string | undefined {
  if (route.special || route.type !== 'unicast') return undefined;
  const { link } = around;
  if (route.gateway === undefined) {
    if (link === undefined) return 'ENODEV';
    return link.up ? undefined : 'ENETDOWN';
  }
  const gateway = parseAddress(route.gateway);
  if (gateway?.family !== route.family) return 'EINVAL';
  return route.family === 4
    ? refusal4(gateway.value, around)
    : refusal6(route.gateway, gateway.value, around);
}

/** The host's own address is taken as a gateway: packets to it would go round in the host. */
function refusal4(gateway: bigint, { link, addresses, table }: Surroundings): string | undefined {
  if (link === undefined || !link.up || !table.isOnLink(gateway, link.index)) return 'ENETUNREACH';
  return addresses.isBroadcast(gateway, link.index) ? 'EINVAL' : undefined;
}

function refusal6(
  text: string,
  gateway: bigint,
  { link, addresses, table }: Surroundings,
): string | undefined {
  if (link === undefined) return 'ENODEV';
  if (addresses.has(text)) return 'EINVAL';
  return table.isOnLink(gateway, link.index) ? undefined : 'EHOSTUNREACH';
}
