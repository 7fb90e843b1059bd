import type { Clock } from './clock.ts';
import type { Logger } from './logger.ts';
import { TroubleLog, type TroubleRecord } from './trouble.ts';

/** Something wrong that is found by looking at a state, in words for people. */
export interface Fault {
  /** Stays the same while the words change: how many peers it concerns, for instance. */
  readonly what: string;
  readonly text: string;
  /** It mostly passes within moments, and is logged only when it does not. */
  readonly passing?: true;
  /** Since when (wall-clock ms), where that is known better than by looking now and then. */
  readonly sinceMs?: number;
  /** The log has its beginning already. */
  readonly logged?: true;
}

/** So long does a passing fault go unlogged. */
const passesMs = 5_000;

/**
 * Logs the faults that each look at a state finds, as {@link TroubleLog} logs those that it is told of: each when it begins, rarely
 * while it lasts, and when it is over.
 */
export class FaultLog {
  readonly #clock: Clock;
  readonly #troubles: TroubleLog;
  /** Of the last look, since when (wall-clock ms), by what. */
  #found: ReadonlyMap<string, { readonly text: string; readonly sinceMs: number }> = new Map();

  constructor(clock: Clock, log: Logger) {
    this.#clock = clock;
    this.#troubles = new TroubleLog(clock, log);
  }

  /** The last faults that are over, then those of now; each oldest first. */
  get records(): readonly TroubleRecord[] {
    return this.#troubles.records;
  }

  /** Takes in all faults that there are now. */
  look(faults: readonly Fault[]): void {
    const nowMs = this.#clock.now();
    const before = this.#found;
    this.#found = new Map(
      faults.map(({ what, text, sinceMs = before.get(what)?.sinceMs ?? nowMs }) => [what, { text, sinceMs }]),
    );
    for (const [what, { text }] of before)
      if (!this.#found.has(what)) this.#troubles.clear(what, `over: ${text}`);
    for (const { what, text, passing, logged } of faults) {
      const { sinceMs = nowMs } = this.#found.get(what) ?? {};
      if (passing !== true || nowMs - sinceMs >= passesMs)
        this.#troubles.note(what, text, logged === true && !this.#troubles.has(what));
    }
  }
}
