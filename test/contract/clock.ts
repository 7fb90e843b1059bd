import { describe, expect, it } from 'vitest';
import type { Clock } from '../../src/runtime/effects.ts';

export interface ClockUnderTest {
  readonly clock: Clock;
  /** Lets time pass until the promise has settled. */
  readonly settle: (promise: Promise<unknown>) => Promise<void>;
}

/** What {@link Clock} promises, for every implementation. */
export function clockContract(name: string, setup: () => ClockUnderTest): void {
  describe(`clock: ${name}`, () => {
    it('sleeps at least as long as asked, on both its clocks', async () => {
      const { clock, settle } = setup();
      const [wallMs, monotonicMs] = [clock.now(), clock.monotonic()];
      await settle(clock.sleep(30));
      // A timer may fire within the millisecond before, as clocks of different resolution see it.
      expect(clock.monotonic() - monotonicMs).toBeGreaterThanOrEqual(29);
      expect(clock.now() - wallMs).toBeGreaterThanOrEqual(29);
    });

    it.each([0, -5])('does not wait for %d ms', async (ms) => {
      const { clock, settle } = setup();
      const startMs = clock.monotonic();
      const sleeping = clock.sleep(ms).then(() => 'awake');
      await settle(sleeping);
      expect(await sleeping).toBe('awake');
      expect(clock.monotonic()).toBeLessThan(startMs + 1_000);
    });

    it('wakes sleepers in the order of their times', async () => {
      const { clock, settle } = setup();
      const order: number[] = [];
      const sleepers = [40, 5, 20].map((ms) => clock.sleep(ms).then(() => order.push(ms)));
      await settle(Promise.all(sleepers));
      expect(order).toEqual([5, 20, 40]);
    });

    it('rejects with the reason of a signal that aborts, at once', async () => {
      const { clock, settle } = setup();
      const controller = new AbortController();
      const reason = new Error('enough');
      const sleeping = clock.sleep(3_600_000, controller.signal).catch((error: unknown) => error);
      controller.abort(reason);
      await settle(sleeping);
      expect(await sleeping).toBe(reason);
    });

    it('rejects without waiting when the signal has aborted already', async () => {
      const { clock } = setup();
      const reason = new Error('too late');
      await expect(clock.sleep(0, AbortSignal.abort(reason))).rejects.toBe(reason);
    });
  });
}
