import type { Activity } from '../../../runtime/activity.ts';
import type { Clock, Logger, Random } from '../../../runtime/effects.ts';
import { explanationOf, messageOf } from '../../../runtime/errors.ts';
import { type BackoffPolicy, backoffMs } from '../../../runtime/retry.ts';
import type { TroubleLog } from '../../../runtime/trouble.ts';
import { firstOf, untilAborted, Wake } from '../../../runtime/wake.ts';
import {
  listRange,
  prefixEnd,
  type Registry,
  RegistryError,
  type WatchBatch,
  type WatchEvent,
} from '../../registry/registry.ts';
import type { Lease } from '../lease.ts';
import { MassRemovals } from './mass-removal.ts';
import { type JunkKeys, LeaseReader, revisionOf } from './reader.ts';

export interface LeaseWatchOptions {
  readonly registry: Registry;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  /** Told of each round of the loop, and of what is listed again or skipped. */
  readonly activity?: Activity;
  /** `<prefix>/subnets/`, with the slash: `subnets-old/` is not ours. */
  readonly subnetsPrefix: string;
  /**
   * Told of an update that is held back because it removes most peers at once, and of a list that says what is known: who looks
   * after a lease of his own need not wait, and knows of writes that no stream has told of. Must not throw.
   */
  readonly onDoubt?: (heldBack: LeaseUpdate) => void;
}

/** A stream that was opened again is followed by a list within so long: not by all hosts of a cluster at once. */
const compareWithinMs = 60_000;
/** A list that is no older when the first stream after it is opened need not be followed by another. */
const freshMs = 1_000;
/** Hosts whose leases were lost by a bad restore take them again within this time, and no route goes. */
const confirmAfterMs = 1_000;
/** A stream that lived this long was healthy: the next failure starts a new row of attempts. */
const healthyStreamMs = 5_000;
/** Calls have deadlines of seconds, but a list may take many of them. */
const stuckMs = 600_000;
/** What its loop is called. */
export const WATCH_LOOP = 'lease-watch';
const policy: BackoffPolicy = { initialMs: 100, maxMs: 3_000 };

/** Thrown inside the loop to ask for a new list; never seen outside. */
class ListAgain extends Error {}

/**
 * The leases of the cluster: one list, then one watch from the list's revision on, with one cursor.
 *
 * The cursor moves only past events that were delivered (to the last event's revision + 1, and only when a revision is
 * complete: a fragment is a part of one) or to a progress notification's revision + 1. A response header's revision may run
 * ahead of events still to come, and etcd3's own watcher, which trusts it, loses them at the second disconnect.
 *
 * The watch starts one revision before the cursor, and what it brings from there is dropped: a watch that starts exactly at
 * the compacted revision is accepted, but does not get that revision's deletes (etcd before 3.4.36 and 3.5.18).
 *
 * Listed anew when the cursor is compacted, the cluster id changed, or the revision went backwards (a restore from a
 * backup). A restore that keeps the id, after which others wrote so much that the revision is beyond the cursor again, shows in
 * neither: so a list follows every stream that was opened again, while that goes on. While etcd is away nothing is delivered: the consumer keeps what it has.
 *
 * An update that removes most peers at once is not delivered: what another list says a moment later takes its place.
 */
export class LeaseWatch {
  readonly #options: LeaseWatchOptions;
  /** The first revision not delivered yet; undefined: a list is needed. */
  #cursor: number | undefined;
  #clusterId = '';
  #failures = 0;
  /** When the leases are to be compared with a list; Infinity: one was read just before the stream was opened, or after. */
  #compareAtMs = Number.POSITIVE_INFINITY;
  #listedAtMs = Number.NEGATIVE_INFINITY;
  /** Etcd seems to have been restored: hosts have to find out one by one, each at its own pace. */
  #restored = false;
  readonly #reader: LeaseReader;
  readonly #known = new KnownLeases();
  readonly #removals: MassRemovals;

  constructor(options: LeaseWatchOptions) {
    this.#options = options;
    this.#reader = new LeaseReader(options);
    this.#removals = new MassRemovals(options.trouble, options.subnetsPrefix);
  }

  /** Whether the stream is up, i.e. what was delivered is the newest there is. */
  get watching(): boolean {
    return this.#watchingSinceMs !== undefined;
  }
  #watchingSinceMs: number | undefined;

  /** What lies among the leases and is none, as last read. */
  get junk(): JunkKeys {
    return this.#reader.junk;
  }

