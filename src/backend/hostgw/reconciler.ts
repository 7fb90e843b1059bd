import type { ChangeResult, Kernel, KernelEvent, KernelEvents } from '../../kernel/kernel.ts';
import { type BackoffPolicy, backoffMs } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { messageOf } from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { Random } from '../../runtime/random.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { firstOf, Wake } from '../../runtime/wake.ts';
import type { LeaseUpdate } from '../../subnet/lease-watch.ts';
import type { Backend, BackendStatus } from '../backend.ts';
import { DesiredRoutes, type Self } from './desired.ts';
import { ForeignLimit } from './foreign-limit.ts';
import { dumpKernel, Mirror } from './mirror.ts';
import type { Ownership } from './ownership.ts';
import { type LinkState, type PlannedChange, plan } from './plan.ts';
import { Refusals } from './refusals.ts';
import { RouteStates } from './route-states.ts';

export interface ReconcilerOptions {
  readonly kernel: Kernel;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  readonly self: Self;
  readonly ownership: Ownership;
  /** Our interface, by name: when it is deleted and made again its index changes. */
  readonly linkName: string;
}

/** The safety net beside events: everything is dumped and compared this often, ± 10 %. */
const checkIntervalMs = 10_000;
/** Dumps in a row keep this distance: a link that flaps a hundred times a second must not cost a hundred dumps. */
const dumpSpacingMs = 50;
const policy: BackoffPolicy = { initialMs: 100, maxMs: 10_000 };

/**
 * Keeps the kernel's routes as the leases want them. Level-triggered with one writer: lease changes, kernel events, the
 * periodic check and retries only mark what is dirty; this one loop plans, sends, and learns from the kernel what became of it.
 */
