import { VirtualClock } from '../../sim/clock.ts';
import { SimV2Etcd, type V2Snapshot } from '../../sim/etcd-v2.ts';
import { V2Client } from '../../src/subnet/etcd-v2/client.ts';
import { v2StoreContract } from './v2-store.ts';
import type { V2World } from './v2-store-suite.ts';

v2StoreContract('in memory', async (count): Promise<V2World> => {
  const clock = new VirtualClock();
  const names = Array.from({ length: count }, (_, place) => `etcd-${place}`);
  const etcd = new SimV2Etcd(clock, names);
  const named = (place: number) => names[place] ?? '';
  let saved: V2Snapshot | undefined;
  return {
    connect: ({ members = [...names.keys()], ...options } = {}) =>
      new V2Client(
        members.map((place) => etcd.member(named(place))),
        { clock, ...options },
      ),
    async put(key, { value, ttl = '', dir }, { refresh, prevExist, prevIndex = '0' } = {}) {
      etcd.put(key, {
        ...(value === undefined ? {} : { value }),
        dir: dir === 'true',
        ttlSeconds: ttl === '' ? undefined : Number(ttl),
        refresh: refresh === 'true',
        prevExist: prevExist === undefined ? undefined : prevExist === 'true',
        prevIndex: Number(prevIndex),
      });
      // It takes its time, as it does at a real etcd.
      await clock.advance(1);
    },
    async remove(key, { recursive, prevIndex = '0' } = {}) {
      etcd.delete(key, { recursive: recursive === 'true', prevIndex: Number(prevIndex) });
      await clock.settle();
    },
    freeze: (place) => etcd.freeze(named(place)),
    thaw: (place) => etcd.start(named(place)),
    stop: async (place) => etcd.stop(named(place)),
    async start(...places) {
      for (const place of places) etcd.start(named(place));
    },
    async save() {
      saved = etcd.snapshot();
    },
    async restore(as) {
      if (saved !== undefined) etcd.restore(saved, { sameId: as === 'the same cluster' });
    },
    settled: (promise) => clock.complete(promise),
    async until(what, condition) {
      for (let waitedMs = 0; !(await condition()); waitedMs += 100) {
        if (waitedMs > 60_000) throw new Error(`${what}: not within a minute of virtual time`);
        await clock.advance(100);
      }
    },
    async close() {
      etcd.close();
      await clock.settle();
      if (clock.pending > 0 || etcd.polls > 0)
        throw new Error(`${clock.pending} timers and ${etcd.polls} polls are left`);
    },
  };
});
