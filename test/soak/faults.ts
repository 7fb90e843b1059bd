import { ownRoutes, subnetOf } from '../integration/route-watch.ts';
import type { ClusterHost } from '../testbed/cluster.ts';
import type { EtcdMember } from '../testbed/etcd.ts';
import { keyOf, type SoakWorld } from './soak-world.ts';

const START_DEADLINE_MS = 60_000;

/** Something that happens to a host or to etcd. When it resolves it is over: what it took away is back. */
export interface Fault {
  readonly name: string;
  readonly run: (world: SoakWorld) => Promise<void>;
}

/** A fault of one host. */
interface HostFault {
  readonly name: string;
  /** Ends the daemon: not for the veteran. */
  readonly endsDaemon?: true;
  readonly run: (world: SoakWorld, host: ClusterHost) => Promise<void>;
}

export const hostFaults: readonly HostFault[] = [
  {
    name: 'daemon restarted',
    endsDaemon: true,
    run: async (_world, { daemon }) => void (await daemon.restart()),
  },
  {
    name: 'daemon killed',
    endsDaemon: true,
    async run(world, { daemon }) {
      await daemon.kill9();
      await world.hold(0, 500);
      await daemon.start();
    },
  },
  {
    name: 'daemon frozen',
    async run(world, { daemon }) {
      daemon.process.signal('SIGSTOP');
      await world.hold(500, 4_000);
      daemon.process.signal('SIGCONT');
    },
  },
  {
    name: 'link down',
    async run(world, { net }) {
      await net.linkDown();
      await world.hold(0, 2_000);
      await net.linkUp();
    },
  },
  {
    name: 'cable pulled',
    async run(world, { net }) {
      await net.setCarrier(false);
      await world.hold(200, 3_000);
      await net.setCarrier(true);
    },
  },
  {
    name: 'addresses flushed',
    async run(world, { net }) {
      await net.flushAddresses();
      await world.hold(0, 1_000);
      await net.setAddresses();
    },
  },
  { name: 'card exchanged', run: async (_world, { net }) => await net.recreateEth0() },
  {
    name: 'routes deleted',
    async run(_world, host) {
      for (const route of await ownRoutes(host)) await host.net.ip(`route del ${route}`).catch(gone);
    },
  },
];

/** Faults of etcd itself: one at a time, so that it is always known what it is that comes back. */
export const etcdFaults: readonly Fault[] = [
  {
    name: 'etcd member killed',
    async run(world) {
      const member = world.pick(world.members);
      await member.kill();
      await world.hold(0, 2_000);
      await startAgain(world, member);
    },
  },
  {
    name: 'etcd member frozen',
    async run(world) {
      const member = world.pick(world.members);
      member.pause();
      await world.hold(1_000, 5_000);
      member.resume();
      await member.healthy();
    },
  },
  {
    name: 'etcd killed whole',
    async run(world) {
      await Promise.all(world.members.map((member) => member.kill()));
      await world.hold(0, 2_000);
      await Promise.all(world.members.map((member) => startAgain(world, member)));
    },
  },
];

/** What people and other programs do. */
export const changes: readonly Fault[] = [
  {
    name: 'peers came and went',
    async run(world) {
      for (let turn = 0; turn < 4; turn++) await (world.between(0, 1) < 0.5 ? join(world) : leave(world));
    },
  },
  {
    name: 'junk stored',
    async run(world) {
      const key = keyOf(world.pick(['junk', '172.20.8.0-24-x', '172.20.300.0/24', '\u001b[2J']));
      await world.put(key, world.pick(['', '{"__proto__":', 'x'.repeat(10_000)]));
      await world.hold(0, 300);
      await world.delete(key);
    },
  },
  {
    name: 'own lease deleted',
    run: async (world) => await world.delete(keyOf(subnetOf(world.pick(world.cluster.hosts)))),
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
    async run(world) {
      const host = world.pick(world.cluster.hosts);
      // Without a link, so that no fault of a link takes it away.
      const dst = `198.18.${Math.floor(world.between(0, 255))}.0/24`;
      await host.net.ip(`route replace blackhole ${dst} proto static`);
      world.foreign.get(host)?.add(dst);
    },
  },
];

/** Starts a member as its unit does: again, as long as its host has no address to listen on. */
async function startAgain(world: SoakWorld, member: EtcdMember): Promise<void> {
  const deadline = performance.now() + START_DEADLINE_MS;
  for (;;) {
    try {
      if (!member.running) member.launch();
      return await member.healthy();
    } catch (error) {
      if (member.running || performance.now() > deadline) throw error;
      await world.hold(100, 300);
    }
  }
}

async function join(world: SoakWorld): Promise<void> {
  const peer = world.newPeer();
  if (peer === undefined) return;
  const value = JSON.stringify({ PublicIP: peer.gateway, PublicIPv6: null, BackendType: 'host-gw' });
  world.peers.set(peer.subnet, peer.gateway);
  await world.put(keyOf(peer.subnet), value);
}

async function leave(world: SoakWorld): Promise<void> {
  if (world.peers.size === 0) return;
  const subnet = world.pick([...world.peers.keys()]);
  world.peers.delete(subnet);
  await world.delete(keyOf(subnet));
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
