import type { Clock } from '../../runtime/clock.ts';

const windowMs = 60_000;
const perWindow = 3;

/**
 * How often a foreign route at one destination is replaced: three times a minute. Another program that keeps putting its
 * own route there is not fought; the operator is told instead.
 */
export class ForeignLimit {
  readonly #clock: Clock;
  readonly #replacedAtMs = new Map<string, readonly number[]>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether another replacement at `dst` is within the limit. */
  allows(dst: string): boolean {
    return this.#recent(dst).length < perWindow;
  }

  note(dst: string): void {
    this.#replacedAtMs.set(dst, [...this.#recent(dst), this.#clock.monotonic()]);
  }

  #recent(dst: string): readonly number[] {
    const sinceMs = this.#clock.monotonic() - windowMs;
    return (this.#replacedAtMs.get(dst) ?? []).filter((atMs) => atMs > sinceMs);
  }
}
