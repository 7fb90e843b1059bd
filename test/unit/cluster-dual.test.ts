import { afterEach, describe, expect, it } from 'vitest';
import { prefix, type SimCluster, type SimHost } from '../../sim/cluster.ts';
import { SeededRandom } from '../../sim/random.ts';
import type { Family, PerFamily, Subnet } from '../../src/ip/ip.ts';
import type { KernelEvents } from '../../src/kernel/kernel.ts';
import { makeCluster } from './sim-worlds.ts';

const ipv4 = { Network: '172.20.0.0/16', SubnetMin: '172.20.10.0', SubnetMax: '172.20.254.0' };
const ipv6 = { EnableIPv6: true, IPv6Network: 'fc00:20::/48' };
const Backend = { Type: 'host-gw' };

/** The network configuration that makes daemons that start now hosts of a kind. */
const configs = {
  'IPv4 alone': { ...ipv4, Backend },
  both: { ...ipv4, ...ipv6, Backend },
  'IPv6 alone': { EnableIPv4: false, ...ipv6, Backend },
} as const;
type Kind = keyof typeof configs;

let cluster: SimCluster;
let events: KernelEvents[] = [];

afterEach(() => {
  for (const each of events) each.close();
  events = [];
});

function make(hosts: number, seed: number): void {
  cluster = makeCluster({ seed, hosts, ipv6: true });
}

async function start(host: SimHost | undefined, kind: Kind): Promise<void> {
  cluster.etcd.put(`${prefix}/config`, JSON.stringify(configs[kind]));
  host?.start();
  await cluster.clock.until('ready', () => host?.notifier.isReady === true, 60_000);
}

/** Each host has one route to each other host in each family that both have; `left`: and may have some of one turned off. */
async function expectMesh(left = false): Promise<void> {
  const running = cluster.hosts.filter((host) => host.running);
  const subnets = new Map<SimHost, PerFamily<Subnet>>();
  for (const host of running) subnets.set(host, await host.subnets());
  for (const self of running) {
    const peers = running.filter((host) => host !== self);
    const to = (family: 'ipv4' | 'ipv6', address: (peer: SimHost) => string) =>
      peers.flatMap((peer) => {
        const dst = subnets.get(self)?.[family] && subnets.get(peer)?.[family]?.text;
        return dst === undefined ? [] : [`${dst} via ${address(peer)}`];
      });
    expect(self.routes(4)).toEqual(to('ipv4', ({ address }) => address).toSorted());
    if (!left || subnets.get(self)?.ipv6)
      expect(self.routes(6)).toEqual(to('ipv6', ({ addressIPv6 }) => addressIPv6).toSorted());
    expect(self.readiness.reasons).toEqual([]);
  }
}

/** Follows what the hosts' kernels tell from now on. */
async function follow(hosts: readonly SimHost[]): Promise<void> {
  for (const host of hosts) events.push(await host.kernel.open().subscribe());
}

/** No route of these families went since then. */
async function expectNoneRemoved(...families: readonly Family[]): Promise<void> {
  for (const each of events) {
    const removed = (await each.drain()).filter(
      (event) => event.type === 'route-removed' && families.includes(event.route.family),
    );
    expect(removed).toEqual([]);
  }
}

describe('daemons of IPv4 alone, of IPv6 alone and of both', () => {
  it('route to each other in each family that two of them have', async () => {
    make(6, 1);
    const kinds: Kind[] = ['IPv4 alone', 'both', 'IPv6 alone', 'both', 'IPv6 alone', 'IPv4 alone'];
    for (const [index, kind] of kinds.entries()) await start(cluster.hosts[index], kind);
    await cluster.clock.advance(10_000);
    await expectMesh();
    expect(cluster.etcd.leaseIds).toHaveLength(6);
    expect(new Set(cluster.log.events('mixed-families').map(({ host }) => host)).size).toBeGreaterThan(0);
  });

  it.each([11, 12, 13, 14, 15, 16, 17, 18])(
    'keep their IPv4 subnets, and every IPv4 route, however IPv6 is turned on and off (seed %i)',
    async (seed) => {
      make(5, seed);
      const { clock, etcd, hosts } = cluster;
      const random = new SeededRandom(seed);
      const pick = <T>(items: readonly T[]) => items[Math.floor(random.next() * items.length)] as T;
      for (const host of hosts.slice(1)) await start(host, pick(Object.keys(configs) as Kind[]));
      await start(hosts[0], 'both');
      await clock.advance(10_000);
      await expectMesh();
      const before = await Promise.all(hosts.map((host) => host.subnet()));
      await follow(hosts);
      for (let turn = 0; turn < 10; turn++) {
        const host = pick(hosts.filter((_, index) => before[index] !== undefined));
        await host.stop();
        etcd.put(`${prefix}/config`, JSON.stringify(configs[pick<Kind>(['IPv4 alone', 'both'])]));
        host.start();
        await clock.advance(pick([0, 3, 50, 5_000]));
      }
      await clock.advance(30_000);
      await expectMesh(true);
      expect(await Promise.all(hosts.map((host) => host.subnet()))).toEqual(before);
      expect(etcd.leaseIds).toHaveLength(5);
      await expectNoneRemoved(4);
    },
  );

  it('keep their IPv4 subnets when IPv6 is turned off again', async () => {
    make(3, 3);
    for (const host of cluster.hosts) await start(host, 'both');
    const before = await Promise.all(cluster.hosts.map((host) => host.subnet()));
    for (const host of cluster.hosts) {
      await host.stop();
      await start(host, 'IPv4 alone');
    }
    await cluster.clock.advance(5_000);
    const after = await Promise.all(cluster.hosts.map((host) => host.subnets()));
    expect(after).toEqual(before.map((subnet) => ({ ipv4: subnet })));
    for (const { ownRoutes } of cluster.hosts) expect(ownRoutes).toHaveLength(2);
    expect(cluster.etcd.leaseIds).toHaveLength(3);
  });

  it('reach a host that gets another IPv6 address there, with its subnets kept and no route gone', async () => {
    make(3, 4);
    for (const host of cluster.hosts) await start(host, 'both');
    await cluster.clock.advance(10_000);
    const mover = cluster.host(0);
    const others = cluster.hosts.slice(1);
    const before = await mover.subnets();
    await follow(others);
    mover.kernel.addAddress('eth0', 'fd00:55::99/64');
    mover.kernel.removeAddress('eth0', `${mover.addressIPv6}/64`);
    const route = `${before.ipv6?.text} via fd00:55::99`;
    await cluster.clock.until('moved', () => others.every((host) => host.routes(6).includes(route)), 60_000);
    expect(await mover.subnets()).toEqual(before);
    await expectNoneRemoved(4, 6);
  });
});
