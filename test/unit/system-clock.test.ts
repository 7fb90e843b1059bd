import { describe, expect, it, vi } from 'vitest';
import { systemClock, systemRandom } from '../../src/daemon/host/clock.ts';

describe("the machine's clock", () => {
  it('tells wall time and a time that never goes backwards', () => {
    expect(Math.abs(systemClock.now() - Date.now())).toBeLessThan(5_000);
    const first = systemClock.monotonic();
    expect(systemClock.monotonic()).toBeGreaterThanOrEqual(first);
  });

  it('sleeps at least as long as it was told', async () => {
    const startMs = systemClock.monotonic();
    await systemClock.sleep(20.5);
    expect(systemClock.monotonic() - startMs).toBeGreaterThanOrEqual(20.5);
  });

  it.each([0, -1, Number.NEGATIVE_INFINITY])('does not wait for %d ms', async (ms) => {
    const timers = vi.spyOn(globalThis, 'setTimeout');
    await systemClock.sleep(ms);
    expect(timers).not.toHaveBeenCalled();
    timers.mockRestore();
  });

  it('rejects with the reason when the signal aborts, and at once afterwards, and leaves no timer', async () => {
    const controller = new AbortController();
    const reason = new Error('stop');
    const before = timersAlive();
    const sleeping = systemClock.sleep(60_000, controller.signal);
    expect(timersAlive()).toBe(before + 1);
    controller.abort(reason);
    expect(timersAlive()).toBe(before);
    await expect(sleeping).rejects.toBe(reason);
    for (const ms of [60_000, 0]) await expect(systemClock.sleep(ms, controller.signal)).rejects.toBe(reason);
  });

  it('leaves nothing at a signal that outlives the sleep', async () => {
    const { signal } = new AbortController();
    const added = vi.spyOn(signal, 'addEventListener');
    const removed = vi.spyOn(signal, 'removeEventListener');
    for (let i = 0; i < 20; i++) await systemClock.sleep(1, signal);
    expect(added.mock.calls.length).toBeGreaterThanOrEqual(20);
    expect(removed.mock.calls.length).toBe(added.mock.calls.length);
  });

  it('waits longer than a timer can', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    try {
      const days60Ms = 60 * 24 * 3_600_000;
      let woken = false;
      const sleeping = systemClock.sleep(days60Ms).finally(() => {
        woken = true;
      });
      await vi.advanceTimersByTimeAsync(days60Ms - 1);
      expect(woken).toBe(false);
      await vi.advanceTimersByTimeAsync(1);
      await sleeping;
      expect(woken).toBe(true);
    } finally {
      vi.useRealTimers();
    }
  });
});

describe("the system's randomness", () => {
  it('fills [0, 1) evenly', () => {
    const counts = Array.from({ length: 10 }, () => 0);
    for (let i = 0; i < 20_000; i++) {
      const value = systemRandom.next();
      expect(value >= 0 && value < 1).toBe(true);
      const slot = Math.floor(value * 10);
      counts[slot] = (counts[slot] ?? 0) + 1;
    }
    // 2,000 expected with a standard deviation of 42.
    for (const count of counts) expect(Math.abs(count - 2_000)).toBeLessThan(400);
  });
});

function timersAlive(): number {
  return process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;
}
