import { randomFillSync } from 'node:crypto';
import type { Clock, Random } from '../../runtime/effects.ts';

/** setTimeout takes a longer delay for 1 ms. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** The machine's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  sleep,
};

async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  const endMs = performance.now() + ms;
  for (let leftMs = ms; leftMs > 0; leftMs = endMs - performance.now()) {
    await timer(Math.min(leftMs, LONGEST_TIMER_MS), signal);
  }
}

function timer(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timeout);
      reject(signal?.reason);
    };
    // Rounded up: setTimeout cuts fractions off, and waking early would mean a second timer of a fraction of a millisecond.
    const timeout = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, Math.ceil(ms));
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/**
 * The system's generator rather than Math.random: hosts cloned from one image, or started from one start-up snapshot, must not
 * choose the same subnets in the same order.
 */
export const systemRandom: Random = {
  next() {
    const [high = 0, low = 0] = randomFillSync(new Uint32Array(2));
    return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
  },
};
