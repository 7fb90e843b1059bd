import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { altered } from '../../sim/altered.ts';
import { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import { WatchHost } from '../../sim/lease-watch-host.ts';
import { prefix, valueOf } from '../../sim/leases.ts';
import { type WatchContext, watchMember } from '../../src/subnet/etcd/watch.ts';
import { NO_CLUSTER, prefixEnd, type WatchBatch } from '../../src/subnet/registry/registry.ts';
import { type Rotation, rotate } from '../../src/subnet/registry/rotation.ts';

// What etcd's gRPC proxy says that etcd does not: test/integration/etcd-grpc-proxy.test.ts has a real one.

const a = `${prefix}10.1.1.0-24`;
const b = `${prefix}10.1.2.0-24`;
const minuteMs = 60_000;

describe('a lease watch that the proxy merges into one that it has', () => {
  let host: WatchHost;
  let requests: { readonly key: string; readonly startRevision?: number }[];

  beforeEach(async () => {
    requests = [];
    host = new WatchHost({}, 1, ({ etcd, registry }) => {
      etcd.put(a, valueOf('10.0.0.1'));
      registry.beforeWatch = (request) => void requests.push(request);
      // The proxy confirms whatever is asked for, in the name of no cluster.
      registry.header = (header, kind) =>
        kind === 'created'
          ? { clusterId: NO_CLUSTER, revision: requests.at(-1)?.startRevision ?? 0 }
          : header;
    });
    await host.clock.advance(10);
  });

  afterEach(() => host.stop());

  it('gets every change, and lists no second time', async () => {
    host.etcd.put(b, valueOf('10.0.0.2'));
    await host.clock.settle();
    host.etcd.delete(a);
    await host.clock.settle();
    expect([...host.believed.keys()]).toEqual([b]);
    expect(host.snapshots).toBe(1);
    expect(host.log.lines).toEqual([]);
  });

  it('finds a restore under the same cluster id by the list after a reopened stream, not by its confirmation', async () => {
    const backup = host.etcd.snapshot();
    host.etcd.put(b, valueOf('10.0.0.2'));
    await host.clock.settle();
    host.etcd.restore(backup, { sameId: true });
    await host.clock.advance(minuteMs + 5_000);
    expect([...host.believed.keys()]).toEqual([a]);
    host.etcd.put(b, valueOf('10.0.0.3'));
    await host.clock.settle();
    expect(host.believed).toEqual(host.listed);
    expect(host.log.events('relist')).toHaveLength(1);
    // The first list, the one that shows the restore, those that follow from it: none each second.
    expect(host.etcd.calls.range).toBeLessThan(6);
  });

  it('asks for another range after each stream, which all hold every lease', async () => {
    for (let times = 0; times < 20; times++) {
      host.etcd.cutWatches();
      await host.clock.advance(5_000);
      host.etcd.put(b, valueOf(`10.0.0.${times}`));
      await host.clock.settle();
      expect(host.believed).toEqual(host.listed);
    }
    const keys = requests.map(({ key }) => key);
    expect(keys.every((key, index) => key !== keys[index - 1])).toBe(true);
    expect(new Set(keys).size).toBe(16);
  });
});

describe('members that are proxies', () => {
  let clock: VirtualClock;
  let etcd: SimEtcd;
  let registry: Rotation;
  let stop: AbortController;

  beforeEach(() => {
    clock = new VirtualClock();
    etcd = new SimEtcd({ clock });
    etcd.put(a, valueOf('10.0.0.1'));
    stop = new AbortController();
    const proxy = altered(etcd.member('etcd-0'), { watch: (_, signal) => deaf(signal) });
    registry = rotate([proxy], { leasesPrefix: prefix, clock });
    void registry.run(clock, stop.signal).catch(() => undefined);
  });

  afterEach(async () => {
    stop.abort(new Error('stopped'));
    registry.close();
    etcd.close();
    await clock.settle();
  });

  /** A stream that is confirmed in the name of no cluster, and outlives whatever happens to etcd. */
  async function* deaf(signal: AbortSignal): AsyncGenerator<WatchBatch> {
    yield { header: { clusterId: NO_CLUSTER, revision: 1 }, events: [], fragment: false, kind: 'created' };
    await clock.sleep(Number.MAX_SAFE_INTEGER, signal);
  }

  /** Opens the watch; what it failed with, once it has. */
  function opened(): { failure: unknown } {
    const result: { failure: unknown } = { failure: undefined };
    const follow = async () => {
      const request = { key: prefix, rangeEnd: prefixEnd(prefix), startRevision: 1 };
      for await (const { kind } of registry.watch(request, stop.signal)) expect(kind).toBe('created');
    };
    follow().catch((error: unknown) => {
      result.failure = error;
    });
    return result;
  }

  it('keep a watch that they confirm in the name of no cluster', async () => {
    const watch = opened();
    await clock.advance(10 * minuteMs);
    expect(watch.failure).toBeUndefined();
  });

  it('lose the watch within about a minute of a restore of the etcd behind them under the same cluster id', async () => {
    const backup = etcd.snapshot();
    etcd.put(a, valueOf('10.0.0.2'));
    const watch = opened();
    await clock.advance(2 * minuteMs);
    expect(watch.failure).toBeUndefined();
    etcd.restore(backup, { sameId: true });
    await clock.advance(minuteMs + 10_000);
    expect(watch.failure).toMatchObject({ kind: 'UNAVAILABLE', message: /went back from revision 3 to 2/ });
  });
});

describe('a stream of etcd', () => {
  const header = { cluster_id: '7', member_id: '1', revision: '5', raft_term: '2' };
  const progress = {
    header,
    created: false,
    canceled: false,
    compact_revision: '0',
    events: [],
    fragment: false,
  };

  it('is given up after 25 minutes without a word, and not while progress is told every 22', async () => {
    const clock = new VirtualClock();
    const stream = Object.assign(new PassThrough({ objectMode: true }), { cancel: () => {} });
    const stop = new AbortController();
    const way: WatchContext['way'] = { endpoint: 'http://proxy', names: {}, failure: undefined };
    const context = { way, clock, open: async () => stream, closing: new AbortController().signal };
    const kinds: string[] = [];
    let failure: unknown;
    const follow = async () => {
      for await (const { kind } of watchMember(context, stop.signal)) kinds.push(kind);
    };
    const followed = follow().catch((error: unknown) => {
      failure = error;
    });
    stream.write({ ...progress, created: true });
    for (let times = 0; times < 5; times++) {
      await clock.advance(22 * minuteMs);
      stream.write(progress);
    }
    await clock.advance(24 * minuteMs);
    expect(failure).toBeUndefined();
    await clock.advance(2 * minuteMs);
    await followed;
    expect(failure).toMatchObject({ kind: 'UNAVAILABLE', message: /no word of its watch for 25 minutes/ });
    expect(kinds).toEqual(['created', ...Array.from({ length: 5 }, () => 'progress')]);
    expect(clock.pending).toBe(0);
  });
});
