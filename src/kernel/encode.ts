import { isIPv6 } from 'node:net';
import { formatRouteMessage } from 'netlink/dist/rt/structs.js';
import { AttrStream, formatMessage, putU32 } from 'netlink/dist/structs.js';
import type { Family } from '../ip/ip.ts';
import type { RouteChange, RouteSpec, Sender } from './kernel.ts';
import {
  addressBytes,
  addressFamily,
  IFLA,
  LOOPBACK_IFINDEX,
  NLM_F,
  RT_TABLE_MAIN,
  RTEXT_FILTER_SKIP_STATS,
  RTM,
  RTN,
} from './rtnetlink.ts';

const FLAGS = {
  add: NLM_F.CREATE | NLM_F.EXCL,
  prepend: NLM_F.CREATE,
  replace: NLM_F.CREATE | NLM_F.REPLACE,
  remove: 0,
} as const;

/**
 * The request for one change, with an acknowledgement. A removal names protocol, gateway and link; without
 * them the kernel takes the first route of the destination, whoever owns it. Undefined when destination or
 * gateway are not of the family.
 */
export function encodeChange(change: RouteChange, sequence: number): Buffer | undefined {
  const { family, dst, metric } = change.route;
  const slash = dst.indexOf('/');
  const dstBytes = addressBytes(family, dst.slice(0, slash));
  const nexthop = nexthopOf(change.route);
  if (slash < 0 || dstBytes === undefined || nexthop === undefined) return undefined;
  const data = routeHeader(change.route, Number(dst.slice(slash + 1)));
  const attrs = { dst: dstBytes, ...nexthop, priority: metric };
  const type = change.op === 'remove' ? RTM.DELROUTE : RTM.NEWROUTE;
  return routeMessage(type, NLM_F.ACK | FLAGS[change.op], sequence, { data, attrs });
}

/** Asks for one family's routes in the main table. Kernels without strict checking send all tables. */
export function encodeRouteDump(family: Family, sequence: number): Buffer {
  const data = { family: addressFamily(family), table: RT_TABLE_MAIN };
  return routeMessage(RTM.GETROUTE, NLM_F.DUMP, sequence, { data, attrs: {} });
}

/**
 * Asks how the kernel would send to `address`; with `match`, which route it would use, also for packets of
 * `sender` that it forwards. Undefined for text that is not an address.
 */
export function encodeLookup(
  address: string,
  sequence: number,
  match?: { readonly sender: Sender | undefined },
): Buffer | undefined {
  const family = isIPv6(address) ? 6 : 4;
  const dst = addressBytes(family, address);
  const sender = match?.sender;
  const src = sender && addressBytes(family, sender.address);
  if (dst === undefined || (sender !== undefined && src === undefined)) return undefined;
  // IPv6 names the table in any case, and refuses a request that asks for it.
  const flags: RouteMessage['data']['flags'] =
    match && (family === 4 ? { fibMatch: true, lookupTable: true } : { fibMatch: true });
  const data = {
    family: addressFamily(family),
    dstLen: dst.length * 8,
    ...(flags && { flags }),
    ...(src && { srcLen: src.length * 8 }),
  };
  const attrs = { dst, ...(src && sender && { src, iif: sender.linkIndex }) };
  return routeMessage(RTM.GETROUTE, NLM_F.ACK, sequence, { data, attrs });
}

export function encodeRuleDump(family: Family, sequence: number): Buffer {
  const header = Buffer.alloc(12); // struct fib_rule_hdr
  header[0] = addressFamily(family);
  return message(RTM.GETRULE, NLM_F.DUMP, sequence, [header]);
}

export function encodeLinkDump(sequence: number): Buffer {
  const body = new AttrStream();
  body.emit(Buffer.alloc(16)); // struct ifinfomsg: all families, all links
  body.push(IFLA.EXT_MASK, putU32(RTEXT_FILTER_SKIP_STATS));
  return message(RTM.GETLINK, NLM_F.DUMP, sequence, body.bufs);
}

/**
 * Of one family only: between two families the kernel forgets that a dump was interrupted, if it skipped the
 * rest of the first (rtnl_dump_all clears prev_seq; measured on 6.18).
 */
export function encodeAddressDump(family: Family, sequence: number): Buffer {
  const header = Buffer.alloc(8); // struct ifaddrmsg: all links
  header[0] = addressFamily(family);
  return message(RTM.GETADDR, NLM_F.DUMP, sequence, [header]);
}

/** Undefined when the gateway is not an address of the family. */
function nexthopOf(route: RouteSpec): { gateway?: Buffer; oif?: number } | undefined {
  // An IPv6 removal does not compare types: without `dev lo` it would take the first route, unicast or not.
  if (route.type === 'blackhole') return route.family === 6 ? { oif: LOOPBACK_IFINDEX } : {};
  const gateway = addressBytes(route.family, route.gateway);
  return gateway && { gateway, oif: route.linkIndex };
}

function routeHeader({ family, protocol, type }: RouteSpec, dstLen: number) {
  const rtnType = type === 'blackhole' ? RTN.BLACKHOLE : RTN.UNICAST;
  return { family: addressFamily(family), dstLen, table: RT_TABLE_MAIN, protocol, type: rtnType };
}

type RouteMessage = Parameters<typeof formatRouteMessage>[0];

function routeMessage(type: number, flags: number, seq: number, route: Omit<RouteMessage, 'kind'>): Buffer {
  const body = new AttrStream();
  formatRouteMessage({ kind: 'route', ...route }, body);
  return message(type, flags, seq, body.bufs);
}

function message(type: number, flags: number, seq: number, data: Uint8Array[]): Buffer {
  // All attributes used here are multiples of 4 bytes, so messages can follow one another without padding.
  return Buffer.concat(formatMessage({ type, flags: NLM_F.REQUEST | flags, seq, port: 0, data }));
}
