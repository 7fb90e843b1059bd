import { describe, expect, it } from 'vitest';
import { prefix, valueOf } from '../../sim/leases.ts';
import { isCopy, leaseIdOf } from '../../src/migrate/copies.ts';
import { planLeases, type Row } from '../../src/migrate/plan.ts';
import type { Snapshot } from '../../src/migrate/snapshot.ts';

/** As flannel 0.7.1 writes it. */
const oldValue = (ip: string, backend = 'host-gw') => `{"PublicIP":"${ip}","BackendType":"${backend}"}`;

interface OldKey {
  readonly name: string;
  readonly value?: string;
  readonly ttl?: number | 'reservation';
}
interface NewKey {
  readonly name: string;
  readonly value?: string;
  readonly lease?: string;
  readonly left?: number;
}

const A = '10.0.0.1';
const B = '10.0.0.2';
const ofA = { name: '10.5.1.0-24', value: oldValue(A) };
const copyOfA = { ...ofA, lease: leaseIdOf(`${prefix}10.5.1.0-24`, ofA.value) };

function snapshotOf(old: readonly OldKey[], now: readonly NewKey[] = []): Snapshot {
  const nodes = old.map(({ name, value = oldValue(A), ttl = 80_000 }, index) => ({
    key: `/old/subnets/${name}`,
    value,
    createdIndex: 10 + index,
    modifiedIndex: 10 + index,
    ttlSeconds: ttl === 'reservation' ? undefined : ttl,
  }));
  const kvs = now.map(({ name, value = valueOf(A), lease = '7' }, index) => {
    const revision = 20 + index;
    return { key: prefix + name, value, lease, createRevision: revision, modRevision: revision };
  });
  const left = now.flatMap(({ lease = '7', left: seconds }) =>
    seconds === undefined ? [] : [[lease, seconds] as const],
  );
  return {
    v2: { leasesPrefix: '/old/subnets/', nodes, position: { index: 50, clusterId: 'ab' } },
    v3: { leasesPrefix: prefix, kvs, leftSeconds: new Map(left) },
  };
}

const plan = (old: readonly OldKey[], now?: readonly NewKey[]) => planLeases(snapshotOf(old, now));
const rows = (old: readonly OldKey[], now?: readonly NewKey[]): readonly Row[] =>
  plan(old, now).steps.map(({ row }) => row);

describe('a lease that v3 lacks', () => {
  it('is copied to the byte, under the prefix of v3, on an etcd lease of its own', () => {
    const value = '{ "BackendType":"host-gw", "PublicIP":"10.0.0.1" }';
    expect(plan([{ name: '10.5.1.0-24', value, ttl: 500 }]).steps).toEqual([
      {
        row: { subnet: '10.5.1.0/24', host: A, left: 500, leftInV3: undefined, what: 'copied', why: '' },
        key: '/net/subnets/10.5.1.0-24',
        copy: {
          key: '/net/subnets/10.5.1.0-24',
          value,
          subnets: { ipv4: expect.objectContaining({ text: '10.5.1.0/24' }) },
          leaseId: leaseIdOf('/net/subnets/10.5.1.0-24', value),
          isThere: false,
        },
      },
    ]);
  });

  it('is copied without an etcd lease when it is a reservation', () => {
    const [step] = plan([{ ...ofA, ttl: 'reservation' }]).steps;
    expect(step).toMatchObject({ row: { what: 'copied', left: 'reservation' }, copy: { leaseId: '0' } });
  });

  it.each([
    ['vxlan', 'of the backend vxlan: it keeps its subnet from others and gets no route'],
    ['', 'without a backend: it keeps its subnet from others and gets no route'],
    ['host-gw', ''],
  ])('is copied with the backend %j, and the row says what comes of it', (backend, why) => {
    expect(rows([{ ...ofA, value: oldValue(A, backend) }])).toMatchObject([{ what: 'copied', why }]);
  });

  it('is copied beside another subnet of its host in v3, which the row names', () => {
    expect(rows([ofA], [{ name: '10.5.9.0-24' }])).toMatchObject([
      { what: 'copied', why: '10.0.0.1 has 10.5.9.0/24 in v3, too' },
    ]);
  });
});

