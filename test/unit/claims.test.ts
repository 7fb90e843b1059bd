import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dualLease, lease, subnet } from '../../sim/leases.ts';
import { inFamily } from '../../sim/route-hosts.ts';
import { DesiredRoutes } from '../../src/backend/hostgw/desired.ts';
import { overlaps, parseSubnet, subnetAt } from '../../src/ip/ip.ts';
import type { Lease } from '../../src/subnet/lease/lease.ts';
import { cpuMs } from '../testbed/cpu-time.ts';

const self = { subnet: subnet('172.20.100.0/24'), address: '10.211.55.100' };

/** The lease of a subnet, made at this revision by the host whose address ends in it. */
const aged = (createRevision: number, dst: string) =>
  lease(dst, `10.211.55.${createRevision}`, { createRevision, key: `${createRevision}` });

function routesOf(...leases: readonly Lease[]): DesiredRoutes {
  const routes = new DesiredRoutes(self);
  routes.replaceAll(leases);
  return routes;
}

describe('of leases that overlap', () => {
  it.each<[string, readonly string[], readonly string[]]>([
    ['a half of an older subnet', ['172.20.1.0/24', '172.20.1.128/25'], ['172.20.1.0/24']],
    ['the whole around an older half', ['172.20.1.128/25', '172.20.1.0/24'], ['172.20.1.128/25']],
    ['the same subnet', ['172.20.1.0/24', '172.20.1.0/24'], ['172.20.1.0/24']],
    [
      'a part of a refused one, which nobody has',
      ['172.20.1.0/24', '172.20.0.0/22', '172.20.2.0/24'],
      ['172.20.1.0/24', '172.20.2.0/24'],
    ],
  ])('the oldest have their routes: %s', (_what, dsts, expected) => {
    const leases = dsts.map((dst, i) => aged(i + 1, dst));
    for (const order of [leases, leases.toReversed()]) {
      const routes = routesOf(...order);
      expect([...routes.dsts].toSorted()).toEqual([...expected].toSorted());
      expect(routes.get(expected[0] ?? '')?.gateway).toBe('10.211.55.1');
    }
  });

  it('each refused one has a reason, and gets its route when the older one goes', () => {
    const routes = routesOf(aged(1, '172.20.0.0/22'), aged(2, '172.20.1.0/24'), aged(3, '172.20.1.0/25'));
    expect(routes.refused).toEqual(
      new Map([
        ['2', 'it overlaps 172.20.0.0/22 of the older lease 1'],
        ['3', 'it overlaps 172.20.0.0/22 of the older lease 1'],
      ]),
    );
    expect(routes.apply([], ['1']).toSorted()).toEqual(['172.20.0.0/22', '172.20.1.0/24']);
    expect([...routes.dsts]).toEqual(['172.20.1.0/24']);
    expect(routes.refused).toEqual(new Map([['3', 'it overlaps 172.20.1.0/24 of the older lease 2']]));
    routes.apply([], ['2']);
    expect([...routes.dsts]).toEqual(['172.20.1.0/25']);
    expect(routes.refused.size).toBe(0);
  });

  it('one that comes later, but is older, takes the route of the younger', () => {
    const routes = routesOf(aged(5, '172.20.1.0/24'), aged(6, '172.20.2.0/24'));
    const [wide, part] = ['172.20.0.0/23', '172.20.2.128/25'];
    const changed = routes.apply([aged(2, wide), aged(3, part)], []);
    expect(changed.toSorted()).toEqual([wide, '172.20.1.0/24', '172.20.2.0/24', part]);
    expect([...routes.dsts].toSorted()).toEqual([wide, part]);
  });

  it('a lease that is renewed or moved keeps its age', () => {
    const routes = routesOf(aged(1, '172.20.1.0/24'), aged(2, '172.20.1.0/25'));
    const moved = lease('172.20.1.0/24', '10.211.55.200', { createRevision: 1, key: '1' });
    expect(routes.apply([moved], [])).toEqual(['172.20.1.0/24']);
    expect(routes.get('172.20.1.0/24')?.gateway).toBe('10.211.55.200');
    expect([...routes.refused.keys()]).toEqual(['2']);
  });

  it('one wider than the cluster’s network is none of its peers’ and stands in nobody’s way', () => {
    const routes = new DesiredRoutes({ ...self, network: subnet('172.20.0.0/16') });
    routes.replaceAll([aged(1, '160.0.0.0/3'), aged(2, '172.21.0.0/16'), aged(3, '192.168.0.0/15')]);
    expect([...routes.dsts]).toEqual(['172.21.0.0/16']);
    expect(routes.refused.get('3')).toBe('it is wider than the network 172.20.0.0/16');
  });

  it('IPv4 and IPv6 halves are judged each for itself', () => {
    const first = dualLease('172.20.1.0/24', 'fc00:0:1::/64', '10.211.55.101', 'fd00:55::101');
    const second = {
      ...dualLease('172.20.2.0/24', 'fc00:0:1::/65', '10.211.55.102', 'fd00:55::102'),
      createRevision: 2,
    };
    expect([...routesOf(first, second).dsts]).toHaveLength(2);
    const ipv6 = new DesiredRoutes({ subnet: subnet('fc00:0:100::/64'), address: 'fd00:55::100' });
    ipv6.replaceAll([second, first]);
    expect([...ipv6.dsts]).toEqual(['fc00:0:1::/64']);
    expect(ipv6.refused.get(second.key)).toContain('older lease');
  });

  it.each([4, 6] as const)('what is granted follows from age alone, whatever came when: IPv%i', (family) => {
    const base = parseSubnet(inFamily(family, '172.20.0.0/16'));
    if (base === undefined) throw new Error('no base');
    const bits = family === 4 ? 32 : 128;
    const me = {
      subnet: subnet(inFamily(family, '172.20.100.0/24')),
      address: inFamily(family, '10.211.55.100'),
    };
    const change = fc.record({
      key: fc.integer({ min: 1, max: 12 }),
      gone: fc.boolean(),
      length: fc.integer({ min: base.length + 2, max: base.length + 7 }),
      at: fc.bigInt({ min: 0n, max: 127n }),
      createRevision: fc.integer({ min: 1, max: 6 }),
    });
    type Change = typeof change extends fc.Arbitrary<infer T> ? T : never;
    const leaseOf = ({ key, length, at, createRevision }: Change) => {
      const dst = subnetAt(family, base.first + (at << BigInt(bits - base.length - 7)), length);
      const gateway = inFamily(family, `10.211.55.${key}`);
      const made =
        family === 4 ? lease(dst.text, gateway) : dualLease('0.0.0.0/0', dst.text, '0.0.0.0', gateway);
      return { ...made, key: String(key), createRevision };
    };
    fc.assert(
      fc.property(fc.array(change, { maxLength: 40 }), (changes) => {
        const routes = new DesiredRoutes(me);
        const left = new Map<string, Lease>();
        for (const each of changes) {
          const given = leaseOf(each);
          routes.apply(each.gone ? [] : [given], each.gone ? [given.key] : []);
          if (each.gone) left.delete(given.key);
          else left.set(given.key, given);
        }
        const subnetOf = ({ subnets }: Lease) => (family === 4 ? subnets.ipv4 : subnets.ipv6) ?? me.subnet;
        const granted: Lease[] = [];
        const byAge = (a: Lease, b: Lease) => a.createRevision - b.createRevision || (a.key < b.key ? -1 : 1);
        for (const each of [...left.values()].toSorted(byAge)) {
          if (overlaps(subnetOf(each), me.subnet)) continue;
          if (granted.every((other) => !overlaps(subnetOf(other), subnetOf(each)))) granted.push(each);
        }
        const has = [...routes.dsts].map((dst) => `${dst} ${routes.get(dst)?.key}`);
        expect(has.toSorted()).toEqual(
          granted.map((each) => `${subnetOf(each).text} ${each.key}`).toSorted(),
        );
        expect(routes.refused.size + granted.length).toBe(left.size);
        const listed = new DesiredRoutes(me);
        listed.replaceAll([...left.values()]);
        expect(new Map(listed.refused)).toEqual(new Map(routes.refused));
      }),
      { numRuns: 1_000 },
    );
  });

  it('ten thousand peers, an oversized lease among them, cost little per change', () => {
    const peers = Array.from({ length: 10_000 }, (_, i) =>
      lease(`100.${64 + (i >> 8)}.${i & 255}.0/24`, `10.211.${i >> 8}.${i & 255 || 1}`, {
        createRevision: 10 + i,
        key: `peer ${i}`,
      }),
    );
    const routes = new DesiredRoutes({ ...self, network: subnet('100.64.0.0/10') });
    routes.replaceAll(peers);
    routes.apply([{ ...aged(5_000, '100.64.0.0/11'), key: 'wide' }], []);
    expect(routes.refused.size).toBe(1);
    const startedMs = cpuMs();
    for (const peer of peers.slice(0, 2_000)) {
      routes.apply([], [peer.key]);
      routes.apply([peer], []);
    }
    // A few µs each; an algorithm that looks at all peers for each change needs a minute.
    expect(cpuMs() - startedMs).toBeLessThan(5_000);
    expect(routes.routes).toHaveLength(10_000);
  });
});
