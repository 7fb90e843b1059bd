import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import type { WatchBatch } from '../../src/subnet/registry/registry.ts';
import { registryContract } from './registry.ts';
import { collect, put, rejectionOf } from './registry-suite.ts';

registryContract('in memory', async () => {
  const clock = new VirtualClock();
  const etcd = new SimEtcd({ clock, deadlineMs: 1_000 });
  const registry = etcd.member('etcd-0');
  return {
    registry,
    connect: () => etcd.member('etcd-0'),
    compact: async (revision) => etcd.compact(revision),
    freeze: () => etcd.freeze('etcd-0'),
    thaw: () => etcd.start('etcd-0'),
    watchers: async () => etcd.watchers,
    settled: (promise) => clock.complete(promise),
    async until(what, condition) {
      for (let waitedMs = 0; !(await condition()); waitedMs += 100) {
        if (waitedMs > 60_000) throw new Error(`${what}: not within a minute of virtual time`);
        await clock.advance(100);
      }
    },
    async close() {
      registry.close();
      etcd.close();
      await clock.settle();
      expect(etcd.watchers).toBe(0);
      expect(clock.pending).toBe(0);
    },
  };
});

describe('faults of the simulated cluster', () => {
  let clock: VirtualClock;
  let etcd: SimEtcd;
  const names = ['etcd-0', 'etcd-1', 'etcd-2'];
  const signal = new AbortController().signal;

  beforeEach(() => {
    clock = new VirtualClock();
    etcd = new SimEtcd({ clock, members: names, fragmentEvents: 2 });
  });
  afterEach(() => etcd.close());

  /** A host's watch of `k/`: what it has told so far, and what ends it. */
  function watching(host = 'host', start = 1) {
    const told: WatchBatch[] = [];
    const enough = (seen: readonly WatchBatch[]) => (told.push(...seen.slice(-1)), false);
    const ended = rejectionOf(collect(etcd.member('etcd-0', host), 'k/', start, enough, signal));
    return { told, ended, kinds: () => told.map(({ kind }) => kind) };
  }

  it('carries out what it is asked while answers and watch messages are lost', async () => {
    const member = etcd.member('etcd-0', 'h0');
    etcd.cutAnswers('h0');
    const lost = rejectionOf(member.txn({ compare: [], success: [put('a', '1')] }));
    await clock.advance(5_000);
    expect(await lost).toMatchObject({ kind: 'UNAVAILABLE', outcomeUnknown: true });
    expect(etcd.get('a')?.value).toBe('1');
    etcd.heal('h0');
    expect((await member.range({ key: 'a' })).kvs).toHaveLength(1);
  });

  it('delivers late what a slow link carries', async () => {
    etcd.slowWatches('h0', 500);
    const { kinds } = watching('h0');
    await clock.advance(1);
    etcd.put('k/a', '1');
    await clock.advance(499);
    expect(kinds()).toEqual(['created']);
    await clock.advance(1);
    expect(kinds()).toEqual(['created', 'events']);
  });

  it('cuts big messages into fragments, and the stream after as many messages as asked', async () => {
    for (const name of ['a', 'b', 'c', 'd', 'e']) etcd.put(`k/${name}`, name);
    const whole = await collect(etcd.member('etcd-0'), 'k/', 1, (seen) => seen.length === 4, signal);
    const sizes = whole.map(({ events, fragment }) => `${events.length}${fragment ? ' of more' : ''}`);
    expect(sizes).toEqual(['0', '2 of more', '2 of more', '1']);
    for (const messages of [0, 1, 2, 3]) {
      etcd.cutNextWatchAfter(messages);
      const { told, ended } = watching();
      expect(await ended).toMatchObject({ kind: 'UNAVAILABLE' });
      expect(told).toHaveLength(messages);
    }
    expect(etcd.calls.watch).toBe(5);
    expect(etcd.watchers).toBe(0);
  });

  it('loses an answer with or without the effect', async () => {
    const member = etcd.member('etcd-0');
    for (const applied of [true, false]) {
      etcd.loseNextReply({ applied });
      const key = `k/${applied}`;
      expect(await rejectionOf(member.txn({ compare: [], success: [put(key, '1')] }))).toMatchObject({
        outcomeUnknown: true,
      });
      expect(etcd.get(key) !== undefined).toBe(applied);
    }
  });

  it('cuts one host off one member, for calls and for streams, and heals in time', async () => {
    const { kinds, ended } = watching('h1');
    await clock.settle();
    etcd.cut('h1', 'etcd-0');
    await etcd.member('etcd-0', 'h2').txn({ compare: [], success: [put('k/a', '1')] });
    await clock.advance(10_000);
    expect(kinds()).toEqual(['created']);
    etcd.heal('h1');
    await clock.settle();
    expect(kinds()).toEqual(['created', 'events']);
    etcd.cut('h1');
    await clock.advance(15_000);
    expect((await ended).message).toMatch(/no answer/);
    expect(etcd.watchers).toBe(0);
  });

  it('tells an idle watch the revision, and only an idle one', async () => {
    const { told, kinds } = watching();
    await clock.advance(400_000);
    etcd.put('elsewhere', '1');
    etcd.put('k/a', '1');
    await clock.advance(400_000);
    expect(kinds()).toEqual(['created', 'events']);
    await clock.advance(200_000);
    const { revision } = etcd;
    expect(told.at(-1)).toMatchObject({ kind: 'progress', events: [], header: { revision } });
  });

  it('without a quorum refuses calls, ends streams and lets no lease expire', async () => {
    const id = etcd.grant(10);
    etcd.put('k/a', '1', id);
    const { ended } = watching('host', 9);
    await clock.settle();
    etcd.stop('etcd-1');
    etcd.isolate('etcd-2');
    expect((await rejectionOf(etcd.member('etcd-0').range({ key: 'a' }))).message).toMatch(/no leader/);
    await clock.advance(60_000);
    expect((await ended).message).toMatch(/no leader/);
    expect(etcd.get('k/a')).toBeDefined();
    etcd.start('etcd-1');
    // A new leader starts every lease anew.
    await clock.advance(9_000);
    expect(etcd.get('k/a')).toBeDefined();
    await clock.advance(2_000);
    expect(etcd.get('k/a')).toBeUndefined();
    expect(etcd.leaseIds).toEqual([]);
  });

  it('restores a snapshot as another cluster with an older revision', async () => {
    const member = etcd.member('etcd-0');
    etcd.put('k/a', '1');
    const snapshot = etcd.snapshot();
    const before = (await member.range({ key: 'k/a' })).header;
    const { ended } = watching('host', 3);
    await clock.settle();
    etcd.put('k/b', '1');
    etcd.delete('k/a');
    etcd.restore(snapshot);
    expect(await ended).toMatchObject({ kind: 'UNAVAILABLE' });
    const { kvs, header } = await member.range({ key: 'k/', rangeEnd: 'k0' });
    expect(kvs.map(({ key }) => key)).toEqual(['k/a']);
    expect(header.revision).toBe(before.revision);
    expect(header.clusterId).not.toBe(before.clusterId);
  });

  it('misses, as etcd 3.4.23 does, a delete at the very revision that is compacted', async () => {
    etcd.put('k/a', '1');
    etcd.put('k/b', '1');
    etcd.delete('k/a');
    const deleted = etcd.revision;
    etcd.put('k/c', '1');
    etcd.compact(deleted);
    const batches = await collect(etcd.member('etcd-0'), 'k/', deleted, (seen) => seen.length === 2, signal);
    expect(batches.at(-1)?.events).toMatchObject([{ type: 'put', kv: { key: 'k/c' } }]);
  });
});
