import { afterEach, expect, it } from 'vitest';
import { prefix, SimCluster } from '../../sim/cluster.ts';
import { prefixEnd } from '../../src/subnet/registry/registry.ts';

const subnets = `${prefix}/subnets/`;

let cluster: SimCluster;

async function meshOf(hosts: number): Promise<SimCluster> {
  cluster = new SimCluster({ seed: 21, hosts });
  for (const host of cluster.hosts) host.start();
  await cluster.clock.until('full mesh', () => cluster.meshed, 60_000);
  return cluster;
}

afterEach(async () => {
  await cluster.close();
  expect(cluster.clock.pending).toBe(0);
});

const leaseKeys = () => cluster.etcd.list(subnets, prefixEnd(subnets)).map(({ key }) => key);
const routes = () => cluster.hosts.map((host) => host.ownRoutes);

it('W9: leases of living hosts that are all deleted at once come back before a route goes', async () => {
  const { clock, etcd, hosts } = await meshOf(8);
  const before = routes();
  const keys = leaseKeys();
  const writes = hosts.map((host) => host.kernel.counters.messages);
  etcd.delete(...keys);
  for (let ms = 0; ms < 5_000; ms += 20) {
    await clock.advance(20);
    expect(routes()).toEqual(before);
  }
  expect(leaseKeys()).toEqual(keys);
  expect(hosts.map((host) => host.kernel.counters.messages)).toEqual(writes);
  expect(cluster.meshed).toBe(true);
});

// In whatever order hosts find out: who lists late finds most leases taken again already, and what is left is no mass any more.
it.each(Array.from({ length: 22 }, (_, i) => 1 + i))(
  'W9: an etcd restored from a backup without any lease costs no route of a living host (seed %i)',
  async (seed) => {
    cluster = new SimCluster({ seed, hosts: 8 });
    const { clock, etcd, hosts } = cluster;
    const backup = etcd.snapshot();
    for (const host of hosts) host.start();
    await clock.until('full mesh', () => cluster.meshed, 60_000);
    const before = routes();
    etcd.restore(backup);
    for (let ms = 0; ms < 20_000; ms += 50) {
      await clock.advance(50);
      expect(routes()).toEqual(before);
    }
    expect(cluster.meshed).toBe(true);
  },
);

it('W9: the routes of hosts that are really gone go a moment later', async () => {
  const { clock, etcd, hosts } = await meshOf(8);
  for (const host of hosts.slice(2)) await host.stop();
  const own = await Promise.all(hosts.slice(0, 2).map((host) => host.subnet()));
  const kept = own.map((subnet) => `${subnets}${subnet?.text.replace('/', '-')}`);
  etcd.delete(...leaseKeys().filter((key) => !kept.includes(key)));
  await clock.advance(900);
  expect(hosts[0]?.ownRoutes).toHaveLength(7);
  await clock.until('their routes are gone', () => cluster.meshed, 1_000);
});
