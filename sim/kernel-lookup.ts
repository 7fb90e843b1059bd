import { parseAddress } from '../src/ip/ip.ts';
import {
  KernelError,
  type LinkAddress,
  type Route,
  type RouteLookup,
  type UsedRoute,
} from '../src/kernel/kernel.ts';
import type { AddressTable } from './kernel-addresses.ts';
import type { RouteTable } from './kernel-table.ts';

const localTable = 255;

/** Where the lookup of one address looks. */
interface Tables {
  readonly addresses: AddressTable;
  readonly table: (family: 4 | 6) => RouteTable;
  readonly loopbackIndex: number;
}

/**
 * How the kernel would send to an address: its own, then the broadcast address of a link, then the longest prefix of the
 * main table. A multipath route leads nowhere here: which of its links the kernel takes is not modelled.
 */
export function lookUp(text: string, tables: Tables): RouteLookup | undefined {
  const used = findRoute(text, tables);
  const linkIndex = used?.route.linkIndex;
  if (used === undefined || linkIndex === undefined) return undefined;
  if (used.table === localTable) return { type: 'local', linkIndex, source: text };
  const { addresses } = tables;
  const { family, value } = parsed(text);
  const type = family === 4 && addresses.isBroadcast(value, linkIndex) ? 'other' : 'unicast';
  const source = used.route.source ?? sourceFor(used.route, value, addresses.list());
  return { type, linkIndex, ...(source === undefined ? {} : { source }) };
}

/** The route itself: of the table local for an own address, else of the main table. */
export function findRoute(text: string, { addresses, table, loopbackIndex }: Tables): UsedRoute | undefined {
  const { family, value } = parsed(text);
  if (addresses.list().some(({ address }) => address === text)) {
    const key = { family, dst: `${text}/${family === 4 ? 32 : 128}`, tos: 0, metric: 0, protocol: 2 };
    return {
      table: localTable,
      route: { ...key, type: 'other', scope: 254, linkIndex: loopbackIndex, special: false },
    };
  }
  const route = table(family).find(value);
  return route?.type === 'unicast' ? { table: 254, route } : undefined;
}

function parsed(text: string): NonNullable<ReturnType<typeof parseAddress>> {
  const address = parseAddress(text);
  if (address === undefined) throw new KernelError('EINVAL', `not an address: ${text}`);
  return address;
}

/** The address of the link that shares most bits with the next hop. */
function sourceFor(route: Route, value: bigint, own: readonly LinkAddress[]): string | undefined {
  const hop = route.gateway === undefined ? value : (parseAddress(route.gateway)?.value ?? value);
  const distance = ({ address }: LinkAddress) => (parseAddress(address)?.value ?? 0n) ^ hop;
  const candidates = own.filter((a) => a.family === route.family && a.linkIndex === route.linkIndex);
  return candidates.toSorted((a, b) => (distance(a) < distance(b) ? -1 : 1))[0]?.address;
}
