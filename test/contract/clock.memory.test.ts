import { VirtualClock } from '../../sim/clock.ts';
import { clockContract } from './clock.ts';

clockContract('virtual', () => {
  const clock = new VirtualClock();
  return {
    clock,
    settle: async (promise) => {
      let settled = false;
      const note = () => {
        settled = true;
      };
      promise.then(note, note);
      await clock.until('the promise settles', () => settled);
    },
  };
});
