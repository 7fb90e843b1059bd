import { SeededRandom } from '../random.ts';
import { atOnce, type Fault, type Faults, onAll, onHost } from './fault.ts';
import type { FaultEvent } from './scenario.ts';
import type { World } from './world.ts';

const short = [1, 30_000] as const;
const long = [500, 400_000] as const;

export function memberOf({ cluster }: World, dice: number): string {
  const { members } = cluster.etcd;
  return members[dice % members.length] as string;
}

/** One member, by what is done to it until it is started again. */
function withMember(weight: number, what: 'isolate' | 'freeze' | 'stop' | 'lag'): Fault {
  return onAll(weight, long, (world, { dice }) => {
    const { etcd } = world.cluster;
    const member = memberOf(world, dice);
    etcd[what](member);
    if (what !== 'lag') return () => etcd.start(member);
    const caughtUp = world.hosts.map((host) => world.delay(host));
    return () => {
      etcd.catchUp(member);
      for (const one of caughtUp) one();
    };
  });
}

/** All members at once. */
function withMembers(weight: number, what: 'isolate' | 'stop' | 'freeze', lastsMs: Fault['lastsMs']): Fault {
  return onAll(weight, lastsMs, ({ cluster: { etcd } }) => {
    for (const member of etcd.members) etcd[what](member);
    return () => {
      for (const member of etcd.members) etcd.start(member);
    };
  });
}

/** A host's way to the members, or to one of them. */
function withWay(
  weight: number,
  what: 'cut' | 'cutAnswers' | 'cutRequests',
  lastsMs: Fault['lastsMs'],
  one = false,
): Fault {
  return onHost(weight, lastsMs, (host, world, { dice }) => {
    const { etcd } = world.cluster;
    const { name } = host;
    const member = one ? memberOf(world, dice) : undefined;
    etcd[what](name, member);
    return () => etcd.heal(name, member);
  });
}

/** What becomes of writes whose answers are lost. */
function lostReplies({ dice }: FaultEvent): readonly (boolean | { readonly afterMs: number })[] {
  const random = new SeededRandom(dice);
  return Array.from({ length: 1 + (dice % 3) }, () => {
    const fate = random.next();
    if (fate < 0.6) return fate < 0.4;
    return { afterMs: 60_000 * random.next() ** 3 };
  });
}

/** What happens between hosts and etcd, and between its members. */
export const networkFaults: Faults = {
  'cut the host from etcd': withWay(3, 'cut', long),
  'cut the host from one member': withWay(2, 'cut', long, true),
  'cut the way back from etcd': withWay(3, 'cutAnswers', short),
  'cut the way to etcd': withWay(3, 'cutRequests', short),
  'cut the way to one member': withWay(1, 'cutRequests', long, true),
  'isolate a member': withMember(2, 'isolate'),
  'freeze a member': withMember(2, 'freeze'),
  'stop a member': withMember(2, 'stop'),
  'a member lags': withMember(2, 'lag'),
  'stop all members': withMembers(1, 'stop', long),
  'freeze all members': withMembers(1, 'freeze', short),
  // Without a leader for an election's time.
  'change the leader': withMembers(2, 'isolate', [100, 5_000]),
  'cut two members from one another': onAll(2, long, (world, { dice }) => {
    const { etcd } = world.cluster;
    const [a, b] = [memberOf(world, dice), memberOf(world, dice + 1)];
    // Every other time one way only.
    const ways = ([[a, b] as const, [b, a] as const] as const).filter((_, index) => dice % 4 !== index);
    for (const [from, to] of ways) etcd.cutMembers(from, to);
    return () => {
      for (const [from, to] of ways) etcd.healMembers(from, to);
    };
  }),
  'cut watches': onHost(3, atOnce, (host, world, { dice }) => {
    const { etcd } = world.cluster;
    etcd.cutWatches(dice % 3 === 0 ? undefined : host.name);
  }),
  'cut streams in the middle of messages': onAll(3, short, (world, { host, dice }) => {
    const { etcd } = world.cluster;
    const random = new SeededRandom(dice);
    for (let i = 0; i < 4; i++) etcd.cutNextWatchAfter(Math.floor(random.next() * 5));
    etcd.cutWatches(world.host(host).name);
  }),
  'watches say it again': onHost(2, atOnce, (host, world, { dice }) => {
    world.cluster.etcd.repeatWatches(host.name, 1 + (dice % 8));
  }),
  'slow watches': onHost(3, long, (host, world, { dice }) => {
    const { etcd } = world.cluster;
    const { name } = host;
    etcd.slowWatches(name, 1 + (dice % 3_000));
    const caughtUp = world.delay(host);
    return () => {
      etcd.slowWatches(name, 0);
      caughtUp();
    };
  }),
  'lose answers to writes': onHost(3, short, (host, world, event) => {
    const { etcd } = world.cluster;
    const { name } = host;
    for (const applied of lostReplies(event)) etcd.loseNextReply({ applied, host: name });
    return () => etcd.keepReplies(name);
  }),
};
