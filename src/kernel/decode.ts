import { type NetlinkMessage, readU16, readU32 } from 'netlink/dist/structs.js';
import { addressBits } from '../ip/ip.ts';
import type { KernelEvent, Link, LinkAddress, PolicyRule, Route, RouteLookup, UsedRoute } from './kernel.ts';
import {
  addressText,
  familyOf,
  IFA,
  IFA_F,
  IFF,
  IFLA,
  macText,
  NLM_F,
  RT_TABLE_MAIN,
  RTM,
  RTM_F_CLONED,
  RTN,
  RTNH_F_ONLINK,
  readAttributes,
  walkAttributes,
} from './rtnetlink.ts';

/** struct ifinfomsg and struct ifaddrmsg. */
const LINK_HEADER_BYTES = 16;
const ADDRESS_HEADER_BYTES = 8;
const ARPHRD_ETHER = 1;

/** A link from a link message's payload; undefined for other content. Never throws. */
export function decodeLink(payload: Buffer): Link | undefined {
  // With a family it describes a bridge port. Its DELLINK says that the port left the bridge; the link stays.
  if (payload.length < LINK_HEADER_BYTES || payload[0] !== 0) return undefined;
  const flags = readU32.call(payload, 8);
  let name = '';
  let mtu = 0;
  let mac: string | undefined;
  // Other kinds of links have no Ethernet address.
  const hasArp = readU16.call(payload, 2) === ARPHRD_ETHER && (flags & IFF.NOARP) === 0;
  const altNames: string[] = [];
  readAttributes(payload.subarray(LINK_HEADER_BYTES), (type, data) => {
    if (type === IFLA.IFNAME) name = textOf(data);
    else if (type === IFLA.MTU) mtu = readU32.call(data, 0);
    else if (type === IFLA.ADDRESS && hasArp && data.length === 6) mac = macText(data);
    else if (type === IFLA.PROP_LIST)
      readAttributes(data, (property, text) => {
        if (property === IFLA.ALT_IFNAME) altNames.push(textOf(text));
      });
  });
  return {
    index: readU32.call(payload, 4),
    name,
    mtu,
    up: (flags & IFF.UP) !== 0,
    carrier: (flags & IFF.LOWER_UP) !== 0,
    loopback: (flags & IFF.LOOPBACK) !== 0,
    ...(mac !== undefined && { mac }),
    ...(altNames.length > 0 && { altNames }),
  };
}

/** An address from an address message's payload; undefined for other families. Never throws. */
export function decodeAddress(payload: Buffer): LinkAddress | undefined {
  const family = familyOf(payload[0] ?? 0);
  if (family === undefined || payload.length < ADDRESS_HEADER_BYTES) return undefined;
  // The header has room for 8 flags; the attribute has all.
  let flags = payload[2] ?? 0;
  let local: string | undefined;
  let peer: string | undefined;
  let label = '';
  readAttributes(payload.subarray(ADDRESS_HEADER_BYTES), (type, data) => {
    if (type === IFA.LOCAL) local = addressText(data);
    else if (type === IFA.ADDRESS) peer = addressText(data);
    else if (type === IFA.LABEL) label = textOf(data);
    else if (type === IFA.FLAGS) flags = readU32.call(data, 0);
  });
  // IFA_ADDRESS is the other end of a point-to-point link. IPv6 leaves out IFA_LOCAL when there is none.
  const address = local ?? peer;
  if (address === undefined) return undefined;
  return {
    family,
    linkIndex: readU32.call(payload, 4),
    address,
    prefixLength: payload[1] ?? 0,
    // Without a colon it is the link's name, or an earlier one.
    ...(label.includes(':') && { label }),
    scope: scopes[payload[3] ?? 0] ?? 'other',
    deprecated: (flags & IFA_F.DEPRECATED) !== 0,
    // In IPv4 the bit means "secondary".
    temporary: family === 6 && (flags & IFA_F.TEMPORARY) !== 0,
    permanent: (flags & IFA_F.PERMANENT) !== 0,
    tentative: (flags & IFA_F.TENTATIVE) !== 0,
    dadFailed: (flags & IFA_F.DADFAILED) !== 0,
  };
}

