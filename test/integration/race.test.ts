import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, CONFIG, makeHosts, PREFIX } from '../testbed/cluster.ts';
import { leaderOf } from '../testbed/etcd-leader.ts';
import { until } from '../testbed/netns.ts';
import { etcdLeaseIds, expectFullMesh, ownRoutes, storedLeases, subnetOf } from './route-watch.ts';

/** Hosts that start at once, each a process of some 90 MB: RACE_HOSTS for a smaller or larger machine. */
const HOSTS = Number(process.env['RACE_HOSTS'] ?? 40);
const DEADLINE_MS = 30_000 + HOSTS * 1_500;

let cluster: Cluster;

beforeAll(async () => {
  cluster = await makeHosts({ hosts: HOSTS });
  await cluster.startEtcd();
}, DEADLINE_MS);

afterAll(() => cluster?.close());

/** All daemons at once, for subnets from 172.20.`first`.0 to 172.20.`last`.0; etcd's leader is killed when some have theirs. */
async function race(first: number, last: number): Promise<void> {
  const { etcd, hosts } = cluster;
  const pool = { SubnetMin: `172.20.${first}.0`, SubnetMax: `172.20.${last}.0` };
  await cluster.storeConfig({ ...CONFIG, ...pool });
  const leader = await leaderOf(etcd);
  const startedMs = performance.now();
  for (const { daemon } of hosts) daemon.launch();
  const holders = () =>
    hosts.filter(({ daemon }) => daemon.logs.some(({ event }) => event === 'lease-acquired')).length;
  await until(() => holders() >= HOSTS / 4, DEADLINE_MS, 'nobody has a lease');
  await leader.kill();
  const before = holders();
  expect(before, 'hosts that had a lease when the leader died').toBeLessThan(HOSTS);
  const killedMs = performance.now();

  await Promise.all(hosts.map(({ daemon }) => daemon.ready(DEADLINE_MS)));
  const routed = async () =>
    (await Promise.all(hosts.map(ownRoutes))).every((routes) => routes.length === HOSTS - 1);
  await until(routed, DEADLINE_MS, 'not every host has a route to every other');
  const now = performance.now();
  console.log(
    `${HOSTS} hosts, ${last - first + 1} subnets: leader killed after ${seconds(killedMs - startedMs)} s with ${before} leases ` +
      `taken; full mesh ${seconds(now - killedMs)} s later`,
  );

  await leader.start();
  await expectFullMesh(hosts);
  const subnets = hosts.map(subnetOf);
  for (const subnet of subnets) expect(Number(subnet.split('.')[2])).toBeGreaterThanOrEqual(first);
  for (const subnet of subnets) expect(Number(subnet.split('.')[2])).toBeLessThanOrEqual(last);
  const stored = await storedLeases(leader);
  const keys = stored.map(({ key }) => key.slice(`${PREFIX}/subnets/`.length).replace('-', '/'));
  expect(keys.toSorted()).toEqual(subnets.toSorted());
  for (const { daemon, address } of hosts) {
    expect(stored.filter(({ value }) => value.includes(`"${address}"`))).toHaveLength(1);
    expect(daemon.logs.filter(({ level }) => level === 'error')).toEqual([]);
  }
  // Calls whose answer died with the leader have left nothing either.
  expect(await etcdLeaseIds(leader)).toEqual(stored.map(({ leaseId }) => leaseId).toSorted());
}

function seconds(ms: number): string {
  return (ms / 1_000).toFixed(1);
}

test(
  `${HOSTS} daemons that start at once for ${HOSTS + 5} subnets all get one of their own, while etcd loses its leader`,
  async () => {
    await race(10, 10 + HOSTS + 4);
  },
  2 * DEADLINE_MS,
);

test(
  'all get one of their own also when there are exactly as many subnets as hosts',
  async () => {
    await Promise.all(cluster.hosts.map(({ daemon }) => daemon.stop()));
    for (const { leaseId } of await storedLeases(cluster.etcd.first)) {
      await cluster.etcd.ctl('lease', 'revoke', leaseId);
    }
    // What the files say lies outside the new pool: nobody has a subnet to come back to.
    await race(100, 100 + HOSTS - 1);
  },
  2 * DEADLINE_MS,
);
