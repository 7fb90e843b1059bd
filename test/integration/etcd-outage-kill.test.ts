import { describeOutage } from './etcd-outage-suite.ts';

describeOutage({
  verb: 'killed',
  takeAway: (member) => member.kill(),
  bringBack: (member) => member.start(),
  // The connection breaks at once; a daemon that knows another member is there as soon as that one has a leader.
  noticedMs: 8_000,
});
