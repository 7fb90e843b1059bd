import { beforeAll, describe, expect, it } from 'vitest';
import type { ClusterHost } from '../testbed/cluster.ts';
import { addDocker0, whilePinging } from './pings.ts';
import { expectFullMesh, storedLease, storedLeases, subnetOf } from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

describe('a daemon that ends and starts again', () => {
  const cluster = useCluster({ endpoints: 'own', daemons: true });
  const routes = useRoutes(cluster);
  let host: ClusterHost;
  let peer: ClusterHost;

  beforeAll(async () => {
    for (const each of cluster.hosts) await addDocker0(each);
    [host, peer] = [cluster.at(0), cluster.at(1)];
  });

  const pairs = () => [[host, peer] as const, [peer, host] as const];

  /** Runs `restart` and expects that nobody in the cluster could have noticed. */
  async function expectUnnoticed(restart: () => Promise<void>): Promise<void> {
    const subnet = subnetOf(host);
    const lease = await storedLease(cluster, host);
    await routes.mark();
    expect(await whilePinging(pairs(), restart)).toEqual([]);
    expect(await routes.changes()).toEqual([]);
    expect(subnetOf(host)).toBe(subnet);
    expect(await storedLease(cluster, host)).toEqual(lease);
    expect(await storedLeases(cluster.etcd.first)).toHaveLength(3);
    await expectFullMesh(cluster.hosts);
  }

  it('by kill -9 keeps its subnet, its lease and every route, and loses no packet', async () => {
    await expectUnnoticed(async () => {
      await host.daemon.restart('SIGKILL');
    });
  });

  it.each(['SIGTERM', 'SIGINT'] as const)(
    'by %s exits with 0 within 5 s, keeps its subnet, its lease and every route, and loses no packet',
    async (signal) => {
      await expectUnnoticed(async () => {
        // After 5 s it rejects.
        expect(await host.daemon.stop(signal)).toEqual({ code: 0, signal: null });
        await host.daemon.start();
      });
    },
  );

  it('on all hosts at once keeps every subnet and every route, and loses no packet', async () => {
    await expectUnnoticed(async () => {
      await Promise.all(cluster.hosts.map(({ daemon }) => daemon.restart('SIGTERM')));
      await Promise.all(cluster.hosts.map(({ daemon }) => daemon.restart('SIGKILL')));
    });
  });

  it('keeps everything also while etcd is away, and goes on when it is back', async () => {
    await expectUnnoticed(async () => {
      await Promise.all(cluster.etcd.members.map((member) => member.kill()));
      expect(await host.daemon.stop()).toEqual({ code: 0, signal: null });
      host.daemon.launch();
      await host.daemon.waitForLog('trouble');
      await Promise.all(cluster.etcd.members.map((member) => member.start()));
      await host.daemon.ready();
    });
  });

  it('exits with 0 within 5 s while etcd is frozen, with everything in place', async () => {
    await expectUnnoticed(async () => {
      for (const member of cluster.etcd.members) member.pause();
      const exit = await host.daemon.stop();
      for (const member of cluster.etcd.members) member.resume();
      expect(exit).toEqual({ code: 0, signal: null });
      await host.daemon.start();
    });
  });
});