describe('a lease that v3 has, too', () => {
  it.each<[string, NewKey, number | 'reservation', object]>([
    [
      'as the daemon of its host wrote it',
      { name: '10.5.1.0-24', left: 300 },
      80_000,
      { leftInV3: 300, why: '' },
    ],
    [
      'with an IPv6 half',
      { name: '10.5.1.0-24&fc00::-64', value: valueOf(A, 'fd00::1') },
      80_000,
      { why: '' },
    ],
    [
      'as a reservation',
      { name: '10.5.1.0-24', lease: '0' },
      80_000,
      {
        leftInV3: 'reservation',
        why: 'in v3 it is a reservation, which does not end by itself: see --repair',
      },
    ],
    [
      'on an etcd lease although it is a reservation in v2',
      { name: '10.5.1.0-24', left: 300 },
      'reservation',
      { why: 'it is a reservation in v2, and in v3 it has an etcd lease, which ends' },
    ],
    ['as a reservation in both', { name: '10.5.1.0-24', lease: '0' }, 'reservation', { why: '' }],
  ])('%s is there, and left alone', (_, key, ttl, row) => {
    const [step, ...more] = plan([{ ...ofA, ttl }], [key]).steps;
    expect(step?.row).toMatchObject({ what: 'there', ...row });
    expect(step?.copy).toBeUndefined();
    expect(more).toEqual([]);
  });

  it('as an earlier copy is there, and its etcd lease is to be renewed', () => {
    const [step] = plan([ofA], [{ ...copyOfA, left: 300 }]).steps;
    expect(step).toMatchObject({
      row: { what: 'there' },
      copy: { isThere: true, leaseId: copyOfA.lease, value: ofA.value },
    });
  });

  it('as a copy that its daemon has written since is left to that daemon', () => {
    const [step] = plan([ofA], [{ ...copyOfA, value: valueOf(A) }]).steps;
    expect(step?.row.what).toBe('there');
    expect(step?.copy).toBeUndefined();
  });
});

describe('a conflict', () => {
  it.each<[string, readonly OldKey[], readonly NewKey[], string]>([
    ['another address', [ofA], [{ name: '10.5.1.0-24', value: valueOf(B) }], 'v3 has it for 10.0.0.2'],
    [
      'another address beside an IPv6 half',
      [ofA],
      [{ name: '10.5.1.0-24&fc00::-64', value: valueOf(B, 'fd00::2') }],
      'v3 has it for 10.0.0.2',
    ],
    [
      'another address in one of two keys',
      [ofA],
      [{ name: '10.5.1.0-24' }, { name: '10.5.1.0-24&fc00::-64', value: valueOf(B) }],
      'v3 has it for 10.0.0.2',
    ],
    ['a spoilt value', [ofA], [{ name: '10.5.1.0-24', value: 'x' }], 'its key in v3 holds no lease: x'],
    [
      'a greater subnet in v3',
      [ofA],
      [{ name: '10.5.0.0-16', value: valueOf(B) }],
      'overlaps 10.5.0.0/16 of 10.0.0.2 in v3',
    ],
    [
      'a smaller subnet in v3, even of the same host',
      [ofA],
      [{ name: '10.5.1.128-25' }],
      'overlaps 10.5.1.128/25 of 10.0.0.1 in v3',
    ],
    [
      'a key of v3 with host bits, which keeps its subnet',
      [ofA],
      [{ name: '10.5.1.7-24' }],
      'overlaps the key 10.5.1.7-24 of 10.0.0.1 in v3',
    ],
  ])('%s', (_, old, now, why) => {
    const [step] = plan(old, now).steps;
    expect(step?.row).toMatchObject({ what: 'conflict', subnet: '10.5.1.0/24', why });
    expect(step?.copy).toBeUndefined();
  });

  it('between two subnets of v2 stops both, and leaves their neighbours', () => {
    const old = ['10.5.0.0-23', '10.5.1.0-24', '10.5.2.0-24', '10.4.255.0-24'].map((name) => ({ name }));
    expect(rows(old).map(({ subnet, what, why }) => [subnet, what, why])).toEqual([
      ['10.4.255.0/24', 'copied', ''],
      ['10.5.0.0/23', 'conflict', 'overlaps 10.5.1.0/24 of 10.0.0.1 in v2'],
      ['10.5.1.0/24', 'conflict', 'overlaps 10.5.0.0/23 of 10.0.0.1 in v2'],
      ['10.5.2.0/24', 'copied', ''],
    ]);
  });

  it('is found behind a smaller subnet in the same network', () => {
    const now = ['10.5.0.0-16', '10.5.0.0-24', '10.5.1.0-30'].map((name) => ({ name, value: valueOf(B) }));
    expect(rows([ofA, { name: '10.6.0.0-24' }], now)).toMatchObject([
      { why: 'overlaps 10.5.0.0/16 of 10.0.0.2 in v3; overlaps 10.5.1.0/30 of 10.0.0.2 in v3' },
      { what: 'copied' },
    ]);
  });
});

