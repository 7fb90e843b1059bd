import { expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { Activity } from '../../src/runtime/activity.ts';

it('Activity names the loops that hang, and no others', async () => {
  const clock = new VirtualClock();
  const activity = new Activity(clock);
  expect(activity.stuck).toEqual([]);
  activity.round('quick', 1_000);
  activity.round('slow', 10_000);
  activity.round('idle', Number.POSITIVE_INFINITY);
  await clock.advance(1_000);
  expect(activity.stuck).toEqual([]);
  await clock.advance(1);
  expect(activity.stuck).toEqual(['quick']);
  activity.round('quick', 1_000);
  expect(activity.stuck).toEqual([]);
  await clock.advance(86_400_000);
  expect(activity.stuck).toEqual(['quick', 'slow']);
  activity.end('quick');
  activity.end('slow');
  expect(activity.stuck).toEqual([]);
});
