import { excerpt } from '../../runtime/texts.ts';
import type { KeyValue } from '../registry/registry.ts';
import { formatLeaseValue } from './lease.ts';
import type { LeaseOptions } from './own-lease.ts';

/** More of a value that somebody put into our key is not logged. */
const longestValue = 200;

/** What a key of ours carries now. */
export interface KeptKey {
  readonly value: string;
  readonly modRevision: number;
  /** Decimal etcd lease id; '0' for a reservation. */
  readonly leaseId: string;
  /** The TTL it was just renewed to, in seconds; 0 for a reservation. */
  readonly ttlSeconds: number;
}

/**
 * Renews the lease of a key of ours as it was just read, and puts right what differs from what we would write (a
 * reservation without BackendType, an old vxlan lease: peers would never route to us), guarded by mod_revision. The key
 * keeps its lease or lack of one; only a lease that is dead, when etcd is about to delete the key, is replaced.
 *
 * Undefined when the key changed under our hands: read again. Rejects with RegistryError; what was written then shows when
 * the key is read again.
 */
export async function renewKey(
  options: LeaseOptions,
  kv: Pick<KeyValue, 'key' | 'value' | 'modRevision' | 'lease'>,
  signal: AbortSignal,
): Promise<KeptKey | undefined> {
  const value = formatLeaseValue(options.addresses);
  const { id: leaseId, ttlSeconds } = await renewLease(options, kv.lease, signal);
  const kept = { value, leaseId, ttlSeconds };
  if (kv.value === value && kv.lease === leaseId) return { ...kept, modRevision: kv.modRevision };
  const modRevision = await rewrite(options, kv, { value, lease: leaseId }, signal);
  if (modRevision === undefined) return undefined;
  const fields = {
    key: kv.key,
    before: excerpt(kv.value, longestValue),
    leaseBefore: kv.lease,
    lease: leaseId,
  };
  options.log.warn({ event: 'lease-rewritten', ...fields }, `corrected the value of the own lease ${kv.key}`);
  return { ...kept, modRevision };
}

/**
 * Renews a lease; one that is dead is replaced by a new one. '0', none, stays none, with a TTL of 0. Rejects with
 * RegistryError.
 */
export async function renewLease(
  { registry, grants, leaseTtlSeconds }: LeaseOptions,
  id: string,
  signal: AbortSignal,
): Promise<{ readonly id: string; readonly ttlSeconds: number }> {
  if (id === '0') return { id, ttlSeconds: 0 };
  const { ttlSeconds } = await registry.leaseKeepAlive(id, signal);
  return ttlSeconds > 0 ? { id, ttlSeconds } : await grants.grant(leaseTtlSeconds, signal);
}

/**
 * Writes value and lease of a key of ours, unless somebody changed it since it was read; resolves to its new revision, or
 * undefined. Rejects with RegistryError.
 */
export async function rewrite(
  { registry, grants }: LeaseOptions,
  kv: Pick<KeyValue, 'key' | 'modRevision'>,
  { value, lease }: { readonly value: string; readonly lease: string },
  signal: AbortSignal,
): Promise<number | undefined> {
  const { key } = kv;
  const { succeeded, header } = await registry.txn(
    {
      compare: [{ key, target: 'mod', op: '=', value: kv.modRevision }],
      success: [{ op: 'put', key, value, lease }],
    },
    signal,
  );
  if (!succeeded) return undefined;
  grants.markUsed(lease);
  return header.revision;
}
