import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SimKernel } from '../../sim/kernel.ts';
import { SeededRandom } from '../../sim/random.ts';
import { HostGateway } from '../../src/backend/hostgw/host-gateway.ts';
import type { PerFamily } from '../../src/ip/ip.ts';
import type { KernelEvents } from '../../src/kernel/kernel.ts';
import type { OwnLease } from '../../src/subnet/lease/own-lease.ts';
import { type LeaseHost, type LeaseHostOptions, LeaseWorld, poolOf, subnet } from './lease-host.ts';

type Kind = 'IPv4' | 'IPv6' | 'both';

const protocol = 102;
const pools = {
  ipv4: poolOf('172.20.10.0/24', '172.20.40.0/24'),
  ipv6: poolOf('fc00:0:0:10::/64', 'fc00:0:0:40::/64'),
};
const networks = {
  ipv4: { network: subnet('172.20.0.0/16'), subnetLength: 24 },
  ipv6: { network: subnet('fc00::/32'), subnetLength: 64 },
};

const pick = <T>(kind: Kind, { ipv4, ipv6 }: Required<PerFamily<T>>): PerFamily<T> => ({
  ...(kind === 'IPv6' ? {} : { ipv4 }),
  ...(kind === 'IPv4' ? {} : { ipv6 }),
});

/** A host with its kernel; it has an address of each family, and uses those of its kind. */
class MixedHost {
  readonly kernel: SimKernel;
  readonly host: LeaseHost;
  addresses: Required<PerFamily<string>>;
  backend: HostGateway | undefined;
  events: KernelEvents | undefined;
  kind: Kind;
  readonly #world: LeaseWorld;

  constructor(world: LeaseWorld, index: number, kind: Kind) {
    this.#world = world;
    this.kind = kind;
    this.addresses = { ipv4: `10.211.55.${100 + index}`, ipv6: `fd00:55::${100 + index}` };
    this.kernel = new SimKernel({ clock: world.clock });
    this.kernel.createLink('eth0');
    this.kernel.addAddress('eth0', `${this.addresses.ipv4}/24`);
    this.kernel.addAddress('eth0', `${this.addresses.ipv6}/64`);
    this.host = world.host(this.addresses.ipv4, { hostIdentity: index });
    this.host.backendFor = (lease) => this.#backend(lease);
  }

  start(): void {
    this.host.options = { ...this.host.options, ...this.#options };
    this.host.start();
  }

  async turn(kind: Kind): Promise<void> {
    await this.host.stop();
    this.kind = kind;
    this.start();
  }

  get #options(): LeaseHostOptions {
    return { pools: pick(this.kind, pools), addresses: pick(this.kind, this.addresses) };
  }

  #backend({ subnets }: OwnLease): HostGateway {
    const { clock, log } = this.#world;
    this.backend = new HostGateway({
      kernel: this.kernel.open(),
      clock,
      random: new SeededRandom(1),
      log: log.of(this.host.name),
      trouble: this.host.trouble,
      subnets,
      addresses: pick(this.kind, this.addresses),
      networks: pick(this.kind, networks),
      protocol,
      linkName: 'eth0',
      blackhole: false,
    });
    return this.backend;
  }

  /** Our routes of a family, `dst via gateway`, sorted. */
  routes(family: 4 | 6): readonly string[] {
    return this.kernel
      .routes(family)
      .filter((route) => route.protocol === protocol)
      .map(({ dst, gateway }) => `${dst} via ${gateway}`)
      .toSorted();
  }

  /** IPv4 destinations whose route was removed since the last time, and no new one put in its place before. */
  async removed(): Promise<readonly string[]> {
    const events = (await this.events?.drain()) ?? [];
    const added = new Set<string>();
    return events.flatMap((event) => {
      if (!('route' in event) || event.route.family !== 4) return [];
      const { dst } = event.route;
      if (event.type === 'route-added') added.add(dst);
      return event.type === 'route-removed' && !added.delete(dst) ? [dst] : [];
    });
  }
}

