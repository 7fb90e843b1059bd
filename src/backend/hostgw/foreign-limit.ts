import type { Clock } from '../../runtime/clock.ts';

const windowMs = 60_000;
const perWindow = 3;

/**
 * How often a foreign route at one destination is replaced: three times a minute. Another program that keeps putting its
 * own route there is not fought; the operator is told instead.
 */
export class ForeignLimit {
  readonly #clock: Clock;
  /** The one that was replaced last is the last. */
  readonly #replacedAtMs = new Map<string, readonly number[]>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether another replacement at `dst` is within the limit. */
  allows(dst: string): boolean {
    return this.#recent(dst).length < perWindow;
  }

  note(dst: string): void {
    const times = [...this.#recent(dst), this.#clock.monotonic()];
    this.#replacedAtMs.delete(dst);
    this.#replacedAtMs.set(dst, times);
    for (const old of this.#replacedAtMs.keys()) {
      if (this.#recent(old).length > 0) break;
      this.#replacedAtMs.delete(old);
    }
  }

  #recent(dst: string): readonly number[] {
    const sinceMs = this.#clock.monotonic() - windowMs;
    return (this.#replacedAtMs.get(dst) ?? []).filter((atMs) => atMs > sinceMs);
  }
}
