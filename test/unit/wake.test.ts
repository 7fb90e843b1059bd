import { beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { firstOf, unlessAborted, Wake } from '../../src/runtime/wake.ts';

let clock: VirtualClock;
let wake: Wake;
let stop: AbortController;

beforeEach(() => {
  clock = new VirtualClock();
  wake = new Wake();
  stop = new AbortController();
});

/** Aborts a wait that has begun: it has to end with the reason. */
async function expectStops(promise: Promise<unknown>): Promise<void> {
  const followed = follow(promise);
  await clock.settle();
  stop.abort(new Error('stopped'));
  await clock.settle();
  expect(followed.error).toEqual(new Error('stopped'));
}

/** Follows a promise without awaiting it. */
function follow<T>(promise: Promise<T>): { state: string; value?: T; error?: unknown } {
  const followed: { state: string; value?: T; error?: unknown } = { state: 'pending' };
  promise.then(
    (value) => Object.assign(followed, { state: 'resolved', value }),
    (error: unknown) => Object.assign(followed, { state: 'rejected', error }),
  );
  return followed;
}

describe('Wake.wait', () => {
  it('returns at once when a wake came before, and only once for any number of them', async () => {
    wake.wake();
    wake.wake();
    await wake.wait(stop.signal);
    const second = follow(wake.wait(stop.signal));
    await clock.settle();
    expect(second.state).toBe('pending');
  });

  it('wakes all who wait, and no sooner', async () => {
    const waits = [follow(wake.wait(stop.signal)), follow(wake.wait(stop.signal))];
    await clock.settle();
    expect(waits.map(({ state }) => state)).toEqual(['pending', 'pending']);
    wake.wake();
    await clock.settle();
    expect(waits.map(({ state }) => state)).toEqual(['resolved', 'resolved']);
  });

  it('rejects with the reason of its signal, before and during the wait, and keeps a wake it did not deliver', async () => {
    await expectStops(wake.wait(stop.signal));
    wake.wake();
    await expect(wake.wait(stop.signal)).rejects.toThrow('stopped');
    await wake.wait(new AbortController().signal);
  });
});

describe('Wake.waitAtMost', () => {
  it('says whether it was woken or the time is over, or rejects with its signal, and leaves no timer', async () => {
    const slept = follow(wake.waitAtMost(clock, 100, stop.signal));
    await clock.advance(99);
    expect(slept.state).toBe('pending');
    await clock.advance(1);
    expect(slept.value).toBe(false);
    const woken = follow(wake.waitAtMost(clock, 100, stop.signal));
    await clock.advance(50);
    wake.wake();
    await clock.settle();
    expect(woken.value).toBe(true);
    await expectStops(wake.waitAtMost(clock, 100, stop.signal));
    expect(clock.pending).toBe(0);
  });

  it('does not lose a wake that comes in the very moment the time is over', async () => {
    // However many turns of the microtask queue lie between the two.
    for (let turns = 0; turns < 12; turns++) {
      const wait = follow(wake.waitAtMost(clock, 10, stop.signal));
      const later = clock.sleep(10).then(async () => {
        for (let turn = 0; turn < turns; turn++) await Promise.resolve();
        wake.wake();
      });
      await clock.advance(10);
      await later;
      const heard = wait.value === true || (await wake.waitAtMost(clock, 0, stop.signal));
      expect(heard, `${turns} turns later`).toBe(true);
      expect(await Promise.race([wake.wait(stop.signal), clock.settle().then(() => 'nothing left')])).toBe(
        'nothing left',
      );
      // End the wait left behind.
      wake.wake();
      await clock.settle();
    }
  });
});

describe('firstOf', () => {
  it('resolves as the first and ends the others before it returns', async () => {
    const ended: string[] = [];
    const result = follow(
      firstOf(stop.signal, (inner) => [
        clock.sleep(10, inner).then(() => 'ten'),
        clock.sleep(20, inner).then(
          () => 'twenty',
          async () => {
            await clock.sleep(5);
            ended.push('twenty');
            return 'cleaned up';
          },
        ),
      ]),
    );
    await clock.advance(10);
    expect(result.state).toBe('pending');
    await clock.advance(5);
    expect(result.value).toBe('ten');
    expect(ended).toEqual(['twenty']);
    expect(clock.pending).toBe(0);
  });

  it('rejects as the first', async () => {
    const broken = Promise.reject(new Error('broken'));
    const failing = firstOf(stop.signal, (inner) => [broken, clock.sleep(20, inner)]);
    await expect(failing).rejects.toThrow('broken');
    expect(clock.pending).toBe(0);
  });

  it.each([
    ['passes the reason on', (error: unknown) => error],
    ['fails in its own way', () => new Error('connection closed')],
  ])('rejects with the reason of its signal when a wait %s', async (_, fail) => {
    const sleep = (inner: AbortSignal) =>
      clock.sleep(20, inner).catch((error: unknown) => Promise.reject(fail(error) as Error));
    await expectStops(firstOf(stop.signal, (inner) => [sleep(inner)]));
    expect(clock.pending).toBe(0);
  });

  it('starts nothing under a signal that has aborted', async () => {
    stop.abort(new Error('stopped'));
    let started = false;
    const result = firstOf(stop.signal, () => {
      started = true;
      return [Promise.resolve()];
    });
    await expect(result).rejects.toThrow('stopped');
    expect(started).toBe(false);
  });

  it('ends what was started when starting the rest throws', async () => {
    const seen: AbortSignal[] = [];
    const result = firstOf(stop.signal, (inner) => {
      seen.push(inner);
      throw new Error('cannot start');
    });
    await expect(result).rejects.toThrow('cannot start');
    expect(seen[0]?.aborted).toBe(true);
  });
});

describe('unlessAborted', () => {
  it('ends as the promise does', async () => {
    expect(await unlessAborted(Promise.resolve('done'), stop.signal)).toBe('done');
    await expect(unlessAborted(Promise.reject(new Error('broken')), stop.signal)).rejects.toThrow('broken');
  });

  it('rejects with the reason of its signal, before and during the wait, also when the promise fails later', async () => {
    const failing = clock.sleep(10).then(() => Promise.reject(new Error('broken')));
    await expectStops(unlessAborted(failing, stop.signal));
    await expect(unlessAborted(failing, stop.signal)).rejects.toThrow('stopped');
    // An unhandled rejection would fail the run.
    await clock.advance(10);
  });
});
