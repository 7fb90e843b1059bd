import { join } from 'node:path';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { LogRecord } from '../testbed/daemon.ts';
import { gaps, type KernelMonitor } from '../testbed/kernel-monitor.ts';
import { HEALTH, useBench } from './bench.ts';
import { etcdLeaseIds, type StoredLease, storedLeases } from './route-watch.ts';

// A watch cannot go on where it was: the history was compacted, or etcd was restored from a snapshot. A whole list tells what changed.

const PUBLIC_IP = '10.211.55.100';
/** Keepalive finds a dead connection after 10 s of silence and 5 s without an answer; then comes the way back. */
const FOUND_MS = 40_000;
const STAYS = '172.20.1.0/24 via 10.211.55.101';
const BEFORE = [STAYS, '172.20.2.0/24 via 10.211.55.102', '172.20.3.0/24 via 10.211.55.103'];
/** One peer has left, one has moved, one has come. */
const AFTER = [STAYS, '172.20.3.0/24 via 10.211.55.133', '172.20.4.0/24 via 10.211.55.104'];

const bench = useBench({ flags: ['--iface=eth0', ...HEALTH] });
let monitor: KernelMonitor;
/** Saved before the daemon had its lease. */
let early: string;
let relistsBefore: number;

beforeAll(async () => {
  monitor = await bench.monitor();
  await bench.putRoutes(BEFORE);
  early = await saveSnapshot('early');
  await bench.daemon.start();
});

beforeEach(async () => {
  await bench.removeLease('172.20.4.0/24');
  await bench.putRoutes(BEFORE);
  await bench.haveRoutes(BEFORE);
  relistsBefore = relists();
});

const relists = () => bench.daemon.logs.filter(({ event }) => event === 'relist').length;

async function change(): Promise<void> {
  await bench.removeLease('172.20.2.0/24');
  await bench.putRoutes(AFTER.slice(1));
}

/** One list since the test began has led to these routes since `mark`: without a gap, but for the one that has gone. */
async function expectRelisted(mark: number, routes: readonly string[], gone: string): Promise<void> {
  await bench.haveRoutes(routes, FOUND_MS);
  expect(relists() - relistsBefore).toBe(1);
  // The moved peer has a route all the time, the one that stays is not touched.
  expect(gaps(await monitor.routesSince(mark))).toEqual([expect.stringContaining(`Deleted ${gone} `)]);
  const events = (await monitor.since(mark)).map(({ text }) => text);
  expect(events.filter((text) => text.includes('172.20.1.0/24'))).toEqual([]);
  // The new watch is up: a change arrives at once.
  await bench.putLease('172.20.5.0/24', '10.211.55.105');
  await bench.haveRoutes([...routes, '172.20.5.0/24 via 10.211.55.105'], 2_000);
  await bench.removeLease('172.20.5.0/24');
  await bench.haveRoutes(routes, 2_000);
}

describe('compacted', () => {
  async function changeAndCompact(): Promise<void> {
    await change();
    await bench.etcd.ctl('compact', String(await bench.revision()));
  }

  const expectChanged = (mark: number) => expectRelisted(mark, AFTER, '172.20.2.0/24 via 10.211.55.102');

  /** Cuts the way between the daemon and etcd, both directions, or (`-D`) mends it. etcdctl takes another address. */
  async function dropPackets(action: '-I' | '-D'): Promise<void> {
    for (const which of ['-d 127.0.0.1 --dport 2379', '-s 127.0.0.1 --sport 2379']) {
      await bench.host.exec('iptables', action, ...`OUTPUT -p tcp ${which} -j DROP`.split(' '));
    }
  }

  test('one new list brings the changes that were made and compacted away while packets to etcd were dropped', async () => {
    await dropPackets('-I');
    const mark = await monitor.mark();
    await changeAndCompact();
    const isTrouble = ({ event, what }: LogRecord) => event === 'trouble' && what === 'lease-watch';
    await bench.daemon.waitForLog(isTrouble, FOUND_MS);
    // Meanwhile the routes stay as they were.
    expect((await monitor.since(mark)).map(({ text }) => text)).toEqual([]);
    await dropPackets('-D');
    await expectChanged(mark);
  });

  test('one new list brings the changes that were made and compacted away before the daemon saw etcd end', async () => {
    const mark = await monitor.mark();
    bench.daemon.process.signal('SIGSTOP');
    await bench.etcd.first.kill();
    await bench.etcd.first.start();
    await changeAndCompact();
    bench.daemon.process.signal('SIGCONT');
    await expectChanged(mark);
  });

  test('the daemon kept its lease through both', () => {
    const { logs } = bench.daemon;
    expect(logs.filter(({ event }) => event === 'lease-acquired')).toHaveLength(1);
    expect(logs.filter(({ event }) => event === 'lease-lost')).toEqual([]);
  });
});

async function saveSnapshot(name: string): Promise<string> {
  const file = join(bench.dir, `${name}.snapshot`);
  await bench.etcd.ctl('snapshot', 'save', file);
  return file;
}

describe('restored', () => {
  /** Makes the changes, restores the snapshot under the running daemon, and expects the routes of the restored list. */
  async function changeAndRestore(snapshot: string): Promise<void> {
    await change();
    await bench.haveRoutes(AFTER);
    const { pid } = bench.daemon;
    const mark = await monitor.mark();
    await bench.etcd.restore(snapshot);
    await expectRelisted(mark, BEFORE, '172.20.4.0/24 via 10.211.55.104');
    expect(bench.daemon.running && bench.daemon.pid).toBe(pid);
  }

  /** The daemon has a key on a lease that lives, and says that all is well. */
  async function expectHeld(): Promise<StoredLease> {
    await bench.untilReadyz(200, '', 20_000);
    const own = (await storedLeases(bench.etcd.first)).find(({ value }) => value.includes(`"${PUBLIC_IP}"`));
    if (own === undefined) throw new Error(`etcd has no lease of the host\n${bench.daemon.process.tail()}`);
    expect(await etcdLeaseIds(bench.etcd.first)).toContain(own.leaseId);
    return own;
  }

  test('a restore to a moment with the own lease gives its routes, and the lease is held as before', async () => {
    const before = await expectHeld();
    await changeAndRestore(await saveSnapshot('late'));
    expect(await expectHeld()).toEqual(before);
  });

  test('a restore to a moment before the own lease gives its routes, and the same subnet is taken again', async () => {
    const before = await expectHeld();
    await changeAndRestore(early);
    await bench.daemon.waitForLog('lease-held');
    const after = await expectHeld();
    expect([after.key, after.value]).toEqual([before.key, before.value]);
    expect(bench.daemon.logs.filter(({ event }) => event === 'lease-lost')).toHaveLength(1);
  });
});

test('the daemon logged no error in all this, and at most twelve troubles', () => {
  const { logs } = bench.daemon;
  expect(logs.filter(({ level }) => level === 'error')).toEqual([]);
  expect(logs.filter(({ event }) => event === 'trouble').length).toBeLessThanOrEqual(12);
});