/** What a host's routes of a family have to be: one to each other host that has that family on. */
function wanted(hosts: readonly MixedHost[], self: MixedHost, family: 'ipv4' | 'ipv6'): readonly string[] {
  if (self.host.manager.lease?.subnets[family] === undefined) return [];
  return hosts
    .filter((peer) => peer !== self)
    .flatMap((peer) => {
      const dst = peer.host.manager.lease?.subnets[family]?.text;
      return dst === undefined ? [] : [`${dst} via ${peer.addresses[family]}`];
    })
    .toSorted();
}

function expectMesh(world: LeaseWorld, hosts: readonly MixedHost[]): void {
  expect(world.keys).toHaveLength(hosts.length);
  expect(world.idleLeases).toEqual([]);
  const held = hosts.flatMap(({ host }) => host.held?.split(' and ') ?? []);
  expect(new Set(held).size).toBe(hosts.reduce((sum, { kind }) => sum + (kind === 'both' ? 2 : 1), 0));
  for (const self of hosts) {
    expect(self.routes(4), self.host.name).toEqual(wanted(hosts, self, 'ipv4'));
    if (self.kind !== 'IPv4') expect(self.routes(6), self.host.name).toEqual(wanted(hosts, self, 'ipv6'));
  }
}

async function close(world: LeaseWorld, hosts: readonly MixedHost[]): Promise<void> {
  for (const { events } of hosts) events?.close();
  expect(await world.close()).toBe(true);
}

describe('hosts of IPv4 alone, of IPv6 alone and of both in one cluster', () => {
  it('route to each other in each family two have; turning IPv6 on and off keeps IPv4, without a gap', async () => {
    const turns = fc.array(fc.tuple(fc.nat(5), fc.boolean(), fc.constantFrom(0, 50, 5_000)), {
      maxLength: 8,
    });
    const kinds = fc.array(fc.constantFrom<Kind>('IPv4', 'IPv6', 'both'), { minLength: 2, maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(kinds, turns, fc.constantFrom(0, 3), async (given, steps, latencyMs) => {
        const world = new LeaseWorld({ latencyMs });
        const hosts = given.map((kind, index) => new MixedHost(world, index, kind));
        for (const one of hosts) one.start();
        await world.clock.advance(10_000);
        expectMesh(world, hosts);
        for (const one of hosts) one.events = await one.kernel.open().subscribe();
        const first = hosts.map(({ host }) => host.manager.lease?.subnets.ipv4?.text);
        for (const [index, dualStack, waitMs] of steps) {
          const one = hosts[index % hosts.length];
          if (one === undefined || one.kind === 'IPv6') continue;
          await one.turn(dualStack ? 'both' : 'IPv4');
          await world.clock.advance(waitMs);
        }
        await world.clock.advance(10_000);
        expectMesh(world, hosts);
        expect(hosts.map(({ host }) => host.manager.lease?.subnets.ipv4?.text)).toEqual(first);
        for (const one of hosts) expect(await one.removed(), one.host.name).toEqual([]);
        await close(world, hosts);
      }),
      { numRuns: 40 },
    );
  }, 60_000);

  it('follow a host to its new address: each peer’s route is replaced, none is removed', async () => {
    const world = new LeaseWorld({ latencyMs: 3 });
    const hosts = (['both', 'both', 'IPv4', 'IPv6'] as const).map(
      (kind, at) => new MixedHost(world, at, kind),
    );
    for (const one of hosts) one.start();
    await world.clock.advance(10_000);
    for (const one of hosts) one.events = await one.kernel.open().subscribe();
    const [mover] = hosts;
    if (mover === undefined) throw new Error('there is no host');
    const { held } = mover.host;
    mover.kernel.addAddress('eth0', '10.211.55.200/24');
    mover.addresses = { ...mover.addresses, ipv4: '10.211.55.200' };
    mover.host.manager.moveTo(mover.addresses);
    mover.backend?.moveTo(mover.addresses);
    await world.clock.advance(5_000);
    expect(mover.host.held).toBe(held);
    expectMesh(world, hosts);
    for (const one of hosts) expect(await one.removed(), one.host.name).toEqual([]);
    await close(world, hosts);
  });
});
