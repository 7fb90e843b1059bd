import { overlaps, type Subnet } from '../../../ip/ip.ts';
import { formatSubnetKey, type KeyRange, keysOf, type LeaseSubnets, occupiedSubnets } from '../../keys.ts';
import {
  type Compare,
  type GrantedLease,
  type KeyValue,
  listRange,
  prefixEnd,
  type TxnRequest,
} from '../../registry/registry.ts';
import { formatLeaseValue } from '../lease.ts';
import type { LeaseOptions, OwnLease } from '../own-lease.ts';

/** The new lease, or else the keys in its way, as they were at `revision`. */
type Claim =
  | { readonly held: Omit<OwnLease, 'origin'> }
  | { readonly inTheWay: readonly KeyValue[]; readonly revision: number };

interface ClaimRules {
  /** Whether a key that overlaps the subnets may stay, because it is this host's. Default: none may. */
  readonly mayOverlap?: (kv: KeyValue) => boolean;
  /** Whether another key is in the way, too. Default: none is. */
  readonly isInTheWay?: (kv: KeyValue) => boolean;
  /** At this revision the keys of the same IPv4 subnet were harmless. Default: there were none. */
  readonly seenRevision?: number;
  /** The caller has found nothing in the way in a list of this revision: later keys are enough. Default: no list was read. */
  readonly listedRevision?: number;
}

/**
 * Creates the key of `subnets` on the granted etcd lease, or resolves to the keys of a faster host.
 *
 * The compares cover the IPv4 subnet with and without an IPv6 half, and let any number of joiners proceed
 * side by side. The list in the same transaction shows what they do not cover: a key of another length that
 * overlaps, the same IPv6 subnet in another key. Then the host with the later create_revision gives way,
 * which is always the one that sees the other.
 *
 * Rejects with RegistryError. Then the key may exist, may still come, and may overlap an older one: read it,
 * or revoke the lease, before the next attempt.
 */
export async function claimSubnets(
  options: LeaseOptions,
  subnets: LeaseSubnets,
  { id: leaseId, ttlSeconds }: GrantedLease,
  signal: AbortSignal,
  {
    mayOverlap = () => false,
    isInTheWay = () => false,
    seenRevision = 0,
    listedRevision = 0,
  }: ClaimRules = {},
): Promise<Claim> {
  const { registry, grants, subnetsPrefix } = options;
  const guard = keysOf(subnetsPrefix, subnets);
  const key = formatSubnetKey(subnetsPrefix, subnets);
  const value = formatLeaseValue(options.addresses);
  const request: TxnRequest = {
    compare: [absent({ key }), ...guard.map((keys) => unchanged(keys, seenRevision))],
    success: [{ op: 'put', key, value, lease: leaseId }, listSince(subnetsPrefix, listedRevision)],
    failure: guard.map((keys) => ({ op: 'range', ...keys })),
  };
  const { succeeded, ranges, header } = await registry.txn(request, signal);
  const { revision } = header;
  if (!succeeded) return { inTheWay: ranges.flat(), revision };
  const collides = (kv: KeyValue) => overlapsKey(subnetsPrefix, kv, subnets) && !mayOverlap(kv);
  const inTheWay = (ranges[0] ?? []).filter((kv) => kv.key !== key && (collides(kv) || isInTheWay(kv)));
  // A revision before that of the list: etcd was restored, and the list is of another time.
  if (inTheWay.length === 0 && revision > listedRevision) {
    grants.markUsed(leaseId);
    return { held: { key, subnets, value, modRevision: revision, leaseId, ttlSeconds } };
  }
  const isOurs = { key, target: 'lease', op: '=', value: leaseId } as const;
  await registry.txn({ compare: [isOurs], success: [{ op: 'delete', key }] }, signal);
  return { inTheWay, revision };
}

/** Holds when none of these keys exists. */
export function absent(keys: KeyRange): Compare {
  return { ...keys, target: 'create', op: '=', value: 0 };
}

/** Holds when nobody put one of these keys after `revision`; at 0, when none exists. */
function unchanged(keys: KeyRange, revision: number): Compare {
  return { ...keys, target: 'mod', op: '<', value: revision + 1 };
}

/** Reads, in a transaction, all keys that were put after a list of this revision: with 10,000 leases a few of 1.4 MB. */
export function listSince(subnetsPrefix: string, listedRevision: number) {
  const range = { op: 'range', key: subnetsPrefix, rangeEnd: prefixEnd(subnetsPrefix) } as const;
  return { ...range, minModRevision: listedRevision + 1 };
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
