import { beforeAll, expect, test } from 'vitest';
import type { LogRecord } from '../testbed/daemon.ts';
import { gaps, type KernelMonitor } from '../testbed/kernel-monitor.ts';
import { until } from '../testbed/netns.ts';
import { HEALTH, useBench } from './bench.ts';

const ADOPTABLE = [
  '172.20.1.0/24 via 10.211.55.101',
  '172.20.2.0/24 via 10.211.55.102',
  // flanneld routes every key it can read, wherever it lies.
  '192.168.77.0/25 via 10.211.55.103',
];
const STALE = ['172.20.76.0/24 via 10.211.55.176', '172.20.77.0/24 via 10.211.55.177'];
/** An operator's own, none of which a lease asks for: `ip route add` takes each as it stands. */
const OPERATORS = [
  '172.20.80.0/24 via 10.211.55.180 dev eth0 proto static',
  '172.20.81.0/25 via 10.211.55.181 dev eth0',
  '172.20.82.0/24 via 10.98.0.2 dev eth1',
  '172.20.83.0/24 via 10.211.55.183 dev eth0 metric 50',
  '172.20.84.0/24 dev eth0',
  '172.20.85.0/24 via 10.211.55.185 dev eth0 table 100',
  '172.20.86.0/24 tos 0x10 via 10.211.55.186 dev eth0',
  '172.20.88.0/24 nexthop via 10.211.55.188 dev eth0 nexthop via 10.211.55.189 dev eth0',
  'blackhole 172.20.89.0/24',
  '192.168.5.0/24 via 10.211.55.190 dev eth0',
  // A second daemon's, for a network of its own.
  '10.55.1.0/24 via 10.211.55.191 dev eth0 proto 102',
  'default via 10.211.55.1 dev eth0',
];

const bench = useBench({
  flags: ['--iface=eth0', ...HEALTH],
});
let monitor: KernelMonitor;

beforeAll(async () => {
  await bench.reserveSubnet();
  await bench.host.ip('link add eth1 type veth peer name eth1p');
  await bench.host.ip('link set eth1 up');
  await bench.host.ip('addr add 10.98.0.1/24 dev eth1');
  monitor = await bench.monitor();
});

const readyz = () => bench.ask('readyz');

/** Lines of the monitor since `mark` about one destination. */
async function about(dst: string, mark: number): Promise<readonly string[]> {
  const events = await monitor.since(mark);
  return events.map(({ text }) => text).filter((text) => text.startsWith('[ROUTE]') && text.includes(dst));
}

test('the first start adopts what flanneld left without a gap, removes what is stale and touches nothing else', async () => {
  await bench.putRoutes(ADOPTABLE);
  for (const route of [...ADOPTABLE, ...STALE]) await bench.host.ip(`route add ${route} dev eth0`);
  for (const route of OPERATORS) await bench.host.ip(`route add ${route}`);
  const before = await bench.allRoutes();
  const mark = await monitor.mark();

  await bench.daemon.start();

  await bench.haveRoutes([...ADOPTABLE, '10.55.1.0/24 via 10.211.55.191']);
  const after = await bench.allRoutes();
  expect(before.filter((line) => !after.includes(line)).map(plain)).toEqual(
    [...STALE, ...ADOPTABLE].map((route) => `${route} dev eth0 proto 3`).toSorted(),
  );
  expect(after.filter((line) => !before.includes(line)).map(plain)).toEqual(
    ADOPTABLE.map((route) => `${route} dev eth0 proto 102`),
  );
  const deleted = gaps(await monitor.routesSince(mark));
  expect(deleted.map((text) => plain(text.replace('Deleted ', '')))).toEqual(
    STALE.map((route) => `${route} dev eth0`),
  );
});

test('a second start finds nothing to do: no route message at all', async () => {
  const mark = await monitor.mark();
  await bench.daemon.restart();
  expect((await monitor.since(mark)).map(({ text }) => text)).toEqual([]);
});

test('a route flanneld would call stale is left alone once the daemon runs: it may be an operator’s', async () => {
  await bench.host.ip('route add 172.20.90.0/24 via 10.211.55.190 dev eth0');
  await bench.putLease('172.20.5.0/24', '10.211.55.105');
  await monitor.waitFor(/^\[ROUTE\]172\.20\.5\.0\/24 via 10\.211\.55\.105 dev eth0 proto 102/);
  expect((await bench.host.routes()).map(({ dst }) => dst)).toContain('172.20.90.0/24');
});

