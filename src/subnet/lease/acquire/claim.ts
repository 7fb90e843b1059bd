import { overlaps, type Subnet } from '../../../ip/ip.ts';
import {
  formatSubnetKey,
  type KeyRange,
  type LeaseSubnets,
  occupiedSubnets,
  subnetKeyRanges,
} from '../../keys.ts';
import {
  type Compare,
  type KeyValue,
  listRange,
  prefixEnd,
  type TxnRequest,
} from '../../registry/registry.ts';
import { formatLeaseValue } from '../lease.ts';
import type { LeaseOptions } from '../own-lease.ts';

/** The revision of the key that was put, or else the keys that are in the way, as they were at `revision`. */
export type Taken =
  | { readonly modRevision: number }
  | { readonly inTheWay: readonly KeyValue[]; readonly revision: number };

export interface TakeRules {
  /** Whether a key that overlaps the subnets may stay where it is: one of this host. Default: none may. */
  readonly mayOverlap?: (kv: KeyValue) => boolean;
  /** What must not be there beside what overlaps. Default: nothing. */
  readonly isInTheWay?: (kv: KeyValue) => boolean;
  /** The keys of the same IPv4 subnet were found harmless as they were at this revision. Default: there were none. */
  readonly seenRevision?: number;
}

/**
 * Creates the key of `subnets` with the lease `leaseId`, unless someone was faster: then resolves to the keys in the way.
 *
 * The compares cover the IPv4 subnet with and without an IPv6 half, and let any number of joiners proceed side by
 * side. What it cannot see (a key of another length that overlaps, the same IPv6 subnet in another key) shows in the list
 * read by the same transaction: whoever has the later create_revision gives way, and that can only be the one who sees the
 * other.
 *
 * Rejects with RegistryError; then the key may be there, or may still come, and it may overlap an older one: look, or revoke
 * the lease, before anything else is tried.
 */
export async function claimSubnets(
  options: LeaseOptions,
  subnets: LeaseSubnets,
  leaseId: string,
  signal: AbortSignal,
  { mayOverlap = () => false, isInTheWay = () => false, seenRevision = 0 }: TakeRules = {},
): Promise<Taken> {
  const { registry, subnetsPrefix, addresses } = options;
  const guard = keysOf(subnetsPrefix, subnets);
  const key = formatSubnetKey(subnetsPrefix, subnets);
  const request: TxnRequest = {
    compare: [absent({ key }), ...guard.map((keys) => unchanged(keys, seenRevision))],
    success: [{ op: 'put', key, value: formatLeaseValue(addresses), lease: leaseId }, listOf(subnetsPrefix)],
    failure: guard.map((keys) => ({ op: 'range', ...keys })),
  };
  const { succeeded, ranges, header } = await registry.txn(request, signal);
  const { revision } = header;
  if (!succeeded) return { inTheWay: ranges.flat(), revision };
  const collides = (kv: KeyValue) => overlapsKey(subnetsPrefix, kv, subnets) && !mayOverlap(kv);
  const inTheWay = (ranges[0] ?? []).filter((kv) => kv.key !== key && (collides(kv) || isInTheWay(kv)));
  if (inTheWay.length === 0) return { modRevision: revision };
  await registry.txn(
    { compare: [{ key, target: 'lease', op: '=', value: leaseId }], success: [{ op: 'delete', key }] },
    signal,
  );
  return { inTheWay, revision };
}

/** The keys that nobody but the holder of these subnets may put: all of the IPv4 subnet, else that of the IPv6 one. */
export function keysOf(subnetsPrefix: string, subnets: LeaseSubnets): readonly KeyRange[] {
  return subnets.ipv4 === undefined
    ? [{ key: formatSubnetKey(subnetsPrefix, subnets) }]
    : subnetKeyRanges(subnetsPrefix, subnets.ipv4);
}

/** Holds when there is no key of these. */
export function absent(keys: KeyRange): Compare {
  return { ...keys, target: 'create', op: '=', value: 0 };
}

/** Holds when none of these keys was put after `revision`; at 0, when there is none. */
function unchanged(keys: KeyRange, revision: number): Compare {
  return { ...keys, target: 'mod', op: '<', value: revision + 1 };
}

/** Reads all keys in a transaction. */
export function listOf(subnetsPrefix: string) {
  return { op: 'range', key: subnetsPrefix, rangeEnd: prefixEnd(subnetsPrefix) } as const;
}

/** All keys that overlap `subnets`, in byte order. Rejects with RegistryError. */
export async function findOverlaps(
  { registry, subnetsPrefix }: LeaseOptions,
  subnets: LeaseSubnets,
  signal: AbortSignal,
): Promise<readonly KeyValue[]> {
  const { kvs } = await listRange(registry, subnetsPrefix, signal);
  return kvs.filter((kv) => overlapsKey(subnetsPrefix, kv, subnets));
}

/** The subnets that keys take out of the pools, of both families. */
export function subnetsOf(subnetsPrefix: string, kvs: readonly KeyValue[]): Subnet[] {
  return kvs.flatMap(({ key }) => occupiedSubnets(subnetsPrefix, key));
}

/** Whether a key stands for a subnet that overlaps one of these. */
export function overlapsKey(
  subnetsPrefix: string,
  kv: Pick<KeyValue, 'key'>,
  { ipv4, ipv6 }: LeaseSubnets,
): boolean {
  return occupiedSubnets(subnetsPrefix, kv.key).some(
    (other) => (ipv4 && overlaps(other, ipv4)) || (ipv6 && overlaps(other, ipv6)),
  );
}