describe('a key that is no lease', () => {
  it.each<[OldKey, string, RegExp]>([
    [{ name: 'x' }, 'x', /names no subnet/],
    [{ name: 'below/10.5.1.0-24' }, 'below/10.5.1.0-24', /names no subnet/],
    [{ name: '10.5.1.7-24' }, '10.5.1.7-24', /names no subnet/],
    [{ name: '0.0.0.0-0&fc00::-64' }, '0.0.0.0-0&fc00::-64', /names an IPv6 subnet/],
    [{ name: '10.5.1.0-24&fc00::-64' }, '10.5.1.0/24', /names an IPv6 subnet/],
    [{ name: '10.5.1.0-24', value: 'x' }, '10.5.1.0/24', /holds no lease: its value is x$/],
    [{ name: '10.5.1.0-24', value: '' }, '10.5.1.0/24', /its value is empty$/],
    [{ name: '10.5.1.0-24', value: '{}' }, '10.5.1.0/24', /names no host/],
    [{ name: '10.5.1.0-24', value: oldValue('0.0.0.0') }, '10.5.1.0/24', /names no host/],
    [{ ...ofA, ttl: 0 }, '10.5.1.0/24', /ends at this moment/],
  ])('%j is skipped with its reason, behind the leases', (key, subnet, why) => {
    const { steps } = plan([key, { name: '10.200.0.0-24' }]);
    expect(steps).toMatchObject([
      { row: { subnet: '10.200.0.0/24', what: 'copied' } },
      { row: { subnet, what: 'skipped', why: expect.stringMatching(why) } },
    ]);
    expect(steps[1]?.copy).toBeUndefined();
  });
});

it('names the leases that only v3 has, without its reservations', () => {
  const now = [
    { name: '10.5.1.0-24' },
    { name: '10.5.7.0-24', value: valueOf(B) },
    { name: '10.5.8.0-24', lease: '0' },
    { name: 'junk' },
  ];
  expect(plan([ofA], now).onlyInV3).toEqual([{ subnet: '10.5.7.0/24', host: B }]);
});

it('the ids of etcd leases are positive int64s, of their own for each key and value, and the same each time', () => {
  const pairs = ['a', 'b', '10.5.1.0-24'].flatMap((key) =>
    ['', 'x', 'y'].map((value) => [key, value] as const),
  );
  const ids = pairs.map(([key, value]) => leaseIdOf(key, value));
  expect(new Set(ids).size).toBe(pairs.length);
  expect(pairs.map(([key, value]) => leaseIdOf(key, value))).toEqual(ids);
  for (const id of ids) {
    expect(BigInt(id)).toBeGreaterThan(0n);
    expect(BigInt(id)).toBeLessThan(2n ** 63n);
  }
  expect(isCopy({ key: 'a', value: 'x', lease: leaseIdOf('a', 'x') })).toBe(true);
  expect(isCopy({ key: 'a', value: 'y', lease: leaseIdOf('a', 'x') })).toBe(false);
});
