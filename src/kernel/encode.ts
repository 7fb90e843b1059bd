import { isIPv6 } from 'node:net';
import { formatRouteMessage } from 'netlink/dist/rt/structs.js';
import { AttrStream, formatMessage, putU32 } from 'netlink/dist/structs.js';
import type { Family } from '../ip/ip.ts';
import type { RouteChange, RouteSpec, Sender } from './kernel.ts';
import {
  ATTRIBUTE_HEADER_BYTES,
  addressBytes,
  addressFamily,
  IFLA,
  LOOPBACK_IFINDEX,
  MESSAGE_HEADER_BYTES,
  NLM_F,
  ROUTE_HEADER_BYTES,
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

const RTA = { DST: 1, OIF: 4, GATEWAY: 5, PRIORITY: 6 } as const;

/**
 * The request for one change, with an acknowledgement. A removal names protocol, gateway and link; without
 * them the kernel takes the first route of the destination, whoever owns it. Undefined when destination or
 * gateway are not of the family.
 *
 * Not by the netlink package: it makes a buffer for each field, and these were a fifth of what the daemon does in a
 * burst of changes.
 */
export function encodeChange({ op, route }: RouteChange, sequence: number): Buffer | undefined {
  const { family, dst, metric } = route;
  const slash = dst.indexOf('/');
  const dstBytes = addressBytes(family, dst.slice(0, slash));
  const nexthop = nexthopOf(route);
  if (slash < 0 || dstBytes === undefined || nexthop === undefined) return undefined;
  const { gateway, oif } = nexthop;
  const bytes = sizeOf(dstBytes, gateway, oif);
  // From the pool that Node keeps for small buffers: each byte is written below.
  const request = Buffer.allocUnsafe(bytes);
  request.writeUInt32LE(bytes, 0);
  request.writeUInt16LE(op === 'remove' ? RTM.DELROUTE : RTM.NEWROUTE, 4);
  request.writeUInt16LE(NLM_F.REQUEST | NLM_F.ACK | FLAGS[op], 6);
  request.writeUInt32LE(sequence, 8);
  request.writeUInt32LE(0, 12); // port
  request[16] = addressFamily(family);
  request[17] = Number(dst.slice(slash + 1));
  request[18] = 0; // length of the source
  request[19] = 0; // TOS
  request[20] = RT_TABLE_MAIN;
  request[21] = route.protocol;
  request[22] = 0; // scope: universe
  request[23] = route.type === 'blackhole' ? RTN.BLACKHOLE : RTN.UNICAST;
  request.writeUInt32LE(0, 24); // flags
  let at = putAddress(request, MESSAGE_HEADER_BYTES + ROUTE_HEADER_BYTES, RTA.DST, dstBytes);
  if (oif !== undefined) at = putNumber(request, at, RTA.OIF, oif);
  if (gateway !== undefined) at = putAddress(request, at, RTA.GATEWAY, gateway);
  putNumber(request, at, RTA.PRIORITY, metric);
  return request;
}

/** All attributes here are multiples of 4 bytes, so they and the messages follow one another without padding. */
function sizeOf(dst: Buffer, gateway: Buffer | undefined, oif: number | undefined): number {
  const addresses =
    ATTRIBUTE_HEADER_BYTES + dst.length + (gateway ? ATTRIBUTE_HEADER_BYTES + gateway.length : 0);
  const numbers = (oif === undefined ? 1 : 2) * (ATTRIBUTE_HEADER_BYTES + 4);
  return MESSAGE_HEADER_BYTES + ROUTE_HEADER_BYTES + addresses + numbers;
}

/** Returns where the next attribute goes. */
function putAddress(request: Buffer, at: number, type: number, bytes: Buffer): number {
  request.writeUInt16LE(ATTRIBUTE_HEADER_BYTES + bytes.length, at);
  request.writeUInt16LE(type, at + 2);
  request.set(bytes, at + ATTRIBUTE_HEADER_BYTES);
  return at + ATTRIBUTE_HEADER_BYTES + bytes.length;
}

function putNumber(request: Buffer, at: number, type: number, value: number): number {
  request.writeUInt16LE(ATTRIBUTE_HEADER_BYTES + 4, at);
  request.writeUInt16LE(type, at + 2);
  request.writeUInt32LE(value, at + ATTRIBUTE_HEADER_BYTES);
  return at + ATTRIBUTE_HEADER_BYTES + 4;
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
