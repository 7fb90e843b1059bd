import { beforeEach, expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { ownRoutes } from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

const SUBNETS = `${PREFIX}/subnets/`;
/** Held by nobody, and outside the pool: they do not come back. */
const GONE = Array.from({ length: 8 }, (_, i) => `172.20.${i + 1}.0/24`);

const cluster = useCluster({ hosts: 5, daemons: true });
const routes = useRoutes(cluster);
/** How many lines each daemon had logged when the test began. */
let logged: readonly number[];

beforeEach(() => {
  logged = cluster.hosts.map(({ daemon }) => daemon.logs.length);
});

async function storedKeys(): Promise<string> {
  return await cluster.etcd.ctl('get', '--prefix', '--keys-only', SUBNETS);
}

async function haveRoutes(count: number): Promise<void> {
  for (const host of cluster.hosts) {
    await until(
      async () => (await ownRoutes(host)).length === count,
      10_000,
      () => `${host.name} never had ${count} routes\n${host.daemon.process.tail()}`,
    );
  }
}

/** How often each daemon has told of a mass removal in this test. */
const told = (event: string) =>
  cluster.hosts.map(({ daemon }, index) => {
    const lines = daemon.logs.slice(logged[index]);
    return lines.filter((line) => line.event === event && line['what'] === 'mass-removal').length;
  });

/** Waits until each daemon has told once that a mass removal is over. */
async function toldOver(): Promise<void> {
  const once = () => told('trouble-over').every((count) => count === 1);
  await until(once, 10_000, () => `told to be over: ${told('trouble-over').join(' ')}`);
}

test('W9: all leases of five living hosts, deleted in one step, come back before a route goes', async () => {
  await haveRoutes(4);
  const before = await storedKeys();
  await routes.mark();
  await cluster.etcd.ctl('del', '--prefix', SUBNETS);
  await until(async () => (await storedKeys()) === before, 5_000, 'the leases never came back');
  await toldOver();
  await haveRoutes(4);
  expect(await routes.changes()).toEqual([]);
  expect(told('trouble')).toEqual([1, 1, 1, 1, 1]);
});

test('W9: leases that stay away after the second list take their routes along, and no other', async () => {
  const puts = GONE.map(
    (subnet, i) => `put ${leaseKey(subnet)} ${JSON.stringify(leaseValue(`10.211.55.${150 + i}`))}`,
  );
  await cluster.etcd.first.txn([], puts);
  await haveRoutes(4 + GONE.length);
  await routes.mark();
  const startedMs = Date.now();
  // One request, one revision; the keys of the hosts lie between these, so that no range would do.
  await cluster.etcd.first.txn(
    [],
    GONE.map((subnet) => `del ${leaseKey(subnet)}`),
  );
  const leftMs: number[] = [];
  for (const subnet of GONE) leftMs.push(await routes.left(cluster.hosts, subnet));
  await haveRoutes(4);
  await toldOver();
  const changes = await routes.changes();
  for (const { name } of cluster.hosts) {
    const here = changes.filter(({ host }) => host === name);
    expect(here.filter(({ deleted }) => !deleted)).toEqual([]);
    expect(here.map(({ dst }) => dst).toSorted(), name).toEqual(GONE);
  }
  expect(told('trouble')).toEqual([1, 1, 1, 1, 1]);
  expect(Math.max(...leftMs) - startedMs).toBeGreaterThan(900);
});
