import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { overlaps, type Subnet } from '../../src/ip/ip.ts';
import { occupiedSubnets } from '../../src/subnet/subnet-key.ts';
import { LeaseWorld, poolOf, subnet } from './lease-host.ts';
import { prefix, valueOf } from './lease-watch-host.ts';

const members = ['m0', 'm1', 'm2'];

/** Keys of other programs: any length, with and without an IPv6 half; each covers so many /24 of 10.1.0.0/16. */
const foreign = fc.oneof(
  fc.integer({ min: 0, max: 255 }).map((index) => `10.1.${index}.0-24`),
  fc.integer({ min: 0, max: 255 }).map((index) => `10.1.${index}.128-25`),
  fc
    .integer({ min: 0, max: 255 })
    .map((index) => `10.1.${index}.0-24&fc00:${index.toString(16)}::-64`.replace(':0::', '::')),
  fc.integer({ min: 0, max: 63 }).map((index) => `10.1.${index * 4}.0-22`),
  fc.constantFrom('junk', '10.1.7.1-24', '0.0.0.0-0&fc00:99::-64'),
);

type Fault = { readonly atMs: number; readonly name: string; readonly run: (world: LeaseWorld) => void };

const fault: fc.Arbitrary<Fault> = fc
  .tuple(
    fc.integer({ min: 0, max: 60 }),
    fc.oneof(
      fc.boolean().map((applied) => ({
        name: `lose ${applied}`,
        run: (world: LeaseWorld) => world.etcd.loseNextReply({ applied }),
      })),
      fc.constantFrom(...members).map((name) => ({
        name: `stop ${name}`,
        run: (world: LeaseWorld) => {
          for (const member of members) world.etcd.start(member);
          world.etcd.stop(name);
        },
      })),
      fc.constantFrom(...members).map((name) => ({
        name: `freeze ${name}`,
        run: (world: LeaseWorld) => {
          for (const member of members) world.etcd.start(member);
          world.etcd.freeze(name);
        },
      })),
    ),
  )
  .map(([atMs, { name, run }]) => ({ atMs, name, run, toString: () => `${name} at ${atMs}` }));

function subnetsIn(
  world: LeaseWorld,
): { readonly key: string; readonly subnet: Subnet; readonly value: string }[] {
  return world.kvs.flatMap(({ key, value }) => {
    const ipv4 = occupiedSubnets(prefix, key).find(({ family }) => family === 4);
    return ipv4 === undefined ? [] : [{ key, subnet: ipv4, value }];
  });
}

describe('hosts that start at once', () => {
  it('all get a subnet of their own while there are enough, whatever replies are lost and members fail', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          hosts: fc.integer({ min: 1, max: 12 }),
          spare: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 5 })),
          length: fc.constantFrom(24, 26),
          latencyMs: fc.constantFrom(0, 2),
          used: fc.array(foreign, { maxLength: 6 }),
          faults: fc.array(fault, { maxLength: 12 }),
          seed: fc.integer({ min: 0, max: 10_000 }),
        }),
        async ({ hosts, spare, length, latencyMs, used, faults, seed }) => {
          const world = new LeaseWorld({ members, latencyMs });
          for (const name of used) world.etcd.put(prefix + name, valueOf('10.211.9.9'));
          const pools = { ipv4: poolWithFree(world, hosts + spare, length) };
          for (let index = 0; index < hosts; index++)
            world.host(`10.211.0.${index + 1}`, { pools, watch: false }, seed).start();
          let nowMs = 0;
          for (const { atMs, run } of faults.toSorted((a, b) => a.atMs - b.atMs)) {
            await world.clock.advance(atMs - nowMs);
            nowMs = atMs;
            run(world);
          }
          await world.clock.advance(1_000);
          for (const member of members) world.etcd.start(member);
          await world.clock.until(
            'all have one',
            () => world.hosts.every(({ held }) => held !== undefined),
            600_000,
          );
          check(world, hosts);
          await world.clock.advance(60_000);
          check(world, hosts);
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
          for (const member of members) world.etcd.start(member);
          await world.clock.until(
            'all have one',
            () => world.hosts.every(({ held }) => held !== undefined),
            600_000,
          );
          check(world, lengths.length);
          expect(await world.close()).toBe(true);
        },
      ),
      { numRuns: 150 },
    );
  }, 120_000);
});

/** The smallest pool from 10.1.0.0 up in which so many subnets are free. */
function poolWithFree(world: LeaseWorld, free: number, length: number) {
  const step = 2 ** (32 - length);
  const taken = subnetsIn(world);
  let found = 0;
  for (let offset = 0; ; offset += step) {
    const text = `10.${1 + (offset >> 16)}.${(offset >> 8) & 255}.${offset & 255}/${length}`;
    if (!taken.some((other) => overlaps(other.subnet, subnet(text)))) found++;
    if (found === free) return poolOf(`10.1.0.0/${length}`, text);
  }
}

function check(world: LeaseWorld, hosts: number): void {
  const leases = subnetsIn(world);
  const ours = leases.filter(({ value }) => value !== valueOf('10.211.9.9'));
  expect(ours).toHaveLength(hosts);
  expect(new Set(world.hosts.map(({ held }) => held)).size).toBe(hosts);
  for (const one of ours)
    for (const two of leases) expect(one.key === two.key || !overlaps(one.subnet, two.subnet)).toBe(true);
  expect(world.idleLeases).toEqual([]);
  expect(world.etcd.leaseIds).toHaveLength(hosts);
}
