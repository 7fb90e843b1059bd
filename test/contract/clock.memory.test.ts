import { VirtualClock } from '../../sim/clock.ts';
import { clockContract } from './clock.ts';

clockContract('virtual', () => {
  const clock = new VirtualClock();
  return { clock, settle: (promise) => clock.complete(promise.catch(() => undefined)).then(() => undefined) };
});
