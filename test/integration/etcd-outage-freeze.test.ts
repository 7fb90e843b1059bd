import { describeOutage } from './etcd-outage-suite.ts';

describeOutage({
  verb: 'frozen',
  takeAway: async (member) => member.pause(),
  bringBack: async (member) => {
    member.resume();
    await member.healthy();
  },
  // Nothing tells but that keepalive goes unanswered, which takes 14 s.
  noticedMs: 25_000,
});
