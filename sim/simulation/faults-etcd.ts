import type { Unfitness } from '../etcd-unfit.ts';
import { prefix } from '../host.ts';
import { apart, atOnce, type Fault, type Faults, onAll } from './fault.ts';
import { memberOf } from './faults-network.ts';
import { subnetsPrefix } from './oracle.ts';
import type { World } from './world.ts';

const peer = (dice: number) => `{"PublicIP":"10.211.5.${1 + (dice % 200)}","BackendType":"host-gw"}`;

/**
 * A key for a peer, outside the pool: inside the network, where a route that is left over is seen for certain, or outside of it.
 */
function peerKey(dice: number, count: number, place: number): string {
  const number = dice % count;
  // Above the pool, each kind of fault at its own.
  return `${subnetsPrefix}${dice & 64 ? `172.20.${place + number}` : `10.${place - 180}.${number}`}.0-24`;
}

/** Puts a peer's key that is not there, deletes it when it is. */
function toggle({ cluster: { etcd }, keys }: World, key: string): void {
  if (keys.has(key)) etcd.delete(key);
  else etcd.put(key, peer(key.length));
}

/** One member that answers and does not serve. */
function withUnfit(weight: number, what: Unfitness): Fault {
  return onAll(weight, [500, 400_000], (world, { dice }) => {
    const { etcd } = world.cluster;
    const member = memberOf(world, dice);
    etcd.spoil(member, what);
    return () => etcd.spoil(member, undefined);
  });
}

/** What happens to etcd's data, and what keeps members from serving it. */
export const etcdFaults: Faults = {
  ...apart({
    'a member is a learner': withUnfit(2, 'learner'),
    'a member is overloaded': withUnfit(2, 'overloaded'),
    'the database is full': onAll(2, [500, 200_000], ({ cluster: { etcd } }) => {
      etcd.fill(true);
      return () => etcd.fill(false);
    }),
    'a member of another cluster takes the place of one': onAll(2, [500, 400_000], (world, { dice }) => {
      const { etcd } = world.cluster;
      // Two of three would be what a restore looks like.
      if (etcd.members.some((member) => etcd.strangerAt(member) !== undefined)) return undefined;
      const member = memberOf(world, dice);
      etcd.replace(member);
      return () => etcd.putBack(member);
    }),
  }),
  compact: onAll(4, atOnce, ({ cluster: { etcd } }, { dice }) => {
    const revision = etcd.revision - (dice % 3);
    if (revision > etcd.compactRevision) etcd.compact(revision);
  }),
  'cut watches and compact': onAll(3, [1, 20_000], (world, { host, dice }) => {
    const { etcd } = world.cluster;
    const { name } = world.host(host);
    etcd.cut(name);
    etcd.cutWatches(name);
    return () => {
      // Something that is not written again is in what is compacted.
      toggle(world, peerKey(dice, 5, 211));
      etcd.put(`${prefix}/unrelated`, '');
      if (etcd.revision > etcd.compactRevision) etcd.compact(etcd.revision);
      etcd.heal(name);
    };
  }),
  // All that was written after the backup is lost when it is over.
  'restore an older backup': onAll(3, [10, 120_000], (world, { dice }) => {
    const { etcd } = world.cluster;
    const backup = etcd.snapshot();
    return () => {
      const { revision } = etcd;
      etcd.restore(backup, { sameId: dice % 2 === 0 });
      world.relearn();
      if (dice % 2 === 0) {
        world.sameIdRestoredMs = world.nowMs;
        // A lease that was revoked since is back, and nobody hears of it: it lives until it ends.
        world.crashes++;
      }
      // Other users of this etcd may write so much that nothing tells of the restore any more.
      if (dice % 4 === 0) while (etcd.revision <= revision) etcd.put('/somebody/else', '');
    };
  }),
  'revoke a lease': onAll(2, atOnce, ({ cluster: { etcd } }, { dice }) => {
    const ids = etcd.leaseIds;
    const id = ids[dice % Math.max(1, ids.length)];
    if (id !== undefined) etcd.revoke(id);
  }),
  // One revision's events in several messages, of which not all arrive.
  'many peers at one revision': onAll(3, [1, 20_000], (world, { host, dice }) => {
    const { etcd } = world.cluster;
    const { name } = world.host(host);
    etcd.cutWatches(name);
    const first = (dice % 3) * 5;
    const keys = Array.from({ length: 5 }, (_, i) => peerKey((dice & 64) + first + i, 16, 220));
    if (keys.every((key) => world.keys.has(key))) etcd.delete(...keys);
    else etcd.putAll(new Map(keys.map((key) => [key, peer(dice)])));
    for (let i = 0; i < world.hosts.length; i++) etcd.cutNextWatchAfter(1 + ((dice >> i) % 5));
  }),
  'forty writes at once': onAll(1, [1, 60_000], ({ cluster: { etcd } }, { dice }) => {
    const key = peerKey(dice, 10, 236);
    for (let i = 0; i < 40; i++) etcd.put(key, `{"PublicIP":"10.211.9.${i + 1}","BackendType":"host-gw"}`);
    return () => etcd.delete(key);
  }),
};
