import type { Clock } from '../runtime/clock.ts';
import { rewrite } from './keep-key.ts';
import type { Lease } from './lease.ts';
import type { LeaseOptions } from './own-lease.ts';
import { RegistryError } from './registry.ts';

/** Who has not answered by then does not live. */
export const probeMs = 2_000;
/** When the key is looked at again after it was put, in ms from then. A daemon that lives answers in a few round trips. */
const looksMs = [250, 750, probeMs];

/**
 * Finds out whether a host that lives holds a lease, by putting its key again as it is: a daemon that sees its own key put by
 * somebody else puts it once more (see AddressDefence). flanneld does not: a lease that a live flanneld holds looks like one
 * that was left behind.
 *
 * `quiet`: nobody answered in two seconds. `changed`: the key is not as it was read; read again. Of two hosts that probe one
 * key at once the first to write takes the other's probe for an answer. Rejects with RegistryError.
 */
export async function probe(
  options: LeaseOptions & { readonly clock: Clock },
  lease: Lease,
  signal: AbortSignal,
): Promise<'answered' | 'quiet' | 'changed'> {
  const { key, rawValue: value, leaseId } = lease;
  options.log.info(
    { event: 'lease-probed', key },
    `the lease ${key} carries this host's address, but may be another's: waiting two seconds for its holder to answer`,
  );
  const modRevision = await putAgain(options, lease, signal);
  if (modRevision === 'gone') return 'quiet';
  if (modRevision === undefined) return 'changed';
  let waitedMs = 0;
  for (const lookMs of looksMs) {
    await options.clock.sleep(lookMs - waitedMs, signal);
    waitedMs = lookMs;
    const kv = (await options.registry.range({ key }, signal)).kvs[0];
    if (kv?.modRevision === modRevision) continue;
    // An earlier revision is that of a backup that was restored meanwhile.
    const answered = kv?.value === value && kv.lease === leaseId && kv.modRevision > modRevision;
    return answered ? 'answered' : 'changed';
  }
  return 'quiet';
}

/**
 * Asks: puts the key of a lease again as it is. Resolves to its new revision; undefined when it changed meanwhile; `gone`: its etcd
 * lease is dead, so nobody has renewed it, and etcd is about to delete the key. Rejects with RegistryError.
 */
export async function putAgain(
  options: LeaseOptions,
  lease: Lease,
  signal: AbortSignal,
): Promise<number | 'gone' | undefined> {
  try {
    return await rewrite(options, lease, { value: lease.rawValue, lease: lease.leaseId }, signal);
  } catch (error) {
    if (error instanceof RegistryError && error.kind === 'LEASE_NOT_FOUND') return 'gone';
    throw error;
  }
}
