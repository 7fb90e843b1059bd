import { afterEach, expect, it } from 'vitest';
import { SimCluster } from '../../sim/cluster.ts';

let cluster: SimCluster;

afterEach(async () => {
  await cluster.close();
});

// Who lists late finds most hosts' leases taken again already: what is left is no mass any more.
it.each(Array.from({ length: 20 }, (_, i) => 1 + i))(
  'W9: a backup without any lease costs no route, in whatever order hosts find out (seed %i)',
  async (seed) => {
    cluster = new SimCluster({ seed, hosts: 8 });
    const { clock, etcd, hosts } = cluster;
    const routes = () => hosts.map(({ ownRoutes }) => ownRoutes);
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
