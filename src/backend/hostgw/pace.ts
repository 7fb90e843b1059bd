import type { Clock, Random } from '../../runtime/effects.ts';
import { ownFault } from './plan.ts';
import type { Reason } from './status.ts';

/** The second message in a row is sent at once; the third waits so long, each further one twice as long. */
const firstWaitMs = 50;
const maxWaitMs = 60_000;
/** A row ends after so long without a message, or after four times its last wait. */
const calmMs = 1_000;

const doesNotStay = ownFault('another program on this host keeps removing or changing it');

/** Messages for one destination that follow one another. */
interface Row {
  readonly waitMs: number;
  readonly sentAtMs: number;
}

interface Hold {
  readonly reason: Reason;
  readonly untilMs: number;
  /** The kernel refused the last message. */
  readonly isRefusal: boolean;
}

/** Adding or replacing a route, and removing one, have rows and waits of their own. */
type Kind = 'put' | 'removal';

/**
 * Which destinations have to wait before the next message, and why: the kernel refused the last one, or one
 * message followed another. Whatever the kernel answers and whatever other programs do, a destination gets a
 * dozen messages in the first minute at most, then one a minute. A change on the interface starts it anew.
 */
export class Holds {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #rows = { put: new Map<string, Row>(), removal: new Map<string, Row>() };
  readonly #held = { put: new Map<string, Hold>(), removal: new Map<string, Hold>() };
  readonly #all = [...Object.values(this.#rows), ...Object.values(this.#held)];

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#random = random;
  }

  /** Why `dst` has to wait; undefined when it need not. */
  reason(kind: Kind, dst: string): Reason | undefined {
    return this.#held[kind].get(dst)?.reason;
  }

  /** Monotonic ms at which the next hold ends; Infinity when there is none. */
  get nextMs(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const held of Object.values(this.#held))
      for (const { untilMs } of held.values()) next = Math.min(next, untilMs);
    return next;
  }

  /** Notes a message for `dst`. */
  sent(kind: Kind, dst: string): void {
    const nowMs = this.#clock.monotonic();
    const row = this.#rows[kind].get(dst);
    const inARow = row !== undefined && nowMs - row.sentAtMs < Math.max(calmMs, 4 * row.waitMs);
    const waitMs = inARow ? Math.min(maxWaitMs, Math.max(firstWaitMs, 2 * row.waitMs)) : 0;
    this.#rows[kind].set(dst, { waitMs, sentAtMs: nowMs });
    this.#hold(kind, dst, { reason: doesNotStay, isRefusal: false }, waitMs);
  }

  /** Notes that the kernel refused the last message; `dst` waits `minMs` at least. */
  refused(kind: Kind, dst: string, reason: Reason, minMs: number): void {
    const waitMs = Math.max(minMs, this.#rows[kind].get(dst)?.waitMs ?? 0);
    this.#hold(kind, dst, { reason, isRefusal: true }, waitMs);
  }

  /** Notes that the route is as wanted: that ends the wait after a refusal, not after a row of messages. */
  settled(dst: string): void {
    if (this.#held.put.get(dst)?.isRefusal) this.#held.put.delete(dst);
  }

  /** The next pass may send for `dst` again. */
  release(dst: string): void {
    for (const byDst of this.#all) byDst.delete(dst);
  }

  releaseAll(): void {
    for (const byDst of this.#all) byDst.clear();
  }

  /** Ends the holds that are due; returns their destinations. */
  takeDue(): readonly string[] {
    const nowMs = this.#clock.monotonic();
    return Object.values(this.#held).flatMap((held) => {
      const due = [...held].filter(([, { untilMs }]) => untilMs <= nowMs).map(([dst]) => dst);
      for (const dst of due) held.delete(dst);
      return due;
    });
  }

  #hold(kind: Kind, dst: string, hold: Omit<Hold, 'untilMs'>, waitMs: number): void {
    if (waitMs === 0) return;
    const untilMs = this.#clock.monotonic() + waitMs * (0.9 + 0.2 * this.#random.next());
    // Long holds end together, once a second: a thousand unreachable peers must not cost a thousand wake-ups.
    const roundMs = waitMs < 1_000 ? 1 : 1_000;
    this.#held[kind].set(dst, { ...hold, untilMs: Math.ceil(untilMs / roundMs) * roundMs });
  }
}

const foreignWindowMs = 60_000;
const perForeignWindow = 3;

/**
 * Replaces a foreign route at one destination three times a minute at most. The daemon does not fight a
 * program that keeps adding its own route; it reports it.
 */
export class ForeignLimit {
  readonly #clock: Clock;
  /** In the order of their last replacement. */
  readonly #replacedAtMs = new Map<string, readonly number[]>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether the limit allows another replacement at `dst`. */
  allows(dst: string): boolean {
    return this.#recent(dst).length < perForeignWindow;
  }

  note(dst: string): void {
    const times = [...this.#recent(dst), this.#clock.monotonic()];
    this.#replacedAtMs.delete(dst);
    this.#replacedAtMs.set(dst, times);
    for (const old of this.#replacedAtMs.keys()) {
      if (this.#recent(old).length > 0) break;
      this.#replacedAtMs.delete(old);
    }
  }

  #recent(dst: string): readonly number[] {
    const sinceMs = this.#clock.monotonic() - foreignWindowMs;
    return (this.#replacedAtMs.get(dst) ?? []).filter((atMs) => atMs > sinceMs);
  }
}