/** The event in a notification; undefined when it does not matter. */
export function decodeEvent({ type, data, flags }: NetlinkMessage): KernelEvent | undefined {
  switch (type) {
    case RTM.NEWROUTE: {
      const route = decodeRoute(data);
      const [replaced, appended] = [(flags & NLM_F.REPLACE) !== 0, (flags & NLM_F.APPEND) !== 0];
      return route && { type: 'route-added', route, replaced, appended };
    }
    case RTM.DELROUTE: {
      const route = decodeRoute(data);
      return route && { type: 'route-removed', route };
    }
    case RTM.NEWADDR:
    case RTM.DELADDR: {
      const address = decodeAddress(data);
      return address && { type: type === RTM.NEWADDR ? 'address-added' : 'address-removed', address };
    }
    case RTM.NEWLINK:
    case RTM.DELLINK: {
      const link = decodeLink(data);
      if (link === undefined || type === RTM.NEWLINK) return link && { type: 'link-changed', link };
      return { type: 'link-removed', linkIndex: link.index, name: link.name };
    }
    default:
      return undefined;
  }
}

function textOf(data: Buffer): string {
  const end = data.indexOf(0);
  return data.toString('utf8', 0, end < 0 ? data.length : end);
}

const scopes: Readonly<Record<number, LinkAddress['scope']>> = { 0: 'global', 253: 'link', 254: 'host' };

/** struct rtmsg and struct fib_rule_hdr. */
const HEADER_BYTES = 12;
const RTA = { DST: 1, OIF: 4, GATEWAY: 5, PRIORITY: 6, PREFSRC: 7, TABLE: 15 } as const;
/** Nexthops that gateway and link cannot express. */
const NEXTHOPS = { MULTIPATH: 9, VIA: 18, ID: 30 } as const;
/** RTA_CACHEINFO and RTA_PREF, which IPv6 always has, and RTA_PAD. */
const meaningless = new Set([12, 20, 24]);
const UNSPECIFIED = { 4: '0.0.0.0', 6: '::' } as const;

type Draft = { -readonly [K in keyof Route]: Route[K] };

/**
 * A route of the main table from a route message's payload; undefined for other tables and families, and for
 * the route cache. Never throws: anything unknown makes the route `special`, so that one odd route does not
 * hide all others.
 */
export function decodeRoute(payload: Buffer): Route | undefined {
  const found = decodeUsedRoute(payload);
  const isCached = found !== undefined && (readU32.call(payload, 8) & RTM_F_CLONED) !== 0;
  return isCached || found?.table !== RT_TABLE_MAIN ? undefined : found.route;
}

/** A route of any table; undefined for other families. Never throws, as {@link decodeRoute}. */
export function decodeUsedRoute(payload: Buffer): UsedRoute | undefined {
  const family = familyOf(payload[0] ?? 0);
  if (family === undefined || payload.length < HEADER_BYTES) return undefined;
  const length = payload[1] ?? 0;
  const rtnType = payload[7];
  const route: Draft = {
    family,
    dst: `${UNSPECIFIED[family]}/${length}`,
    tos: payload[3] ?? 0,
    metric: 0,
    protocol: payload[5] ?? 0,
    type: rtnType === RTN.UNICAST ? 'unicast' : rtnType === RTN.BLACKHOLE ? 'blackhole' : 'other',
    scope: payload[6] ?? 0,
    // IPv6 can choose routes by source address.
    special:
      (readU32.call(payload, 8) & RTNH_F_ONLINK) !== 0 || payload[2] !== 0 || length > addressBits(family),
  };
  let table = payload[4] ?? 0;
  let [hasMultipath, hasVia, hasObject] = [false, false, false];
  const isWhole = walkAttributes(payload, HEADER_BYTES, (type, at, end) => {
    if (type === NEXTHOPS.MULTIPATH) hasMultipath = true;
    else if (type === NEXTHOPS.VIA) hasVia = true;
    else if (type === NEXTHOPS.ID) hasObject = true;
    // For what does not fit into rtm_table.
    else if (type === RTA.TABLE && end - at >= 4) table = readU32.call(payload, at);
    else if (!decodeAttribute(payload, type, at, end, route)) route.special = true;
  });
  const ownNexthop = hasMultipath || hasVia || hasObject;
  route.special ||= ownNexthop || !isWhole;
  // A group of nexthop objects lists its members, too.
  if (hasMultipath && !hasObject) route.multipath = true;
  // IPv6 says `dev lo` for a blackhole. Beside a nexthop object the kernel repeats its gateway and link.
  if (ownNexthop || route.type === 'blackhole') delete route.linkIndex;
  if (ownNexthop) delete route.gateway;
  return { table, route };
}

