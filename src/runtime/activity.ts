import type { Clock } from './effects.ts';

/** What is counted from the start of the process on. */
export type Counted =
  /** A route was changed; by cause. */
  | 'route-change'
  /** All leases were listed again, because the watch could not continue; by reason. */
  | 'relist'
  /** A key or a value was not a valid lease. */
  | 'lease-skipped'
  /** Firewall rules were missing or changed and were put back; by place. */
  | 'firewall-repair'
  /** Forwarding was off and was switched on; by family. */
  | 'forwarding-set'
  /** A file was missing or changed and was written again; by file. */
  | 'file-repair';

/**
 * What the loops do, and whether each still runs. The daemon only reports it, to the operator and to the service manager; nothing else
 * depends on it.
 */
export class Activity {
  readonly #clock: Clock;
  readonly #counts = new Map<Counted, Map<string, number>>();
  /** Monotonic ms by which each running loop must report again. */
  readonly #dueMs = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** `label` divides a count: a word of the program's own, never one from outside. */
  count(what: Counted, label = '', times = 1): void {
    const counts = this.#counts.get(what) ?? new Map<string, number>();
    this.#counts.set(what, counts);
    counts.set(label, (counts.get(label) ?? 0) + times);
  }

  /** The counts by label; empty when it never happened. */
  counts(what: Counted): ReadonlyMap<string, number> {
    return this.#counts.get(what) ?? new Map();
  }

  /** `loop` completed an iteration and will complete the next within `withinMs`; Infinity: no bound. */
  round(loop: string, withinMs: number): void {
    this.#dueMs.set(loop, this.#clock.monotonic() + withinMs);
  }

  /** `loop` has ended. */
  end(loop: string): void {
    this.#dueMs.delete(loop);
  }

  /** The loops that are overdue. Only a bug in the program or in Node can cause that. */
  get stuck(): readonly string[] {
    const nowMs = this.#clock.monotonic();
    return [...this.#dueMs].filter(([, dueMs]) => dueMs < nowMs).map(([loop]) => loop);
  }
}
