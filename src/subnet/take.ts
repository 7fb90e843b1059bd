import { overlaps, type Subnet } from '../ip/ip.ts';
import { formatLeaseValue } from './lease.ts';
import { listRange } from './list.ts';
import type { LeaseOptions } from './own-lease.ts';
import { type KeyValue, prefixEnd, type TxnRequest } from './registry.ts';
import { formatSubnetKey, type LeaseSubnets, occupiedSubnets, subnetKeyRange } from './subnet-key.ts';

/**
 * Creates the key of `subnets` with the lease `leaseId`, unless someone was faster: then resolves to the keys in the way.
 *
 * The range compare covers the subnet with and without an IPv6 half, and lets any number of joiners proceed side by side.
 * What it cannot see (a key of another length that overlaps) shows in the list read by the same transaction: whoever has
 * the later create_revision gives way, and that can only be the one who sees the other.
 *
 * Rejects with RegistryError; then the key may be there, or may still come, and it may overlap an older one: look, or revoke
 * the lease, before anything else is tried.
 */
export async function take(
  options: LeaseOptions,
  subnets: LeaseSubnets & { readonly ipv4: Subnet },
  leaseId: string,
  signal: AbortSignal,
): Promise<'taken' | readonly KeyValue[]> {
  const { registry, subnetsPrefix, addresses } = options;
  const guard = subnetKeyRange(subnetsPrefix, subnets.ipv4);
  const key = formatSubnetKey(subnetsPrefix, subnets);
  const request: TxnRequest = {
    compare: [{ ...guard, target: 'create', op: '=', value: 0 }],
    success: [
      { op: 'put', key, value: formatLeaseValue(addresses), lease: leaseId },
      { op: 'range', key: subnetsPrefix, rangeEnd: prefixEnd(subnetsPrefix) },
    ],
    failure: [{ op: 'range', ...guard }],
  };
  const { succeeded, ranges } = await registry.txn(request, signal);
  const kvs = ranges[0] ?? [];
  if (!succeeded) return kvs;
  const inTheWay = kvs.filter((kv) => kv.key !== key && overlapsKey(subnetsPrefix, kv, subnets));
  if (inTheWay.length === 0) return 'taken';
  await registry.txn(
    { compare: [{ key, target: 'lease', op: '=', value: leaseId }], success: [{ op: 'delete', key }] },
    signal,
  );
  return inTheWay;
}

/**
 * The first key, in byte order, that overlaps `subnets` and was created before `beforeRevision`; undefined when there is none.
 * Rejects with RegistryError.
 */
export async function findOverlap(
  { registry, subnetsPrefix }: LeaseOptions,
  subnets: LeaseSubnets,
  signal: AbortSignal,
  beforeRevision = Number.POSITIVE_INFINITY,
): Promise<KeyValue | undefined> {
  const { kvs } = await listRange(registry, subnetsPrefix, signal);
  return kvs.find((kv) => kv.createRevision < beforeRevision && overlapsKey(subnetsPrefix, kv, subnets));
}

/** The subnets that keys take out of the pool, of both families. */
export function subnetsOf(subnetsPrefix: string, kvs: readonly KeyValue[]): Subnet[] {
  return kvs.flatMap(({ key }) => occupiedSubnets(subnetsPrefix, key));
}

/** Whether a key stands for a subnet that overlaps one of these. */
export function overlapsKey(subnetsPrefix: string, kv: KeyValue, { ipv4, ipv6 }: LeaseSubnets): boolean {
  return subnetsOf(subnetsPrefix, [kv]).some(
    (other) => (ipv4 && overlaps(other, ipv4)) || (ipv6 && overlaps(other, ipv6)),
  );
}
