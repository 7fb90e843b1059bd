import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { WatchHost } from '../../sim/lease-watch-host.ts';
import { prefix, valueOf } from '../../sim/leases.ts';

const a = `${prefix}10.1.1.0-24`;
const b = `${prefix}10.1.2.0-24`;
const minuteMs = 60_000;

let host: WatchHost;

beforeEach(async () => {
  host = new WatchHost();
  host.etcd.put(a, valueOf('10.0.0.1'));
  await host.clock.advance(10);
});

afterEach(async () => {
  expect(await host.stop()).toEqual(new Error('stopped'));
  expect(host.clock.pending).toBe(0);
});

/** Restores a backup under the same cluster id, then writes until its revision is past the one before: only a list shows what is gone. */
async function restoreOvertaken(): Promise<void> {
  const backup = host.etcd.snapshot();
  host.etcd.put(b, valueOf('10.0.0.2'));
  await host.clock.advance(10);
  const { revision } = host.etcd;
  host.etcd.restore(backup, { sameId: true });
  while (host.etcd.revision <= revision) host.etcd.put('/elsewhere', '');
}

describe('a stream that was lost and opened again', () => {
  it('is followed by a list, which shows a restore that kept the id and was written over', async () => {
    await restoreOvertaken();
    await host.clock.advance(minuteMs + 5_000);
    expect(host.believed).toEqual(host.listed);
    expect([...host.believed.keys()]).toEqual([a]);
    host.etcd.put(b, valueOf('10.0.0.3'));
    await host.clock.settle();
    expect(host.believed).toEqual(host.listed);
  });

  it('also when it is lost again and again before that', async () => {
    const backup = host.etcd.snapshot();
    host.etcd.delete(a);
    await host.clock.advance(10);
    const { revision } = host.etcd;
    host.etcd.restore(backup, { sameId: true });
    while (host.etcd.revision <= revision) host.etcd.put('/elsewhere', '');
    for (let times = 0; times < 40; times++) {
      await host.clock.advance(3_000);
      host.etcd.cutWatches();
    }
    expect([...host.believed.keys()]).toEqual([a]);
  });

  it('also when it is long in coming, and etcd is restored only then', async () => {
    // When the list is due is drawn: with some seeds it would come before the stream.
    for (let seed = 1; seed <= 80; seed++) {
      await host.stop();
      host = new WatchHost({ members: ['etcd-0', 'etcd-1', 'etcd-2'] }, seed);
      host.etcd.put(a, valueOf('10.0.0.1'));
      await host.clock.advance(10);
      const backup = host.etcd.snapshot();
      host.etcd.delete(a);
      await host.clock.advance(2_000);
      const { revision } = host.etcd;
      // The next member to be asked is silent for a while; lists go to another one.
      host.etcd.cut('h0', 'etcd-1');
      host.etcd.cutWatches();
      await host.clock.advance(8_500);
      host.etcd.restore(backup, { sameId: true });
      while (host.etcd.revision <= revision) host.etcd.put('/elsewhere', '');
      host.etcd.heal('h0');
      await host.clock.advance(minuteMs + 10_000);
      expect([...host.believed.keys()]).toEqual([a]);
    }
  });

  it('delivers nothing when the list says the same, and lists once', async () => {
    host.etcd.cutWatches();
    await host.clock.advance(1_000);
    const { range } = host.etcd.calls;
    await host.clock.advance(10 * minuteMs);
    expect(host.etcd.calls.range).toBe(range + 1);
    expect(host.snapshots).toBe(1);
  });

  it('tells the keeper of the own lease of such a list: a restore may have taken back what he had written since', async () => {
    const told: number[] = [];
    host.onDoubt = (update) => told.push(update.revision);
    host.etcd.cutWatches();
    await host.clock.advance(2 * minuteMs);
    expect(told).toEqual([host.etcd.revision]);
    expect(host.snapshots).toBe(1);
  });

  it('loses nothing that the stream brings while the list is on its way', async () => {
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

describe('a consumer that fails', () => {
  /** The next update meets a bug; those after it do not. */
  const failOnce = () => {
    host.onUpdate = () => {
      host.onUpdate = () => {};
      throw new TypeError('a bug');
    };
  };
  const bugs = () => host.log.lines.filter(({ level }) => level === 'error');

  it('gets a change that the stream brought once more, and its bug is logged with the stack', async () => {
    failOnce();
    host.etcd.put(b, valueOf('10.0.0.2'));
    await host.clock.advance(5_000);
    expect(bugs()).toMatchObject([{ fields: { error: new TypeError('a bug') } }]);
    expect(host.believed).toEqual(host.listed);
    expect(host.trouble.current).toEqual([]);
  });

  it('gets what the list after a new stream says once more, and its bug is logged with the stack', async () => {
    await restoreOvertaken();
    failOnce();
    await host.clock.advance(3 * minuteMs);
    expect(bugs()).toMatchObject([{ fields: { error: new TypeError('a bug') } }]);
    expect([...host.believed.keys()]).toEqual([a]);
  });
});
