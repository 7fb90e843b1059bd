import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { SimEtcdOptions, Snapshot } from '../../sim/etcd.ts';
import { WatchHost } from '../../sim/lease-watch-host.ts';
import { prefix, valueOf } from '../../sim/leases.ts';
import type { LeaseUpdate } from '../../src/subnet/lease/watch/reader.ts';

const a = `${prefix}10.1.1.0-24`;
const b = `${prefix}10.1.2.0-24`;

let host: WatchHost;

function start(options: Partial<SimEtcdOptions> = {}, before?: (host: WatchHost) => void): void {
  host = new WatchHost(options, 1, before);
}

/** Starts the watch, and has it list. */
async function listed(
  options: Partial<SimEtcdOptions> = {},
  before?: (host: WatchHost) => void,
): Promise<void> {
  start(options, before);
  await host.clock.advance(10);
}

const withA = ({ etcd }: WatchHost) => etcd.put(a, valueOf('10.0.0.1'));

afterEach(async () => {
  expect(await host.stop()).toEqual(new Error('stopped'));
  expect(host.clock.pending).toBe(0);
  expect(host.etcd.watchers).toBe(0);
});

describe('the lease watch', () => {
  it('gives a snapshot, then changes, and is watching', async () => {
    start({}, withA);
    expect(host.watch.watching).toBe(false);
    await host.clock.advance(10);
    expect(host.watch.watching).toBe(true);
    host.etcd.put(b, valueOf('10.0.0.2'));
    host.etcd.put(a, valueOf('10.0.0.9'));
    await host.clock.settle();
    host.etcd.delete(a);
    await host.clock.settle();
    expect(
      host.updates.map((update) =>
        update.type === 'snapshot'
          ? update.leases.map(({ key }) => `= ${key}`)
          : [
              ...update.put.map(({ value }) => `+ ${value.publicIP}`),
              ...update.removed.map((key) => `- ${key}`),
            ],
      ),
    ).toEqual([[`= ${a}`], ['+ 10.0.0.2'], ['+ 10.0.0.9'], [`- ${a}`]]);
    expect(host.log.lines).toEqual([]);
  });

  it('gives an empty snapshot for an empty prefix, and does not see a neighbour of it', async () => {
    await listed();
    host.etcd.put('/net/subnets-old/10.1.1.0-24', valueOf('10.0.0.1'));
    host.etcd.put('/net/subnets', valueOf('10.0.0.1'));
    host.etcd.put('/net/subnets0', valueOf('10.0.0.1'));
    await host.clock.advance(10);
    expect(host.updates).toEqual([{ type: 'snapshot', leases: [], revision: 1 }]);
  });

  it('skips junk keys and values, says so once each, and changes nothing else', async () => {
    await listed({}, ({ etcd }) => {
      etcd.put(a, valueOf('10.0.0.1'));
      etcd.put(`${prefix}junk`, 'x');
    });
    for (let times = 0; times < 50; times++) {
      host.etcd.put(`${prefix}junk`, `x${times}`);
      host.etcd.put(b, '{');
      host.etcd.delete(b);
      host.etcd.put(`${prefix}10.1.3.1-24`, valueOf('10.0.0.3'));
      host.etcd.cutWatches();
      if (times % 10 === 9) {
        await host.clock.settle();
        host.etcd.compact();
      }
      await host.clock.advance(5_000);
    }
    expect([...host.believed]).toEqual([[a, valueOf('10.0.0.1')]]);
    expect(host.snapshots).toBeGreaterThan(1);
    const skipped = host.log.events('lease-skipped').map(({ message }) => message);
    expect(skipped).toHaveLength(3);
    expect(skipped.join('\n')).toContain(`${prefix}junk`);
  });

  it('removes a lease whose value becomes junk, and adds it when the value is readable again', async () => {
    await listed({}, withA);
    host.etcd.put(a, 'null');
    await host.clock.settle();
    expect([...host.believed.keys()]).toEqual([]);
    host.etcd.put(a, valueOf('10.0.0.2'));
    await host.clock.settle();
    expect(host.believed.get(a)).toBe(valueOf('10.0.0.2'));
    host.etcd.put(a, 'null');
    await host.clock.settle();
    expect(host.log.events('lease-skipped')).toHaveLength(2);
  });

  it('collapses the changes of one key that arrive together into the last', async () => {
    await listed();
    host.etcd.stop('etcd-0');
    for (const ip of ['10.0.0.1', '10.0.0.2', '10.0.0.3']) host.etcd.put(a, valueOf(ip));
    host.etcd.put(b, valueOf('10.0.0.4'));
    host.etcd.delete(b);
    host.etcd.start('etcd-0');
    await host.clock.advance(10_000);
    expect(host.updates.slice(1)).toMatchObject([
      { type: 'delta', put: [{ key: a, value: { publicIP: '10.0.0.3' } }], removed: [b] },
    ]);
  });

  it('resumes after the last event it delivered, not after the header of a backlog still to come', async () => {
    await listed({ fragmentEvents: 2 });
    for (let round = 0; round < 6; round++) {
      host.etcd.cutWatches();
      for (let index = 0; index < 5; index++)
        host.etcd.put(`${prefix}10.${round}.${index}.0-24`, valueOf('10.0.0.1'));
      host.etcd.cutNextWatchAfter(round % 4);
      await host.clock.advance(30_000);
    }
    expect(host.believed).toEqual(host.listed);
    expect(host.believed.size).toBe(30);
    expect(host.snapshots).toBe(1);
  });

  it('is not fooled by a compaction at the very revision it resumes at, which hides that revision’s deletes', async () => {
    await listed({}, ({ etcd }) => {
      etcd.put(a, valueOf('10.0.0.1'));
      etcd.put(b, valueOf('10.0.0.2'));
    });
    host.etcd.stop('etcd-0');
    host.etcd.delete(a);
    host.etcd.compact();
    host.etcd.start('etcd-0');
    await host.clock.advance(10_000);
    expect([...host.believed.keys()]).toEqual([b]);
  });

  it.each([
    ['in one transaction', (all: readonly string[]) => host.etcd.delete(...all)],
    [
      'one by one',
      (all: readonly string[]) => {
        for (const key of all) host.etcd.delete(key);
      },
    ],
  ])(
    'ends with what a full list gives when five leases and a junk key come and all go again, one event to a fragment: %s',
    async (_, remove) => {
      await listed({ fragmentEvents: 1 });
      const junk = `${prefix}10.1.1.1-24`;
      const five = Array.from({ length: 5 }, (__, i) => `${prefix}10.1.${i + 1}.0-24`);
      host.etcd.put(junk, valueOf('10.0.0.7'));
      for (const key of five) host.etcd.put(key, valueOf('10.0.0.7'));
      await host.clock.settle();
      expect([...host.believed.keys()]).toEqual(five);
      remove([...five, junk]);
      await host.clock.advance(5_000);
      expect(host.believed).toEqual(host.listed);
      expect(host.believed.size).toBe(0);
      expect(host.trouble.current).toEqual([]);
    },
  );

  it('moves on with progress notifications, so that a quiet prefix outlives compactions without a list', async () => {
    await listed({ progressIntervalMs: 60_000 });
    for (let times = 0; times < 20; times++) {
      host.etcd.put('/elsewhere', String(times));
      await host.clock.advance(61_000);
      host.etcd.compact();
      host.etcd.cutWatches();
      await host.clock.advance(5_000);
    }
    expect(host.snapshots).toBe(1);
  });

  it('lists once, after a wait, when it was compacted away', async () => {
    await listed();
    host.etcd.stop('etcd-0');
    for (let index = 0; index < 10; index++) host.etcd.put(a, valueOf(`10.0.0.${index + 1}`));
    host.etcd.compact();
    host.etcd.start('etcd-0');
    await host.clock.advance(3_600_000);
    expect(host.believed).toEqual(host.listed);
    expect(host.snapshots).toBe(2);
    expect(host.log.events('relist')).toHaveLength(1);
    expect(host.etcd.calls.range).toBe(2);
  });

  it.each([
    ['of another cluster id', false],
    ['of the same cluster id', true],
  ])('lists again after a restore from a backup %s', async (_, sameId) => {
    start({}, ({ registry }) => {
      if (sameId) registry.header = (header) => ({ ...header, clusterId: '1' });
    });
    host.etcd.put(a, valueOf('10.0.0.1'));
    await host.clock.advance(10);
    const backup = host.etcd.snapshot();
    host.etcd.put(a, valueOf('10.0.0.2'));
    host.etcd.put(b, valueOf('10.0.0.3'));
    await host.clock.settle();
    host.etcd.restore(backup);
    await host.clock.advance(10_000);
    expect(host.believed).toEqual(host.listed);
    expect([...host.believed]).toEqual([[a, valueOf('10.0.0.1')]]);
    host.etcd.put(b, valueOf('10.0.0.4'));
    await host.clock.settle();
    expect(host.believed).toEqual(host.listed);
  });

  it('lists again when another cluster answers, even one whose revision is ahead', async () => {
    await listed({}, withA);
    const backup = host.etcd.snapshot();
    host.etcd.put(b, valueOf('10.0.0.2'));
    await host.clock.settle();
    host.etcd.stop('etcd-0');
    host.etcd.restore(backup);
    for (let times = 0; times < 20; times++) host.etcd.put('/elsewhere', 'x');
    host.etcd.start('etcd-0');
    await host.clock.advance(10_000);
    expect([...host.believed.keys()]).toEqual([a]);
    expect(host.believed).toEqual(host.listed);
  });

  it('survives a member that lags behind for a while, without a hot loop', async () => {
    await listed({}, withA);
    host.registry.header = (header, kind) =>
      kind === 'created' ? { ...header, revision: header.revision - 1 } : header;
    host.etcd.cutWatches();
    await host.clock.advance(60_000);
    expect(host.etcd.calls.range).toBeLessThan(40);
    host.registry.header = (header) => header;
    host.etcd.put(b, valueOf('10.0.0.2'));
    await host.clock.advance(10_000);
    expect(host.believed).toEqual(host.listed);
    expect(host.watch.watching).toBe(true);
  });

  it('keeps what it has while etcd is away for a day, says so in a handful of lines, then catches up', async () => {
    start({ members: ['m0', 'm1', 'm2'] });
    host.etcd.put(a, valueOf('10.0.0.1'));
    await host.clock.advance(10);
    for (const name of host.etcd.members) host.etcd.stop(name);
    await host.clock.advance(10);
    expect(host.watch.watching).toBe(false);
    await host.clock.advance(86_400_000);
    expect([...host.believed.keys()]).toEqual([a]);
    expect(host.log.lines.length).toBeLessThan(20);
    expect(host.trouble.current.join()).toMatch(
      /routes stay unchanged.*http:\/\/m\d:2379.*connection refused/,
    );
    host.etcd.put(b, valueOf('10.0.0.2'));
    for (const name of host.etcd.members) host.etcd.start(name);
    await host.clock.advance(3_100);
    expect(host.believed).toEqual(host.listed);
    expect(host.trouble.current).toEqual([]);
  }, 60_000);

  it('does not log each turn of a stream that opens and breaks for hours', async () => {
    await listed();
    for (let times = 0; times < 100_000; times++) host.etcd.cutNextWatchAfter(1);
    host.etcd.cutWatches();
    for (let hours = 0; hours < 6; hours++) {
      host.etcd.put(a, valueOf(`10.0.0.${hours + 1}`));
      await host.clock.advance(3_600_000);
    }
    expect(host.log.lines.length).toBeLessThan(70);
    expect(host.etcd.calls.watch).toBeLessThan(15_000);
  }, 60_000);

  it('finds a frozen member and goes on with another', async () => {
    await listed({ members: ['m0', 'm1', 'm2'] });
    host.etcd.freeze('m0');
    host.etcd.put(a, valueOf('10.0.0.1'));
    await host.clock.advance(15_000);
    expect(host.believed).toEqual(host.listed);
  });

  it('waits for etcd when there is none at the start', async () => {
    start({}, ({ etcd }) => etcd.stop('etcd-0'));
    await host.clock.advance(60_000);
    expect(host.updates).toEqual([]);
    host.etcd.start('etcd-0');
    await host.clock.advance(3_100);
    expect(host.snapshots).toBe(1);
  });
});

