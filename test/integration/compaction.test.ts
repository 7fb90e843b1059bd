import { beforeAll, beforeEach, expect, test } from 'vitest';
import { gaps, type KernelMonitor } from '../testbed/kernel-monitor.ts';
import { useBench } from './bench.ts';

/** Keepalive finds a dead connection after 10 s of silence and 5 s without an answer; then comes the way back. */
const FOUND_MS = 40_000;
const STAYS = '172.20.1.0/24 via 10.211.55.101';
const BEFORE = [STAYS, '172.20.2.0/24 via 10.211.55.102', '172.20.3.0/24 via 10.211.55.103'];
/** One peer has left, one has moved, one has come. */
const AFTER = [STAYS, '172.20.3.0/24 via 10.211.55.133', '172.20.4.0/24 via 10.211.55.104'];

const bench = useBench();
let monitor: KernelMonitor;

beforeAll(async () => {
  monitor = await bench.monitor();
  await bench.putRoutes(BEFORE);
  await bench.daemon.start();
});

beforeEach(async () => {
  await bench.removeLease('172.20.4.0/24');
  await bench.putRoutes(BEFORE);
  await bench.haveRoutes(BEFORE);
});

/** Makes the changes and forgets how they came about. */
async function changeAndCompact(): Promise<void> {
  await bench.removeLease('172.20.2.0/24');
  await bench.putRoutes(AFTER.slice(1));
  await bench.etcd.ctl('compact', String(await bench.revision()));
}

async function expectRelisted(mark: number, relistsBefore: number): Promise<void> {
  await bench.haveRoutes(AFTER, FOUND_MS);
  expect(relists() - relistsBefore).toBe(1);
  const events = (await monitor.since(mark)).map(({ text }) => text);
  // The moved peer has a route all the time, the one that stays is not touched.
  expect(gaps(await monitor.routesSince(mark))).toEqual([
    expect.stringMatching(/Deleted 172\.20\.2\.0\/24 via 10\.211\.55\.102 /),
  ]);
  expect(events.filter((text) => text.includes('172.20.1.0/24'))).toEqual([]);
  // The new watch is up: a change arrives at once.
  await bench.putLease('172.20.5.0/24', '10.211.55.105');
  await bench.haveRoutes([...AFTER, '172.20.5.0/24 via 10.211.55.105'], 2_000);
  await bench.removeLease('172.20.5.0/24');
  await bench.haveRoutes(AFTER, 2_000);
}

/** Cuts the way between the daemon and etcd, both directions, or (`-D`) mends it. etcdctl takes another address. */
async function dropPackets(action: '-I' | '-D'): Promise<void> {
  for (const which of ['-d 127.0.0.1 --dport 2379', '-s 127.0.0.1 --sport 2379']) {
    await bench.host.exec('iptables', action, ...`OUTPUT -p tcp ${which} -j DROP`.split(' '));
  }
}

const relists = () => bench.daemon.logs.filter(({ event }) => event === 'relist').length;

test('one new list brings the changes that were made and compacted away while packets to etcd were dropped', async () => {
  const before = relists();
  await dropPackets('-I');
  const mark = await monitor.mark();
  await changeAndCompact();
  await bench.daemon.waitForLog(({ event, what }) => event === 'trouble' && what === 'lease-watch', FOUND_MS);
  // Meanwhile the routes stay as they were.
  expect((await monitor.since(mark)).map(({ text }) => text)).toEqual([]);
  await dropPackets('-D');
  await expectRelisted(mark, before);
});

test('one new list brings the changes that were made and compacted away before the daemon saw etcd end', async () => {
  const before = relists();
  const mark = await monitor.mark();
  bench.daemon.process.signal('SIGSTOP');
  await bench.etcd.first.kill();
  await bench.etcd.first.start();
  await changeAndCompact();
  bench.daemon.process.signal('SIGCONT');
  await expectRelisted(mark, before);
});

test('the daemon kept its lease through both, and logged at most six troubles', () => {
  const { logs } = bench.daemon;
  expect(logs.filter(({ event }) => event === 'lease-acquired')).toHaveLength(1);
  expect(logs.filter(({ event }) => event === 'lease-lost')).toEqual([]);
  expect(logs.filter(({ level }) => level === 'error')).toEqual([]);
  expect(logs.filter(({ event }) => event === 'trouble').length).toBeLessThanOrEqual(6);
});
