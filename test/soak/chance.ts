import { setTimeout as sleep } from 'node:timers/promises';
import { SeededRandom } from '../../sim/random.ts';

/**
 * What one fault draws from. Each has a generator of its own, made from the run's seed and where the fault stands in it:
 * faults of one round run at the same time, and from a common one each would draw what the others' timing leaves it.
 */
export class Chance {
  readonly #random: SeededRandom;

  constructor(seed: number, round: number, fault: number) {
    let mixed = seed;
    for (const part of [round, fault]) mixed = Math.floor(new SeededRandom(mixed).next() * 2 ** 32) + part;
    this.#random = new SeededRandom(mixed);
  }

  /** One of them. */
  pick<T>(items: readonly T[]): T {
    const index = Math.floor(this.#random.next() * items.length);
    const item = items[index];
    if (item === undefined) throw new RangeError(`there is no item ${index}`);
    return item;
  }

  /** A number from `from` to `to`, milliseconds as a rule. */
  between(from: number, to: number): number {
    return from + this.#random.next() * (to - from);
  }

  /** Waits so long: how long a fault lasts is part of it. */
  async hold(fromMs: number, toMs: number): Promise<void> {
    await sleep(this.between(fromMs, toMs));
  }
}
