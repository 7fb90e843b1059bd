import { describe, expect, it } from 'vitest';
import { prefix, type SimCluster, type SimHost } from '../../sim/cluster.ts';
import { SeededRandom } from '../../sim/random.ts';
import { Wake } from '../../src/runtime/wake.ts';
import { makeCluster } from './sim-worlds.ts';

// What a daemon has done before it says that it is ready, and what it begins with.

let cluster: SimCluster;

const network = { Network: '172.20.0.0/16', Backend: { Type: 'host-gw' } };

function make(config: object = network): { readonly cluster: SimCluster; readonly host: SimHost } {
  cluster = makeCluster({ seed: 1, hosts: 1, config: JSON.stringify(config) });
  return { cluster, host: cluster.host(0) };
}

const untilReady = async ({ clock }: SimCluster, host: SimHost) =>
  await clock.until('ready', () => host.notifier.isReady, 60_000);

describe('READY=1', () => {
  /** Starts with an iptables that takes so long to write. */
  const readyAfter = async (takesMs: number) => {
    const { cluster: world, host } = make();
    host.firewall.before = async ({ program }) => {
      if (program === 'iptables-restore') await world.clock.sleep(takesMs, new AbortController().signal);
      return undefined;
    };
    const startedMs = world.clock.monotonic();
    host.start();
    await untilReady(world, host);
    return world.clock.monotonic() - startedMs;
  };

  it('waits for the firewall rules: Docker starts next', async () => {
    expect(await readyAfter(7_000)).toBeGreaterThanOrEqual(7_000);
  });

  it('gives up waiting for them after a while, and is ready', async () => {
    const waitedMs = await readyAfter(40_000);
    expect(waitedMs).toBeLessThan(15_000);
    await cluster.clock.advance(40_000);
  });

  it('waits until probes and the status command are answered: who waits for READY may ask at once', async () => {
    const { cluster: world, host } = make();
    const serve = () => world.clock.sleep(3_000, new AbortController().signal);
    host.start({}, (parts) => ({ ...parts, serve }));
    await world.clock.advance(2_900);
    expect([host.notifier.isReady, await host.subnet()]).toEqual([false, expect.anything()]);
    await world.clock.advance(200);
    expect(host.notifier.isReady).toBe(true);
  });
});

describe('ARP, while etcd is away', () => {
  const probes = ({ segment }: SimCluster, { address }: SimHost) =>
    segment.sent.filter(({ sender, target }) => sender === '0.0.0.0' && target === address).length;

  it('is asked about the address of a new host, which then joins without waiting for an answer', async () => {
    const { cluster: world, host } = make();
    world.etcd.cut(host.name);
    host.start();
    await world.clock.advance(5_000);
    const asked = probes(world, host);
    expect(asked).toBeGreaterThan(0);
    world.etcd.heal(host.name);
    await untilReady(world, host);
    expect(probes(world, host)).toBe(asked);
  });

  it('is not asked by a host that has had a subnet, and needs no answer', async () => {
    const { cluster: world, host } = make();
    host.start();
    await untilReady(world, host);
    await host.stop();
    const before = probes(world, host);
    world.etcd.cut(host.name);
    host.start();
    await world.clock.advance(5_000);
    expect(probes(world, host)).toBe(before);
  });

  it('waits for no file that cannot be read to the end', async () => {
    const { cluster: world, host } = make();
    const disk = new Wake();
    let hangs = true;
    const readText = async (path: string) => {
      if (hangs) await disk.wait(new AbortController().signal);
      return await host.files.readText(path);
    };
    host.start({}, (parts) => ({ ...parts, files: Object.assign(Object.create(parts.files), { readText }) }));
    await world.clock.advance(1_000);
    expect(world.log.events('interface-chosen')).toHaveLength(1);
    hangs = false;
    disk.wake();
    await untilReady(world, host);
  });

  it('is asked about the address that is used in the end', async () => {
    const { cluster: world, host } = make();
    world.etcd.cut(host.name);
    host.start();
    await world.clock.advance(5_000);
    host.kernel.removeAddress('eth0', `${host.address}/16`);
    host.address = '10.211.99.1';
    host.kernel.addAddress('eth0', `${host.address}/16`);
    host.kernel.addRoute({
      dst: '0.0.0.0/0',
      gateway: '10.211.0.1',
      linkIndex: host.kernel.link('eth0').index,
    });
    world.etcd.heal(host.name);
    await untilReady(world, host);
    expect(probes(world, host)).toBeGreaterThan(0);
  });
});

