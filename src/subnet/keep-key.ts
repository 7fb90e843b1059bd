import { formatLeaseValue } from './lease.ts';
import type { LeaseOptions } from './own-lease.ts';
import type { KeyValue } from './registry.ts';

/** What a key of ours carries now. */
export interface KeptKey {
  readonly value: string;
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
export async function keepKey(
  options: LeaseOptions,
  kv: Pick<KeyValue, 'key' | 'value' | 'modRevision' | 'lease'>,
  signal: AbortSignal,
): Promise<KeptKey | undefined> {
  const { registry, grants, log, addresses, leaseTtlSeconds } = options;
  const value = formatLeaseValue(addresses);
  let leaseId = kv.lease;
  let ttlSeconds = 0;
  if (leaseId !== '0') {
    ({ ttlSeconds } = await registry.leaseKeepAlive(leaseId, signal));
    if (ttlSeconds <= 0) ({ id: leaseId, ttlSeconds } = await grants.grant(leaseTtlSeconds, signal));
  }
  if (kv.value === value && kv.lease === leaseId) return { value, leaseId, ttlSeconds };
  const { succeeded } = await registry.txn(
    {
      compare: [{ key: kv.key, target: 'mod', op: '=', value: kv.modRevision }],
      success: [{ op: 'put', key: kv.key, value, lease: leaseId }],
    },
    signal,
  );
  if (!succeeded) return undefined;
  grants.use(leaseId);
  const fields = { key: kv.key, before: kv.value, leaseBefore: kv.lease, lease: leaseId };
  log.warn({ event: 'lease-rewritten', ...fields }, `the own lease ${kv.key} was put right`);
  return { value, leaseId, ttlSeconds };
}
