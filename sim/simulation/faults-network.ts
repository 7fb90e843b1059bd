import { SeededRandom } from '../random.ts';
import type { Fault } from './faults.ts';
import type { FaultEvent } from './scenario.ts';
import type { World } from './world.ts';

const short = [1, 30_000] as const;
const long = [500, 400_000] as const;

function memberOf({ cluster }: World, { dice }: FaultEvent): string {
  const { members } = cluster.etcd;
  return members[dice % members.length] as string;
}

/** What happens between hosts and etcd, and between its members. */
export const networkFaults: Readonly<Record<string, Fault>> = {
  'cut the host from etcd': {
    weight: 3,
    lastsMs: long,
    whom: 'host',
    apply: (world, { host }) => {
      const { etcd } = world.cluster;
      const { name } = world.host(host);
      etcd.cut(name);
      return () => etcd.heal(name);
    },
  },
  'cut the host from one member': {
    weight: 2,
    lastsMs: long,
    whom: 'host',
    apply: (world, event) => {
      const { etcd } = world.cluster;
      const { name } = world.host(event.host);
      const member = memberOf(world, event);
      etcd.cut(name, member);
      return () => etcd.heal(name, member);
    },
  },
  'cut the way back from etcd': {
    weight: 3,
    lastsMs: short,
    whom: 'host',
    apply: (world, { host }) => {
      const { etcd } = world.cluster;
      const { name } = world.host(host);
      etcd.cutAnswers(name);
      return () => etcd.heal(name);
    },
  },
  'isolate a member': {
    weight: 2,
    lastsMs: long,
    whom: 'all',
    apply: (world, event) => {
      const { etcd } = world.cluster;
      const member = memberOf(world, event);
      etcd.isolate(member);
      return () => etcd.start(member);
    },
  },
  'freeze a member': {
    weight: 1,
    lastsMs: long,
    whom: 'all',
    apply: (world, event) => {
      const { etcd } = world.cluster;
      const member = memberOf(world, event);
      etcd.freeze(member);
      return () => etcd.start(member);
    },
  },
  'stop a member': {
    weight: 2,
    lastsMs: long,
    whom: 'all',
    apply: (world, event) => {
      const { etcd } = world.cluster;
      const member = memberOf(world, event);
      etcd.stop(member);
      return () => etcd.start(member);
    },
  },
  'stop all members': {
    weight: 1,
    lastsMs: long,
    whom: 'all',
    apply: ({ cluster: { etcd } }) => {
      for (const member of etcd.members) etcd.stop(member);
      return () => {
        for (const member of etcd.members) etcd.start(member);
      };
    },
  },
  // Without a leader for an election's time.
  'change the leader': {
    weight: 2,
    lastsMs: [100, 5_000],
    whom: 'all',
    apply: ({ cluster: { etcd } }) => {
      for (const member of etcd.members) etcd.isolate(member);
      return () => {
        for (const member of etcd.members) etcd.start(member);
      };
    },
  },
  'cut watches': {
    weight: 3,
    lastsMs: [1, 2],
    whom: 'host',
    apply: (world, { host, dice }) => {
      const { etcd } = world.cluster;
      etcd.cutWatches(dice % 3 === 0 ? undefined : world.host(host).name);
      return undefined;
    },
  },
  'cut streams in the middle of messages': {
    weight: 3,
    lastsMs: short,
    whom: 'all',
    apply: (world, { host, dice }) => {
      const { etcd } = world.cluster;
      const random = new SeededRandom(dice);
      for (let i = 0; i < 4; i++) etcd.cutNextWatchAfter(Math.floor(random.next() * 5));
      etcd.cutWatches(world.host(host).name);
      return undefined;
    },
  },
  'slow watches': {
    weight: 3,
    lastsMs: long,
    whom: 'host',
    apply: (world, { host, dice }) => {
      const { etcd } = world.cluster;
      const { name } = world.host(host);
      etcd.slowWatches(name, 1 + (dice % 3_000));
      world.delay(world.host(host), Number.POSITIVE_INFINITY);
      return () => {
        etcd.slowWatches(name, 0);
        world.delay(world.host(host), world.nowMs + 120_000);
      };
    },
  },
  'lose answers to writes': {
    weight: 3,
    lastsMs: short,
    whom: 'host',
    apply: (world, { host, dice }) => {
      const { etcd } = world.cluster;
      const { name } = world.host(host);
      for (let i = 0; i <= dice % 3; i++)
        etcd.loseNextReply({ applied: ((dice >> 4) + i) % 3 > 0, host: name });
      return () => etcd.keepReplies(name);
    },
  },
};
