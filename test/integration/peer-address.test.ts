import { beforeAll, describe, expect, it } from 'vitest';
import type { ClusterHost } from '../testbed/cluster.ts';
import { leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { addDocker0, whilePinging } from './pings.ts';
import { ownRoutes, routesTo, type StoredLease, storedLease, subnetOf } from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

describe('a peer whose address changes', () => {
  const cluster = useCluster({ hosts: 4, daemons: true });
  const routes = useRoutes(cluster);
  let peer: ClusterHost;
  let others: readonly ClusterHost[];
  let lease: StoredLease;

  beforeAll(async () => {
    for (const host of cluster.hosts) await addDocker0(host);
    peer = cluster.at(3);
    others = cluster.hosts.slice(0, 3);
    lease = await storedLease(cluster, peer);
    // It holds all its addresses all the time, so that a lost packet means a missing route; its daemon knows only the first.
    await peer.daemon.stop();
    await peer.net.setAddresses(['10.211.55.201/24', '10.211.55.202/24']);
  });

  const rewrite = (publicIP: string): Promise<string> =>
    cluster.etcd.ctl('put', '--ignore-lease', lease.key, leaseValue(publicIP));

  const pairs = () => others.map((host) => [host, peer] as const);

  async function expectOnlyTheGatewayChanged(gateway: string): Promise<void> {
    const subnet = subnetOf(peer);
    for (const host of others) {
      const unchanged = routesTo(host, others);
      const expected = [...unchanged, `${subnet} via ${gateway} dev eth0`].toSorted();
      expect(await ownRoutes(host), host.name).toEqual(expected);
    }
  }

  it('is routed to by its new address on every other host within a second, without a gap', async () => {
    await routes.mark();
    const lost = await whilePinging(pairs(), async () => {
      await rewrite('10.211.55.201');
      const rewrittenMs = Date.now();
      const routedMs = await routes.arrived(others, subnetOf(peer), '10.211.55.201');
      expect(routedMs - rewrittenMs).toBeLessThan(1_000);
    });
    expect(lost).toEqual([]);
    const dst = subnetOf(peer);
    expect(await routes.changes()).toEqual(
      others.flatMap(({ name: host }) => [
        { host, deleted: false, dst, gateway: '10.211.55.201' },
        { host, deleted: true, dst, gateway: peer.address },
      ]),
    );
    expect(await routes.deletions()).toEqual([]);
    await expectOnlyTheGatewayChanged('10.211.55.201');
  });

  it('twenty times in a row is routed to by the last address, and a route is there all the time', async () => {
    await routes.mark();
    const lost = await whilePinging(pairs(), async () => {
      for (let round = 0; round < 10; round++) {
        await rewrite('10.211.55.202');
        await rewrite('10.211.55.201');
      }
      await rewrite('10.211.55.202');
      await rewrite(peer.address);
      const rewrittenMs = Date.now();
      const routedMs = await routes.arrived(others, subnetOf(peer), peer.address);
      expect(routedMs - rewrittenMs).toBeLessThan(1_000);
    });
    expect(lost).toEqual([]);
    expect(await routes.deletions()).toEqual([]);
    await expectOnlyTheGatewayChanged(peer.address);
  });

  it('is routed to by its new address, not by the old one, when the link comes back after the change', async () => {
    const first = cluster.at(0);
    const subnet = subnetOf(peer);
    // The old one has been in the table, and in what the daemon wants, until just now.
    await rewrite('10.211.55.202');
    await routes.arrived(others, subnet, '10.211.55.202');
    for (let flap = 0; flap < 3; flap++) {
      await first.net.linkDown();
      // The kernel takes them away without a word.
      await until(async () => (await ownRoutes(first)).length === 0, 10_000, 'routes without a link');
      await routes.mark();
      await first.net.linkUp();
      await routes.arrived([first], subnet, '10.211.55.202');
      const told = (await routes.changes([first])).filter(({ dst }) => dst === subnet);
      expect(told.map(({ gateway }) => gateway)).toEqual(['10.211.55.202']);
    }
    await expectOnlyTheGatewayChanged('10.211.55.202');
    // The link was also the way of a member to the others.
    await Promise.all(cluster.etcd.members.map((member) => member.healthy()));
    await routes.mark();
    await rewrite(peer.address);
    await routes.arrived(others, subnet, peer.address);
    // The old one goes after the new one has come; that is no gap of what follows.
    await routes.left(others, subnet);
  });

  it('is routed to by its new address when the change was missed, and read from a whole list only', async () => {
    const first = cluster.at(0);
    await routes.mark();
    const lost = await whilePinging([[first, peer]], async () => {
      await first.daemon.stop();
      await rewrite('10.211.55.202');
      await first.daemon.start();
    });
    expect(lost).toEqual([]);
    expect(await routes.deletions()).toEqual([]);
    await routes.arrived(others, subnetOf(peer), '10.211.55.202');
    await expectOnlyTheGatewayChanged('10.211.55.202');
  });
});
