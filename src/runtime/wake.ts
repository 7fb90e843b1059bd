import type { Clock } from './effects.ts';

/**
 * Lets a loop sleep until there is work. A `wake` while nobody waits is remembered, so that work which turns up between
 * looking and waiting is not slept over.
 */
export class Wake {
  #pending = false;
  readonly #waiting = new Set<() => void>();

  /** Wakes all waiters; without any, the next one does not wait. */
  wake(): void {
    this.#pending = this.#waiting.size === 0;
    for (const onWake of this.#waiting) onWake();
    this.#waiting.clear();
  }

  /** Resolves at the next `wake`, or at once when one came while nobody waited; rejects with `signal.reason`. */
  async wait(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#pending) {
      this.#pending = false;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const onAbort = () => {
        this.#waiting.delete(onWake);
        reject(signal.reason as Error);
      };
      const onWake = () => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      };
      this.#waiting.add(onWake);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** As {@link Wake.wait}, but for `ms` milliseconds at most; resolves to whether it was woken. */
  async waitAtMost(clock: Clock, ms: number, signal: AbortSignal): Promise<boolean> {
    let woken = false;
    // Not the winner's value: a wake that comes while the end of the time is being handled has been used up, too.
    const wait = async (inner: AbortSignal) => {
      await this.wait(inner);
      woken = true;
    };
    await firstOf(signal, (inner) => [wait(inner), clock.sleep(ms, inner)]);
    return woken;
  }
}

/** One for all: its stack would tell nothing, and take longer to make than most waits to end. */
const waitIsOver = new Error('another wait ended first');

/**
 * Starts several waits under one signal, resolves (or rejects) as the first of them does, then aborts the others and waits
 * until they have ended, so that none outlives the call. Rejects with `signal.reason` when `signal` aborts, however the
 * waits take that.
 */
export async function firstOf<T>(
  signal: AbortSignal,
  start: (inner: AbortSignal) => readonly Promise<T>[],
): Promise<T> {
  signal.throwIfAborted();
  const controller = new AbortController();
  const onAbort = () => controller.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  let waits: readonly Promise<T>[] = [];
  try {
    waits = start(controller.signal);
    return await Promise.race(waits);
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', onAbort);
    controller.abort(waitIsOver);
    await Promise.allSettled(waits);
  }
}

/** Rejects with the signal's reason once it aborts; never resolves. */
export function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const onAbort = () => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
}

/** As `promise`, but rejects with the signal's reason as soon as it aborts, if there is one; `promise` itself continues. */
export async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  let onAbort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason as Error);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([aborted, promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
