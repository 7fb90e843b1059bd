import type { Clock } from './clock.ts';

/**
 * Lets a loop sleep until there is work. A `wake` while nobody waits is remembered, so that work which turns up between
 * looking and waiting is not slept over.
 */
export class Wake {
  #pending = false;
  #waiting: (() => void) | undefined;

  wake(): void {
    this.#pending = true;
    this.#waiting?.();
  }

  /** Resolves at the next `wake`, or at once when one came since the last wait; rejects with `signal.reason`. */
  async wait(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (!this.#pending) {
      await new Promise<void>((resolve, reject) => {
        const onAbort = () => finish(() => reject(signal.reason as Error));
        const finish = (settle: () => void) => {
          signal.removeEventListener('abort', onAbort);
          this.#waiting = undefined;
          settle();
        };
        this.#waiting = () => finish(resolve);
        signal.addEventListener('abort', onAbort, { once: true });
      });
    }
    this.#pending = false;
  }

  /** As {@link Wake.wait}, but for `ms` milliseconds at most; resolves to whether it was woken. */
  waitAtMost(clock: Clock, ms: number, signal: AbortSignal): Promise<boolean> {
    return firstOf(signal, (inner) => [
      this.wait(inner).then(() => true),
      clock.sleep(ms, inner).then(() => false),
    ]);
  }
}

/**
 * Starts several waits under one signal, resolves (or rejects) as the first of them does, then aborts the others and waits
 * until they have ended, so that none outlives the call. Rejects with `signal.reason` when `signal` aborts.
 */
export async function firstOf<T>(
  signal: AbortSignal,
  start: (inner: AbortSignal) => readonly Promise<T>[],
): Promise<T> {
  signal.throwIfAborted();
  const controller = new AbortController();
  const onAbort = () => controller.abort(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  const waits = start(controller.signal);
  try {
    return await Promise.race(waits);
  } finally {
    signal.removeEventListener('abort', onAbort);
    controller.abort(new Error('another wait ended first'));
    await Promise.allSettled(waits);
  }
}
