import { afterEach, expect, it } from 'vitest';
import { prefix, SimCluster, type SimHost } from '../../sim/cluster.ts';
import { SeededRandom } from '../../sim/random.ts';

// Whatever changes under a host that is just coming up, or is stopped at any point: when all is quiet again it has one lease,
// one key, its routes, and nothing to complain of.

const seeds = Array.from({ length: 60 }, (_, index) => index + 1);
const configOf = (max: string) =>
  `{"Network":"172.20.0.0/16","SubnetMin":"172.20.10.0","SubnetMax":"${max}","Backend":{"Type":"host-gw"}}`;

let cluster: SimCluster;
afterEach(() => cluster?.close());

it.each(seeds)('a host that comes up in disorder (seed %i)', async (seed) => {
  const random = new SeededRandom(seed);
  const pick = <T>(items: readonly T[]) => items[Math.floor(random.next() * items.length)] as T;
  cluster = new SimCluster({ seed, hosts: 3 });
  const { clock, etcd, hosts } = cluster;
  const [host, ...peers] = hosts as [SimHost, ...SimHost[]];
  for (const peer of peers) peer.start();
  await clock.until('peers', () => cluster.meshed, 60_000);
  const on = { link: 'eth0', cidr: `${host.address}/16` };
  let moves = 0;
  let cut = false;
  const readdress = (link: string) => {
    host.kernel.removeAddress(on.link, on.cidr);
    on.link = link;
    on.cidr = `10.211.99.${++moves}/16`;
    host.kernel.addAddress(link, on.cidr);
    const route = { dst: '0.0.0.0/0', gateway: '10.211.0.1' };
    const { index } = host.kernel.link(link);
    if (!host.kernel.routes(4).some(({ dst }) => dst === route.dst))
      host.kernel.addRoute({ ...route, linkIndex: index });
  };
  host.kernel.createLink('br0');
  const acts: Record<string, () => unknown> = {
    address: () => readdress(on.link),
    interface: () => readdress(on.link === 'eth0' ? 'br0' : 'eth0'),
    mtu: () => host.kernel.setMtu(on.link, pick([1500, 1450, 9000])),
    config: () =>
      etcd.put(`${prefix}/config`, configOf(pick(['172.20.254.0', '172.20.200.0', '172.20.11.0']))),
    gone: () => etcd.delete(`${prefix}/config`),
    lost: () => etcd.loseNextReply({ applied: random.next() < 0.5, host: host.name }),
    cut: () => {
      cut = true;
      etcd.cut(host.name);
    },
    heal: () => {
      cut = false;
      etcd.heal(host.name);
    },
    disk: () => {
      host.files.writeError = host.files.writeError === undefined ? 'ENOSPC' : undefined;
    },
    restart: async () => {
      // What etcd cannot be told at the end is left to expire there, and without subnet.env an old address is nobody's.
      if (cut || (await host.subnet()) === undefined) {
        acts['heal']?.();
        host.files.writeError = undefined;
        await clock.advance(20_000);
      }
      expect(await host.stop()).toBeUndefined();
      host.start();
    },
  };
  host.start();
  for (let step = 0; step < 12; step++) {
    await acts[pick(Object.keys(acts))]?.();
    await clock.advance(pick([0, 1, 2, 3, 5, 10, 200, 1_500, 6_000]));
  }
  etcd.heal(host.name);
  host.files.writeError = undefined;
  etcd.put(`${prefix}/config`, configOf('172.20.254.0'));
  await clock.advance(120_000);
  const address = on.cidr.replace('/16', '');
  const named = etcd
    .list(`${prefix}/subnets/`, `${prefix}/subnets0`)
    .filter(({ value }) => !peers.some((peer) => value.includes(`"${peer.address}"`)));
  expect(host.readiness).toMatchObject({ ready: true, reasons: [] });
  expect(named.map(({ value }) => value)).toEqual([expect.stringContaining(`"${address}"`)]);
  expect(cluster.meshed).toBe(true);
  expect(etcd.leaseIds).toHaveLength(3);
  const subnet = (await host.subnet())?.text;
  expect(named[0]?.key).toBe(`${prefix}/subnets/${subnet?.replace('/', '-')}`);
  for (const peer of peers) expect(peer.ownRoutes).toContain(`${subnet} via ${address}`);
  const link = host.kernel.link(on.link);
  const ours = host.kernel.routes(4).filter(({ protocol }) => protocol === 102);
  expect(ours.map(({ linkIndex }) => linkIndex)).toEqual([link.index, link.index]);
  expect(await host.files.readText('/run/flannel/subnet.env')).toContain(`FLANNEL_MTU=${link.mtu}\n`);
});
