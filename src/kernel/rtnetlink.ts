import type { Family } from '../ip/ip.ts';

/** Numbers of linux/netlink.h, rtnetlink.h, if_link.h and if_addr.h, under their own names. */
export const NLM_F = {
  REQUEST: 0x1,
  MULTI: 0x2,
  ACK: 0x4,
  /** The dump ran over a change: it may miss what was there all the time. */
  DUMP_INTR: 0x10,
  DUMP: 0x300,
  REPLACE: 0x100,
  EXCL: 0x200,
  CREATE: 0x400,
  APPEND: 0x800,
  /** In an answer: the request was not copied into it. */
  CAPPED: 0x100,
  /** In an answer: attributes follow that explain it. */
  ACK_TLVS: 0x200,
} as const;

export const NLMSG = { ERROR: 2, DONE: 3 } as const;
/** Attribute of an error answer: what was wrong, in words. */
export const NLMSGERR_ATTR_MSG = 1;

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

/** Undefined for families the daemon has no use for: bridge ports, MPLS, … */
export function familyOf(addressFamilyNumber: number): Family | undefined {
  if (addressFamilyNumber === AF_INET) return 4;
  return addressFamilyNumber === AF_INET6 ? 6 : undefined;
}
