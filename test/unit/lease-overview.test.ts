import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { poolOf, prefix, subnet, valueOf } from '../../sim/leases.ts';
import { overlaps, type Subnet, subnetAt } from '../../src/ip/ip.ts';
import { parseNetworkConfig } from '../../src/subnet/config/config.ts';
import { type LeaseMarkCode, overviewOf, sortRows } from '../../src/subnet/lease/overview.ts';
import { isFree, poolRoom } from '../../src/subnet/lease/pool.ts';
import type { KeyValue } from '../../src/subnet/registry/registry.ts';
import { withBackend } from './config-helpers.ts';

const config = parseNetworkConfig(withBackend('"Network":"10.1.0.0/16","SubnetMax":"10.1.99.0"'));

type Entry = readonly [name: string, value: string, lease?: string];

/** The keys in the order in which they were made; `lease` 0 for a reservation. */
function view(...entries: readonly Entry[]) {
  const kvs = entries.map(([name, value, lease], index): KeyValue => {
    const revision = index + 1;
    const id = lease ?? String(index + 100);
    return { key: prefix + name, value, lease: id, createRevision: revision, modRevision: revision };
  });
  const ttls = new Map(
    kvs.map(({ lease }, index) => [lease, { ttlSeconds: 100 + index, grantedTtlSeconds: 200 }] as const),
  );
  ttls.delete('0');
  return overviewOf({ leasesPrefix: prefix, kvs, ttls, config });
}

/** Each row as its name and the codes of its marks; `!` before a problem. */
function marked(...entries: readonly Entry[]): readonly string[] {
  return view(...entries).map(({ name, marks }) =>
    [name, ...marks.map(({ code, problem }) => (problem ? '!' : '') + code)].join(' '),
  );
}

const a = valueOf('10.211.0.1');
const b = valueOf('10.211.0.2');
const c = valueOf('10.211.0.3');

test('what is in order has no marks, and is sorted by its subnet', () => {
  expect(marked(['10.1.10.0-24', a], ['10.1.9.0-24', b], ['10.1.2.0-24', c, '0'])).toEqual([
    '10.1.2.0-24',
    '10.1.9.0-24',
    '10.1.10.0-24',
  ]);
});

test('a row says whose it is and how long it lives', () => {
  const [own, reserved] = view(
    ['10.1.1.0-24&fc00:1::-64', valueOf('10.211.0.1', 'fd00::1'), '255'],
    ['10.1.2.0-24', b, '0'],
  );
  expect(own).toMatchObject({
    subnets: { ipv4: '10.1.1.0/24', ipv6: 'fc00:1::/64' },
    addresses: { ipv4: '10.211.0.1', ipv6: 'fd00::1' },
    etcdLease: 'ff',
    reserved: false,
    secondsLeft: 100,
    renewedSecondsAgo: 100,
  });
  expect(reserved).toMatchObject({ etcdLease: null, reserved: true, secondsLeft: null });
});

describe('marks', () => {
  it.each<[string, readonly Entry[], readonly string[]]>([
    [
      'an overlap, on both',
      [
        ['10.1.5.0-24', a],
        ['10.1.5.128-25', b],
      ],
      ['10.1.5.0-24 !OVERLAP', '10.1.5.128-25 NOT_IN_POOL !OVERLAP'],
    ],
    [
      'an overlap with a key that nobody routes',
      [
        ['10.1.5.9-24', a],
        ['10.1.5.0-24', b],
      ],
      ['10.1.5.0-24 !OVERLAP', '10.1.5.9-24 !NO_LEASE !OVERLAP'],
    ],
    [
      'an address used twice',
      [
        ['10.1.5.0-24', a],
        ['10.1.6.0-24', a],
      ],
      ['10.1.5.0-24 !SAME_ADDRESS', '10.1.6.0-24 !SAME_ADDRESS'],
    ],
    [
      'a host with a reservation that it has not taken yet',
      [
        ['10.1.5.0-24', a],
        ['10.1.6.0-24', a, '0'],
      ],
      ['10.1.5.0-24 SAME_ADDRESS', '10.1.6.0-24 SAME_ADDRESS'],
    ],
    [
      'another backend, and none',
      [
        ['10.1.5.0-24', a.replace('host-gw', 'vxlan')],
        ['10.1.6.0-24', '{"PublicIP":"10.211.0.2"}'],
        ['10.1.7.0-24', '{"PublicIP":"10.211.0.3"}', '0'],
      ],
      ['10.1.5.0-24 !BACKEND', '10.1.6.0-24 !BACKEND', '10.1.7.0-24'],
    ],
    [
      'what lies outside the network, and outside the pool',
      [
        ['192.168.5.0-24', a],
        ['10.1.200.0-24', b],
      ],
      ['10.1.200.0-24 NOT_IN_POOL', '192.168.5.0-24 !OUTSIDE'],
    ],
    [
      'no address',
      [
        ['10.1.5.0-24', '{"BackendType":"host-gw"}'],
        ['10.1.6.0-24&fc00:1::-64', b],
      ],
      ['10.1.5.0-24 !NO_ADDRESS', '10.1.6.0-24&fc00:1::-64 !NO_ADDRESS'],
    ],
    [
      'keys that are no leases, at the end',
      [
        ['junk', a],
        ['10.1.6.0-24', 'x'],
      ],
      ['10.1.6.0-24 !NO_LEASE', 'junk !NO_LEASE'],
    ],
  ])('%s', (_, entries, expected) => {
    expect(marked(...entries)).toEqual(expected);
  });

  it('say which of two leases is routed', () => {
    const [older, younger] = view(['10.1.5.0-24', a], ['10.1.5.128-25', b]);
    expect(older?.marks[0]?.text).toBe(
      '10.1.5.128/25 of 10.211.0.2 overlaps it, and is younger: hosts route this one',
    );
    expect(younger?.marks[1]?.text).toBe(
      'it overlaps 10.1.5.0/24 of 10.211.0.1, which is older: hosts route that one',
    );
  });

  it('a lease that has just ended', () => {
    const kv = { key: `${prefix}10.1.5.0-24`, value: a, lease: '7', createRevision: 1, modRevision: 1 };
    const ttls = new Map([['7', { ttlSeconds: -1, grantedTtlSeconds: 0 }]]);
    const [row] = overviewOf({ leasesPrefix: prefix, kvs: [kv], ttls });
    expect(row).toMatchObject({ secondsLeft: null, marks: [{ code: 'ENDED' satisfies LeaseMarkCode }] });
  });

  it('an overlap exactly where two subnets overlap', () => {
    const subnets = fc
      .tuple(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 22, max: 26 }))
      .map(([n, length]) => subnetAt(4, subnet(`10.1.${n & 15}.${n & 0xc0}/32`).first, length));
    fc.assert(
      fc.property(fc.uniqueArray(subnets, { maxLength: 12, selector: ({ text }) => text }), (all) => {
        const rows = view(
          ...all.map(({ text }, i) => [text.replace('/', '-'), valueOf(`10.2.0.${i + 1}`)] as const),
        );
        const found = rows.filter(({ marks }) => marks.some(({ code }) => code === 'OVERLAP'));
        const expected = all.filter((one) => all.some((other) => other !== one && overlaps(one, other)));
        const texts = (list: readonly (string | undefined)[]) => list.map(String).toSorted();
        expect(texts(found.map(({ subnets: { ipv4 } }) => ipv4))).toEqual(
          texts(expected.map(({ text }) => text)),
        );
      }),
      { numRuns: 500 },
    );
  });
});

