import type { Clock } from './clock.ts';
import type { LogFields, Logger } from './logger.ts';

/** How long the same trouble stays unmentioned after it was logged. */
const repeatAfterMs = 10 * 60_000;

interface Entry {
  readonly sinceMs: number;
  message: string;
  loggedAtMs: number;
  count: number;
}

/**
 * Logs troubles that last: once when one begins (or changes its message), then rarely, then once when it is over. A daemon
 * that waits for etcd for a night leaves some fifty lines, not fifty thousand.
 */
export class TroubleLog {
  readonly #entries = new Map<string, Entry>();
  readonly #clock: Clock;
  readonly #log: Logger;

  constructor(clock: Clock, log: Logger) {
    this.#clock = clock;
    this.#log = log;
  }

  /** The messages of the troubles of now, oldest first: the reasons for not being ready. */
  get current(): readonly string[] {
    return [...this.#entries.values()].map((entry) => entry.message);
  }

  /** Whether `what` is in trouble now. */
  has(what: string): boolean {
    return this.#entries.has(what);
  }

  /** Notes that `what` (a stable name such as `etcd`) is in trouble. */
  report(what: string, message: string, fields: LogFields = {}): void {
    const nowMs = this.#clock.monotonic();
    const entry = this.#entries.get(what);
    if (entry === undefined) {
      this.#entries.set(what, { sinceMs: nowMs, message, loggedAtMs: nowMs, count: 1 });
      this.#log.warn({ event: 'trouble', what, ...fields }, message);
      return;
    }
    entry.count++;
    if (entry.message === message && nowMs - entry.loggedAtMs < repeatAfterMs) return;
    // A message that keeps changing (an endpoint rotation, say) must not turn into a line per attempt.
    if (entry.message !== message && nowMs - entry.loggedAtMs < 10_000) return;
    entry.message = message;
    entry.loggedAtMs = nowMs;
    const lastingS = Math.round((nowMs - entry.sinceMs) / 1000);
    this.#log.warn({ event: 'trouble', what, attempts: entry.count, lastingS, ...fields }, message);
  }

  /** Notes that `what` works; logs `message` if it was in trouble. */
  clear(what: string, message: string, fields: LogFields = {}): void {
    const entry = this.#entries.get(what);
    if (entry === undefined) return;
    this.#entries.delete(what);
    const lastedS = Math.round((this.#clock.monotonic() - entry.sinceMs) / 1000);
    this.#log.info({ event: 'trouble-over', what, attempts: entry.count, lastedS, ...fields }, message);
  }
}
