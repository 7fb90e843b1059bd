import { type Family, formatAddress, type PerFamily, parseAddress } from '../../ip/ip.ts';
import { excerpt } from '../../runtime/texts.ts';
import { foldKey, jsonFields, jsonString } from '../config/json.ts';
import { type LeaseSubnets, parseSubnetKey } from '../keys.ts';
import type { KeyValue } from '../registry/registry.ts';

/** The value of a lease. Addresses are canonical; a missing, null, invalid or unspecified one is absent. */
export interface LeaseValue {
  readonly publicIP?: string;
  readonly publicIPv6?: string;
  /** As written; empty when missing. Only `host-gw` gets routes. */
  readonly backendType: string;
}

/** One host's claim to its subnets, as etcd holds it. */
export interface Lease {
  readonly key: string;
  readonly subnets: LeaseSubnets;
  readonly value: LeaseValue;
  /** The value's own text, to compare it with the one that we would write. */
  readonly rawValue: string;
  readonly createRevision: number;
  readonly modRevision: number;
  /** Decimal id of the etcd lease; '0' for a reservation, which has none. */
  readonly leaseId: string;
}

/** A lease, or one line about the fault of the key or its value. */
export type ParsedLease = { readonly lease: Lease } | { readonly problem: string };

/** As flanneld and this program write it for a host without IPv6: a list holds thousands. */
const usualValue = /^\{"PublicIP":"([\d.]+)"(?:,"PublicIPv6":null)?,"BackendType":"host-gw"\}$/;

/**
 * Parses a lease's value as Go's encoding/json does: keys in any case, the last of several spellings counts,
 * unknown ones (BackendData, …) are ignored. Undefined unless it is a JSON object with values of those types.
 */
export function parseLeaseValue(text: string): LeaseValue | undefined {
  let publicIP = usableAddress(usualValue.exec(text)?.[1], 4);
  if (publicIP !== undefined) return { publicIP, backendType: 'host-gw' };
  let publicIPv6: string | undefined;
  let backendType = '';
  let members: ReturnType<typeof jsonFields>;
  try {
    members = jsonFields(text);
  } catch {
    return undefined;
  }
  for (const { key, raw } of members) {
    const name = foldKey(key);
    if (name !== 'publicip' && name !== 'publicipv6' && name !== 'backendtype') continue;
    const value = raw === 'null' ? undefined : jsonString(raw);
    if (value === undefined && raw !== 'null') return undefined;
    if (name === 'publicip') publicIP = usableAddress(value, 4);
    else if (name === 'publicipv6') publicIPv6 = usableAddress(value, 6);
    else backendType = value ?? backendType;
  }
  return {
    ...(publicIP === undefined ? {} : { publicIP }),
    ...(publicIPv6 === undefined ? {} : { publicIPv6 }),
    backendType,
  };
}

/**
 * The value flanneld writes for these canonical addresses, byte for byte; an IPv6-only host's PublicIP is
 * 0.0.0.0. {@link parseLeaseValue} reads it back.
 */
export function formatLeaseValue({ ipv4, ipv6 }: PerFamily<string>): string {
  return JSON.stringify({
    PublicIP: ipv4 ?? '0.0.0.0',
    PublicIPv6: ipv6 ?? null,
    BackendType: 'host-gw',
  });
}

/**
 * The lease in a key under `subnetsPrefix`. A key that names subnets but has an unreadable value is a
 * problem, too: nobody can route to it, although its subnets count as used (see occupiedSubnets).
 */
export function parseLease(subnetsPrefix: string, kv: KeyValue): ParsedLease {
  const subnets = parseSubnetKey(subnetsPrefix, kv.key);
  if (subnets === undefined) {
    return { problem: `key ${excerpt(kv.key, 160)} does not name a subnet (a.b.c.d-len): ignored` };
  }
  const value = parseLeaseValue(kv.value);
  if (value !== undefined) return { lease: leaseOf(kv, subnets, value) };
  const shown = excerpt(kv.value, 80) || 'empty';
  return { problem: `key ${excerpt(kv.key, 160)} holds no lease: its value is ${shown}` };
}

/** The lease of a key that names these subnets, whatever its value. */
export function leaseOf(kv: KeyValue, subnets: LeaseSubnets, value: LeaseValue): Lease {
  const { key, value: rawValue, createRevision, modRevision, lease: leaseId } = kv;
  return { key, subnets, value, rawValue, createRevision, modRevision, leaseId };
}

function usableAddress(text: string | undefined, family: Family): string | undefined {
  const address = text === undefined ? undefined : parseAddress(text);
  if (address?.family !== family || address.value === 0n) return undefined;
  return formatAddress(family, address.value);
}

/**
 * Whether a lease belongs to the host with these addresses: by PublicIP, as in flanneld, or while IPv4 is off
 * (here or when the key was written) by PublicIPv6. PublicIP 0.0.0.0, of an IPv6-only host, names nobody.
 */
export function isOwnLease(addresses: PerFamily<string>, { value, subnets }: Lease): boolean {
  const sameIPv6 = addresses.ipv6 !== undefined && value.publicIPv6 === addresses.ipv6;
  if (addresses.ipv4 === undefined) return sameIPv6;
  if (value.publicIP !== undefined) return value.publicIP === addresses.ipv4;
  return sameIPv6 && subnets.ipv4 === undefined;
}

/** As {@link isOwnLease}; false for a key that is not a lease. */
export function isOwnKey(addresses: PerFamily<string>, subnetsPrefix: string, kv: KeyValue): boolean {
  const parsed = parseLease(subnetsPrefix, kv);
  return 'lease' in parsed && isOwnLease(addresses, parsed.lease);
}

/** Whether the value of a key of ours names another host. A spoilt value names nobody. */
export function namesAnother(addresses: PerFamily<string>, rawValue: string): boolean {
  const { publicIP, publicIPv6 }: Partial<LeaseValue> = parseLeaseValue(rawValue) ?? {};
  if (addresses.ipv4 !== undefined) return publicIP !== undefined && publicIP !== addresses.ipv4;
  return publicIPv6 !== undefined && publicIPv6 !== addresses.ipv6;
}

/** Whether the value of a key of ours names another address than ours in some family. */
export function differsFrom({ ipv4, ipv6 }: PerFamily<string>, rawValue: string): boolean {
  const { publicIP, publicIPv6 }: Partial<LeaseValue> = parseLeaseValue(rawValue) ?? {};
  const differs = (theirs: string | undefined, ours: string | undefined) =>
    theirs !== undefined && ours !== undefined && theirs !== ours;
  return differs(publicIP, ipv4) || differs(publicIPv6, ipv6);
}

/** Whether a lease carries one of these addresses. */
export function carriesAny({ ipv4, ipv6 }: PerFamily<string>, { value }: Lease): boolean {
  return (ipv4 !== undefined && value.publicIP === ipv4) || (ipv6 !== undefined && value.publicIPv6 === ipv6);
}

/** The host that a value names, for a message: by an address that is not one of `own`, if there is one. */
export function holderText(rawValue: string, own: PerFamily<string> = {}): string {
  const { publicIP, publicIPv6 }: Partial<LeaseValue> = parseLeaseValue(rawValue) ?? {};
  const isOther = publicIP !== undefined && publicIP !== own.ipv4;
  return (isOther ? publicIP : (publicIPv6 ?? publicIP)) ?? 'an unidentified host';
}
