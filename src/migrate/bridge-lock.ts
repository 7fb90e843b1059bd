import type { Clock } from '../runtime/effects.ts';
import { excerpt } from '../runtime/texts.ts';
import { firstOf } from '../runtime/wake.ts';
import { absent } from '../subnet/lease/acquire/claim.ts';
import { type Registry, RegistryError } from '../subnet/registry/registry.ts';
import type { Guard } from './copy.ts';

/** A bridge that was killed, or is cut off, gives way to another one after this time. */
const lockTtlSeconds = 15;
const renewIntervalMs = 4_000;
const lookIntervalMs = 1_000;

interface BridgeLockOptions {
  readonly registry: Registry;
  readonly key: string;
  /** Who this is, for the operator of another bridge. */
  readonly owner: string;
  readonly clock: Clock;
  /** Called, again and again, while another bridge holds the lock; with that one's owner. */
  readonly onWait: (owner: string) => void;
}

/**
 * Runs `work` while this process is the only bridge: it holds a key of v3 on an etcd lease of its own. `work` gets a guard for its writes to
 * v3, which fail when the key is no longer this one. Ends as `work` does; resolves when the lock was lost, by an etcd that does not answer or
 * was restored. Rejects with RegistryError when etcd does not let it be taken, or with `signal.reason`.
 */
export async function withBridgeLock(
  options: BridgeLockOptions,
  signal: AbortSignal,
  work: (guard: Guard, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { registry, key, owner, clock } = options;
  await untilFree(options, signal);
  const { id } = await registry.leaseGrant(lockTtlSeconds, signal);
  const sinceMs = clock.monotonic();
  try {
    const put = { op: 'put', key, value: owner, lease: id } as const;
    const { succeeded, header } = await registry.txn({ compare: [absent({ key })], success: [put] }, signal);
    // Another bridge was faster.
    if (!succeeded) return;
    const guard: Guard = [{ key, target: 'create', op: '=', value: header.revision }];
    await firstOf(signal, (inner) => [
      work(guard, inner),
      keepUntilLost(options, { id, revision: header.revision, sinceMs }, inner),
    ]);
  } finally {
    await giveUp(options, id);
  }
}

/** So that the next bridge need not wait. Without an answer the lease ends by itself. */
async function giveUp({ registry, clock }: BridgeLockOptions, id: string): Promise<void> {
  try {
    const { signal } = new AbortController();
    await firstOf(signal, (inner) => [registry.leaseRevoke(id, inner), clock.sleep(lookIntervalMs, inner)]);
  } catch (error) {
    if (!(error instanceof RegistryError)) throw error;
  }
}

async function untilFree(options: BridgeLockOptions, signal: AbortSignal): Promise<void> {
  const { registry, key, clock, onWait } = options;
  for (;;) {
    const [holder] = (await registry.range({ key }, signal)).kvs;
    if (holder === undefined) return;
    onWait(excerpt(holder.value, 80));
    await clock.sleep(lookIntervalMs, signal);
  }
}

/**
 * Resolves when the lock is lost: at the latest when its time to live has passed since the last renewal was asked for, however long etcd is
 * silent. The key is read as well: a restored etcd may have the lease without it.
 */
async function keepUntilLost(
  { registry, key, clock }: BridgeLockOptions,
  { id, revision, sinceMs }: { readonly id: string; readonly revision: number; readonly sinceMs: number },
  signal: AbortSignal,
): Promise<void> {
  let renewedMs = sinceMs;
  const isHeld = async (inner: AbortSignal): Promise<boolean> => {
    const { ttlSeconds } = await registry.leaseKeepAlive(id, inner);
    const [holder] = (await registry.range({ key }, inner)).kvs;
    return ttlSeconds > 0 && holder?.createRevision === revision;
  };
  for (;;) {
    const leftMs = renewedMs + lockTtlSeconds * 1000 - clock.monotonic();
    await clock.sleep(Math.min(renewIntervalMs, leftMs), signal);
    const askedMs = clock.monotonic();
    const endMs = renewedMs + lockTtlSeconds * 1000 - askedMs;
    if (endMs <= 0) return;
    try {
      const late = async (inner: AbortSignal) => {
        await clock.sleep(endMs, inner);
        return false;
      };
      if (!(await firstOf(signal, (inner) => [isHeld(inner), late(inner)]))) return;
      renewedMs = askedMs;
    } catch (error) {
      if (!(error instanceof RegistryError)) throw error;
    }
  }
}