/** Returns whether a plain route may have this attribute, unlike metrics, a realm or whatever is new. */
function decodeAttribute(payload: Buffer, type: number, at: number, end: number, route: Draft): boolean {
  const address = () => {
    route.special ||= (end - at) * 8 !== addressBits(route.family);
    return addressText(payload, at, end) ?? UNSPECIFIED[route.family];
  };
  if (type === RTA.DST) route.dst = `${address()}/${payload[1]}`;
  else if (type === RTA.GATEWAY) route.gateway = address();
  else if (type === RTA.PREFSRC) route.source = address();
  else if (meaningless.has(type)) return true;
  else if (end - at < 4) return false;
  else if (type === RTA.OIF) route.linkIndex = readU32.call(payload, at);
  else if (type === RTA.PRIORITY) route.metric = readU32.call(payload, at);
  else return false;
  return true;
}

/** The answer to a lookup; undefined when no route leads there. Never throws. */
export function decodeLookup(payload: Buffer): RouteLookup | undefined {
  if (payload.length < HEADER_BYTES) return undefined;
  let linkIndex: number | undefined;
  let source: string | undefined;
  const isWhole = readAttributes(payload.subarray(HEADER_BYTES), (type, data) => {
    if (type === RTA.OIF) linkIndex = readU32.call(data, 0);
    else if (type === RTA.PREFSRC) source = addressText(data);
  });
  if (!isWhole || linkIndex === undefined) return undefined;
  const rtnType = payload[7];
  const type = rtnType === RTN.UNICAST ? 'unicast' : rtnType === RTN.LOCAL ? 'local' : 'other';
  return { type, linkIndex, ...(source !== undefined && { source }) };
}

/** Action of struct fib_rule_hdr: look into a table. */
const FR_ACT_TO_TBL = 1;
const FIB_RULE_INVERT = 2;
/** FRA_* of linux/fib_rules.h that do not restrict the packets of a rule. */
const plainAttributes = new Set([13, 14, 18, 21]); // suppress_ifgroup, suppress_prefixlen, padding, protocol

/**
 * A policy rule; undefined for other families. Never throws: anything unknown makes the rule `conditional`.
 */
export function decodeRule(payload: Buffer): PolicyRule | undefined {
  const family = familyOf(payload[0] ?? 0);
  if (family === undefined || payload.length < HEADER_BYTES) return undefined;
  const [, toLength, fromLength, tos, tableByte = 0, , , action] = payload;
  let priority = 0;
  let table = tableByte;
  let to: string | undefined;
  let from: string | undefined;
  let conditional = tos !== 0 || (readU32.call(payload, 8) & FIB_RULE_INVERT) !== 0;
  const isWhole = readAttributes(payload.subarray(HEADER_BYTES), (type, data) => {
    if (type === 1) to = `${addressText(data)}/${toLength}`;
    else if (type === 2) from = `${addressText(data)}/${fromLength}`;
    else if (type === 6) priority = readU32.call(data, 0);
    else if (type === 15) table = readU32.call(data, 0);
    else if (!plainAttributes.has(type)) conditional = true;
  });
  return {
    priority,
    ...(from !== undefined && { from }),
    ...(to !== undefined && { to }),
    ...(action === FR_ACT_TO_TBL && { table }),
    conditional: conditional || !isWhole,
  };
}
