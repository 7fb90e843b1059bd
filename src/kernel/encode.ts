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
 * The request for one change, acknowledged. A removal names protocol, gateway and link, without which the kernel takes the
 * first route of that destination, whoever owns it. Undefined when destination or gateway are not of the family.
 */
export function encodeChange(change: RouteChange, sequence: number): Buffer | undefined {
  const { family, dst, metric } = change.route;
  const slash = dst.indexOf('/');
  const dstBytes = addressBytes(family, dst.slice(0, slash));
  const nexthop = nexthopOf(change.route);
  if (slash < 0 || dstBytes === undefined || nexthop === undefined) return undefined;
  const body = new AttrStream();
  formatRouteMessage(
    {
      kind: 'route',
      data: routeHeader(change.route, Number(dst.slice(slash + 1))),
      attrs: { dst: dstBytes, ...nexthop, priority: metric },
    },
    body,
  );
  const type = change.op === 'remove' ? RTM.DELROUTE : RTM.NEWROUTE;
  return message(type, NLM_F.ACK | FLAGS[change.op], sequence, body);
}

/** Asks for the main table's routes of one family; kernels without strict checking send all tables. */
export function encodeRouteDump(family: Family, sequence: number): Buffer {
  const body = new AttrStream();
  const data = { family: addressFamily(family), table: RT_TABLE_MAIN };
  formatRouteMessage({ kind: 'route', data, attrs: {} }, body);
  return message(RTM.GETROUTE, NLM_F.DUMP, sequence, body);
}

/** Asks how the kernel would send to `address`; undefined when it is none. */
export function encodeLookup(address: string, sequence: number): Buffer | undefined {
  const family = isIPv6(address) ? 6 : 4;
  const dst = addressBytes(family, address);
  if (dst === undefined) return undefined;
  const body = new AttrStream();
  const data = { family: addressFamily(family), dstLen: dst.length * 8 };
  formatRouteMessage({ kind: 'route', data, attrs: { dst } }, body);
  return message(RTM.GETROUTE, NLM_F.ACK, sequence, body);
}

/** Asks by which route; undefined when `address` or the sender's is none. `sender`: of packets that are passed on. */
export function encodeMatch(address: string, sequence: number, sender?: Sender): Buffer | undefined {
  const family = isIPv6(address) ? 6 : 4;
  const dst = addressBytes(family, address);
  const src = sender && addressBytes(family, sender.address);
  if (dst === undefined || (sender !== undefined && src === undefined)) return undefined;
  const body = new AttrStream();
  // Without being asked IPv6 names the table, and refuses the question.
  const flags =
    family === 4 ? ({ fibMatch: true, lookupTable: true } as const) : ({ fibMatch: true } as const);
  const data = { family: addressFamily(family), dstLen: dst.length * 8, flags };
  const attrs = { dst, ...(src && sender && { src, iif: sender.linkIndex }) };
  formatRouteMessage(
    { kind: 'route', data: { ...data, ...(src && { srcLen: src.length * 8 }) }, attrs },
    body,
  );
  return message(RTM.GETROUTE, NLM_F.ACK, sequence, body);
}

export function encodeRuleDump(family: Family, sequence: number): Buffer {
  const body = new AttrStream();
  const header = Buffer.alloc(12); // struct fib_rule_hdr
  header[0] = addressFamily(family);
  body.emit(header);
  return message(RTM.GETRULE, NLM_F.DUMP, sequence, body);
}

export function encodeLinkDump(sequence: number): Buffer {
  const body = new AttrStream();
  body.emit(Buffer.alloc(16)); // struct ifinfomsg: all families, all links
  body.push(IFLA.EXT_MASK, putU32(RTEXT_FILTER_SKIP_STATS));
  return message(RTM.GETLINK, NLM_F.DUMP, sequence, body);
}

/**
 * Of one family: between two families the kernel forgets that a dump was interrupted, when what it skipped was the rest of the
 * first (rtnl_dump_all clears prev_seq; measured on 6.18).
 */
export function encodeAddressDump(family: Family, sequence: number): Buffer {
  const body = new AttrStream();
  const header = Buffer.alloc(8); // struct ifaddrmsg: all links
  header[0] = addressFamily(family);
  body.emit(header);
  return message(RTM.GETADDR, NLM_F.DUMP, sequence, body);
}

/** Undefined when the gateway is not an address of the family. */
function nexthopOf(route: RouteSpec): { gateway?: Buffer; oif?: number } | undefined {
  // A removal in IPv6 does not compare types: without `dev lo` it would take the first route, a unicast one as well.
  if (route.type === 'blackhole') return route.family === 6 ? { oif: LOOPBACK_IFINDEX } : {};
  const gateway = addressBytes(route.family, route.gateway);
  return gateway && { gateway, oif: route.linkIndex };
}

function routeHeader({ family, protocol, type }: RouteSpec, dstLen: number) {
  const rtnType = type === 'blackhole' ? RTN.BLACKHOLE : RTN.UNICAST;
  return { family: addressFamily(family), dstLen, table: RT_TABLE_MAIN, protocol, type: rtnType };
}

function message(type: number, flags: number, seq: number, body: AttrStream): Buffer {
  // All attributes used here are multiples of 4 bytes long, so that messages can follow one another without padding.
  return Buffer.concat(formatMessage({ type, flags: NLM_F.REQUEST | flags, seq, port: 0, data: body.bufs }));
}