describe('rows are sorted', () => {
  const rows = view(
    ['10.1.9.0-24', valueOf('10.211.0.30'), '90'],
    ['10.1.2.0-24', valueOf('10.211.0.9'), '80'],
    ['10.1.5.0-24', c, '0'],
    ['junk', 'x', '0'],
  );
  it.each([
    ['subnet', ['10.1.2.0-24', '10.1.5.0-24', '10.1.9.0-24', 'junk']],
    ['host', ['10.1.5.0-24', '10.1.2.0-24', '10.1.9.0-24', 'junk']],
    ['left', ['10.1.9.0-24', '10.1.2.0-24', '10.1.5.0-24', 'junk']],
    ['age', ['10.1.9.0-24', '10.1.2.0-24', '10.1.5.0-24', 'junk']],
  ] as const)('by %s', (order, expected) => {
    expect(sortRows(rows, order).map(({ name }) => name)).toEqual(expected);
  });
});

describe('the room in a pool', () => {
  const pool = poolOf('10.1.0.0/24', '10.1.9.0/24');
  it.each<[readonly string[], bigint, string]>([
    [[], 10n, '10.1.0.0/24 to 10.1.9.0/24: 10'],
    [['10.1.3.0/24'], 9n, '10.1.4.0/24 to 10.1.9.0/24: 6'],
    [['10.1.8.0/24', '10.1.8.0/25', '10.1.2.0/23'], 7n, '10.1.4.0/24 to 10.1.7.0/24: 4'],
    [['10.0.0.0/8'], 0n, 'none'],
    [['192.168.0.0/16', 'fc00::/64'], 10n, '10.1.0.0/24 to 10.1.9.0/24: 10'],
  ])('beside %j', (taken, free, gap) => {
    const room = poolRoom(pool, taken.map(subnet));
    const { largestGap: found } = room;
    expect([room.size, room.free]).toEqual([10n, free]);
    expect(found ? `${found.from.text} to ${found.to.text}: ${found.count}` : 'none').toBe(gap);
  });

  it('is what each subnet for itself says', () => {
    const taken = fc.array(
      fc
        .tuple(fc.integer({ min: 0, max: 11 }), fc.integer({ min: 21, max: 26 }))
        .map(([third, length]) => subnetAt(4, subnet(`10.1.${third}.0/24`).first, length)),
      { maxLength: 8 },
    );
    fc.assert(
      fc.property(taken, (list: readonly Subnet[]) => {
        const all = Array.from({ length: 10 }, (_, i) => isFree(subnet(`10.1.${i}.0/24`), list));
        const runs = all
          .map((free) => (free ? 'f' : ' '))
          .join('')
          .split(/ +/);
        const longest = Math.max(...runs.map((run) => run.length));
        const room = poolRoom(pool, list);
        expect(Number(room.free)).toBe(all.filter(Boolean).length);
        expect(Number(room.largestGap?.count ?? 0n)).toBe(longest);
      }),
    );
  });
});
