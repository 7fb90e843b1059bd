import type { Clock } from '../../src/runtime/effects.ts';
import { type Calls, noCalls } from '../etcd-member.ts';

/** One thing that etcd is asked, or tells. */
export interface Load {
  readonly call?: keyof Calls;
  /** Changes that watches are told of. */
  readonly events?: number;
  readonly receivedBytes?: number;
  readonly sentBytes?: number;
}

/** A sum over a stretch of time, and the most in one of its seconds. */
export interface Figure {
  readonly sum: number;
  readonly peak: number;
}

/** What a stretch of time meant to etcd. */
export interface Figures {
  readonly seconds: number;
  readonly calls: Figure;
  readonly byKind: Calls;
  readonly events: Figure;
  readonly receivedBytes: Figure;
  readonly sentBytes: Figure;
}

/** Counts, second by second, what all hosts ask of etcd and what it tells them. */
export class LoadMeter {
  readonly #clock: Clock;
  #startedMs = 0;
  #byKind = noCalls();
  #calls: number[] = [];
  #events: number[] = [];
  #receivedBytes: number[] = [];
  #sentBytes: number[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Begins a stretch of time. */
  begin(): void {
    this.#startedMs = this.#clock.monotonic();
    this.#byKind = noCalls();
    [this.#calls, this.#events, this.#receivedBytes, this.#sentBytes] = [[], [], [], []];
  }

  /** Counts it once for each delay from now, in milliseconds. */
  add({ call, events = 0, receivedBytes = 0, sentBytes = 0 }: Load, delaysMs: readonly number[]): void {
    const nowMs = this.#clock.monotonic() - this.#startedMs;
    if (call !== undefined) this.#byKind[call] += delaysMs.length;
    for (const delayMs of delaysMs) {
      const second = Math.floor((nowMs + delayMs) / 1_000);
      if (call !== undefined) increase(this.#calls, second, 1);
      increase(this.#events, second, events);
      increase(this.#receivedBytes, second, receivedBytes);
      increase(this.#sentBytes, second, sentBytes);
    }
  }

  /** What has been counted since `begin`. What was delayed beyond now counts as if time went round. */
  end(): Figures {
    const seconds = Math.max(1, Math.ceil((this.#clock.monotonic() - this.#startedMs) / 1_000));
    const figure = (counts: readonly number[]): Figure => {
      const round = Array.from({ length: seconds }, () => 0);
      for (const [second, count] of counts.entries()) increase(round, second % seconds, count ?? 0);
      return {
        sum: round.reduce((sum, count) => sum + count, 0),
        peak: round.reduce((most, count) => Math.max(most, count), 0),
      };
    };
    return {
      seconds,
      calls: figure(this.#calls),
      byKind: this.#byKind,
      events: figure(this.#events),
      receivedBytes: figure(this.#receivedBytes),
      sentBytes: figure(this.#sentBytes),
    };
  }
}

function increase(counts: number[], second: number, by: number): void {
  if (by > 0) counts[second] = (counts[second] ?? 0) + by;
}
