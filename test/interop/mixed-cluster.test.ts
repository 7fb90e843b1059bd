import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { OURS, THEIRS } from './flannel-process.ts';
import { type Families, type MixedCluster, makeMixedCluster } from './mixed-cluster.ts';

// vitest shows names only when something fails.
console.log(`interop: ${OURS.name} beside ${THEIRS.name}`);

/** From two with theirs and one with ours, through all ours to all theirs, and back: each host goes both ways. */
const ALL_WAYS = [
  { name: 'master', index: 0, way: 'to ours' },
  { name: 'node-1', index: 1, way: 'to ours' },
  { name: 'master', index: 0, way: 'to theirs' },
  { name: 'node-2', index: 2, way: 'to theirs' },
  { name: 'node-1', index: 1, way: 'to theirs' },
  { name: 'node-2', index: 2, way: 'to ours' },
  { name: 'node-1', index: 1, way: 'to ours' },
] as const;

type Changes = readonly (typeof ALL_WAYS)[number][];

/** Beside itself this program has little to show: there and back. */
const shortened = (changes: Changes): Changes =>
  THEIRS.command === OURS.command ? [ALL_WAYS[0], ALL_WAYS[2]] : changes;

const KINDS: readonly { kind: string; families: Families; changes: Changes }[] = [
  { kind: 'IPv4', families: [4], changes: shortened(ALL_WAYS) },
  { kind: 'dual-stack', families: [4, 6], changes: shortened([ALL_WAYS[0], ALL_WAYS[1], ALL_WAYS[3]]) },
];

/**
 * Hosts that run two programs with flanneld's name and keys, and that go from one to the other and back while their
 * containers talk. FLANNELD=/path/to/flanneld names the other program. The tests are steps, in this order.
 */
describe.each(KINDS)(
  `an $kind cluster of hosts with ${OURS.name} and hosts with ${THEIRS.name}`,
  ({ families, changes }) => {
    let cluster: MixedCluster;

    beforeAll(async () => {
      cluster = await makeMixedCluster(families);
    });

    afterAll(async () => {
      await cluster?.close();
    });

    it('comes up: one subnet each, and a route to every peer', async () => {
      await cluster.start([THEIRS, THEIRS, OURS]);
      for (const family of families) {
        expect(new Set(cluster.hosts.map((host) => host.subnet(family))).size).toBe(3);
      }
      await cluster.expectRoutes();
      await cluster.expectNoPacketLost(async () => {});
    });

    it.each(changes)('$name changes $way, and nobody loses a packet', async ({ index, way }) => {
      const [from, to] = way === 'to ours' ? [THEIRS, OURS] : [OURS, THEIRS];
      const host = cluster.at(index);
      const visible = async () => ({
        subnets: families.map((family) => host.subnet(family)),
        leases: await cluster.leases(),
      });
      const before = await visible();
      expect(host.flannel).toBe(from);
      await cluster.expectNoPacketLost(async () => {
        await host.stop();
        await host.start(to);
        await cluster.expectRoutes();
        await cluster.expectRules(host);
      });
      expect(await visible()).toEqual(before);
    });

    it('a peer that joins, moves and leaves is routed to, rerouted and forgotten, also across a change', async () => {
      const leaseId = await cluster.grantLease();
      await cluster.putPeer(leaseId, 240);
      // Each gets the routes the other has made, and has to deal with them as with its own.
      for (const index of [0, 1]) {
        const host = cluster.at(index);
        const to = host.flannel === OURS ? THEIRS : OURS;
        await host.stop();
        await host.start(to);
      }
      await cluster.expectRoutes();
      await cluster.putPeer(leaseId, 241);
      await cluster.endPeer(leaseId);
    });
  },
);
