import { beforeEach, describe, expect, it } from 'vitest';
import type { ClusterHost } from '../testbed/cluster.ts';
import { loggedAtMs } from '../testbed/daemon.ts';
import { until } from '../testbed/netns.ts';
import { RunningProcess } from '../testbed/process.ts';
import {
  etcdLeaseIds,
  expectFullMesh,
  ownRoutes,
  routesTo,
  type StoredLease,
  storedLease,
  storedLeases,
  subnetOf,
} from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

describe('five hosts that join one after another', () => {
  const cluster = useCluster({ hosts: 5 });
  const routes = useRoutes(cluster);

  it('are routed to by all others within a second, and route to all others once they are ready', async () => {
    const there: ClusterHost[] = [];
    for (const host of cluster.hosts) {
      await routes.mark();
      host.daemon.launch();
      const leased = await host.daemon.waitForLog('lease-acquired');
      const routedMs = await routes.arrived(there, String(leased['subnet']), host.address);
      expect(routedMs - loggedAtMs(leased)).toBeLessThan(1_000);
      await host.daemon.ready();
      expect(await ownRoutes(host)).toEqual(routesTo(host, there));
      expect(await routes.deletions()).toEqual([]);
      there.push(host);
    }
    await expectFullMesh(cluster.hosts);
  });
});

describe('five hosts that join at once', () => {
  const cluster = useCluster({ hosts: 5 });
  const routes = useRoutes(cluster);

  it('get five subnets and all routes within a second after the last is ready, with one etcd lease each', async () => {
    for (const { daemon } of cluster.hosts) daemon.launch();
    const ready = await Promise.all(cluster.hosts.map(({ daemon }) => daemon.ready()));
    const routedMs = await Promise.all(
      cluster.hosts.map((host) => {
        const others = cluster.hosts.filter((other) => other !== host);
        return routes.arrived(others, subnetOf(host), host.address);
      }),
    );
    expect(Math.max(...routedMs) - Math.max(...ready.map(loggedAtMs))).toBeLessThan(1_000);
    await expectFullMesh(cluster.hosts);
    expect(await routes.deletions()).toEqual([]);
    expect(await etcdLeaseIds(cluster.etcd.first)).toHaveLength(5);
  });
});

describe('a host that leaves', () => {
  const cluster = useCluster({ hosts: 5, daemons: true });
  const routes = useRoutes(cluster);
  let leaver: ClusterHost;
  let others: readonly ClusterHost[];
  let lease: StoredLease;

  /** All five are up and know one another, then the last one's daemon is stopped. */
  beforeEach(async () => {
    leaver = cluster.at(4);
    others = cluster.hosts.slice(0, -1);
    await routes.mark();
    if (!leaver.daemon.running) {
      await leaver.daemon.start();
      await routes.arrived(others, subnetOf(leaver), leaver.address);
    }
    await expectFullMesh(cluster.hosts);
    lease = await storedLease(cluster, leaver);
    await routes.mark();
    await leaver.daemon.stop();
  });

  async function expectOnlyTheLeaverGone(): Promise<void> {
    const gone = (await routes.changes(others)).map(({ dst, deleted }) => ({ dst, deleted }));
    expect(gone).toEqual(others.map(() => ({ dst: subnetOf(leaver), deleted: true })));
    for (const host of others) expect(await ownRoutes(host)).toEqual(routesTo(host, others));
    // Its own routes are as its daemon left them.
    expect(await ownRoutes(leaver)).toEqual(routesTo(leaver, others));
  }

  it.each([
    ['key is deleted', () => cluster.etcd.ctl('del', lease.key)],
    ['lease is revoked', () => cluster.etcd.ctl('lease', 'revoke', lease.leaseId)],
  ])('is not routed to any more within a second after its %s', async (_, remove) => {
    await remove();
    // Not from before it, which would measure the start of a process; so the end of one is given away.
    const removedMs = Date.now();
    expect((await routes.left(others, subnetOf(leaver))) - removedMs).toBeLessThan(1_000);
    await expectOnlyTheLeaverGone();
  });

  it('is routed to until its lease expires, and not any more within a second after that', async () => {
    await cluster.etcd.ctl('put', '--lease', await cluster.etcd.grant(4), lease.key, lease.value);
    const { modRevision } = await storedLease(cluster, leaver);
    const { clientUrl } = cluster.etcd.first;
    const watch = ['watch', '--rev', String(modRevision), lease.key];
    const witness = new RunningProcess(
      cluster.at(0).net.command('etcdctl', '--endpoints', clientUrl, ...watch),
      { env: { ...process.env, ETCDCTL_API: '3' } },
    );
    try {
      const saw = (what: string) => (lines: readonly string[]) => lines.includes(what) || undefined;
      await witness.waitFor(saw('PUT'), 10_000, 'the short lease');
      expect(await routes.changes()).toEqual([]);
      await witness.waitFor(saw('DELETE'), 30_000, 'the end of the short lease');
      const expiredMs = Date.now();
      expect((await routes.left(others, subnetOf(leaver))) - expiredMs).toBeLessThan(1_000);
    } finally {
      await witness.stop('SIGKILL');
    }
    await expectOnlyTheLeaverGone();
  });

  it('gets its subnet back when it comes again', async () => {
    const before = subnetOf(leaver);
    await cluster.etcd.ctl('lease', 'revoke', lease.leaseId);
    await routes.left(others, before);
    await leaver.daemon.start();
    expect(subnetOf(leaver)).toBe(before);
    await routes.arrived(others, before, leaver.address);
    await expectFullMesh(cluster.hosts);
  });
});

describe('a host that loses its lease while its daemon runs', () => {
  const cluster = useCluster({ hosts: 5, daemons: true });
  const routes = useRoutes(cluster);

  it.each(['key is deleted', 'lease is revoked'])(
    'has its subnet again, and is routed to, within a second after its %s, and no lease is left over',
    async (what) => {
      const host = cluster.at(0);
      const others = cluster.hosts.slice(1);
      const subnet = subnetOf(host);
      const lease = await storedLease(cluster, host);
      await routes.mark();
      const since = Date.now();
      if (what === 'key is deleted') await cluster.etcd.ctl('del', lease.key);
      else await cluster.etcd.ctl('lease', 'revoke', lease.leaseId);
      const goneMs = Date.now();
      const held = await host.daemon.waitForLog(
        (record) => record.event === 'lease-held' && loggedAtMs(record) >= since,
      );
      // A peer that hears of both at once never lets go of its route.
      const isRouted = async () => {
        const tables = await Promise.all(others.map((other) => ownRoutes(other)));
        return tables.every((table) => table.includes(`${subnet} via ${host.address} dev eth0`));
      };
      await until(isRouted, 10_000, 'not every peer routes to it');
      // When the last one that had let go had it again.
      const routedMs = (await routes.lastChangeMs(others)) ?? 0;
      expect(Math.max(loggedAtMs(held), routedMs) - goneMs).toBeLessThan(1_000);
      const again = await storedLease(cluster, host);
      expect(again).toMatchObject({ key: lease.key, value: lease.value });
      expect(await routes.changes([host])).toEqual([]);
      await expectFullMesh(cluster.hosts);
      const ids = (await storedLeases(cluster.etcd.first)).map(({ leaseId }) => leaseId);
      expect(await etcdLeaseIds(cluster.etcd.first)).toEqual(ids.toSorted());
    },
  );
});
