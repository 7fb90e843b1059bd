import type { PerFamily } from '../../ip/ip.ts';
import type { ChangeResult, KernelEvent, KernelEvents } from '../../kernel/kernel.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Logger } from '../../runtime/effects.ts';
import { messageOf } from '../../runtime/errors.ts';
import { type BackoffPolicy, backoffMs } from '../../runtime/retry.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { firstOf, Wake } from '../../runtime/wake.ts';
import type { LeaseUpdate } from '../../subnet/lease/watch/reader.ts';
import { DesiredRoutes, type Self } from './desired.ts';
import { Mirror } from './mirror.ts';
import { Holds } from './pace.ts';
import { RouteStates } from './route-states.ts';
import { type RouteSurroundings, RouteWriter } from './route-writer.ts';
import type { RoutesStatus } from './status.ts';

export interface ReconcilerOptions extends RouteSurroundings {
  readonly log: Logger;
  readonly trouble: TroubleLog;
  /** Counts rounds of the loop, and changes. */
  readonly activity?: Activity;
  readonly self: Self;
  /** By name: an interface that is deleted and made again has another index. */
  readonly linkName: string;
  /** Whether the kernel drops packets to our own subnet while no bridge has it (`--ip-blackhole-route`). */
  readonly blackhole: boolean;
}

/** The safety net beside events: a look at the kernel this often, ± 10 %. */
const checkIntervalMs = 10_000;
/**
 * After a dump the check makes no other one for so many times as long as it took, but for a minute at most: no lease is
 * routed meanwhile, and events tell what changes. Beside 100,000 routes of other programs one takes half a second.
 */
const dumpShare = 100;
const longestWithoutDumpMs = 60_000;
/** A digest is of use only if no event follows, and takes a quarter of the time of a dump. */
const calmMs = 1_000;
/** Between dumps: a link that flaps a hundred times a second must not cost a hundred dumps. */
const dumpSpacingMs = 50;
/** Trouble with the kernel is over after so long without a failure, not at the first call that succeeds. */
const provenMs = 1_000;
const healthyMs = 5_000;
/** Destinations planned at a time: some 10 ms, after which probes and renewals have their turn. */
const mostPerPass = 1_000;
/** Routes of a dump taken over at a time: some 5 ms. */
const mostPerFill = 5_000;
/** Longer than any answer of the kernel takes: a loop that is silent for so long is stuck. */
const stuckMs = 120_000;
const policy: BackoffPolicy = { initialMs: 100, maxMs: 10_000 };

/**
 * Keeps the kernel's routes of one family as the leases want them. Level-triggered with one writer: lease
 * changes, kernel events, the periodic check and retries only mark destinations dirty. This one loop plans,
 * sends, and reads the outcome from the kernel's events.
 */