export class Reconciler implements Backend {
  readonly #options: ReconcilerOptions;
  readonly #desired: DesiredRoutes;
  readonly #mirror = new Mirror();
  readonly #wake = new Wake();
  readonly #programmed = new Set<string>();
  readonly #foreign: ForeignLimit;
  readonly #refusals: Refusals;
  readonly #states: RouteStates;
  #dirty = new Set<string>();
  #allDirty = true;
  /** The mirror may differ from the kernel. */
  #stale = true;
  #lastDumpMs = Number.NEGATIVE_INFINITY;
  #nextCheckMs = 0;
  #haveLeases = false;
  #legacyRemoved = false;
  #synced = false;
  readonly #syncedWake = new Wake();

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#desired = new DesiredRoutes(options.self);
    this.#foreign = new ForeignLimit(options.clock);
    this.#refusals = new Refusals(options.clock, options.random);
    this.#states = new RouteStates(options.log);
  }

  update(update: LeaseUpdate): void {
    if (update.type === 'snapshot') {
      this.#desired.replaceAll(update.leases);
      this.#haveLeases = true;
      this.#allDirty = true;
    } else {
      for (const dst of this.#desired.apply(update.put, update.removed)) {
        this.#dirty.add(dst);
        this.#refusals.rearm(dst);
      }
    }
    this.#states.noteRefusedLeases(this.#desired.refused);
    this.#wake.wake();
  }

  async synced(signal: AbortSignal): Promise<void> {
    while (!this.#synced) await this.#syncedWake.wait(signal);
  }

  status(): BackendStatus {
    const peers = [...this.#desired.dsts].map((dst) =>
      this.#states.peer(dst, this.#desired.get(dst)?.gateway ?? ''),
    );
    const problems = peers
      .filter(({ state }) => state !== 'installed')
      .map(
        ({ dst, gateway, state, reason }) =>
          `${dst} via ${gateway} is ${state}${reason ? `: ${reason}` : ''}`,
      );
    return { peers, problems };
  }

  async run(signal: AbortSignal): Promise<never> {
    const { kernel, clock, random, trouble } = this.#options;
    for (let failures = 0; ; failures++) {
      signal.throwIfAborted();
      try {
        const events = await kernel.subscribe();
        try {
          await this.#serve(events, signal, () => {
            failures = 0;
            trouble.clear('kernel', 'the kernel can be talked to again');
          });
        } finally {
          events.close();
        }
      } catch (error) {
        signal.throwIfAborted();
        trouble.report('kernel', `routes cannot be kept in step with the kernel: ${messageOf(error)}`);
      }
      await clock.sleep(backoffMs(policy, failures, random), signal);
    }
  }

  async #serve(events: KernelEvents, signal: AbortSignal, onProgress: () => void): Promise<never> {
    this.#stale = true;
    for (;;) {
      signal.throwIfAborted();
      if (this.#stale) await this.#resync(events, signal);
      if (this.#haveLeases && (this.#allDirty || this.#dirty.size > 0)) await this.#pass(events, signal);
      onProgress();
      if (!this.#stale && (!this.#haveLeases || (!this.#allDirty && this.#dirty.size === 0))) {
        if (this.#haveLeases) this.#noteSynced();
        await this.#waitForWork(events, signal);
      }
    }
  }

  #noteSynced(): void {
    if (this.#synced) return;
    this.#synced = true;
    this.#syncedWake.wake();
  }

  async #waitForWork(events: KernelEvents, signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const dueMs = Math.min(this.#nextCheckMs, this.#refusals.retryAtMs);
    await firstOf(signal, (inner) => [
      events.next(inner).then((batch) => this.#takeIn(batch)),
      this.#wake.wait(inner),
      clock.sleep(dueMs - clock.monotonic(), inner),
    ]);
    for (const dst of this.#refusals.takeDue()) this.#dirty.add(dst);
    if (clock.monotonic() >= this.#nextCheckMs) this.#stale = true;
  }

  async #resync(events: KernelEvents, signal: AbortSignal): Promise<void> {
    const { clock, kernel, random } = this.#options;
    await clock.sleep(this.#lastDumpMs + dumpSpacingMs - clock.monotonic(), signal);
    // What came before the dump is in the dump; only what comes during it has to be applied on top.
    this.#takeIn(await events.drain(signal));
    this.#stale = false;
    this.#lastDumpMs = clock.monotonic();
    this.#mirror.reset(await dumpKernel(kernel, signal));
    this.#allDirty = true;
    this.#takeIn(await events.drain(signal));
    this.#nextCheckMs = clock.monotonic() + checkIntervalMs * (0.9 + 0.2 * random.next());
  }

  #takeIn(batch: readonly KernelEvent[]): void {
    for (const event of batch) {
      const change = this.#mirror.apply(event);
      if (change.stale) this.#stale = true;
      if (event.type === 'link-changed' || event.type === 'link-removed') this.#noteLink();
      if (this.#mayReachMore(event)) for (const dst of this.#refusals.rearmAll()) this.#dirty.add(dst);
      for (const dst of change.dsts) this.#dirty.add(dst);
    }
  }

  /** Whether the kernel may accept a gateway after this event that it refused before. */
  #mayReachMore(event: KernelEvent): boolean {
    const { index } = this.#link();
    if (event.type === 'link-changed') return event.link.index === index;
    if (event.type === 'address-added') return event.address.linkIndex === index;
    // A directly connected network may come without an address: `ip route add 10.9.9.9 dev eth0`.
    if (event.type === 'route-added')
      return event.route.linkIndex === index && event.route.gateway === undefined;
    return event.type === 'overflow';
  }

  /** When our interface comes, goes or changes its index every route is affected. */
  #noteLink(): void {
    const link = this.#link();
    const seen = `${link.index} ${link.problem}`;
    if (seen === this.#linkSeen) return;
    this.#linkSeen = seen;
    this.#allDirty = true;
  }
  #linkSeen = '';

  #link(): LinkState {
    const name = this.#options.linkName;
    const link = this.#mirror.linkNamed(name);
    if (link === undefined) return { problem: `interface ${name} does not exist` };
    return link.up ? { index: link.index } : { index: link.index, problem: `interface ${name} is down` };
  }

  async #pass(events: KernelEvents, signal: AbortSignal): Promise<void> {
    const all = this.#allDirty;
    const dsts = all ? new Set([...this.#desired.dsts, ...this.#mirror.dsts]) : this.#dirty;
    this.#allDirty = false;
    this.#dirty = new Set();
    const removeLegacy = all && !this.#legacyRemoved;
    const planned = plan({
      dsts,
      desired: this.#desired,
      actual: this.#mirror,
      ownership: this.#options.ownership,
      link: this.#link(),
      ownAddresses: this.#mirror.ownAddresses,
      refused: this.#refusals.reasons,
      programmed: this.#programmed,
      removeLegacy,
      mayReplaceForeign: (dst) => this.#foreign.allows(dst),
    });
    for (const dst of planned.installed) this.#refusals.settled(dst);
    this.#states.notePlan(dsts, planned, (dst) => this.#desired.get(dst) !== undefined);
    if (planned.changes.length > 0) await this.#send(planned.changes, events, signal);
    if (removeLegacy) this.#legacyRemoved = true;
  }

  async #send(changes: readonly PlannedChange[], events: KernelEvents, signal: AbortSignal): Promise<void> {
    for (const change of changes) {
      if (change.op === 'remove') continue;
      this.#programmed.add(change.route.dst);
      if (change.cause === 'foreign') this.#foreign.note(change.route.dst);
    }
    let results: readonly ChangeResult[];
    try {
      results = await this.#options.kernel.apply(changes, signal);
    } catch (error) {
      // Nothing is known about the batch: look before the next step.
      this.#stale = true;
      throw error;
    }
    this.#takeIn(await events.drain(signal));
    changes.forEach((change, index) => this.#judge(change, results[index] ?? { outcome: 'unknown' }));
    this.#states.logChanges(changes, results);
  }

  #judge(change: PlannedChange, result: ChangeResult): void {
    const { dst } = change.route;
    this.#dirty.add(dst);
    if (result.outcome === 'unknown') this.#stale = true;
    else if (result.outcome === 'failed') {
      if (this.#refusals.judge(change, result, this.#link()) === 'look-again') this.#stale = true;
    } else if (change.op !== 'remove' && this.#refusals.accepted(dst) === 'look-again') this.#stale = true;
  }
}
