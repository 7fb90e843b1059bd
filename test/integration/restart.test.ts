import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Cluster, type ClusterHost, startCluster } from '../testbed/cluster.ts';
import { addDocker0, whilePinging } from './pings.ts';
import {
  expectFullMesh,
  type RouteWatch,
  storedLease,
  storedLeases,
  subnetOf,
  watchRoutes,
} from './route-watch.ts';

describe('a daemon that ends and starts again', () => {
  let cluster: Cluster;
  let routes: RouteWatch;
  let host: ClusterHost;
  let peer: ClusterHost;

  beforeAll(async () => {
    cluster = await startCluster({ hosts: 3, endpoints: 'own' });
    routes = await watchRoutes(cluster.hosts);
    for (const each of cluster.hosts) await addDocker0(each);
    const [first, second] = cluster.hosts;
    if (first === undefined || second === undefined) throw new Error('there are no two hosts');
    host = first;
    peer = second;
  });

  afterAll(async () => {
    await routes?.stop();
    await cluster?.close();
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
        const startMs = performance.now();
        const exit = await host.daemon.stop(signal);
        expect(performance.now() - startMs).toBeLessThan(5_000);
        expect(exit).toEqual({ code: 0, signal: null });
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
      const startMs = performance.now();
      expect(await host.daemon.stop()).toEqual({ code: 0, signal: null });
      expect(performance.now() - startMs).toBeLessThan(5_000);
      host.daemon.launch();
      await host.daemon.waitForLog('trouble');
      await Promise.all(cluster.etcd.members.map((member) => member.start()));
      await host.daemon.ready();
    });
  });

  it('exits with 0 within 5 s while etcd is frozen, with everything in place', async () => {
    await expectUnnoticed(async () => {
      for (const member of cluster.etcd.members) member.pause();
      const startMs = performance.now();
      const exit = await host.daemon.stop();
      const stoppedMs = performance.now();
      for (const member of cluster.etcd.members) member.resume();
      expect(exit).toEqual({ code: 0, signal: null });
      expect(stoppedMs - startMs).toBeLessThan(5_000);
      await host.daemon.start();
    });
  });
});
