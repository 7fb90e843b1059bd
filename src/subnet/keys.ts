import { posix } from 'node:path';
import { type PerFamily, parseSubnet, type Subnet } from '../ip/ip.ts';
import { prefixEnd } from './registry/registry.ts';

/** The subnets of one key: an IPv4 one, an IPv6 one, or both of one host; at least one. */
export type LeaseSubnets = PerFamily<Subnet>;

/** One key, or those of [key, rangeEnd). */
export interface KeyRange {
  readonly key: string;
  readonly rangeEnd?: string;
}

/** flanneld writes this in the key of an IPv6-only host. As a subnet it would overlap every other. */
const noIPv4 = '0.0.0.0-0';

/**
 * Joins the parts of a key as flanneld does, with Go's path.Join: drops empty parts and a trailing slash,
 * collapses slashes, resolves `.` and `..`. A leading slash stays as it is: `x` and `/x` are different.
 */
export function joinKey(...parts: string[]): string {
  const joined = parts.filter((part) => part !== '').join('/');
  if (joined === '') return '';
  const normal = posix.normalize(joined);
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal;
}

/** The key of the network configuration. */
export function configKey(prefix: string): string {
  return joinKey(prefix, 'config');
}

/** The key that the bridge between etcd's two stores (`migrate --follow`) holds in v3. flannel looks at no such key. */
export function bridgeKey(prefix: string): string {
  return joinKey(prefix, 'bridge');
}

/** The prefix of the keys of all leases. It ends in a slash: `subnets-old/` is not ours. */
export function subnetsPrefix(prefix: string): string {
  return `${joinKey(prefix, 'subnets')}/`;
}

/**
 * The subnets of a lease key. `leasesPrefix` and `a.b.c.d-len` make up the whole key, or `a.b.c.d-len&v6-len`
 * with an IPv6 half, in canonical text without host bits (exactly as {@link formatSubnetKey} writes it).
 * Undefined for any other key. `0.0.0.0-0&v6-len`, the form of an IPv6-only host, gives the IPv6 half alone.
 */
export function parseSubnetKey(leasesPrefix: string, key: string): LeaseSubnets | undefined {
  if (!key.startsWith(leasesPrefix)) return undefined;
  const [first = '', second, ...more] = key.slice(leasesPrefix.length).split('&');
  if (more.length > 0) return undefined;
  const ipv4 = parsePart(first, 4);
  if (second === undefined) return ipv4 && { ipv4 };
  const ipv6 = parsePart(second, 6);
  if (ipv6 === undefined) return undefined;
  if (first === noIPv4) return { ipv6 };
  return ipv4 && { ipv4, ipv6 };
}

/**
 * The subnets that a key takes out of the pool. Reads more leniently than {@link parseSubnetKey}, as flanneld
 * does: a reservation written by hand as `172.20.9.5-24` keeps its subnet from others, without a route.
 */
export function occupiedSubnets(leasesPrefix: string, key: string): readonly Subnet[] {
  if (!key.startsWith(leasesPrefix)) return [];
  const [first = '', second = ''] = key.slice(leasesPrefix.length).split('&');
  return [parseCidr(first, 4), parseCidr(second, 6)].filter((subnet) => subnet !== undefined);
}

/** The key of a lease. Throws RangeError when there is no subnet. */
export function formatSubnetKey(leasesPrefix: string, subnets: LeaseSubnets): string {
  const { ipv4, ipv6 } = subnets;
  if (ipv4 === undefined && ipv6 === undefined) throw new RangeError('a lease key needs a subnet');
  const first = ipv4 === undefined ? noIPv4 : formatPart(ipv4);
  return leasesPrefix + (ipv6 === undefined ? first : `${first}&${formatPart(ipv6)}`);
}

/**
 * The keys that only the holder of these subnets may put: those of the IPv4 subnet, without an IPv6 half and
 * with any, else that of the IPv6 one. Compares of CREATE = 0 over them keep two hosts from taking one
 * subnet. They hinder nobody who takes another subnet, and match no key that only begins alike, as
 * `10.1.7.0-240`.
 */
export function keysOf(leasesPrefix: string, subnets: LeaseSubnets): readonly KeyRange[] {
  if (subnets.ipv4 === undefined) return [{ key: formatSubnetKey(leasesPrefix, subnets) }];
  const key = leasesPrefix + formatPart(subnets.ipv4);
  const withIPv6 = `${key}&`;
  return [{ key }, { key: withIPv6, rangeEnd: prefixEnd(withIPv6) }];
}

function parsePart(text: string, family: 4 | 6): Subnet | undefined {
  const subnet = parseCidr(text, family);
  return subnet !== undefined && formatPart(subnet) === text ? subnet : undefined;
}

/** Refuses a length of 0: no host leases all addresses, and such a key would exhaust every pool. */
function parseCidr(text: string, family: 4 | 6): Subnet | undefined {
  const dash = text.indexOf('-');
  if (dash < 0) return undefined;
  const subnet = parseSubnet(`${text.slice(0, dash)}/${text.slice(dash + 1)}`);
  return subnet?.family === family && subnet.length > 0 ? subnet : undefined;
}

function formatPart(subnet: Subnet): string {
  return subnet.text.replace('/', '-');
}
