import { type NetlinkMessage, readS32, readU16, readU32 } from 'netlink/dist/structs.js';
import { type Family, ipv6Text, parseAddress } from '../ip/ip.ts';
import { errnoName } from '../native/libc.ts';

/** Numbers of linux/netlink.h, rtnetlink.h, if_link.h and if_addr.h, under their own names. */
export const NLM_F = {
  REQUEST: 0x1,
  ACK: 0x4,
  /** A change interrupted the dump: it may miss entries. */
  DUMP_INTR: 0x10,
  DUMP: 0x300,
  REPLACE: 0x100,
  EXCL: 0x200,
  CREATE: 0x400,
  APPEND: 0x800,
  /** In an answer: it does not contain the request. */
  CAPPED: 0x100,
  /** In an answer: attributes follow that explain it. */
  ACK_TLVS: 0x200,
} as const;

export const NLMSG = { ERROR: 2, DONE: 3 } as const;
/** Attribute of an error answer: the reason in words. */
const NLMSGERR_ATTR_MSG = 1;

export const RTM = {
  NEWLINK: 16,
  DELLINK: 17,
  GETLINK: 18,
  NEWADDR: 20,
  DELADDR: 21,
  GETADDR: 22,
  NEWROUTE: 24,
  DELROUTE: 25,
  GETROUTE: 26,
  NEWRULE: 32,
  GETRULE: 34,
} as const;

export const RTNLGRP = { LINK: 1, IPV4_IFADDR: 5, IPV4_ROUTE: 7, IPV6_IFADDR: 9, IPV6_ROUTE: 11 } as const;

/** The index of `lo`, in every namespace (net/loopback.h). */
export const LOOPBACK_IFINDEX = 1;
/** rtm_type. */
export const RTN = { UNICAST: 1, LOCAL: 2, BLACKHOLE: 6 } as const;
export const RT_TABLE_MAIN = 254;
/** rtm_flags: an entry of the route cache, not of the table. */
export const RTM_F_CLONED = 0x200;
export const RTNH_F_ONLINK = 4;

export const IFF = { UP: 0x1, LOOPBACK: 0x8, NOARP: 0x80, LOWER_UP: 0x10000 } as const;
export const IFLA = { ADDRESS: 1, IFNAME: 3, MTU: 4, EXT_MASK: 29, PROP_LIST: 52, ALT_IFNAME: 53 } as const;
/** Leaves the counters out of a link dump. */
export const RTEXT_FILTER_SKIP_STATS = 8;

export const IFA = { ADDRESS: 1, LOCAL: 2, LABEL: 3, FLAGS: 8 } as const;
export const IFA_F = {
  TEMPORARY: 0x1,
  DADFAILED: 0x8,
  DEPRECATED: 0x20,
  TENTATIVE: 0x40,
  PERMANENT: 0x80,
} as const;

const AF_INET = 2;
const AF_INET6 = 10;

export function addressFamily(family: Family): number {
  return family === 4 ? AF_INET : AF_INET6;
}

/** Undefined for families that the daemon does not use: bridge ports, MPLS, … */
export function familyOf(addressFamilyNumber: number): Family | undefined {
  if (addressFamilyNumber === AF_INET) return 4;
  return addressFamilyNumber === AF_INET6 ? 6 : undefined;
}

/** Fits any datagram: dumps come in 32 kB, a link with many virtual functions is larger. */
export const READ_BUFFER_BYTES = 256 << 10;

/** struct nlmsghdr, struct rtmsg, and the header of an attribute. */
export const MESSAGE_HEADER_BYTES = 16;
export const ROUTE_HEADER_BYTES = 12;
export const ATTRIBUTE_HEADER_BYTES = 4;
/** The type of an attribute contains two flags. */
const NLA_TYPE_MASK = 0x3fff;

export interface Acknowledgement {
  /** Absent for success. */
  readonly errno?: string;
  /** The kernel's explanation, if it gave one. */
  readonly message?: string;
}

/**
 * The messages of one datagram; none when it is malformed, as then no part of it can be trusted. Here and below as the
 * netlink package reads them, without its buffers for the rest of the datagram after each message and attribute: a dump
 * may hold hundreds of thousands of routes.
 */
export function messagesOf(datagram: Buffer): readonly NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  for (let at = 0; at < datagram.length; ) {
    if (at + MESSAGE_HEADER_BYTES > datagram.length) return [];
    const length = readU32.call(datagram, at);
    const end = at + length;
    if (length < MESSAGE_HEADER_BYTES || end > datagram.length) return [];
    messages.push({
      type: readU16.call(datagram, at + 4),
      flags: readU16.call(datagram, at + 6),
      seq: readU32.call(datagram, at + 8),
      port: readU32.call(datagram, at + 12),
      data: datagram.subarray(at + MESSAGE_HEADER_BYTES, end),
    });
    at = (end + 3) & ~3;
  }
  return messages;
}

/** How long an IPv6 route from a router's advertisement has left, among others. */
const RTA_CACHEINFO = 12;

