import type { PerFamily } from '../ip/ip.ts';
import { type Lease, type LeaseValue, parseLease, parseLeaseValue } from './lease.ts';
import type { KeyValue } from './registry.ts';

/**
 * Whether a lease is that of the host with these addresses: by PublicIP, as flanneld tells, or while IPv4 is off (here or
 * when the key was written) by PublicIPv6. What flanneld writes for IPv6-only hosts, PublicIP 0.0.0.0, names nobody.
 */
export function isOwnLease(addresses: PerFamily<string>, { value, subnets }: Lease): boolean {
  const sameIPv6 = addresses.ipv6 !== undefined && value.publicIPv6 === addresses.ipv6;
  if (addresses.ipv4 === undefined) return sameIPv6;
  if (value.publicIP !== undefined) return value.publicIP === addresses.ipv4;
  return sameIPv6 && subnets.ipv4 === undefined;
}

/** As {@link isOwnLease}; false for what is no lease. */
export function isOwnKey(addresses: PerFamily<string>, subnetsPrefix: string, kv: KeyValue): boolean {
  const parsed = parseLease(subnetsPrefix, kv);
  return 'lease' in parsed && isOwnLease(addresses, parsed.lease);
}

/** Whether the value of a key of ours names another host. One that names nobody does not: somebody spoilt it. */
export function namesAnother(addresses: PerFamily<string>, rawValue: string): boolean {
  const value = parseLeaseValue(rawValue);
  if (value === undefined) return false;
  if (addresses.ipv4 !== undefined) return value.publicIP !== undefined && value.publicIP !== addresses.ipv4;
  return value.publicIPv6 !== undefined && value.publicIPv6 !== addresses.ipv6;
}

/** Whether a lease carries one of these addresses. */
export function carriesAny({ ipv4, ipv6 }: PerFamily<string>, { value }: Lease): boolean {
  return (ipv4 !== undefined && value.publicIP === ipv4) || (ipv6 !== undefined && value.publicIPv6 === ipv6);
}

/** Whom a value names, for a message. */
export function holderText(rawValue: string): string {
  const value: Partial<LeaseValue> = parseLeaseValue(rawValue) ?? {};
  return value.publicIP ?? value.publicIPv6 ?? 'an unidentified host';
}