describe('a removal of most leases at once', () => {
  const keys = Array.from({ length: 10 }, (_, i) => `${prefix}10.1.${i}.0-24`);
  const full = ({ etcd }: WatchHost) => {
    for (const [i, key] of keys.entries()) etcd.put(key, valueOf(`10.0.0.${i + 1}`));
  };
  const said = (event: string) =>
    host.log.events(event).filter(({ fields }) => fields['what'] === 'mass-removal');

  it('waits for a second list a moment later, and is reported to the keeper of the own lease at once', async () => {
    const told: LeaseUpdate[] = [];
    await listed({}, full);
    host.onDoubt = (update) => told.push(update);
    const ranges = host.etcd.calls.range;
    host.etcd.delete(...keys.slice(0, 6));
    await host.clock.settle();
    expect(told).toMatchObject([{ type: 'delta', removed: keys.slice(0, 6) }]);
    await host.clock.advance(900);
    expect(host.updates).toHaveLength(1);
    expect(host.etcd.calls.range).toBe(ranges);
    expect(host.trouble.current).toEqual([
      '6 of 10 leases under /net/subnets/ are gone at once; their routes stay until another list confirms it',
    ]);
    await host.clock.advance(200);
    expect(host.updates.slice(1)).toMatchObject([{ type: 'snapshot' }]);
    expect([...host.believed.keys()]).toEqual(keys.slice(6));
    expect(host.etcd.calls.range).toBe(ranges + 1);
    expect(host.trouble.current).toEqual([]);
    expect(said('trouble-over').map(({ message }) => message)).toEqual([
      'the bulk removal of leases is confirmed: 6 of 10 are gone',
    ]);
  });

  it('counts only leases that have routes: three of them and an unreadable one go at once', async () => {
    await listed({}, ({ etcd }) => {
      for (const [i, key] of keys.slice(0, 4).entries()) etcd.put(key, valueOf(`10.0.0.${i + 1}`));
      etcd.put(keys[4] ?? '', '{"PublicIP":"x"}');
    });
    host.etcd.delete(...keys.slice(1, 5));
    await host.clock.advance(10);
    expect(host.updates.slice(1)).toMatchObject([{ type: 'delta', put: [], removed: keys.slice(1, 5) }]);
    expect(host.trouble.current).toEqual([]);
  });

  it('removes nothing when the leases are back, and the watch continues', async () => {
    await listed({}, full);
    host.etcd.delete(...keys);
    await host.clock.advance(500);
    full(host);
    await host.clock.advance(600);
    expect(host.updates.map(({ type }) => type)).toEqual(['snapshot', 'snapshot']);
    expect(host.updates[1]).toMatchObject({ leases: keys.map((key) => ({ key })) });
    expect(said('trouble-over').map(({ message }) => message)).toEqual([
      'the bulk removal of leases is not confirmed',
    ]);
    host.etcd.put(a, valueOf('10.0.0.99'));
    await host.clock.settle();
    expect(host.updates).toHaveLength(3);
    expect(host.believed).toEqual(host.listed);
  });

  it('is asked about a second time when a list shows it', async () => {
    await listed({}, full);
    const backup = host.etcd.snapshot();
    host.etcd.stop('etcd-0');
    host.etcd.delete(...keys);
    host.etcd.compact();
    host.etcd.start('etcd-0');
    while (host.etcd.calls.range < 2) await host.clock.advance(10);
    host.etcd.restore(backup);
    await host.clock.advance(10_000);
    expect(said('trouble')).toHaveLength(1);
    expect(host.believed.size).toBe(10);
    expect(host.updates.every((update) => update.type !== 'snapshot' || update.leases.length === 10)).toBe(
      true,
    );
  });

  it('removes nothing while etcd does not answer the second list', async () => {
    await listed({}, full);
    host.etcd.delete(...keys);
    await host.clock.advance(500);
    host.etcd.stop('etcd-0');
    await host.clock.advance(3_600_000);
    expect(host.believed.size).toBe(10);
    host.etcd.start('etcd-0');
    await host.clock.advance(10_000);
    expect(host.believed.size).toBe(0);
    expect(host.trouble.current).toEqual([]);
  });

  it('includes leases that become unreadable, and none of another backend', async () => {
    await listed({}, ({ etcd }) => {
      for (const key of keys) etcd.put(key, '{"PublicIP":"10.0.0.1","BackendType":"vxlan"}');
    });
    host.etcd.delete(...keys);
    await host.clock.settle();
    expect(host.believed.size).toBe(0);
    full(host);
    await host.clock.settle();
    expect(said('trouble')).toEqual([]);
    host.etcd.stop('etcd-0');
    for (const key of keys) host.etcd.put(key, '{"BackendType":"host-gw"}');
    host.etcd.start('etcd-0');
    await host.clock.advance(10_000);
    expect(said('trouble')).toHaveLength(1);
    expect(host.believed).toEqual(host.listed);
  });

  it.each([
    ['three of three', 3, 3],
    ['five of ten', 10, 5],
  ])('goes to the routes at once when it is %s', async (_, all, gone) => {
    await listed({}, ({ etcd }) => {
      for (const key of keys.slice(0, all)) etcd.put(key, valueOf('10.0.0.1'));
    });
    host.etcd.delete(...keys.slice(0, gone));
    await host.clock.settle();
    expect(host.believed.size).toBe(all - gone);
    expect(said('trouble')).toEqual([]);
  });
});