  /** Delivers updates until `signal` aborts, then rejects with its reason. Nothing else ends it. */
  async run(signal: AbortSignal, onUpdate: (update: LeaseUpdate) => void): Promise<never> {
    for (;;) {
      signal.throwIfAborted();
      this.#options.activity?.round(WATCH_LOOP, stuckMs);
      try {
        const cursor = this.#cursor ?? (await this.#list(signal, onUpdate));
        const opened = new Wake();
        await firstOf(signal, (inner) => [
          this.#follow(cursor, opened, inner, onUpdate),
          this.#compare(opened, inner, onUpdate),
        ]);
      } catch (error) {
        signal.throwIfAborted();
        this.#noteFailure(error);
      }
      await this.#options.clock.sleep(backoffMs(policy, this.#failures++, this.#options.random), signal);
    }
  }

  #noteFailure(error: unknown): void {
    const { log, trouble, registry, clock, subnetsPrefix } = this.#options;
    const sinceMs = this.#watchingSinceMs ?? Number.POSITIVE_INFINITY;
    this.#watchingSinceMs = undefined;
    if (clock.monotonic() - sinceMs >= healthyStreamMs) this.#failures = 0;
    const kind = error instanceof RegistryError ? error.kind : undefined;
    if (error instanceof ListAgain || kind === 'COMPACTED') {
      this.#cursor = undefined;
      this.#restored = error instanceof ListAgain;
      this.#options.activity?.count('relist', kind === 'COMPACTED' ? 'compacted' : 'history');
      log.info(
        { event: 'relist', reason: messageOf(error) },
        `listing all leases again: ${messageOf(error)}`,
      );
      return;
    }
    trouble.report(
      'lease-watch',
      `the leases under ${subnetsPrefix} cannot be watched; routes stay unchanged meanwhile: ${explanationOf(error)}`,
      { endpoint: registry.endpoint, error },
    );
  }

  async #list(signal: AbortSignal, onUpdate: (update: LeaseUpdate) => void): Promise<number> {
    const listed = await this.#confirmed(await this.#snapshot(signal), signal);
    this.#restored = false;
    this.#listedAtMs = this.#options.clock.monotonic();
    return this.#give(listed, onUpdate);
  }

  async #snapshot(signal: AbortSignal): Promise<LeaseSnapshot> {
    const { registry, subnetsPrefix } = this.#options;
    const { kvs, header } = await listRange(registry, subnetsPrefix, signal);
    const leases = this.#reader.read(kvs);
    this.#clusterId = header.clusterId;
    return { type: 'snapshot', leases, revision: header.revision };
  }

  /** The update itself; of one that removes most peers at once, or any after a restore, what a linearizable list says a moment later. */
  async #confirmed(update: LeaseUpdate, signal: AbortSignal): Promise<LeaseUpdate> {
    if (!this.#removals.doubts(update, this.#restored)) return update;
    this.#options.onDoubt?.(update);
    await this.#options.clock.sleep(confirmAfterMs, signal);
    return await this.#snapshot(signal);
  }

  #give(update: LeaseUpdate, onUpdate: (update: LeaseUpdate) => void): number {
    // What was listed in the meantime is newer.
    if (this.#cursor !== undefined && update.revision + 1 < this.#cursor) return this.#cursor;
    // First: a consumer that throws is told again, by the stream or by a list that differs from what it took.
    onUpdate(update);
    this.#known.take(update);
    this.#removals.take(update);
    this.#cursor = update.revision + 1;
    return this.#cursor;
  }

  /**
   * Compares what was delivered with a list once the stream is open and that is due, and ends never. A list from before tells
   * nothing of what happened until then. It is delivered if it differs; what the stream brings meanwhile counts from its revision on.
   */
  async #compare(opened: Wake, signal: AbortSignal, onUpdate: (update: LeaseUpdate) => void): Promise<never> {
    const { clock } = this.#options;
    await opened.wait(signal);
    while (this.#compareAtMs < Number.POSITIVE_INFINITY) {
      await clock.sleep(Math.max(1_000, this.#compareAtMs - clock.monotonic()), signal);
      try {
        const listed = await this.#snapshot(signal);
        const same = this.#known.equals(listed);
        // Of a write of this host's own the stream may not have told, when a restore took it back.
        if (same) this.#options.onDoubt?.(listed);
        const update = same ? listed : await this.#confirmed(listed, signal);
        if (same || this.#give(update, onUpdate) === update.revision + 1)
          this.#compareAtMs = Number.POSITIVE_INFINITY;
      } catch (error) {
        signal.throwIfAborted();
        // Etcd has no list just now: the stream says so, or the next attempt gets one.
        if (!(error instanceof RegistryError)) throw error;
      }
    }
    return await untilAborted(signal);
  }

  async #follow(
    cursor: number,
    opened: Wake,
    signal: AbortSignal,
    onUpdate: (update: LeaseUpdate) => void,
  ): Promise<never> {
    const { registry, subnetsPrefix } = this.#options;
    const request = { key: subnetsPrefix, rangeEnd: prefixEnd(subnetsPrefix), startRevision: cursor - 1 };
    let parts: WatchEvent[] = [];
    for await (const batch of registry.watch(request, signal)) {
      this.#options.activity?.round(WATCH_LOOP, stuckMs);
      this.#checkHistory(batch, cursor);
      this.#noteStream();
      if (batch.kind === 'created') this.#noteOpened(opened);
      parts.push(...batch.events);
      if (batch.fragment) continue;
      parts = parts.filter((event) => revisionOf(event) >= (this.#cursor ?? cursor));
      if (batch.kind === 'progress') this.#cursor = Math.max(this.#cursor ?? 0, batch.header.revision + 1);
      else if (parts.length > 0) {
        this.#give(await this.#confirmed(this.#reader.deltaOf(parts), signal), onUpdate);
        this.#failures = 0;
      }
      parts = [];
      // Nothing need ever change: that the stream lives is HTTP/2's care.
      this.#options.activity?.round(WATCH_LOOP, Number.POSITIVE_INFINITY);
    }
    throw new RegistryError('UNAVAILABLE', registry.endpoint, 'the watch stream ended');
  }

  /**
   * A watch that starts in the future is accepted in silence, so a cluster restored from an older backup is only seen by
   * its header. A lagging member looks the same; then the linearizable list merely repeats what is known.
   */
  #checkHistory(batch: WatchBatch, cursor: number): void {
    if (batch.header.clusterId !== this.#clusterId)
      throw new ListAgain('this is another etcd cluster than before');
    if (batch.kind === 'created' && batch.header.revision < cursor - 1) {
      throw new ListAgain(
        `etcd is at revision ${batch.header.revision}, before the ${cursor - 1} already seen`,
      );
    }
  }

  #noteOpened(opened: Wake): void {
    const { clock, random } = this.#options;
    const nowMs = clock.monotonic();
    const dueMs = Math.min(this.#compareAtMs, nowMs + compareWithinMs * random.next());
    this.#compareAtMs = nowMs - this.#listedAtMs < freshMs ? Number.POSITIVE_INFINITY : dueMs;
    // For one stream only.
    this.#listedAtMs = Number.NEGATIVE_INFINITY;
    opened.wake();
  }

  #noteStream(): void {
    const { clock, trouble, registry } = this.#options;
    this.#watchingSinceMs ??= clock.monotonic();
    trouble.clear('lease-watch', 'the leases can be watched again', { endpoint: registry.endpoint });
  }
}

/** What a consumer was told of: each lease by the revision it was last changed at. */
class KnownLeases {
  readonly #modRevisions = new Map<string, number>();

  /** Takes in what the consumer is told now. */
  take(update: LeaseUpdate): void {
    if (update.type === 'snapshot') this.#modRevisions.clear();
    else for (const key of update.removed) this.#modRevisions.delete(key);
    for (const lease of update.type === 'snapshot' ? update.leases : update.put)
      this.#modRevisions.set(lease.key, lease.modRevision);
  }

  /** Whether the snapshot holds nothing else. */
  equals({ leases }: LeaseSnapshot): boolean {
    const same = leases.every(({ key, modRevision }) => this.#modRevisions.get(key) === modRevision);
    return same && leases.length === this.#modRevisions.size;
  }
}

/** What a consumer of a lease watch sees: a snapshot, then deltas, then perhaps another snapshot. Never a gap. */
export type LeaseUpdate = LeaseSnapshot | LeaseDelta;

export interface LeaseSnapshot {
  readonly type: 'snapshot';
  readonly leases: readonly Lease[];
  readonly revision: number;
}

export interface LeaseDelta {
  readonly type: 'delta';
  readonly put: readonly Lease[];
  /** Keys that hold no usable lease any more: deleted, or overwritten by something that cannot be read. */
  readonly removed: readonly string[];
  readonly revision: number;
}
