import { beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SeededRandom } from '../../sim/random.ts';
import { retryForever } from '../../src/runtime/retry.ts';

const policy = { initialMs: 100, maxMs: 1_000 };

let clock: VirtualClock;
let stop: AbortController;
let failures: unknown[];

beforeEach(() => {
  clock = new VirtualClock();
  stop = new AbortController();
  failures = [];
});

const options = (onFailure = (error: unknown): void => void failures.push(error)) => ({
  clock,
  random: new SeededRandom(1),
  policy,
  onFailure,
});

const waitsBetween = (atMs: readonly number[]) => atMs.slice(1).map((at, index) => at - (atMs[index] ?? 0));

describe('retryForever', () => {
  it('resolves with the first success, after it reported every failure and waited longer each time, up to a limit', async () => {
    const atMs: number[] = [];
    const result = retryForever(options(), stop.signal, async () => {
      atMs.push(clock.monotonic());
      if (atMs.length < 10) throw new Error(`failure ${atMs.length}`);
      return 'done';
    });
    await clock.advance(10_000);
    expect(await result).toBe('done');
    expect(failures).toHaveLength(9);
    waitsBetween(atMs).forEach((waitMs, index) => {
      const ceilingMs = Math.min(1_000, 100 * 2 ** index);
      expect(waitMs).toBeGreaterThanOrEqual(ceilingMs / 2);
      expect(waitMs).toBeLessThanOrEqual(ceilingMs);
    });
  });

  it.each([
    ['a wait', async () => {}, 1],
    ['an attempt, whatever it fails with', (inner: AbortSignal) => clock.sleep(50, inner).catch(() => {}), 0],
  ])('ends in %s with the reason of its signal, and leaves no timer', async (_, until, reported) => {
    const result = retryForever(options(), stop.signal, async (signal) => {
      await until(signal);
      throw new Error('connection closed');
    });
    await clock.settle();
    stop.abort(new Error('stopped'));
    await expect(result).rejects.toThrow('stopped');
    expect(failures).toHaveLength(reported);
    expect(clock.pending).toBe(0);
  });

  it('does not begin under a signal that has aborted', async () => {
    stop.abort(new Error('stopped'));
    let attempts = 0;
    await expect(retryForever(options(), stop.signal, async () => attempts++)).rejects.toThrow('stopped');
    expect(attempts).toBe(0);
  });

  it('ends when onFailure throws', async () => {
    const giveUp = () => {
      throw new Error('hopeless');
    };
    const result = retryForever(options(giveUp), stop.signal, () => Promise.reject(new Error('down')));
    await expect(result).rejects.toThrow('hopeless');
    expect(clock.pending).toBe(0);
  });

  it('starts with the shortest wait when the policy changes', async () => {
    const conflict = { initialMs: 60_000, maxMs: 600_000 };
    const atMs: number[] = [];
    const result = retryForever(
      { ...options(), policy: (error) => (error instanceof RangeError ? conflict : policy) },
      stop.signal,
      async () => {
        atMs.push(clock.monotonic());
        if (atMs.length === 5) throw new RangeError('another kind of failure');
        if (atMs.length < 7) throw new Error('down');
      },
    );
    await clock.until('it succeeds', () => atMs.length === 7, 1_000_000);
    await result;
    const waits = waitsBetween(atMs);
    expect(waits[4]).toBeLessThanOrEqual(60_000);
    expect(waits[4]).toBeGreaterThanOrEqual(30_000);
    expect(waits[5]).toBeLessThanOrEqual(100);
  });
});
