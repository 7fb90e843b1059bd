import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { poolOf, subnet } from '../../sim/leases.ts';
import { SeededRandom } from '../../sim/random.ts';
import { overlaps, type Subnet, subnetAt } from '../../src/ip/ip.ts';
import type { PoolConfig } from '../../src/subnet/config/config.ts';
import { chooseSubnet, fits, isFree, poolSize } from '../../src/subnet/lease/pool.ts';
import { cpuMs } from '../testbed/cpu-time.ts';

/** The pool's subnets, one by one: the slow and plain truth. */
function members(of: PoolConfig): Subnet[] {
  const all: Subnet[] = [];
  for (let at = of.min; at.first <= of.max.first; at = subnetAt(at.family, at.last + 1n, of.subnetLength))
    all.push(at);
  return all;
}

/** Pools of 10.5.0.0/22 (IPv4) or fc00::/118 (IPv6) and subnets of all lengths in and around them. */
const cases = fc.constantFrom(4 as const, 6 as const).chain((family) => {
  const bits = family === 4 ? 32 : 128;
  const base = family === 4 ? 0x0a050000n : 0xfc00n << 112n;
  const network = subnetAt(family, base, bits - 10);
  const around = fc.tuple(fc.integer({ min: -1500, max: 2500 }), fc.integer({ min: bits - 12, max: bits }));
  const foreign = family === 4 ? subnet('::/96') : subnet('10.5.0.0/22');
  const taken = fc.oneof(
    {
      weight: 9,
      arbitrary: around.map(([offset, length]) => subnetAt(family, base + BigInt(offset), length)),
    },
    { weight: 1, arbitrary: fc.constant(foreign) },
  );
  const host = fc.integer({ min: 2, max: 8 });
  return fc
    .tuple(host, fc.nat(1023), fc.nat(1023), fc.array(taken, { maxLength: 30 }))
    .map(([hostBits, a, b, list]) => {
      const length = bits - hostBits;
      const at = (offset: number): Subnet => subnetAt(family, base + BigInt(offset), length);
      return {
        pool: { network, subnetLength: length, min: at(Math.min(a, b)), max: at(Math.max(a, b)) },
        taken: list,
      };
    });
});

describe('choosing a subnet', () => {
  it('gives a free one that fits, or none when none is free', () => {
    fc.assert(
      fc.property(cases, fc.integer(), ({ pool: from, taken }, seed) => {
        const free = members(from).filter((candidate) => !taken.some((other) => overlaps(candidate, other)));
        const chosen = chooseSubnet(from, taken, new SeededRandom(seed));
        if (free.length === 0) expect(chosen).toBeUndefined();
        else expect(free.map(({ text }) => text)).toContain(chosen?.text);
        if (chosen !== undefined) expect(fits(from, chosen) && isFree(chosen, taken)).toBe(true);
        expect(poolSize(from)).toBe(BigInt(members(from).length));
      }),
      { numRuns: 1000 },
    );
  });

  it('gives each free one to one equal share of the random numbers', () => {
    fc.assert(
      fc.property(cases, ({ pool: from, taken }) => {
        const free = members(from).filter((candidate) => isFree(candidate, taken));
        const chosen = free.map(
          (_, index) => chooseSubnet(from, taken, { next: () => (index + 0.5) / free.length })?.text,
        );
        expect(chosen).toEqual(free.map(({ text }) => text));
      }),
      { numRuns: 300 },
    );
  });

  it('is not hindered by the same numbers in the other family', () => {
    const one = poolOf('10.5.1.0/24', '10.5.1.0/24', '10.5.0.0/16');
    expect(chooseSubnet(one, [subnet('::/96'), subnet('fc00::/7')], { next: () => 0 })?.text).toBe(
      '10.5.1.0/24',
    );
    expect(isFree(one.min, [subnet('::/96')])).toBe(true);
  });

  it('reaches the first and the last subnet', () => {
    const pools = [
      ['10.0.1.0/24', '10.255.255.0/24', '10.0.0.0/8'],
      ['fc00::4/126', 'fc00:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126', 'fc00::/16'],
    ] as const;
    for (const [first, last, network] of pools) {
      const chosen = [0, 1 - 2 ** -53].map((drawn) =>
        chooseSubnet(poolOf(first, last, network), [], { next: () => drawn }),
      );
      expect(chosen.map((one) => one?.text)).toEqual([first, last]);
    }
  });

  it('spreads over a pool wider than a double, in every bit', () => {
    const wide = poolOf('fc00::/126', 'fc00:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126', 'fc00::/16');
    const random = new SeededRandom(1);
    const ones = Array.from({ length: 110 }, () => 0);
    for (let draw = 0; draw < 400; draw++) {
      const first = chooseSubnet(wide, [], random)?.first ?? 0n;
      for (const bit of ones.keys()) ones[bit] = (ones[bit] ?? 0) + Number((first >> BigInt(bit + 2)) & 1n);
    }
    for (const count of ones) expect(Math.abs(count - 200)).toBeLessThan(60); // six standard deviations
  });

  it('finds the one free subnet of a full /8', () => {
    const large = poolOf('10.0.1.0/24', '10.255.255.0/24', '10.0.0.0/8');
    const taken = members(large).filter(({ text }) => text !== '10.77.3.0/24');
    expect(chooseSubnet(large, taken, new SeededRandom(5))?.text).toBe('10.77.3.0/24');
    expect(chooseSubnet(large, [...taken, subnet('10.77.3.128/25')], new SeededRandom(5))).toBeUndefined();
  });

  it('takes no quadratic time with 60,000 of 65,536 subnets taken', () => {
    const large = poolOf('10.0.0.0/24', '10.255.255.0/24', '10.0.0.0/8');
    const taken = Array.from({ length: 60_000 }, (_, index) =>
      subnetAt(4, 0x0a000000n + (((BigInt(index) * 40_503n) % 65_536n) << 8n), 24),
    );
    const startedAt = cpuMs();
    const chosen = chooseSubnet(large, taken, new SeededRandom(1));
    // Tens of milliseconds on an idle machine; a scan per candidate takes minutes.
    expect(cpuMs() - startedAt).toBeLessThan(2000);
    expect(chosen !== undefined && isFree(chosen, taken)).toBe(true);
    expect(poolSize(large)).toBe(65_536n);
  });
});

describe('fits', () => {
  const some = poolOf('10.5.2.0/24', '10.5.9.0/24', '10.5.0.0/16');

  it.each([
    ['10.5.2.0/24', true],
    ['10.5.9.0/24', true],
    ['10.5.1.0/24', false],
    ['10.5.10.0/24', false],
    ['10.5.2.0/23', false],
    ['fc00::/24', false],
  ])('%s: %s', (text, expected) => {
    expect(fits(some, subnet(text))).toBe(expected);
  });
});