it.each([
  ['iptables', network, ['net.bridge.bridge-nf-call-iptables']],
  ['nftables', { ...network, EnableNFTables: true }, []],
])(
  'warns that bridged packets bypass the firewall rules with iptables alone: %s',
  async (_, config, names) => {
    const { cluster: world, host } = make(config);
    host.start();
    await untilReady(world, host);
    const said = world.log.events('no-bridge-filter').map(({ message }) => message);
    expect(said).toEqual(names.map((name) => expect.stringContaining(name)));
  },
);

// Whatever changes under a host that is just coming up, or is stopped at any point: when all is quiet again it has one lease,
// one key, its routes, and nothing to complain of.

const seeds = Array.from({ length: 60 }, (_, index) => index + 1);
const configOf = (max: string) =>
  `{"Network":"172.20.0.0/16","SubnetMin":"172.20.10.0","SubnetMax":"${max}","Backend":{"Type":"host-gw"}}`;

it.each(seeds)('a host that comes up in disorder (seed %i)', async (seed) => {
  const random = new SeededRandom(seed);
  const pick = <T>(items: readonly T[]) => items[Math.floor(random.next() * items.length)] as T;
  const all = makeCluster({ seed, hosts: 3 });
  cluster = all;
  const { clock, etcd, hosts } = all;
  const [host, ...peers] = hosts as [SimHost, ...SimHost[]];
  for (const peer of peers) peer.start();
  await clock.until('peers', () => all.meshed, 60_000);
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
  expect(all.meshed).toBe(true);
  expect(etcd.leaseIds).toHaveLength(3);
  const subnet = (await host.subnet())?.text;
  expect(named[0]?.key).toBe(`${prefix}/subnets/${subnet?.replace('/', '-')}`);
  for (const peer of peers) expect(peer.ownRoutes).toContain(`${subnet} via ${address}`);
  const link = host.kernel.link(on.link);
  const ours = host.kernel.routes(4).filter(({ protocol }) => protocol === 102);
  expect(ours.map(({ linkIndex }) => linkIndex)).toEqual([link.index, link.index]);
  expect(await host.files.readText('/run/flannel/subnet.env')).toContain(`FLANNEL_MTU=${link.mtu}\n`);
});

describe('a disk that is full when the daemon starts', () => {
  it('keeps nobody from work when the files are right already: routes stay, peers are followed', async () => {
    cluster = makeCluster({ seed: 1, hosts: 3 });
    const { clock, log } = cluster;
    const [full, peer, late] = [cluster.host(0), cluster.host(1), cluster.host(2)];
    for (const host of [full, peer]) host.start();
    await clock.until('ready', () => full.notifier.isReady && peer.notifier.isReady);
    await full.stop();
    full.files.writeError = 'ENOSPC';
    for (const host of [full, late]) host.start();
    await clock.until('full mesh', () => cluster.meshed, 60_000);
    expect(full.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
    expect(log.events('file-kept').map(({ host, level }) => `${host} ${level}`)).toEqual([
      'h0 warn',
      'h0 warn',
    ]);
  });
});

it('tells at debug how long each step of the start took, once', async () => {
  const { cluster: world, host } = make();
  host.start();
  await untilReady(world, host);
  await world.clock.advance(60_000);
  const told = world.log.events('start-steps');
  expect(told.map(({ level }) => level)).toEqual(['debug']);
  expect(told[0]?.fields['steps']).toMatchObject([
    { phase: 'waiting for etcd and the network configuration' },
    { phase: 'waiting for an address on the interface' },
    { phase: 'waiting for a subnet' },
    { phase: expect.stringMatching(/^subnet \S+; syncing routes$/) },
  ]);
});
