import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, subnet, valueOf } from '../../sim/leases.ts';
import { overlaps, type PerFamily, type Subnet, subnetAt } from '../../src/ip/ip.ts';
import type { PoolConfig } from '../../src/subnet/config/config.ts';
import { occupiedSubnets } from '../../src/subnet/keys.ts';

const members = ['m0', 'm1', 'm2'];

/** Keys of other programs: any length, with and without an IPv6 half, and IPv6 alone. */
const foreign = fc.oneof(
  fc.nat(255).map((index) => `10.1.${index}.0-24`),
  fc.nat(255).map((index) => `10.1.${index}.128-25`),
  fc
    .nat(255)
    .map((index) => `10.1.${index}.0-24&fc00:0:0:${index.toString(16)}::-64`.replace(':0:0:0::', '::')),
  fc.integer({ min: 0, max: 63 }).map((index) => `10.1.${index * 4}.0-22`),
  fc.integer({ min: 1, max: 15 }).map((index) => `0.0.0.0-0&fc00:0:0:${index.toString(16)}0::-60`),
  fc.constantFrom('junk', '10.1.7.1-24', '0.0.0.0-0&fc00::7:0:0:0-80'),
);

type Fault = { readonly atMs: number; readonly name: string; readonly run: (world: LeaseWorld) => void };

const memberFault = (kind: 'stop' | 'freeze') =>
  fc.constantFrom(...members).map((name) => ({
    name: `${kind} ${name}`,
    run: (world: LeaseWorld) => {
      for (const member of members) world.etcd.start(member);
      world.etcd[kind](name);
    },
  }));
const lostReply = fc.boolean().map((applied) => ({
  name: `lose ${applied}`,
  run: (world: LeaseWorld) => world.etcd.loseNextReply({ applied }),
}));
const fault: fc.Arbitrary<Fault> = fc
  .tuple(fc.integer({ min: 0, max: 60 }), fc.oneof(lostReply, memberFault('stop'), memberFault('freeze')))
  .map(([atMs, { name, run }]) => ({ atMs, name, run, toString: () => `${name} at ${atMs}` }));

/** Every subnet that some key holds, of both families. */
function subnetsIn(
  world: LeaseWorld,
): { readonly key: string; readonly subnet: Subnet; readonly value: string }[] {
  return world.kvs.flatMap(({ key, value }) =>
    occupiedSubnets(prefix, key).map((one) => ({ key, subnet: one, value })),
  );
}

type Kind = 'IPv4' | 'IPv6' | 'both';

const on = (kind: Kind, family: 4 | 6) => kind === 'both' || kind === `IPv${family}`;

/** A host of a kind, as the network configuration and its addresses make it. */
function optionsOf(kind: Kind, index: number, pools: PerFamily<PoolConfig>): LeaseHostOptions {
  const { ipv4, ipv6 } = pools;
  return {
    watch: false,
    hostIdentity: index,
    pools: { ...(on(kind, 4) && ipv4 ? { ipv4 } : {}), ...(on(kind, 6) && ipv6 ? { ipv6 } : {}) },
    addresses: {
      ...(on(kind, 4) ? { ipv4: `10.211.0.${index + 1}` } : {}),
      ...(on(kind, 6) ? { ipv6: `fd00::${index + 1}` } : {}),
    },
  };
}

describe('hosts that start at once', () => {
  it('all get a subnet of their own while there are enough, whatever replies are lost and members fail', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          kinds: fc.array(fc.constantFrom<Kind>('IPv4', 'IPv6', 'both'), { minLength: 1, maxLength: 12 }),
          spare: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 5 })),
          length: fc.constantFrom(24, 26),
          latencyMs: fc.constantFrom(0, 2),
          used: fc.array(foreign, { maxLength: 6 }),
          faults: fc.array(fault, { maxLength: 12 }),
          seed: fc.integer({ min: 0, max: 10_000 }),
        }),
        async ({ kinds, spare, length, latencyMs, used, faults, seed }) => {
          const world = new LeaseWorld({ members, latencyMs });
          for (const name of used) world.put(name, valueOf('10.211.9.9'), '0');
          const need = (family: 4 | 6) => kinds.filter((kind) => on(kind, family)).length + spare;
          const first = { ipv4: subnet(`10.1.0.0/${length}`), ipv6: subnet(`fc00::/${length + 40}`) };
          const pools = {
            ipv4: poolWithFree(world, need(4), first.ipv4),
            ipv6: poolWithFree(world, need(6), first.ipv6),
          };
          kinds.forEach((kind, index) =>
            world.host(`10.211.0.${index + 1}`, optionsOf(kind, index, pools), seed).start(),
          );
          let nowMs = 0;
          for (const { atMs, run } of faults.toSorted((a, b) => a.atMs - b.atMs)) {
            await world.clock.advance(atMs - nowMs);
            nowMs = atMs;
            run(world);
          }
          await world.clock.advance(1_000);
          await untilAllHold(world);
          check(world, kinds.length);
          await world.clock.advance(60_000);
          check(world, kinds.length);
          expect(await world.close()).toBe(true);
        },
      ),
      { numRuns: 150 },
    );
  }, 120_000);

  it('of two lengths never overlap', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(22, 24, 26), { minLength: 2, maxLength: 8 }),
        fc.constantFrom(0, 1, 3),
        fc.array(fault, { maxLength: 5 }),
        fc.integer({ min: 0, max: 10_000 }),
        async (lengths, latencyMs, faults, seed) => {
          const world = new LeaseWorld({ members, latencyMs });
          lengths.forEach((length, index) => {
            // 16 /22 for eight hosts: a free one remains, wherever the others are.
            const pools = { ipv4: poolOf(`10.1.0.0/${length}`, `10.1.60.0/${length}`) };
            world.host(`10.211.0.${index + 1}`, { pools, watch: false }, seed).start();
          });
          for (const { run } of faults) {
            run(world);
            await world.clock.advance(7);
          }
          await untilAllHold(world);
          check(world, lengths.length);
          expect(await world.close()).toBe(true);
        },
      ),
      { numRuns: 150 },
    );
  }, 120_000);
});

/** The smallest pool from `first` up in which so many subnets are free, or one that is full for none. */
function poolWithFree(world: LeaseWorld, free: number, first: Subnet): PoolConfig {
  const taken = subnetsIn(world);
  let found = 0;
  for (let last = first; ; last = subnetAt(last.family, last.last + 1n, last.length)) {
    if (!taken.some((other) => overlaps(other.subnet, last))) found++;
    if (found >= free) return poolOf(first.text, last.text);
  }
}

async function untilAllHold({ etcd, clock, hosts }: LeaseWorld): Promise<void> {
  for (const member of members) etcd.start(member);
  await clock.until('all hold a subnet', () => hosts.every(({ held }) => held !== undefined), 600_000);
}

function check(world: LeaseWorld, hosts: number): void {
  const leases = subnetsIn(world);
  const ours = leases.filter(({ value }) => value !== valueOf('10.211.9.9'));
  expect(new Set(ours.map(({ key }) => key)).size).toBe(hosts);
  const held = world.hosts.flatMap((host) => (host.held ?? 'none').split(' and '));
  expect(new Set(held).size).toBe(held.length);
  expect(ours.map(({ subnet: one }) => one.text).toSorted()).toEqual(held.toSorted());
  for (const one of ours)
    for (const two of leases) expect(one.key === two.key || !overlaps(one.subnet, two.subnet)).toBe(true);
  expect(world.idleLeases).toEqual([]);
  expect(world.etcd.leaseIds).toHaveLength(hosts);
}
