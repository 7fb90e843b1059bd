import type { Clock } from '../src/runtime/effects.ts';

/**
 * One host's clocks over the simulation's time: the wall clock may jump, and while the host is suspended its monotonic clock
 * and its timers stand still, as Linux's do.
 */
export class HostClock implements Clock {
  readonly #base: Clock;
  #jumpedMs = 0;
  #suspendedMs = 0;
  #suspendedAtMs: number | undefined;
  #onResume: (() => void)[] = [];

  constructor(base: Clock) {
    this.#base = base;
  }

  get suspended(): boolean {
    return this.#suspendedAtMs !== undefined;
  }

  now(): number {
    return this.#base.now() + this.#jumpedMs;
  }

  monotonic(): number {
    return (this.#suspendedAtMs ?? this.#base.monotonic()) - this.#suspendedMs;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const untilMs = this.monotonic() + ms;
    for (let leftMs = ms; ; leftMs = untilMs - this.monotonic()) {
      const sleptMs = this.#suspendedMs;
      await this.#base.sleep(leftMs, signal);
      if (this.suspended) await this.resumed();
      if (this.#suspendedMs === sleptMs || this.monotonic() >= untilMs) return;
    }
  }

  /** Resolves when the host is no longer suspended. */
  resumed(): Promise<void> {
    return this.suspended ? new Promise((resolve) => this.#onResume.push(resolve)) : Promise.resolve();
  }

  jumpWallClock(ms: number): void {
    this.#jumpedMs += ms;
  }

  suspend(): void {
    this.#suspendedAtMs ??= this.#base.monotonic();
  }

  resume(): void {
    if (this.#suspendedAtMs === undefined) return;
    this.#suspendedMs += this.#base.monotonic() - this.#suspendedAtMs;
    this.#suspendedAtMs = undefined;
    const waiting = this.#onResume;
    this.#onResume = [];
    for (const wake of waiting) wake();
  }
}
