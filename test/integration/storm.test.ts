import { expect, test } from 'vitest';
import { ipBatch } from '../testbed/netns.ts';
import { useBench } from './bench.ts';

const PEERS = Array.from(
  { length: 8 },
  (_, index) => `172.20.${index + 1}.0/24 via 10.211.55.${101 + index}`,
);
/** Below the pool: the daemon itself never has it. */
const FREE = '172.20.9.0/24';
const FOREIGN = Array.from({ length: 5_000 }, (_, index) => `198.18.${index >> 8}.${index & 255}`);

const bench = useBench({ routes: PEERS });

/** 10,000 changes of another program's routes, one after another. With `among`, more changes in their middle. */
function storm(among: readonly string[] = []): readonly string[] {
  const foreign = [
    ...FOREIGN.map((dst) => `route add ${dst} via 10.211.55.200 dev eth0 proto static`),
    ...FOREIGN.map((dst) => `route del ${dst}`),
  ];
  return [...foreign.slice(0, 7_000), ...among, ...foreign.slice(7_000)];
}

async function expectUnharmed(pid: number): Promise<void> {
  await bench.haveRoutes(PEERS);
  expect(bench.daemon.running).toBe(true);
  expect(bench.daemon.pid).toBe(pid);
  expect(bench.daemon.logs.filter(({ level }) => level === 'error')).toEqual([]);
  // The daemon still follows etcd and the kernel.
  await bench.putLease(FREE, '10.211.55.199');
  await bench.haveRoutes([...PEERS, `${FREE} via 10.211.55.199`]);
  await bench.removeLease(FREE);
  await bench.haveRoutes(PEERS);
}

test('10,000 foreign route changes cost neither the daemon nor a route', async () => {
  const { pid } = bench.daemon;
  const monitor = await bench.host.monitor();
  const linesBefore = bench.daemon.process.lines.length;
  await ipBatch(bench.host.namespace, storm());
  await expectUnharmed(pid);
  const changes = await monitor.routesSince(0);
  await monitor.stop();
  // Every change was a notification; ours were not among them.
  expect(changes.filter((line) => line.includes('198.18.'))).toHaveLength(10_000);
  expect(changes.filter((line) => /172\.20\.[1-8]\.0/.test(line))).toEqual([]);
  expect(bench.daemon.process.lines.length - linesBefore).toBeLessThan(10);
});

test('routes of ours that are deleted in the middle of such a storm are back', async () => {
  const { pid } = bench.daemon;
  await ipBatch(bench.host.namespace, storm(PEERS.map((peer) => `route del ${peer}`)));
  await expectUnharmed(pid);
});

test('a daemon that cannot keep up, and loses notifications, misses nothing in the end', async () => {
  const { pid } = bench.daemon;
  bench.daemon.process.signal('SIGSTOP');
  // Four times what its receive buffer holds.
  await ipBatch(bench.host.namespace, storm(PEERS.map((peer) => `route del ${peer}`)));
  for (let round = 0; round < 3; round++) await ipBatch(bench.host.namespace, storm());
  expect(await bench.ourRoutes()).toEqual([]);
  bench.daemon.process.signal('SIGCONT');
  await expectUnharmed(pid);
});
