import { type NetlinkAttribute, parseAttributes, readU32 } from 'netlink/dist/structs.js';
import type { Family } from '../ip/ip.ts';
import { addressText } from './addresses.ts';
import type { Route, UsedRoute } from './kernel.ts';
import { familyOf, RT_TABLE_MAIN, RTM_F_CLONED, RTN, RTNH_F_ONLINK } from './rtnetlink.ts';

/** struct rtmsg. */
const HEADER_BYTES = 12;
const RTA_MULTIPATH = 9;
const RTA_VIA = 18;
const RTA_NH_ID = 30;
const UNSPECIFIED = { 4: '0.0.0.0', 6: '::' } as const;
const ADDRESS_BYTES = { 4: 4, 6: 16 } as const;

type Draft = { -readonly [K in keyof Route]: Route[K] } & { table: number };

/**
 * A route of the main table from the payload of a route message; undefined for other tables, for entries of the route
 * cache and for other families. Never throws: whatever it does not understand makes the route `special`, so that one odd
 * route of somebody else cannot hide all the others.
 */
export function decodeRoute(payload: Buffer): Route | undefined {
  const found = decodeUsedRoute(payload);
  const isCached = found !== undefined && (readU32.call(payload, 8) & RTM_F_CLONED) !== 0;
  return isCached || found?.table !== RT_TABLE_MAIN ? undefined : found.route;
}

/** A route of whatever table; undefined for other families. Never throws, as {@link decodeRoute}. */
export function decodeUsedRoute(payload: Buffer): UsedRoute | undefined {
  const family = familyOf(payload[0] ?? 0);
  if (family === undefined || payload.length < HEADER_BYTES) return undefined;
  const flags = readU32.call(payload, 8);
  const draft = decodeHeader(family, payload, flags);
  const ownNexthop = decodeAttributes(payload.subarray(HEADER_BYTES), draft);
  const { table, ...route } = draft;
  // The kernel says `dev lo` for them in IPv6; and beside a nexthop object it repeats its gateway and link.
  if (ownNexthop || route.type === 'blackhole') delete route.linkIndex;
  if (ownNexthop) delete route.gateway;
  return { table, route };
}

function decodeHeader(family: Family, payload: Buffer, flags: number): Draft {
  const type = payload[7];
  return {
    family,
    dst: `${UNSPECIFIED[family]}/${payload[1]}`,
    tos: payload[3] ?? 0,
    metric: 0,
    protocol: payload[5] ?? 0,
    type: type === RTN.UNICAST ? 'unicast' : type === RTN.BLACKHOLE ? 'blackhole' : 'other',
    scope: payload[6] ?? 0,
    // A source length: IPv6 routes chosen by source address.
    special:
      (flags & RTNH_F_ONLINK) !== 0 || payload[2] !== 0 || (payload[1] ?? 0) > ADDRESS_BYTES[family] * 8,
    table: payload[4] ?? 0,
  };
}

/** Returns whether the nexthop is of a kind that gateway and link cannot express. */
function decodeAttributes(attributes: Buffer, draft: Draft): boolean {
  const kinds = new Set<number>();
  try {
    parseAttributes(attributes, (attribute) => {
      if (isOwnNexthop(attribute.type)) kinds.add(attribute.type);
      else if (!decodeAttribute(attribute, draft)) draft.special = true;
    });
  } catch {
    draft.special = true;
  }
  const ownNexthop = kinds.size > 0;
  draft.special ||= ownNexthop;
  // A group of nexthop objects comes with a list of its members, too.
  if (kinds.has(RTA_MULTIPATH) && !kinds.has(RTA_NH_ID)) draft.multipath = true;
  return ownNexthop;
}

function isOwnNexthop(type: number): boolean {
  return type === RTA_MULTIPATH || type === RTA_VIA || type === RTA_NH_ID;
}

/** Returns whether a plain route may have this attribute (RTA_* of linux/rtnetlink.h). */
function decodeAttribute({ type, data }: NetlinkAttribute, draft: Draft): boolean {
  const address = () => {
    draft.special ||= data.length !== ADDRESS_BYTES[draft.family];
    return addressText(data) ?? UNSPECIFIED[draft.family];
  };
  switch (type) {
    case 1: // RTA_DST
      draft.dst = `${address()}${draft.dst.slice(draft.dst.indexOf('/'))}`;
      return true;
    case 4: // RTA_OIF
      draft.linkIndex = readU32.call(data, 0);
      return true;
    case 5: // RTA_GATEWAY
      draft.gateway = address();
      return true;
    case 6: // RTA_PRIORITY
      draft.metric = readU32.call(data, 0);
      return true;
    case 7: // RTA_PREFSRC
      draft.source = address();
      return true;
    case 15: // RTA_TABLE, for what does not fit into rtm_table
      draft.table = readU32.call(data, 0);
      return true;
    case 12: // RTA_CACHEINFO: IPv6 always has it
    case 20: // RTA_PREF: the router preference, IPv6 always has it
    case 24: // RTA_PAD
      return true;
    default: // metrics (an MTU, …), realm, encapsulation, expiry, whatever is new
      return false;
  }
}
