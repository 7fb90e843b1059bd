/**
 * Time, as the core sees it. Nothing in the core reads a clock or sets a timer except through this interface, so that a
 * whole cluster can run on a virtual clock.
 */
export interface Clock {
  /** Wall-clock time in milliseconds since the epoch. It may jump: a suspended VM, an operator, NTP. */
  now(): number;
  /** Milliseconds on a clock that never goes backwards; only differences mean something. */
  monotonic(): number;
  /**
   * Resolves after `ms` milliseconds (at once for 0 or less), or rejects with `signal.reason` when the signal aborts
   * first. An already aborted signal rejects without waiting.
   */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}
