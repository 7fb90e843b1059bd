import { type NetlinkMessage, parseAttributes, readU16, readU32 } from 'netlink/dist/structs.js';
import { addressText } from './addresses.ts';
import { decodeRoute } from './decode-route.ts';
import type { KernelEvent, Link, LinkAddress } from './kernel.ts';
import { familyOf, IFA, IFA_F, IFF, IFLA, NLM_F, RTM } from './rtnetlink.ts';

/** Nested attributes have a flag in their type. */
const NLA_TYPE_MASK = 0x3fff;
/** struct ifinfomsg and struct ifaddrmsg. */
const LINK_HEADER_BYTES = 16;
const ADDRESS_HEADER_BYTES = 8;
const ARPHRD_ETHER = 1;

/** A link from the payload of a link message; undefined when it is about something else. Never throws. */
export function decodeLink(payload: Buffer): Link | undefined {
  // A family: a bridge port's settings. Its DELLINK says that the port left the bridge, and the link lives on.
  if (payload.length < LINK_HEADER_BYTES || payload[0] !== 0) return undefined;
  const flags = readU32.call(payload, 8);
  let name = '';
  let mtu = 0;
  let mac: string | undefined;
  // What other kinds of links have is no Ethernet address.
  const hasArp = readU16.call(payload, 2) === ARPHRD_ETHER && (flags & IFF.NOARP) === 0;
  const altNames: string[] = [];
  forEachAttribute(payload.subarray(LINK_HEADER_BYTES), (type, data) => {
    if (type === IFLA.IFNAME) name = textOf(data);
    else if (type === IFLA.MTU) mtu = readU32.call(data, 0);
    else if (type === IFLA.ADDRESS && hasArp && data.length === 6) mac = macText(data);
    else if ((type & NLA_TYPE_MASK) === IFLA.PROP_LIST)
      forEachAttribute(data, (property, text) => {
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

/** An address from the payload of an address message; undefined for other families. Never throws. */
export function decodeAddress(payload: Buffer): LinkAddress | undefined {
  const family = familyOf(payload[0] ?? 0);
  if (family === undefined || payload.length < ADDRESS_HEADER_BYTES) return undefined;
  // The header has room for 8 flags only; the attribute has all.
  let flags = payload[2] ?? 0;
  let local: string | undefined;
  let peer: string | undefined;
  let label = '';
  forEachAttribute(payload.subarray(ADDRESS_HEADER_BYTES), (type, data) => {
    if (type === IFA.LOCAL) local = addressText(data);
    else if (type === IFA.ADDRESS) peer = addressText(data);
    else if (type === IFA.LABEL) label = textOf(data);
    else if (type === IFA.FLAGS) flags = readU32.call(data, 0);
  });
  // IFA_ADDRESS is the other end of a point-to-point link; IPv6 leaves IFA_LOCAL out when there is none.
  const address = local ?? peer;
  if (address === undefined) return undefined;
  return {
    family,
    linkIndex: readU32.call(payload, 4),
    address,
    prefixLength: payload[1] ?? 0,
    // Without a colon it is the name of the link, or the one it had before.
    ...(label.includes(':') && { label }),
    scope: scopeName(payload[3] ?? 0),
    deprecated: (flags & IFA_F.DEPRECATED) !== 0,
    // The same bit means "secondary" in IPv4.
    temporary: family === 6 && (flags & IFA_F.TEMPORARY) !== 0,
    permanent: (flags & IFA_F.PERMANENT) !== 0,
    tentative: (flags & IFA_F.TENTATIVE) !== 0,
    dadFailed: (flags & IFA_F.DADFAILED) !== 0,
  };
}

/** What a notification says; undefined when it is none that matters. */
export function decodeEvent(message: NetlinkMessage): KernelEvent | undefined {
  switch (message.type) {
    case RTM.NEWROUTE:
    case RTM.DELROUTE:
      return decodeRouteEvent(message);
    case RTM.NEWADDR:
    case RTM.DELADDR: {
      const address = decodeAddress(message.data);
      const type = message.type === RTM.NEWADDR ? 'address-added' : 'address-removed';
      return address && { type, address };
    }
    case RTM.NEWLINK:
    case RTM.DELLINK: {
      const link = decodeLink(message.data);
      if (link === undefined) return undefined;
      if (message.type === RTM.NEWLINK) return { type: 'link-changed', link };
      return { type: 'link-removed', linkIndex: link.index, name: link.name };
    }
    default:
      return undefined;
  }
}

function decodeRouteEvent(message: NetlinkMessage): KernelEvent | undefined {
  const route = decodeRoute(message.data);
  if (route === undefined) return undefined;
  if (message.type === RTM.DELROUTE) return { type: 'route-removed', route };
  const replaced = (message.flags & NLM_F.REPLACE) !== 0;
  return { type: 'route-added', route, replaced, appended: (message.flags & NLM_F.APPEND) !== 0 };
}

/** What comes before a malformed attribute is used, the rest is not. */
function forEachAttribute(attributes: Buffer, visit: (type: number, data: Buffer) => void): void {
  try {
    parseAttributes(attributes, ({ type, data }) => visit(type, data));
  } catch {
    // A link or address of which only a part is known is better than none.
  }
}

function macText(bytes: Buffer): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

function textOf(data: Buffer): string {
  const end = data.indexOf(0);
  return data.toString('utf8', 0, end < 0 ? data.length : end);
}

function scopeName(scope: number): LinkAddress['scope'] {
  if (scope === 0) return 'global';
  if (scope === 253) return 'link';
  return scope === 254 ? 'host' : 'other';
}
