import { ownRoutes, subnetOf } from '../integration/route-watch.ts';
import type { ClusterHost } from '../testbed/cluster.ts';
import type { EtcdMember } from '../testbed/etcd.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import type { Chance } from './chance.ts';
import type { SoakWorld } from './soak-world.ts';

const START_DEADLINE_MS = 60_000;

/** Something that happens to a host or to etcd. When it resolves it is over: what it took away is back. */
export interface Fault {
  readonly name: string;
  readonly run: (world: SoakWorld, chance: Chance) => Promise<void>;
}

/** A fault of one host. */
interface HostFault {
  readonly name: string;
  /** Ends the daemon: not for the veteran. */
  readonly endsDaemon?: true;
  readonly run: (host: ClusterHost, chance: Chance) => Promise<void>;
}

export const hostFaults: readonly HostFault[] = [
  {
    name: 'daemon restarted',
    endsDaemon: true,
    run: async ({ daemon }) => void (await daemon.restart()),
  },
  {
    name: 'daemon killed',
    endsDaemon: true,
    async run({ daemon }, chance) {
      await daemon.kill9();
      await chance.hold(0, 500);
      await daemon.start();
    },
  },
  {
    name: 'daemon frozen',
    async run({ daemon }, chance) {
      daemon.process.signal('SIGSTOP');
      await chance.hold(500, 4_000);
      daemon.process.signal('SIGCONT');
    },
  },
  {
    name: 'link down',
    async run({ net }, chance) {
      await net.linkDown();
      await chance.hold(0, 2_000);
      await net.linkUp();
    },
  },
  {
    name: 'cable pulled',
    async run({ net }, chance) {
      await net.setCarrier(false);
      await chance.hold(200, 3_000);
      await net.setCarrier(true);
    },
  },
  {
    name: 'addresses flushed',
    async run({ net }, chance) {
      await net.flushAddresses();
      await chance.hold(0, 1_000);
      await net.setAddresses();
    },
  },
  { name: 'card exchanged', run: async ({ net }) => await net.recreateEth0() },
  {
    name: 'routes deleted',
    async run(host) {
      for (const route of await ownRoutes(host)) await host.net.ip(`route del ${route}`).catch(gone);
    },
  },
];

/** Faults of etcd itself: one at a time, so that it is always known what it is that comes back. */
export const etcdFaults: readonly Fault[] = [
  {
    name: 'etcd member killed',
    async run(world, chance) {
      const member = chance.pick(world.members);
      await member.kill();
      await chance.hold(0, 2_000);
      await startAgain(chance, member);
    },
  },
  {
    name: 'etcd member frozen',
    async run(world, chance) {
      const member = chance.pick(world.members);
      member.pause();
      await chance.hold(1_000, 5_000);
      member.resume();
      await member.healthy();
    },
  },
  {
    name: 'etcd killed whole',
    async run(world, chance) {
      await Promise.all(world.members.map((member) => member.kill()));
      await chance.hold(0, 2_000);
      await Promise.all(world.members.map((member) => startAgain(chance, member)));
    },
  },
];

/** What people and other programs do. */
export const changes: readonly Fault[] = [
  {
    name: 'peers came and went',
    async run(world, chance) {
      for (let turn = 0; turn < 4; turn++)
        await (chance.between(0, 1) < 0.5 ? join(world, chance) : leave(world, chance));
    },
  },
  {
    name: 'junk stored',
    async run(world, chance) {
      const key = leaseKey(chance.pick(['junk', '172.20.8.0-24-x', '172.20.300.0/24', '\u001b[2J']));
      await world.put(key, chance.pick(['', '{"__proto__":', 'x'.repeat(10_000)]));
      await chance.hold(0, 300);
      await world.delete(key);
    },
  },
  {
    name: 'own lease deleted',
    run: async (world, chance) => await world.delete(leaseKey(subnetOf(chance.pick(world.cluster.hosts)))),
  },
  {
    name: 'history compacted',
    async run(world) {
      await world.etcdctl(async (ctl) => {
        const revision = /"revision":(\d+)/.exec(await ctl('get', 'no-such-key', '-w', 'json'))?.[1] ?? '1';
        // It may have been done before, and the answer lost.
        return await ctl('compact', revision).catch(unlessIncludes('has been compacted'));
      });
    },
  },
  {
    name: 'foreign route added',
    async run(world, chance) {
      const host = chance.pick(world.cluster.hosts);
      // Without a link, so that no fault of a link takes it away.
      const dst = `198.18.${Math.floor(chance.between(0, 255))}.0/24`;
      await host.net.ip(`route replace blackhole ${dst} proto static`);
      world.foreign.get(host)?.add(dst);
    },
  },
];

/** Starts a member as its unit does: again, as long as its host has no address to listen on. */
async function startAgain(chance: Chance, member: EtcdMember): Promise<void> {
  const deadline = performance.now() + START_DEADLINE_MS;
  for (;;) {
    try {
      if (!member.running) member.launch();
      return await member.healthy();
    } catch (error) {
      if (member.running || performance.now() > deadline) throw error;
      await chance.hold(100, 300);
    }
  }
}

async function join(world: SoakWorld, chance: Chance): Promise<void> {
  const peer = world.newPeer(chance);
  if (peer === undefined) return;
  world.peers.set(peer.subnet, peer.gateway);
  await world.put(leaseKey(peer.subnet), leaseValue(peer.gateway));
}

async function leave(world: SoakWorld, chance: Chance): Promise<void> {
  if (world.peers.size === 0) return;
  const subnet = chance.pick([...world.peers.keys()]);
  world.peers.delete(subnet);
  await world.delete(leaseKey(subnet));
}

/** The link or the route is away at the moment; that is another fault's doing. */
function gone(): false {
  return false;
}

/** Passes over an error that says this. */
function unlessIncludes(text: string): (error: unknown) => string {
  return (error) => {
    if (String(error).includes(text)) return '';
    throw error;
  };
}
