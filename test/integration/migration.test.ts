import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ClusterHost } from '../testbed/cluster.ts';
import { addContainer, type NamespaceContainer, waysBetween } from '../testbed/container-namespace.ts';
import { OUR_PROTOCOL } from '../testbed/daemon.ts';
import { lostWhile } from '../testbed/ping.ts';
import { type FormerHost, leaveAsFlanneld, subnetEnvOf } from './flanneld-leavings.ts';
import { etcdLeaseIds, storedLeases } from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

const SUBNETS = [14, 88, 200] as const;

/** Two hosts change from flanneld to this program and back; the third never does. The tests are steps, in this order. */
describe('a cluster of hosts that flanneld has run on', () => {
  const cluster = useCluster();
  const routes = useRoutes(cluster);
  let former: readonly FormerHost[];
  let host: ClusterHost;
  let other: ClusterHost;
  let containers: readonly NamespaceContainer[] = [];

  beforeAll(async () => {
    former = cluster.hosts.map((each, index) => ({ host: each, third: SUBNETS[index] ?? 0 }));
    await leaveAsFlanneld(cluster, former);
    [host, other] = [cluster.at(0), cluster.at(1)];
    // A peer that left while flanneld was down, and an operator's routes, which look alike but for their destination.
    await host.net.ip('route add 172.20.77.0/24 via 10.211.55.102 dev eth0');
    await host.net.ip('route add 10.99.0.0/16 via 10.211.55.102 dev eth0');
    await host.net.ip('route add 172.20.96.0/20 via 10.211.55.102 dev eth0');
    containers = await Promise.all([
      addContainer(host.net, '172.20.14.1/24'),
      addContainer(other.net, '172.20.88.1/24'),
    ]);
  });

  afterAll(() => Promise.all(containers.map((container) => container.close())));

  /** What peers and other programs see of all hosts: keys, values, etcd leases, and the file. */
  const visible = async () => ({
    leases: await storedLeases(cluster.etcd.first),
    leaseIds: await etcdLeaseIds(cluster.etcd.first),
    files: cluster.hosts.map(({ daemon }) => readFileSync(daemon.subnetFile, 'utf8')),
  });
  /** The routes with a gateway of a host: `dst via gateway`, and the protocol unless it is flanneld's. */
  const routesOf = async ({ net }: ClusterHost) =>
    (await net.routes())
      .filter(({ gateway }) => gateway !== undefined)
      .map(({ dst, gateway, protocol = '' }) => `${dst} via ${gateway} ${protocol}`.trim())
      .toSorted();
  const routesTo = (...thirds: readonly number[]) =>
    thirds.map((third) => {
      const gateway = former.find((each) => each.third === third)?.host.address;
      return `172.20.${third}.0/24 via ${gateway} ${OUR_PROTOCOL}`;
    });

  /** Pings both ways between the containers of the two hosts while `act` runs, and expects no packet to be lost. */
  const expectNoPacketLost = async (act: () => Promise<void>) => {
    expect(await lostWhile(waysBetween(containers), act)).toEqual([]);
  };

  it('keeps subnet, key, value, etcd lease and file of each host', async () => {
    const before = await visible();
    expect(before.files).toEqual(SUBNETS.map((third) => subnetEnvOf(third)));
    await expectNoPacketLost(async () => {
      await host.daemon.start();
      await other.daemon.start();
    });
    expect(await visible()).toEqual(before);
  });

  it('has made the routes its own without a gap, and has removed the one of a peer that is gone', async () => {
    expect((await routes.deletions()).map(({ dst }) => dst)).toEqual(['172.20.77.0/24']);
    const operators = ['10.99.0.0/16 via 10.211.55.102', '172.20.96.0/20 via 10.211.55.102'];
    expect(await routesOf(host)).toEqual([...operators, ...routesTo(200, 88)].toSorted());
    expect(await routesOf(other)).toEqual(routesTo(14, 200));
  });

  it('leaves all of that in place when it stops, for flanneld to find', async () => {
    const before = { ...(await visible()), routes: await Promise.all(cluster.hosts.map(routesOf)) };
    await routes.mark();
    await expectNoPacketLost(async () => {
      expect(await host.daemon.stop()).toEqual({ code: 0, signal: null });
      expect(await other.daemon.stop()).toEqual({ code: 0, signal: null });
    });
    expect({ ...(await visible()), routes: await Promise.all(cluster.hosts.map(routesOf)) }).toEqual(before);
    expect(await routes.changes()).toEqual([]);
    // Destination, gateway and interface are what flanneld compares; more must not be in the way.
    const [route] = (await host.net.routes()).filter(({ dst }) => dst === '172.20.88.0/24');
    expect(route).toEqual({
      dst: '172.20.88.0/24',
      gateway: '10.211.55.101',
      dev: 'eth0',
      protocol: OUR_PROTOCOL,
      flags: [],
    });
  });

  // netlink's RouteAdd, RouteReplace and RouteDel as flanneld calls them, without a protocol, are what ip does here.
  it.each([
    { does: 'finds the route when it adds it', command: 'add', via: '10.211.55.101', fails: /File exists/ },
    {
      does: 'replaces it',
      command: 'replace',
      via: '10.211.55.250',
      after: ['172.20.88.0/24 via 10.211.55.250'],
    },
    { does: 'deletes it when the peer moves', command: 'del', via: '10.211.55.101', after: [] },
  ])('flanneld $does', async ({ command, via, fails, after }) => {
    await host.daemon.start();
    const [own = ''] = routesTo(88);
    const toPeer = async () => (await routesOf(host)).filter((route) => route.startsWith('172.20.88.'));
    expect(await toPeer()).toEqual([own]);
    await host.daemon.stop();
    const call = host.net.ip(`route ${command} 172.20.88.0/24 via ${via} dev eth0`);
    if (fails === undefined) await call;
    else await expect(call).rejects.toThrow(fails);
    expect(await toPeer()).toEqual(after ?? [own]);
  });
});