/**
 * Overwrites, in a part of a dump of routes, what differs from dump to dump of the same table. Returns the flags of all
 * messages together, and where the message is that ends the dump, if it is in this part.
 */
export function blankTransient(datagram: Buffer): { readonly flags: number; readonly end?: number } {
  let flags = 0;
  for (let at = 0; at + MESSAGE_HEADER_BYTES <= datagram.length; ) {
    const next = at + ((datagram.readUInt32LE(at) + 3) & ~3);
    const type = datagram.readUInt16LE(at + 4);
    flags |= datagram.readUInt16LE(at + 6);
    if (type === NLMSG.DONE || type === NLMSG.ERROR) return { flags, end: at };
    if (next < at + MESSAGE_HEADER_BYTES) break;
    datagram.fill(0, at + 8, at + MESSAGE_HEADER_BYTES); // sequence number and port
    const end = Math.min(next, datagram.length);
    for (let part = at + MESSAGE_HEADER_BYTES + ROUTE_HEADER_BYTES; part + 4 <= end; ) {
      const length = datagram.readUInt16LE(part);
      if (length < 4) break;
      if (datagram.readUInt16LE(part + 2) === RTA_CACHEINFO)
        datagram.fill(0, part + 4, Math.min(part + length, end));
      part += (length + 3) & ~3;
    }
    at = next;
  }
  return { flags };
}

/** Reads an NLMSG_ERROR, which is also the acknowledgement. */
export function decodeAnswer(message: NetlinkMessage): Acknowledgement {
  const { data, flags } = message;
  // struct nlmsgerr: the errno, then at least the request's header.
  if (data.length < 20) return { errno: 'EBADMSG' };
  const requestLength = (flags & NLM_F.CAPPED) !== 0 ? 16 : readU32.call(data, 4);
  return acknowledgement(message, 4 + ((requestLength + 3) & ~3));
}

/** Reads an NLMSG_DONE: only this says that a dump failed half-way. */
export function decodeDone(message: NetlinkMessage): Acknowledgement {
  return message.data.length < 4 ? {} : acknowledgement(message, 4);
}

/** `attributes`: where they begin. They may lack a text. */
function acknowledgement({ data, flags }: NetlinkMessage, attributes: number): Acknowledgement {
  const errno = readS32.call(data, 0);
  if (errno >= 0) return {};
  let message: string | undefined;
  if ((flags & NLM_F.ACK_TLVS) !== 0)
    readAttributes(data.subarray(attributes), (type, value) => {
      if (type === NLMSGERR_ATTR_MSG) message = value.toString('utf8').replace(/\0.*$/, '');
    });
  return { errno: errnoName(-errno), ...(message !== undefined && { message }) };
}

/** Visits each attribute up to the first malformed one; returns whether all are well-formed. Never throws. */
export function readAttributes(attributes: Buffer, visit: (type: number, data: Buffer) => void): boolean {
  try {
    return walkAttributes(attributes, 0, (type, at, end) => visit(type, attributes.subarray(at, end)));
  } catch {
    return false;
  }
}

/** As {@link readAttributes}, with the place of each value instead of a buffer; throws what `visit` does. */
export function walkAttributes(
  bytes: Buffer,
  from: number,
  visit: (type: number, at: number, end: number) => void,
): boolean {
  for (let at = from; at < bytes.length; ) {
    if (at + ATTRIBUTE_HEADER_BYTES > bytes.length) return false;
    const length = readU16.call(bytes, at);
    const end = at + length;
    if (length < ATTRIBUTE_HEADER_BYTES || end > bytes.length) return false;
    visit(readU16.call(bytes, at + 2) & NLA_TYPE_MASK, at + ATTRIBUTE_HEADER_BYTES, end);
    at += (length + 3) & ~3;
  }
  return true;
}

/**
 * Canonical text of an address in the kernel's byte order (4 or 16 bytes from `at` to `end`), as src/ip writes it;
 * undefined for any other length. Avoids big numbers: a dump holds tens of thousands of addresses.
 */
export function addressText(bytes: Uint8Array, at = 0, end = bytes.length): string | undefined {
  if (end - at === 4) return `${bytes[at]}.${bytes[at + 1]}.${bytes[at + 2]}.${bytes[at + 3]}`;
  if (end - at !== 16) return undefined;
  const group = (i: number) => ((bytes[at + 2 * i] ?? 0) << 8) | (bytes[at + 2 * i + 1] ?? 0);
  return ipv6Text(Array.from({ length: 8 }, (_, i) => group(i)));
}

/** `02:00:00:00:00:01`. */
export function macText(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** The address's bytes as the kernel reads them; undefined when `text` is not an address of that family. */
export function addressBytes(family: Family, text: string): Buffer | undefined {
  const parsed = parseAddress(text);
  if (parsed?.family !== family) return undefined;
  if (family === 6) return Buffer.from(parsed.value.toString(16).padStart(32, '0'), 'hex');
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(Number(parsed.value));
  return bytes;
}
