import type { Activity } from '../runtime/activity.ts';
import { type BackoffPolicy, backoffMs } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import { explanationOf, messageOf } from '../runtime/errors.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Random } from '../runtime/random.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { type Lease, parseLease } from './lease.ts';
import type { LeaseDelta, LeaseSnapshot, LeaseUpdate } from './lease-update.ts';
import { listRange } from './list.ts';
import { MassRemovals } from './mass-removal.ts';
import {
  type KeyValue,
  prefixEnd,
  type Registry,
  RegistryError,
  type WatchBatch,
  type WatchEvent,
} from './registry.ts';

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
   * Told of an update that is held back because it removes most peers at once: who looks after a lease of his own need not
   * wait. Must not throw.
   */
  readonly onDoubt?: (heldBack: LeaseUpdate) => void;
}

/** Hosts whose leases were lost by a bad restore take them again within this time, and no route goes. */
const confirmAfterMs = 1_000;
/** A stream that lived this long was healthy: the next failure starts a new row of attempts. */
const healthyStreamMs = 5_000;
/** Calls have deadlines of seconds, but a list may take many of them. */
const stuckMs = 600_000;
/** What its loop is called. */
export const WATCH_LOOP = 'lease-watch';
const policy: BackoffPolicy = { initialMs: 100, maxMs: 3_000 };
/** More junk keys than this are not told apart any more: memory is worth more than a log line. */
const maxProblemKeys = 1_000;

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
 * backup). While etcd is away nothing is delivered: the consumer keeps what it has.
 *
 * An update that removes most peers at once is not delivered: what another list says a moment later takes its place.
 */
export class LeaseWatch {
  readonly #options: LeaseWatchOptions;
  /** The first revision not delivered yet; undefined: a list is needed. */
  #cursor: number | undefined;
  #clusterId = '';
  #failures = 0;
  readonly #problemKeys = new Set<string>();
  readonly #removals: MassRemovals;

  constructor(options: LeaseWatchOptions) {
    this.#options = options;
    this.#removals = new MassRemovals(options.trouble, options.subnetsPrefix);
  }

  /** Whether the stream is up, i.e. what was delivered is the newest there is. */
  get watching(): boolean {
    return this.#watchingSinceMs !== undefined;
  }
  #watchingSinceMs: number | undefined;

  /** Delivers updates until `signal` aborts, then rejects with its reason. Nothing else ends it. */
  async run(signal: AbortSignal, onUpdate: (update: LeaseUpdate) => void): Promise<never> {
    for (;;) {
      signal.throwIfAborted();
      this.#options.activity?.round(WATCH_LOOP, stuckMs);
      try {
        const cursor = this.#cursor ?? (await this.#list(signal, onUpdate));
        await this.#follow(cursor, signal, onUpdate);
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
      this.#options.activity?.count('relist', kind === 'COMPACTED' ? 'compacted' : 'history');
      log.info(
        { event: 'relist', reason: messageOf(error) },
        `listing all leases again: ${messageOf(error)}`,
      );
      return;
    }
    trouble.report(
      'lease-watch',
      `the leases under ${subnetsPrefix} cannot be watched, routes stay as they are meanwhile: ${explanationOf(error)}`,
      { endpoint: registry.endpoint, error },
    );
  }

  async #list(signal: AbortSignal, onUpdate: (update: LeaseUpdate) => void): Promise<number> {
    return this.#give(await this.#confirmed(await this.#snapshot(signal), signal), onUpdate);
  }

  async #snapshot(signal: AbortSignal): Promise<LeaseSnapshot> {
    const { registry, subnetsPrefix } = this.#options;
    const { kvs, header } = await listRange(registry, subnetsPrefix, signal);
    const leases = kvs.map((kv) => this.#parse(kv)).filter((lease) => lease !== undefined);
    this.#clusterId = header.clusterId;
    return { type: 'snapshot', leases, revision: header.revision };
  }

  /** The update itself; of one that removes most peers at once what a linearizable list says a moment later. */
  async #confirmed(update: LeaseUpdate, signal: AbortSignal): Promise<LeaseUpdate> {
    if (!this.#removals.doubts(update)) return update;
    this.#options.onDoubt?.(update);
    await this.#options.clock.sleep(confirmAfterMs, signal);
    return await this.#snapshot(signal);
  }

  #give(update: LeaseUpdate, onUpdate: (update: LeaseUpdate) => void): number {
    this.#removals.take(update);
    onUpdate(update);
    this.#cursor = update.revision + 1;
    return this.#cursor;
  }

  async #follow(
    cursor: number,
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
      for (const event of batch.events) if (revisionOf(event) >= (this.#cursor ?? cursor)) parts.push(event);
      if (batch.fragment) continue;
      if (batch.kind === 'progress') this.#cursor = Math.max(this.#cursor ?? 0, batch.header.revision + 1);
      else if (parts.length > 0) {
        this.#give(await this.#confirmed(this.#deltaOf(parts), signal), onUpdate);
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

  #noteStream(): void {
    const { clock, trouble, registry } = this.#options;
    this.#watchingSinceMs ??= clock.monotonic();
    trouble.clear('lease-watch', 'the leases can be watched again', { endpoint: registry.endpoint });
  }

  #deltaOf(events: readonly WatchEvent[]): LeaseDelta {
    // Several changes of one key collapse into the last: only states matter, never steps.
    const changes = new Map<string, Lease | undefined>();
    let revision = 0;
    for (const event of events) {
      const key = event.type === 'put' ? event.kv.key : event.key;
      revision = Math.max(revision, revisionOf(event));
      changes.set(key, event.type === 'put' ? this.#parse(event.kv) : undefined);
    }
    const put = [...changes.values()].filter((lease) => lease !== undefined);
    const removed = [...changes].filter(([, lease]) => lease === undefined).map(([key]) => key);
    return { type: 'delta', put, removed, revision };
  }

  #parse(kv: KeyValue): Lease | undefined {
    const parsed = parseLease(this.#options.subnetsPrefix, kv);
    if ('lease' in parsed) {
      this.#problemKeys.delete(kv.key);
      return parsed.lease;
    }
    this.#options.activity?.count('lease-skipped');
    if (!this.#problemKeys.has(kv.key) && this.#problemKeys.size < maxProblemKeys) {
      // Kept also when the key is deleted: what comes and goes all day is mentioned once.
      this.#problemKeys.add(kv.key);
      this.#options.log.warn({ event: 'lease-skipped', revision: kv.modRevision }, parsed.problem);
    }
    return undefined;
  }
}

function revisionOf(event: WatchEvent): number {
  return event.type === 'put' ? event.kv.modRevision : event.modRevision;
}
