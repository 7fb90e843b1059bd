import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { gaps, type KernelMonitor } from '../testbed/kernel-monitor.ts';
import { HEALTH, useBench } from './bench.ts';
import { etcdLeaseIds, type StoredLease, storedLeases } from './route-watch.ts';

const PUBLIC_IP = '10.211.55.100';
/** How long the client may take to find the restored etcd and list anew. */
const FOUND_MS = 40_000;
const STAYS = '172.20.1.0/24 via 10.211.55.101';
const IN_SNAPSHOT = [STAYS, '172.20.2.0/24 via 10.211.55.102', '172.20.3.0/24 via 10.211.55.103'];
/** Since the snapshot one peer has left, one has moved, one has come: all of it is undone by the restore. */
const SINCE = [STAYS, '172.20.3.0/24 via 10.211.55.133', '172.20.4.0/24 via 10.211.55.104'];

const bench = useBench({
  flags: ['--iface=eth0', ...HEALTH],
});
let monitor: KernelMonitor;
/** Saved before the daemon had its lease. */
let early: string;

beforeAll(async () => {
  monitor = await bench.monitor();
  await bench.putRoutes(IN_SNAPSHOT);
  early = await saveSnapshot('early');
  await bench.daemon.start();
});

async function saveSnapshot(name: string): Promise<string> {
  const file = join(bench.dir, `${name}.snapshot`);
  await bench.etcd.ctl('snapshot', 'save', file);
  return file;
}

async function ownLease(): Promise<StoredLease | undefined> {
  return (await storedLeases(bench.etcd.first)).find(({ value }) => value.includes(`"${PUBLIC_IP}"`));
}

/** Makes the changes, restores the snapshot under the running daemon, and expects the routes of the restored list. */
async function changeAndRestore(snapshot: string): Promise<void> {
  await bench.removeLease('172.20.2.0/24');
  await bench.putRoutes(SINCE.slice(1));
  await bench.haveRoutes(SINCE);
  const { pid } = bench.daemon;
  const mark = await monitor.mark();

  await bench.etcd.restore(snapshot);

  await bench.haveRoutes(IN_SNAPSHOT, FOUND_MS);
  const events = (await monitor.since(mark)).map(({ text }) => text);
  // The moved peer has a route all the time, the one that stays is not touched.
  expect(gaps(await monitor.routesSince(mark))).toEqual([
    expect.stringMatching(/Deleted 172\.20\.4\.0\/24 via 10\.211\.55\.104 /),
  ]);
  expect(events.filter((text) => text.includes('172.20.1.0/24'))).toEqual([]);
  expect(bench.daemon.running && bench.daemon.pid).toBe(pid);
  // The new watch is up: a change arrives at once.
  await bench.putLease('172.20.5.0/24', '10.211.55.105');
  await bench.haveRoutes([...IN_SNAPSHOT, '172.20.5.0/24 via 10.211.55.105'], 2_000);
}

/** The daemon has a key on a lease that lives, and says that all is well. */
async function expectHeld(): Promise<StoredLease> {
  await bench.untilReadyz(200, '', 20_000);
  const own = await ownLease();
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
  await bench.removeLease('172.20.5.0/24');
  const before = await expectHeld();
  await changeAndRestore(early);
  await bench.daemon.waitForLog('lease-held');
  const after = await expectHeld();
  expect([after.key, after.value]).toEqual([before.key, before.value]);
});

test('the daemon logged no error in either, and at most six troubles', () => {
  const { logs } = bench.daemon;
  expect(logs.filter(({ event }) => event === 'relist')).toHaveLength(2);
  expect(logs.filter(({ event }) => event === 'lease-lost')).toHaveLength(1);
  expect(logs.filter(({ level }) => level === 'error')).toEqual([]);
  expect(logs.filter(({ event }) => event === 'trouble').length).toBeLessThanOrEqual(6);
});