const minuteMs = 60_000;

describe('a lease watch that has a lease', () => {
  beforeEach(async () => {
    await listed({}, withA);
  });

  /** Restores a backup under the same cluster id, then writes until its revision is past the one before: only a list shows what is gone. */
  function restoreOvertaken(backup: Snapshot): void {
    const { revision } = host.etcd;
    host.etcd.restore(backup, { sameId: true });
    while (host.etcd.revision <= revision) host.etcd.put('/elsewhere', '');
  }

  async function putAndRestore(): Promise<void> {
    const backup = host.etcd.snapshot();
    host.etcd.put(b, valueOf('10.0.0.2'));
    await host.clock.advance(10);
    restoreOvertaken(backup);
  }

  describe('after a stream was lost and opened again', () => {
    it('lists, which shows a restore under the same cluster id whose revisions were passed again', async () => {
      await putAndRestore();
      await host.clock.advance(minuteMs + 5_000);
      expect(host.believed).toEqual(host.listed);
      expect([...host.believed.keys()]).toEqual([a]);
      host.etcd.put(b, valueOf('10.0.0.3'));
      await host.clock.settle();
      expect(host.believed).toEqual(host.listed);
    });

    it('lists although the stream is lost again and again before that', async () => {
      const backup = host.etcd.snapshot();
      host.etcd.delete(a);
      await host.clock.advance(10);
      restoreOvertaken(backup);
      for (let times = 0; times < 40; times++) {
        await host.clock.advance(3_000);
        host.etcd.cutWatches();
      }
      expect([...host.believed.keys()]).toEqual([a]);
    });

    it('lists after the new stream is open, although that takes long and etcd is restored in between', async () => {
      // When the list is due is drawn: with some seeds it would come before the stream.
      for (let seed = 1; seed <= 80; seed++) {
        await host.stop();
        host = new WatchHost({ members: ['etcd-0', 'etcd-1', 'etcd-2'] }, seed);
        host.etcd.put(a, valueOf('10.0.0.1'));
        await host.clock.advance(10);
        const backup = host.etcd.snapshot();
        host.etcd.delete(a);
        await host.clock.advance(2_000);
        // The next member to be asked is silent for a while; lists go to another one.
        host.etcd.cut('h0', 'etcd-1');
        host.etcd.cutWatches();
        await host.clock.advance(8_500);
        restoreOvertaken(backup);
        host.etcd.heal('h0');
        await host.clock.advance(minuteMs + 10_000);
        expect([...host.believed.keys()]).toEqual([a]);
      }
    });

    // A restore may have undone what this host wrote.
    it('lists once, for the keeper of the own lease, and delivers nothing when that list says the same', async () => {
      const told: number[] = [];
      host.onDoubt = (update) => told.push(update.revision);
      host.etcd.cutWatches();
      await host.clock.advance(1_000);
      const { range } = host.etcd.calls;
      await host.clock.advance(10 * minuteMs);
      expect(host.etcd.calls.range).toBe(range + 1);
      expect(told).toEqual([host.etcd.revision]);
      expect(host.updates).toHaveLength(1);
      expect(host.watch.watching).toBe(true);
    });

    it('not after the first stream, which was asked for with the list in hand, however late that opens', async () => {
      await host.stop();
      host = new WatchHost({ latencyMs: 1_500 });
      await host.clock.advance(10 * minuteMs);
      expect(host.watch.watching).toBe(true);
      expect(host.etcd.calls.range).toBe(1);
    });

    it('loses no event that comes while the list is on its way', async () => {
      await host.stop();
      host = new WatchHost({ latencyMs: 50, fragmentEvents: 1 });
      await host.clock.advance(1_000);
      host.etcd.cutWatches();
      for (let times = 0; times < 2_000; times++) {
        host.etcd.putAll(new Map([a, b].map((key) => [key, valueOf(`10.0.${times >> 8}.${times & 255}`)])));
        await host.clock.advance(41);
      }
      await host.clock.advance(1_000);
      expect(host.believed).toEqual(host.listed);
      expect(host.snapshots).toBeGreaterThan(0);
    });
  });

  it.each([
    ['the stream', async () => host.etcd.put(b, valueOf('10.0.0.2'))],
    ['the list after a new stream', putAndRestore],
  ])(
    'gives a change of %s again to a consumer that failed, and logs the bug with its stack',
    async (_, change) => {
      await change();
      // The next update meets a bug; those after it do not.
      host.onUpdate = () => {
        host.onUpdate = () => {};
        throw new TypeError('a bug');
      };
      await host.clock.advance(3 * minuteMs);
      expect(host.log.lines.filter(({ level }) => level === 'error')).toMatchObject([
        { fields: { error: new TypeError('a bug') } },
      ]);
      expect(host.believed).toEqual(host.listed);
      expect(host.trouble.current).toEqual([]);
    },
  );
});
