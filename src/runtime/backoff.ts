import type { Random } from './random.ts';

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

/** Counts the failures in a row that wait by the same policy: three refused connections say nothing about the first conflict. */
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
