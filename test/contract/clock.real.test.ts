import { systemClock } from '../../src/daemon/host/clock.ts';
import { clockContract } from './clock.ts';

clockContract("this machine's", () => ({
  clock: systemClock,
  settle: async (promise) => {
    await promise.catch(() => undefined);
  },
}));
