import type { Clock } from './effects.ts';

/** What is counted from the start of the process on. */
export type Counted =
  /** A route was changed; by cause. */
  | 'route-change'
  /** All leases were listed again, because the watch could not go on; by reason. */
  | 'relist'
  /** A key or a value that is no lease was met. */
  | 'lease-skipped'
  /** Firewall rules were missing or changed and were put back; by place. */
  | 'firewall-repair'
  /** Forwarding was off and was switched on; by family. */
  | 'forwarding-set'
  /** A file was missing or changed and was written again; by file. */
  | 'file-repair';

/**
 * What the loops do: how often, and whether they still come round. Nothing follows from it but what the operator and the
 * service manager are told.
 */
export class Activity {
  readonly #clock: Clock;
  readonly #counts = new Map<Counted, Map<string, number>>();
  /** Monotonic ms at which each loop at work has to have come round. */
  readonly #dueMs = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** `label` tells apart what is counted under one name: a word of the program's own, never one from outside. */
  count(what: Counted, label = '', times = 1): void {
    const counts = this.#counts.get(what) ?? new Map<string, number>();
    this.#counts.set(what, counts);
    counts.set(label, (counts.get(label) ?? 0) + times);
  }

  /** The counts by label; empty when it never happened. */
  counts(what: Counted): ReadonlyMap<string, number> {
    return this.#counts.get(what) ?? new Map();
  }

  /** `loop` has come round, and does so again within `withinMs`; Infinity while what it waits for has no time. */
  round(loop: string, withinMs: number): void {
    this.#dueMs.set(loop, this.#clock.monotonic() + withinMs);
  }

  /** `loop` has ended. */
  end(loop: string): void {
    this.#dueMs.delete(loop);
  }

  /** The loops that should have come round by now, which only a mistake in the program or in Node can keep from it. */
  get stuck(): readonly string[] {
    const nowMs = this.#clock.monotonic();
    return [...this.#dueMs].filter(([, dueMs]) => dueMs < nowMs).map(([loop]) => loop);
  }
}