export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #desired: DesiredRoutes;
  readonly #mirror: Mirror;
  readonly #states: RouteStates;
  readonly #holds: Holds;
  readonly #writer: RouteWriter;
  readonly #loop: string;
  readonly #trouble: string;
  readonly #wake = new Wake();
  readonly #syncedWake = new Wake();
  #dirty = new Set<string>();
  #allDirty = true;
  #stale = true;
  #lastDumpMs = Number.NEGATIVE_INFINITY;
  /** An event has changed the mirror since the last dump. */
  #eventful = true;
  #lastEventMs = 0;
  /** Of the routes in the last dump, if a check asked for it; see Kernel.routesDigest. */
  #digest: string | undefined;
  #nextCheckMs = 0;
  /** Until then the check leaves it to events to tell what changes. */
  #nextDumpMs = 0;
  #haveLeases = false;
  /** Wall-clock ms. */
  #syncedAtMs: number | undefined;

  constructor(options: ReconcilerOptions) {
    const { self, linkName, blackhole, ownership } = options;
    const { family } = self.subnet;
    this.#options = options;
    this.#desired = new DesiredRoutes({ ...self, network: ownership.network });
    this.#mirror = new Mirror(linkName, ownership);
    this.#loop = `routes-ipv${family}`;
    this.#trouble = family === 4 ? 'kernel' : 'kernel-ipv6';
    this.#states = new RouteStates(options.clock, options.log, options.activity);
    this.#holds = new Holds(options.clock, options.random);
    this.#writer = new RouteWriter({
      ...options,
      own: { dst: self.subnet.text, blackhole },
      desired: this.#desired,
      mirror: this.#mirror,
      states: this.#states,
      holds: this.#holds,
    });
  }

  /** Takes a snapshot or a change of the leases. Never throws, never waits: `run` does the work. */
  update(update: LeaseUpdate): void {
    if (update.type === 'delta') return this.#takeChanged(this.#desired.apply(update.put, update.removed));
    this.#haveLeases = true;
    this.#allDirty = true;
    this.#takeChanged(this.#desired.replaceAll(update.leases));
  }

  /** Takes the new addresses at which peers reach this host. Never throws, never waits. */
  moveTo(addresses: PerFamily<string>): void {
    const address = this.#options.self.subnet.family === 4 ? addresses.ipv4 : addresses.ipv6;
    if (address !== undefined) this.#takeChanged(this.#desired.moveTo(address));
  }

  /** Takes the addresses of etcd, of either family: no route may lead to them. Never throws, never waits. */
  protect(addresses: readonly string[]): void {
    this.#writer.protect(addresses);
    this.#allDirty = true;
    this.#wake.wake();
  }

  /** Resolves once all routes of the first snapshot have been tried; rejects with `signal.reason`. */
  async synced(signal: AbortSignal): Promise<void> {
    while (this.#syncedAtMs === undefined) await this.#syncedWake.wait(signal);
  }

  /** `troubled`: of the peers only those whose route is not installed. */
  status(which: 'all' | 'troubled' = 'all'): RoutesStatus {
    const syncedAtMs = this.#syncedAtMs;
    const status = this.#states.of(this.#desired, which === 'all');
    return { ...status, ...(syncedAtMs !== undefined && { syncedAtMs }) };
  }

  /** Works until `signal` aborts, then rejects with its reason and leaves all routes in place. */
  async run(signal: AbortSignal): Promise<never> {
    const { activity, kernel, clock, random, trouble } = this.#options;
    try {
      for (let failures = 0; ; failures++) {
        signal.throwIfAborted();
        activity?.round(this.#loop, stuckMs);
        const startedMs = clock.monotonic();
        try {
          const events = await kernel.subscribe();
          try {
            await this.#serve(events, signal);
          } finally {
            events.close();
          }
        } catch (error) {
          signal.throwIfAborted();
          if (clock.monotonic() - startedMs >= healthyMs) failures = 0;
          const message = `cannot keep routes in step with the kernel: ${messageOf(error)}`;
          trouble.report(this.#trouble, message, { error });
        }
        await clock.sleep(backoffMs(policy, failures, random), signal);
      }
    } finally {
      activity?.end(this.#loop);
    }
  }

  #takeChanged(dsts: readonly string[]): void {
    for (const dst of dsts) {
      this.#dirty.add(dst);
      this.#holds.release(dst);
      this.#states.noteWish(dst, this.#desired.get(dst) !== undefined);
    }
    this.#wake.wake();
  }

  async #serve(events: KernelEvents, signal: AbortSignal): Promise<never> {
    const { activity, clock, trouble } = this.#options;
    // Events since the last stream ended are lost.
    this.#stale = true;
    this.#holds.releaseAll();
    let provenAtMs = trouble.has(this.#trouble) ? clock.monotonic() + provenMs : Number.POSITIVE_INFINITY;
    for (;;) {
      signal.throwIfAborted();
      activity?.round(this.#loop, stuckMs);
      const isDue = clock.monotonic() >= this.#nextCheckMs && !this.#stale;
      const digest = isDue ? await this.#check(events, signal) : undefined;
      if (clock.monotonic() >= provenAtMs) {
        provenAtMs = Number.POSITIVE_INFINITY;
        trouble.clear(this.#trouble, 'netlink works again');
      }
      if (this.#stale) await this.#resync(events, digest, signal);
      for (const dst of this.#holds.takeDue()) this.#dirty.add(dst);
      if (this.#hasWork) await this.#pass(events, signal);
      if (this.#stale || this.#hasWork) continue;
      if (this.#haveLeases) {
        this.#syncedAtMs = clock.now();
        this.#syncedWake.wake();
      }
      await this.#waitForWork(events, provenAtMs, signal);
    }
  }

  get #hasWork(): boolean {
    return this.#haveLeases && (this.#allDirty || this.#dirty.size > 0);
  }

  async #waitForWork(events: KernelEvents, provenAtMs: number, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const dueMs = Math.min(this.#nextCheckMs, this.#holds.nextMs, provenAtMs);
    await firstOf(signal, (inner) => [
      events.next(inner).then((batch) => this.#applyEvents(batch)),
      this.#wake.wait(inner),
      clock.sleep(dueMs - clock.monotonic(), inner),
    ]);
  }

  /**
   * Compares the kernel with the last dump, and has it dumped again when that differs, or when events came since: the
   * check is for what they do not tell. At rest this costs neither a dump nor a plan of all routes. Resolves to the
   * digest of the routes now, if it has asked for it.
   */
  async #check(events: KernelEvents, signal: AbortSignal): Promise<string | undefined> {
    const { clock, kernel, self } = this.#options;
    this.#applyEvents(await events.drain(signal));
    const mustDump = this.#stale || !this.#writer.hasSynced;
    if (!mustDump && this.#eventful && clock.monotonic() < this.#nextDumpMs) return this.#endCheck();
    this.#stale = true;
    if (this.#eventful && clock.monotonic() - this.#lastEventMs < calmMs) return undefined;
    // If a dump follows, before it: the next check compares with it.
    const digest = await kernel.routesDigest(self.subnet.family, signal);
    if (mustDump || this.#eventful || digest !== this.#digest) return digest;
    if (!this.#mirror.isOf(await kernel.links(signal), await kernel.addresses(signal))) return digest;
    this.#stale = false;
    return this.#endCheck();
  }

  /** Nothing to dump. Some routes wait for time alone. */
  #endCheck(): undefined {
    this.#scheduleCheck();
    for (const dst of this.#states.unsettled) this.#dirty.add(dst);
  }

  #scheduleCheck(): void {
    const { clock, random } = this.#options;
    this.#nextCheckMs = clock.monotonic() + checkIntervalMs * (0.9 + 0.2 * random.next());
  }

  /** `digest`: of the routes just now, if known. */
  async #resync(events: KernelEvents, digest: string | undefined, signal: AbortSignal): Promise<void> {
    const { clock, kernel, self } = this.#options;
    await clock.sleep(this.#lastDumpMs + dumpSpacingMs - clock.monotonic(), signal);
    // The dump holds everything from before it; only events that come during it are applied on top.
    this.#applyEvents(await events.drain(signal));
    this.#stale = false;
    this.#digest = digest;
    // Links and addresses first: a route makes sense only with a link that is known.
    const links = await kernel.links(signal);
    const addresses = await kernel.addresses(signal);
    const startedMs = clock.monotonic();
    const routes = await kernel.routes(self.subnet.family, signal);
    this.#mirror.reset({ links, addresses, routes: [] });
    for await (const some of this.#inParts(routes, mostPerFill, signal)) this.#mirror.add(some);
    this.#lastDumpMs = clock.monotonic();
    const restMs = Math.min(longestWithoutDumpMs, dumpShare * (this.#lastDumpMs - startedMs));
    this.#nextDumpMs = this.#lastDumpMs + restMs;
    this.#scheduleCheck();
    this.#allDirty = true;
    this.#eventful = false;
    this.#applyEvents(await events.drain(signal), true);
  }

  /** `overlapping`: the events came during the last dump. */
  #applyEvents(batch: readonly KernelEvent[], overlapping = false): void {
    if (batch.length > 0) {
      this.#eventful = true;
      this.#lastEventMs = this.#options.clock.monotonic();
    }
    let surroundings = false;
    for (const event of batch) {
      const change = this.#mirror.apply(event, overlapping);
      if (change.stale) this.#stale = true;
      if (change.surroundings) surroundings = true;
      for (const dst of change.dsts) this.#dirty.add(dst);
    }
    if (!surroundings) return;
    this.#holds.releaseAll();
    this.#allDirty = true;
  }

  #takeDirty(most: number): ReadonlySet<string> {
    const all = this.#dirty;
    if (all.size <= most) {
      this.#dirty = new Set();
      return all;
    }
    const some = new Set<string>();
    for (const dst of all) {
      if (some.size === most) break;
      some.add(dst);
      all.delete(dst);
    }
    return some;
  }

  /** Probes and renewals have their turn between the parts. */
  async *#inParts<T>(all: readonly T[], most: number, signal: AbortSignal): AsyncGenerator<readonly T[]> {
    for (let at = 0; at < all.length; at += most) {
      if (at > 0) await this.#options.clock.sleep(1, signal);
      yield all.slice(at, at + most);
    }
  }

  /** All destinations that may need a change. Another program's route matters only to who wants one there. */
  #dirtyAll(): Set<string> {
    const { self } = this.#options;
    // The writer has to forget what is neither desired nor there any more. First what is known to have changed.
    return new Set([
      ...this.#dirty,
      self.subnet.text,
      ...this.#desired.dsts,
      ...this.#mirror.removable,
      ...this.#writer.programmed,
    ]);
  }

  async #pass(events: KernelEvents, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const all = this.#allDirty;
    if (all) this.#dirty = this.#dirtyAll();
    this.#allDirty = false;
    const changes =
      all && !this.#writer.hasSynced
        ? await this.#writer.planFirst(
            this.#inParts([...this.#takeDirty(this.#dirty.size)], mostPerPass, signal),
          )
        : this.#writer.plan(this.#takeDirty(mostPerPass));
    if (changes.length === 0) {
      if (this.#dirty.size > 0) await clock.sleep(1, signal);
      return;
    }
    let results: readonly ChangeResult[];
    try {
      results = await this.#writer.send(changes, signal);
    } catch (error) {
      // The outcome of the batch is unknown: look before the next step.
      this.#stale = true;
      this.#allDirty = true;
      throw error;
    }
    const told = await events.drain(signal);
    // Before the events: what they make possible may have come after the kernel refused it.
    if (this.#writer.judge(changes, results)) this.#stale = true;
    for (const { route } of changes) this.#dirty.add(route.dst);
    this.#applyEvents(told);
  }
}