test('a connected network at a peer’s subnet is never touched: conflict in log and /readyz until it goes', async () => {
  expect((await readyz()).status).toBe(200);
  const mark = await monitor.mark();
  await bench.host.ip('link add br1 type bridge');
  await bench.host.ip('link set br1 up');
  await bench.host.ip('addr add 172.20.1.1/24 dev br1');

  const told = await bench.daemon.waitForLog(isToldStuck('172.20.1.0/24'));
  expect(told.msg).toContain(
    '172.20.1.0/24: no route: br1 of this host has an address in it (172.20.1.1/24)',
  );
  // Ours gives way, so that the connected network is reached.
  await monitor.waitFor(/^\[ROUTE\]Deleted 172\.20\.1\.0\/24 via 10\.211\.55\.101 dev eth0 proto 102/, mark);
  const { status, body } = await readyz();
  expect(status).toBe(503);
  expect(body).toContain('172.20.1.0/24');
  expect((await about('172.20.1.0/24 dev br1', mark)).filter((line) => line.includes('Deleted'))).toEqual([]);

  await bench.host.ip('addr del 172.20.1.1/24 dev br1');
  await monitor.waitFor(/^\[ROUTE\]172\.20\.1\.0\/24 via 10\.211\.55\.101 dev eth0 proto 102/, mark);
  expect((await readyz()).status).toBe(200);
});

test('a connected network that was there before the lease is never touched either', async () => {
  await bench.host.ip('addr add 172.20.6.1/24 dev br1');
  const mark = await monitor.mark();
  await bench.putLease('172.20.6.0/24', '10.211.55.106');
  await bench.daemon.waitForLog(isToldStuck('172.20.6.0/24'));
  expect(await about('172.20.6.0/24', mark)).toEqual([]);
  await bench.removeLease('172.20.6.0/24');
  await bench.host.ip('link del br1');
});

test('another program’s static route at a peer’s subnet is replaced three times a minute without a gap, then left as a conflict', async () => {
  const peer = '172.20.2.0/24';
  const ours = /^\[ROUTE\]172\.20\.2\.0\/24 via 10\.211\.55\.102 dev eth0 proto 102/;
  const theirs = '172.20.2.0/24 via 10.211.55.150 dev eth0 proto 4';
  const start = await monitor.mark();
  for (let round = 1; round <= 3; round++) {
    const mark = await monitor.mark();
    await bench.host.ip(`route replace ${peer} via 10.211.55.150 dev eth0 proto static`);
    const put = await monitor.waitFor(new RegExp(`^\\[ROUTE\\]${theirs}`), mark);
    expect((await monitor.waitFor(ours, mark)).atMs - put.atMs).toBeLessThan(1_000);
    await monitor.waitFor(new RegExp(`^\\[ROUTE\\]Deleted ${theirs}`), mark);
  }
  await bench.host.ip(`route replace ${peer} via 10.211.55.150 dev eth0 proto static`);
  const told = await bench.daemon.waitForLog(
    (record) => isToldStuck(peer)(record) && record.msg?.includes('keeps adding a ') === true,
  );
  expect(told.msg).toContain('keeps adding a unicast route via 10.211.55.150 of protocol 4');
  const { status, body } = await readyz();
  expect(status).toBe(503);
  expect(body).toContain(peer);
  // Over a periodic check (every 11 s at most) it stays the other's, and nothing more is said.
  const toldS = Date.now() / 1000;
  const syncedS = async () => {
    const metrics = await bench.ask('metrics');
    return Number(/^flannel_last_sync_timestamp_seconds (.*)$/m.exec(metrics.body)?.[1]);
  };
  await until(async () => (await syncedS()) > toldS + 5, 15_000, 'no periodic check');
  expect(await about(peer, start)).toHaveLength(10);
  expect(gaps(await monitor.routesSince(start))).toEqual([]);
  expect(bench.daemon.logs.filter(({ msg }) => msg?.includes('keeps adding a '))).toHaveLength(1);

  // As soon as the other has withdrawn it, ours is back.
  const mark = await monitor.mark();
  await bench.host.ip(`route del ${peer} via 10.211.55.150`);
  const gone = await monitor.waitFor(/^\[ROUTE\]Deleted 172\.20\.2\.0\/24/, mark);
  expect((await monitor.waitFor(ours, mark)).atMs - gone.atMs).toBeLessThan(1_000);
  expect((await readyz()).status).toBe(200);
});

test('every route of the operator is as it was once the daemon has ended', async () => {
  const before = await bench.allRoutes();
  await bench.daemon.stop();
  expect(await bench.allRoutes()).toEqual(before);
  for (const route of OPERATORS) {
    // An identical route is refused: it is there.
    await expect(bench.host.ip(`route add ${route}`), route).rejects.toThrow('File exists');
  }
});

/** Whether a line of the log says that a destination cannot be programmed. */
function isToldStuck(dst: string): (record: LogRecord) => boolean {
  return ({ level, msg }) => level === 'warn' && msg?.includes(`${dst}: `) === true;
}

/** A route of `ip -N -d route` or `ip monitor` without its type and scope, which are those of any unicast route. */
function plain(line: string): string {
  return line
    .replace(/^(?:unicast|1) /, '')
    .replace(/ table 254| scope \S+/g, '')
    .trim();
}
