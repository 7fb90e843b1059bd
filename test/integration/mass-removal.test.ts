import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, PREFIX, startCluster } from '../testbed/cluster.ts';
import { until } from '../testbed/netns.ts';
import { leaseKey, leaseValue } from './bench.ts';

const OUR_PROTOCOL = '102';
const SUBNETS = `${PREFIX}/subnets/`;
/** Held by nobody: they do not come back. */
const GONE = Array.from({ length: 12 }, (_, i) => `172.20.${i}.0/24`).slice(1, 9);

let cluster: Cluster;

beforeAll(async () => {
  cluster = await startCluster({ hosts: 5 });
});

afterAll(() => cluster?.close());

async function routesOf(index: number): Promise<readonly string[]> {
  const routes = (await cluster.hosts[index]?.net.routes()) ?? [];
  return routes.filter(({ protocol }) => protocol === OUR_PROTOCOL).map(({ dst }) => dst);
}

async function storedKeys(): Promise<string> {
  return await cluster.etcd.ctl('get', '--prefix', '--keys-only', SUBNETS);
}

async function haveRoutes(count: number): Promise<void> {
  for (const [index, { name, daemon }] of cluster.hosts.entries()) {
    await until(
      async () => (await routesOf(index)).length === count,
      10_000,
      () => `${name} never had ${count} routes\n${daemon.process.tail()}`,
    );
  }
}

const told = (event: string) =>
  cluster.hosts.map(
    ({ daemon }) =>
      daemon.logs.filter((line) => line.event === event && line['what'] === 'mass-removal').length,
  );

test('W9: all leases of five living hosts, deleted in one step, come back before a route goes', async () => {
  await haveRoutes(4);
  const before = await storedKeys();
  const monitors = await Promise.all(cluster.hosts.map(({ net }) => net.monitorRoutes()));
  await cluster.etcd.ctl('del', '--prefix', SUBNETS);
  await until(async () => (await storedKeys()) === before, 5_000, 'the leases never came back');
  await Promise.all(
    cluster.hosts.map(({ daemon }) =>
      daemon.waitForLog((line) => line.event === 'trouble-over' && line['what'] === 'mass-removal'),
    ),
  );
  await haveRoutes(4);
  await Promise.all(monitors.map((monitor) => monitor.stop()));
  expect(monitors.flatMap(({ lines }) => lines).filter((line) => line.includes('172.20.'))).toEqual([]);
  expect(told('trouble')).toEqual([1, 1, 1, 1, 1]);
});

test('W9: leases that stay away after the second list take their routes along, and no other', async () => {
  for (const [i, subnet] of GONE.entries())
    await cluster.etcd.ctl('put', leaseKey(subnet), leaseValue(`10.211.55.${150 + i}`));
  await haveRoutes(4 + GONE.length);
  const monitors = await Promise.all(cluster.hosts.map(({ net }) => net.monitorRoutes()));
  const startedMs = performance.now();
  // Keys 172.20.1.0-24 to 172.20.8.0-24: one request, one revision.
  await cluster.etcd.ctl('del', `${SUBNETS}172.20.2.0-24`, `${SUBNETS}172.20.9.0-24`);
  await cluster.etcd.ctl('del', `${SUBNETS}172.20.1.0-24`);
  await haveRoutes(4);
  expect(performance.now() - startedMs).toBeGreaterThan(900);
  await Promise.all(monitors.map((monitor) => monitor.stop()));
  for (const { lines } of monitors) expect(lines.filter((line) => line.includes('172.20.'))).toHaveLength(8);
  expect(told('trouble')).toEqual([2, 2, 2, 2, 2]);
});
