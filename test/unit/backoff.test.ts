import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SeededRandom } from '../../sim/random.ts';
import { randomInt } from '../../src/runtime/effects.ts';
import { backoffCeilingMs, backoffMs } from '../../src/runtime/retry.ts';

const policy = { initialMs: 100, maxMs: 5000 };

describe('backoff', () => {
  it('doubles up to the maximum and stays there', () => {
    const attempts = [0, 1, 2, 3, 4, 5, 6, 1000, Number.MAX_SAFE_INTEGER];
    const ceilings = attempts.map((attempt) => backoffCeilingMs(policy, attempt));
    expect(ceilings).toEqual([100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
  });

  it('is jittered over the upper half of the ceiling', () => {
    expect(backoffMs(policy, 2, { next: () => 0 })).toBe(200);
    expect(backoffMs(policy, 2, { next: () => 0.5 })).toBe(300);
    fc.assert(
      fc.property(fc.nat(100), fc.integer(), (attempt, seed) => {
        const ceiling = backoffCeilingMs(policy, attempt);
        const wait = backoffMs(policy, attempt, new SeededRandom(seed));
        expect(wait).toBeGreaterThanOrEqual(ceiling / 2);
        expect(wait).toBeLessThan(ceiling);
      }),
    );
  });

  it('differs between hosts that failed together', () => {
    const waits = Array.from({ length: 50 }, (_, seed) => backoffMs(policy, 6, new SeededRandom(seed)));
    expect(new Set(waits).size).toBe(50);
  });
});

describe('randomInt', () => {
  it('covers [0, bound) and stays in it, also for the largest draw', () => {
    const largest = { next: () => 1 - 2 ** -53 };
    for (const bound of [7, Number.MAX_SAFE_INTEGER]) expect(randomInt(largest, bound)).toBe(bound - 1);
    const random = new SeededRandom(3);
    const drawn = new Set(Array.from({ length: 200 }, () => randomInt(random, 7)));
    expect(drawn).toEqual(new Set([0, 1, 2, 3, 4, 5, 6]));
  });
});
