import type { Clock, Random } from './effects.ts';
import { firstOf } from './wake.ts';

export interface RetryOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** How long to wait between attempts; it may depend on what went wrong. Another policy starts with its shortest wait. */
  readonly policy: BackoffPolicy | ((error: unknown) => BackoffPolicy);
  /** Runs after each failed attempt, before the wait. If it throws, there are no more attempts. */
  readonly onFailure: (error: unknown) => void;
  /** Ends a wait early when it resolves. */
  readonly sooner?: (signal: AbortSignal) => Promise<void>;
}

/**
 * Calls `attempt` until it succeeds, waiting with jittered backoff in between. Rejects only when `signal` aborts (with its
 * reason) or when `onFailure` throws.
 */
export async function retryForever<T>(
  options: RetryOptions,
  signal: AbortSignal,
  attempt: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const failures = new FailureCount();
  for (;;) {
    signal.throwIfAborted();
    let { policy } = options;
    try {
      return await attempt(signal);
    } catch (error) {
      signal.throwIfAborted();
      options.onFailure(error);
      if (typeof policy === 'function') policy = policy(error);
    }
    const waitMs = failures.waitMs(policy, options.random);
    await firstOf(signal, (inner) => [
      options.clock.sleep(waitMs, inner),
      ...(options.sooner === undefined ? [] : [options.sooner(inner)]),
    ]);
  }
}

/** How waits grow between attempts: doubling from `initialMs` to `maxMs`. */
export interface BackoffPolicy {
  readonly initialMs: number;
  readonly maxMs: number;
}

/** Doubles the wait from `initialMs` up to `maxMs`; `attempt` counts from 0. */
export function backoffCeilingMs(policy: BackoffPolicy, attempt: number): number {
  return Math.min(policy.maxMs, policy.initialMs * 2 ** Math.min(attempt, 30));
}

/**
 * The wait before the next attempt, jittered over the upper half of the ceiling ("equal jitter"): hosts that failed
 * together do not come back together, and none comes back at once.
 */
export function backoffMs(policy: BackoffPolicy, attempt: number, random: Random): number {
  const ceiling = backoffCeilingMs(policy, attempt);
  return ceiling / 2 + (ceiling / 2) * random.next();
}

/** Counts consecutive failures under one policy: three refused connections say nothing about the first conflict. */
export class FailureCount {
  #policy: BackoffPolicy | undefined;
  #failures = 0;

  /** Whether nothing has failed since the last success. */
  get none(): boolean {
    return this.#policy === undefined;
  }

  /** How long to wait after one more failure, jittered. */
  waitMs(policy: BackoffPolicy, random: Random): number {
    if (policy !== this.#policy) this.#failures = 0;
    this.#policy = policy;
    return backoffMs(policy, this.#failures++, random);
  }

  /** Notes a success. */
  reset(): void {
    this.#policy = undefined;
  }
}
