import { type BackoffPolicy, FailureCount } from './backoff.ts';
import type { Clock } from './clock.ts';
import type { Random } from './random.ts';
import { firstOf } from './wake.ts';

export interface RetryOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** How long to wait between attempts; it may depend on what went wrong. Another policy starts with its shortest wait. */
  readonly policy: BackoffPolicy | ((error: unknown) => BackoffPolicy);
  /** Told of every failure before the wait. Throwing from it ends the retries. */
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
