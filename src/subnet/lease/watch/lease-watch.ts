import type { Clock, Random } from '../../../runtime/effects.ts';
import { explanationOf, messageOf } from '../../../runtime/errors.ts';
import { type BackoffPolicy, backoffMs } from '../../../runtime/retry.ts';
import type { TroubleLog } from '../../../runtime/trouble.ts';
import { firstOf, untilAborted, Wake } from '../../../runtime/wake.ts';
import {
  listRange,
  NO_CLUSTER,
  prefixEnd,
  type Registry,
  RegistryError,
  stuckWithEtcdMs,
  type WatchBatch,
  type WatchEvent,
} from '../../registry/registry.ts';
import { DeliveredLeases } from './delivered.ts';
import {
  type JunkKeys,
  LeaseReader,
  type LeaseSnapshot,
  type LeaseUpdate,
  type ReaderOptions,
  revisionOf,
} from './reader.ts';

export interface LeaseWatchOptions extends ReaderOptions {
  readonly registry: Registry;
  readonly clock: Clock;
  readonly random: Random;
  readonly trouble: TroubleLog;
  /**
   * Gets each update that waits for a second list, and each list that shows no change. The keeper of the own
   * lease need not wait, and may know of writes that no stream brought. Must not throw.
   */
  readonly onDoubt?: (heldBack: LeaseUpdate) => void;
  /**
   * A stream is open again, and may lack what a restore has undone; the list that shows it comes within a minute.
   * The keeper of the own lease reads its key at once: another host may have its subnet. Must not throw.
   */
  readonly onReopened?: () => void;
}

/** A list follows each reopened stream within this time, at another moment on each host. */
const compareWithinMs = 60_000;
/** No list follows the stream that was asked for right after one and opened within this time. A restore takes longer. */
const freshMs = 5_000;
/** Hosts that lost their leases in a bad restore take them again within this time, so no route goes. */
const confirmAfterMs = 1_000;
/** A stream that lived this long was healthy: the backoff starts over at the next failure. */
const healthyStreamMs = 5_000;
/** The ranges that streams take turns with. They differ by names of NUL bytes alone, which no lease has. */
const ranges = 16;
/** The name of its loop. */
export const WATCH_LOOP = 'lease-watch';
const policy: BackoffPolicy = { initialMs: 100, maxMs: 3_000 };

/** Asks for a new list; thrown inside the loop only. */
class ListAgain extends Error {}

/**
 * The leases of the cluster: one list, then one watch from the list's revision on, with one cursor.
 *
 * The cursor moves only past delivered events (to the last event's revision + 1, once that revision is
 * complete: a fragment is a part of one) or to a progress notification's revision + 1. A response header may
 * run ahead of events still to come; etcd3's own watcher trusts it, and loses them at the second disconnect.
 *
 * Each stream asks for another range than the one before. In etcd's gRPC proxy a watch that etcd has ended stays as
 * long as one host has it open, even a frozen one. It takes in later watches of its range, which then stay silent
 * (etcd-io/etcd issue 21813).
 *
 * The watch starts one revision before the cursor and drops the events of that revision: etcd accepts a watch
 * that starts at the compacted revision, but leaves out its deletes (before 3.4.36 and 3.5.18).
 *
 * It lists all leases again when the cursor is compacted, the cluster id changed, or the revision went
 * backwards (a restore from a backup). A restore that keeps the id shows in neither when others wrote so much
 * since that the revision is beyond the cursor again. So a list follows every reopened stream, while the
 * stream runs. While etcd is away the consumer keeps its leases.
 *
 * Instead of an update that removes most peers at once it delivers another list from a moment later.
 */
export class LeaseWatch {
  readonly #options: LeaseWatchOptions;
  /** The first revision not delivered yet; undefined: list first. */
  #cursor: number | undefined;
  #clusterId = '';
  #failures = 0;
  /** When to compare the delivered leases with a list; Infinity: a list is recent enough. */
  #compareAtMs = Number.POSITIVE_INFINITY;
  /** Of the list that the next stream follows; before a stream that follows another one it says so. */
  #listedAtMs = Number.NEGATIVE_INFINITY;
  /** etcd seems restored: each host finds that out at its own pace. */
  #restored = false;
  #onUpdate: (update: LeaseUpdate) => void = () => {};
  /** The stream was confirmed by etcd's gRPC proxy in etcd's place: that shows no restore, the next list does. */
  #isMerged = false;
  /** How many streams were confirmed. */
  #streams = 0;
  readonly #reader: LeaseReader;
  readonly #delivered: DeliveredLeases;

