import { SimNotifier } from '../../sim/notifier.ts';
import { notifierContract } from './notifier.ts';

notifierContract('in memory', async () => {
  const notifier = new SimNotifier();
  return { notifier, received: async () => notifier.sent };
});
