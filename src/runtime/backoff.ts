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