  constructor(options: LeaseWatchOptions) {
    this.#options = options;
    this.#reader = new LeaseReader(options);
    this.#delivered = new DeliveredLeases(options);
  }

  /** Whether the stream is up, so that the consumer has the newest leases. */
  get watching(): boolean {
    return this.#watchingSinceMs !== undefined;
  }
  #watchingSinceMs: number | undefined;

  /** How many leases the consumer has; undefined before the first list. */
  get leases(): number | undefined {
    return this.#delivered.count;
  }

  /** The keys that are not leases, as last read. */
  get junk(): JunkKeys {
    return this.#reader.junk;
  }

  /** Delivers updates until `signal` aborts, then rejects with its reason. Nothing else ends it. */
  async run(signal: AbortSignal, onUpdate: (update: LeaseUpdate) => void): Promise<never> {
    this.#onUpdate = onUpdate;
    for (;;) {
      signal.throwIfAborted();
      this.#options.activity?.round(WATCH_LOOP, stuckWithEtcdMs);
      try {
        const cursor = this.#cursor ?? (await this.#list(signal));
        const opened = new Wake();
        await firstOf(signal, (inner) => [this.#follow(cursor, opened, inner), this.#compare(opened, inner)]);
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
    this.#listedAtMs = Number.NEGATIVE_INFINITY;
    if (clock.monotonic() - sinceMs >= healthyStreamMs) this.#failures = 0;
    const kind = error instanceof RegistryError ? error.kind : undefined;
    if (error instanceof ListAgain || kind === 'COMPACTED') {
      this.#cursor = undefined;
      this.#restored = error instanceof ListAgain;
      this.#options.activity?.count('relist', kind === 'COMPACTED' ? 'compacted' : 'history');
      const reason = messageOf(error);
      return log.info({ event: 'relist', reason }, `listing all leases again: ${reason}`);
    }
    const problem = `the leases under ${subnetsPrefix} cannot be watched; routes stay unchanged meanwhile`;
    const fields = { endpoint: registry.endpoint, error };
    trouble.report('lease-watch', `${problem}: ${explanationOf(error)}`, fields);
  }

  async #list(signal: AbortSignal): Promise<number> {
    const listed = await this.#confirmed(await this.#snapshot(signal), signal);
    this.#restored = false;
    this.#listedAtMs = this.#options.clock.monotonic();
    return this.#give(listed);
  }

  async #snapshot(signal: AbortSignal): Promise<LeaseSnapshot> {
    const { registry, subnetsPrefix } = this.#options;
    const { kvs, header } = await listRange(registry, subnetsPrefix, signal);
    const leases = this.#reader.read(kvs);
    this.#clusterId = header.clusterId;
    return { type: 'snapshot', leases, revision: header.revision };
  }

  /** The update; for a bulk removal, or any removal after a restore, a list from a moment later. */
  async #confirmed(update: LeaseUpdate, signal: AbortSignal): Promise<LeaseUpdate> {
    if (!this.#delivered.doubts(update, this.#restored)) return update;
    this.#options.onDoubt?.(update);
    await this.#options.clock.sleep(confirmAfterMs, signal);
    return await this.#snapshot(signal);
  }

  #give(update: LeaseUpdate): number {
    // A list from the meantime is newer.
    if (this.#cursor !== undefined && update.revision + 1 < this.#cursor) return this.#cursor;
    // First: a consumer that throws gets the update again, from the stream or from a list that differs.
    this.#onUpdate(update);
    this.#delivered.note(update);
    this.#cursor = update.revision + 1;
    return this.#cursor;
  }

  /**
   * Compares the delivered leases with a list, once the stream is open and the comparison is due; never
   * resolves. An earlier list would miss changes until the stream opened. Delivers a list that differs; the
   * stream's events count from its revision on.
   */
  async #compare(opened: Wake, signal: AbortSignal): Promise<never> {
    const { clock } = this.#options;
    await opened.wait(signal);
    while (this.#compareAtMs < Number.POSITIVE_INFINITY) {
      await clock.sleep(Math.max(1_000, this.#compareAtMs - clock.monotonic()), signal);
      try {
        const seen = (this.#cursor ?? 0) - 1;
        const listed = await this.#snapshot(signal);
        if (this.#isMerged) checkRevision(listed.revision, seen);
        const same = this.#delivered.equals(listed);
        // The stream may lack a write of this host that a restore took back.
        if (same) this.#options.onDoubt?.(listed);
        const update = same ? listed : await this.#confirmed(listed, signal);
        if (same || this.#give(update) === update.revision + 1) this.#compareAtMs = Number.POSITIVE_INFINITY;
      } catch (error) {
        signal.throwIfAborted();
        // etcd gives no list now. The stream fails too, or the next attempt gets a list.
        if (!(error instanceof RegistryError)) throw error;
      }
    }
    return await untilAborted(signal);
  }

  async #follow(cursor: number, opened: Wake, signal: AbortSignal): Promise<never> {
    const { activity, clock, registry, subnetsPrefix, trouble } = this.#options;
    const key = subnetsPrefix + '\0'.repeat(this.#streams % ranges);
    const request = { key, rangeEnd: prefixEnd(subnetsPrefix), startRevision: cursor - 1 };
    let parts: WatchEvent[] = [];
    for await (const batch of registry.watch(request, signal)) {
      activity?.round(WATCH_LOOP, stuckWithEtcdMs);
      this.#checkHistory(batch, cursor);
      this.#watchingSinceMs ??= clock.monotonic();
      trouble.clear('lease-watch', 'the leases can be watched again', { endpoint: registry.endpoint });
      if (batch.kind === 'created') this.#noteOpened(opened);
      parts.push(...batch.events);
      if (batch.fragment) continue;
      parts = parts.filter((event) => revisionOf(event) >= (this.#cursor ?? cursor));
      if (batch.kind === 'progress') this.#cursor = Math.max(this.#cursor ?? 0, batch.header.revision + 1);
      else if (parts.length > 0) {
        this.#give(await this.#confirmed(this.#reader.deltaOf(parts), signal));
        this.#failures = 0;
      }
      parts = [];
      // No lease may ever change. HTTP/2 keepalive finds a dead stream.
      activity?.round(WATCH_LOOP, Number.POSITIVE_INFINITY);
    }
    throw new RegistryError('UNAVAILABLE', registry.endpoint, 'the watch stream ended');
  }

  /**
   * etcd accepts a watch that starts in the future without a word, so only the header shows a cluster
   * restored from an older backup. A lagging member looks the same; then the new list changes nothing.
   */
  #checkHistory(batch: WatchBatch, cursor: number): void {
    const { clusterId, revision } = batch.header;
    if (clusterId !== this.#clusterId && clusterId !== NO_CLUSTER)
      throw new ListAgain('this is another etcd cluster than before');
    if (batch.kind !== 'created') return;
    this.#isMerged = clusterId === NO_CLUSTER;
    checkRevision(revision, cursor - 1);
  }

  #noteOpened(opened: Wake): void {
    this.#streams += 1;
    const { clock, random } = this.#options;
    const nowMs = clock.monotonic();
    const dueMs = Math.min(this.#compareAtMs, nowMs + compareWithinMs * random.next());
    this.#compareAtMs = nowMs - this.#listedAtMs < freshMs ? Number.POSITIVE_INFINITY : dueMs;
    // For one stream only.
    this.#listedAtMs = Number.NEGATIVE_INFINITY;
    if (this.#compareAtMs < Number.POSITIVE_INFINITY) this.#options.onReopened?.();
    opened.wake();
  }
}

/** Throws when etcd was at a later revision before. */
function checkRevision(revision: number, seen: number): void {
  if (revision < seen)
    throw new ListAgain(`etcd is at revision ${revision}, before the ${seen} already seen`);
}
