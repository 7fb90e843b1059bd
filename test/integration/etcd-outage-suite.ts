import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type ClusterHost, PREFIX } from '../testbed/cluster.ts';
import type { EtcdMember } from '../testbed/etcd.ts';
import { leaseValue } from '../testbed/lease-keys.ts';
import { ownRoutes, routesTo } from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

/** A peer without a host: its subnet lies outside the pool, so no daemon can take it; its address changes. */
const PEER = '172.20.5.0/24';
const PEER_KEY = `${PREFIX}/subnets/172.20.5.0-24`;

/** "A few seconds": how long after etcd is whole again a change may take to arrive. */
const ARRIVAL_MS = 5_000;

/** How many lines a daemon may log about one outage, its beginning and its end included; changed routes are not counted. */
const HANDFUL = 5;

export interface Outage {
  /** For the tests' names. */
  readonly verb: string;
  takeAway(member: EtcdMember): Promise<void>;
  /** Resolves when the member answers again. */
  bringBack(member: EtcdMember): Promise<void>;
  /** How long a daemon that knows other members may take to get a change through one of those. */
  readonly noticedMs: number;
}

/**
 * The suite about etcd going away, for one way in which it goes. Five hosts: the first three have a member each, and their
 * daemons know that one only; the other two daemons know all three.
 */
export function describeOutage(outage: Outage): void {
  describe(`while members of etcd are ${outage.verb}`, () => {
    const cluster = useCluster({ hosts: 5, endpoints: 'own', daemons: true });
    const routes = useRoutes(cluster);
    let pids: readonly number[];
    let logged: readonly number[];
    let lastNumber = 150;

    beforeAll(async () => {
      await routes.arrived(cluster.hosts, PEER, await move(cluster.etcd.first));
    });

    beforeEach(async () => {
      await routes.mark();
      pids = cluster.hosts.map(({ daemon }) => daemon.pid);
      logged = cluster.hosts.map(({ daemon }) => daemon.logs.length);
    });

    /** Gives the peer another address; resolves to it. */
    async function move(through: EtcdMember): Promise<string> {
      lastNumber += 1;
      const address = `10.211.55.${lastNumber}`;
      await through.ctl('put', PEER_KEY, leaseValue(address));
      return address;
    }

    /** Waits for the change, and expects it within `limitMs` from now. */
    async function expectSoon(
      hosts: readonly ClusterHost[],
      address: string,
      limitMs: number,
    ): Promise<void> {
      const startMs = Date.now();
      const arrivedMs = await routes.arrived(hosts, PEER, address, 2 * limitMs);
      expect(arrivedMs - startMs).toBeLessThan(limitMs);
    }

    async function expectNothingLost(address: string): Promise<void> {
      for (const [index, host] of cluster.hosts.entries()) {
        const expected = [...routesTo(host, cluster.hosts), `${PEER} via ${address} dev eth0`];
        expect(await ownRoutes(host), host.name).toEqual(expected.toSorted());
        expect(host.daemon.running && host.daemon.pid).toBe(pids[index]);
        const said = host.daemon.logs.slice(logged[index]).filter(({ event }) => event !== 'routes-changed');
        expect(said.length, said.map(({ msg }) => msg).join('\n')).toBeLessThanOrEqual(HANDFUL);
      }
    }

    it.each([0, 1, 2])(
      'member %i: the other two serve the daemons that know them; it serves its own daemon again afterwards',
      async (index) => {
        const others = [...cluster.etcd.members];
        const [member] = others.splice(index, 1);
        const [other] = others;
        if (member === undefined || other === undefined) throw new Error('too few members');
        const dependent = cluster.at(index);
        const independent = cluster.hosts.filter((host) => host !== dependent);

        const before = await move(member);
        await outage.takeAway(member);
        await expectSoon(independent, before, outage.noticedMs);
        await Promise.all(others.map((each) => each.healthy()));
        const meanwhile = await move(other);
        await expectSoon(independent, meanwhile, outage.noticedMs);
        await outage.bringBack(member);
        await expectSoon([dependent], meanwhile, ARRIVAL_MS);
        const after = await move(member);
        await expectSoon(cluster.hosts, after, ARRIVAL_MS);

        expect(await routes.deletions()).toEqual([]);
        await expectNothingLost(after);
      },
    );

    it('all members for 30 s: routes stay and are repaired; changes arrive afterwards', async () => {
      const host = cluster.at(0);
      const before = await move(cluster.etcd.first);
      await Promise.all(cluster.etcd.members.map((member) => outage.takeAway(member)));
      const endMs = performance.now() + 30_000;
      await sleep(5_000);
      expect(await routes.deletions()).toEqual([]);
      const [destination = '', , gateway = ''] = routesTo(host, cluster.hosts)[0]?.split(' ') ?? [];
      await routes.mark();
      await host.net.ip(`route del ${destination}`);
      await routes.arrived([host], destination, gateway, 2_000);
      expect(await routes.deletions()).toHaveLength(1);
      await sleep(Math.max(0, endMs - performance.now()));
      expect(await routes.deletions()).toHaveLength(1);

      await Promise.all(cluster.etcd.members.map((member) => outage.bringBack(member)));
      const after = await move(cluster.etcd.first);
      expect(after).not.toBe(before);
      await expectSoon(cluster.hosts, after, ARRIVAL_MS);
      expect(await routes.deletions()).toHaveLength(1);
      await expectNothingLost(after);
    });
  });
}
