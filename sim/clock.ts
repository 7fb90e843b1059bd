import type { Clock } from '../src/runtime/effects.ts';

interface Timer {
  readonly atMs: number;
  readonly sequence: number;
  readonly fire: () => void;
  cancelled: boolean;
}

/**
 * A clock on which time passes only when the simulation says so. Timers fire one by one, by time and then by the order in
 * which they were set, and after each one everything it set in motion (promise chains of any depth) comes to rest before
 * the next fires: the same program takes the same steps on every run.
 *
 * Coming to rest is waited for with setImmediate, which runs after all pending microtasks; flushing a fixed number of
 * microtasks would lose the ends of long promise chains.
 */
export class VirtualClock implements Clock {
  /** A binary heap, the next to fire first: a large cluster has tens of thousands. Cancelled ones leave it when their turn comes. */
  readonly #timers: Timer[] = [];
  #pending = 0;
  #monotonicMs = 0;
  #wallOffsetMs: number;
  #sequence = 0;

  /** `startMs`: the wall clock's first reading, ms since the epoch (default: 2026 begins). */
  constructor(startMs = 1_767_225_600_000) {
    this.#wallOffsetMs = startMs;
  }

  now(): number {
    return this.#wallOffsetMs + this.#monotonicMs;
  }

  monotonic(): number {
    return this.#monotonicMs;
  }

  /** Number of timers waiting; 0 once everything that lives on this clock has ended. */
  get pending(): number {
    return this.#pending;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason as Error);
        return;
      }
      const onAbort = () => {
        timer.cancelled = true;
        this.#pending -= 1;
        reject(signal?.reason as Error);
      };
      const timer: Timer = {
        // Time that has to pass does pass: of a wait below what a double can tell there would be no end.
        atMs: this.#monotonicMs + (ms > 0 ? Math.max(ms, 0.001) : 0),
        sequence: this.#sequence++,
        fire: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve();
        },
        cancelled: false,
      };
      this.#insert(timer);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** Lets the wall clock jump (NTP, an operator); timers keep running on the monotonic clock. */
  jumpWallClock(ms: number): void {
    this.#wallOffsetMs += ms;
  }

  /** Lets everything that is ready run, without time passing. */
  async settle(): Promise<void> {
    // Twice: what the first turn resolved may itself have queued an immediate (streams do).
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** Passes `ms` of time, firing every timer due on the way. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#monotonicMs + ms;
    await this.settle();
    for (let timer = this.#first(); timer !== undefined && timer.atMs <= endMs; timer = this.#first()) {
      await this.#fireFirst(timer);
    }
    this.#monotonicMs = endMs;
  }

  /** Passes time until `condition` holds; throws, naming `what`, when it does not within `limitMs` of virtual time. */
  async until(what: string, condition: () => boolean, limitMs = 3_600_000): Promise<void> {
    const endMs = this.#monotonicMs + limitMs;
    await this.settle();
    while (!condition()) {
      const timer = this.#first();
      if (timer === undefined || timer.atMs > endMs) {
        throw new Error(`${what}: not within ${limitMs} ms of virtual time (now ${this.#monotonicMs} ms)`);
      }
      await this.#fireFirst(timer);
    }
  }

  /** Passes time until `promise` settles; resolves or rejects as it does. */
  async complete<T>(promise: Promise<T>): Promise<T> {
    let pending = true;
    const done = promise.finally(() => {
      pending = false;
    });
    // A rejection meanwhile is the caller's, who awaits it below.
    done.catch(() => undefined);
    await this.until('the promise settles', () => !pending);
    return await done;
  }

  async #fireFirst(timer: Timer): Promise<void> {
    this.#removeFirst();
    this.#pending -= 1;
    this.#monotonicMs = Math.max(this.#monotonicMs, timer.atMs);
    timer.fire();
    await this.settle();
  }

  /** The next timer to fire. */
  #first(): Timer | undefined {
    while (this.#timers[0]?.cancelled === true) this.#removeFirst();
    return this.#timers[0];
  }

  #insert(timer: Timer): void {
    this.#pending += 1;
    const heap = this.#timers;
    let place = heap.length;
    while (place > 0) {
      const above = (place - 1) >>> 1;
      const parent = heap[above];
      if (parent === undefined || isBefore(parent, timer)) break;
      heap[place] = parent;
      place = above;
    }
    heap[place] = timer;
  }

  #removeFirst(): void {
    const heap = this.#timers;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let place = 0;
    for (;;) {
      const left = heap[2 * place + 1];
      const right = heap[2 * place + 2];
      const isRight = left !== undefined && right !== undefined && isBefore(right, left);
      const child = isRight ? right : left;
      if (child === undefined || isBefore(last, child)) break;
      heap[place] = child;
      place = 2 * place + (isRight ? 2 : 1);
    }
    heap[place] = last;
  }
}

function isBefore(a: Timer, b: Timer): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.sequence < b.sequence);
}
