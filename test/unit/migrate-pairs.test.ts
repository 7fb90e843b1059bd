import { describe, expect, it } from 'vitest';
import { copyForV3, markedValue } from '../../src/migrate/copies.ts';
import { copyTtlSeconds } from '../../src/migrate/pairs.ts';
import { actionsOf, both, inV2, inV3, known, nameOf, planOf, valueOf } from './migrate-pairs-held.ts';

const A = '10.0.0.1';
const B = '10.0.0.2';
const subnet = '10.5.1.0-24';

/** The copy of a host's lease as a bridge writes it. */
const copyInV3 = (ip: string, name = subnet) => {
  const { value, leaseId: lease } = copyForV3(`/net/subnets/${name}`, {
    value: { publicIP: ip, backendType: 'host-gw' },
    text: valueOf(ip),
    isReservation: false,
  });
  return inV3(name, value, { lease });
};
const reservedInV3 = (ip: string) =>
  inV3(subnet, markedValue({ publicIP: ip, backendType: 'host-gw' }, 'v2'), { lease: '0' });
const copyInV2 = (ip: string, more: Parameters<typeof inV2>[2] = {}) =>
  inV2(subnet, markedValue({ publicIP: ip, backendType: 'host-gw' }, 'v3'), more);

describe('a lease in one store alone', () => {
  it('is copied from v2 to the byte, on an etcd lease of its own', () => {
    const value = '{ "BackendType":"host-gw", "PublicIP":"10.0.0.1" }';
    const plan = planOf({ v2: [inV2(subnet, value)] });
    const { leaseId } = copyForV3(`/net/subnets/${subnet}`, {
      value: { publicIP: A, backendType: 'host-gw' },
      text: value,
      isReservation: false,
    });
    expect(plan.actions).toMatchObject([
      { what: 'create-v3', key: `/net/subnets/${subnet}`, value, leaseId, host: A },
    ]);
    expect(plan).toMatchObject({ onV2: 1, onV3: 0, conflicts: [], orphans: [] });
  });

  it('is copied from v3 with a mark, without IPv6, to live a day', () => {
    const value = `{"PublicIP":"${A}","PublicIPv6":"fd00::1","BackendType":"host-gw"}`;
    const plan = planOf({ v3: [inV3(`${subnet}&fd00:0:0:1::-64`, value)] });
    expect(plan.actions).toMatchObject([
      {
        what: 'create-v2',
        key: `/old/subnets/${subnet}`,
        value: `{"PublicIP":"${A}","BackendType":"host-gw","CopiedFrom":"v3"}`,
        isReservation: false,
      },
    ]);
    expect(plan).toMatchObject({ onV2: 0, onV3: 1 });
  });

  it.each([
    ['v2', { v2: [inV2(subnet, valueOf(A), { ttl: 'reservation' })] }, 'create-v3', { leaseId: '0' }],
    ['v3', { v3: [inV3(subnet, valueOf(A), { lease: '0' })] }, 'create-v2', { isReservation: true }],
  ] as const)('stays a reservation when it is one in %s', (_, held, what, more) => {
    expect(planOf(held).actions).toMatchObject([{ what, ...more }]);
  });

  it('is copied with the backend that it has, none included', () => {
    const value = `{"PublicIP":"${A}"}`;
    expect(planOf({ v2: [inV2(subnet, value)] }).actions).toMatchObject([{ what: 'create-v3', value }]);
    const [action] = planOf({ v3: [inV3(subnet, value)] }).actions;
    expect(action).toMatchObject({ value: `{"PublicIP":"${A}","BackendType":"","CopiedFrom":"v3"}` });
  });

  it.each([
    ['a reservation with host bits', inV3('10.5.1.7-24', valueOf(A))],
    ['a value that is no lease', inV3(subnet, 'junk')],
    ['a host of IPv6 alone', inV3(subnet, '{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::1"}')],
  ])('is left in v3 when it is %s, since flannel 0.7.1 would stumble over it', (_, kv) => {
    expect(planOf({ v3: [kv] })).toMatchObject({ actions: [], conflicts: [], onV3: 0 });
  });

  it('is left out when its key names no subnet of IPv4', () => {
    const keys = ['0.0.0.0-0&fd00:0:0:1::-64', 'junk', '10.5.1.0-240'].map((name) => inV3(name, valueOf(A)));
    expect(planOf({ v3: keys, v2: [inV2('junk', valueOf(A)), inV2('10.5.2.0-24', 'junk')] })).toMatchObject({
      actions: [],
      conflicts: [],
      onV2: 0,
    });
  });
});

describe('a lease and its copy', () => {
  it.each([
    ['of v2 in v3', { v2: [inV2(subnet, valueOf(A))], v3: [copyInV3(A)] }],
    ['of v3 in v2', { v2: [copyInV2(A)], v3: [inV3(subnet, valueOf(A))] }],
    [
      'of v2 in v3, reserved',
      { v2: [inV2(subnet, valueOf(A), { ttl: 'reservation' })], v3: [reservedInV3(A)] },
    ],
    [
      'of v3 in v2, reserved',
      { v2: [copyInV2(A, { ttl: 'reservation' })], v3: [inV3(subnet, valueOf(A), { lease: '0' })] },
    ],
  ] as const)('need nothing: %s', (_, held) => {
    expect(planOf(held)).toMatchObject({ actions: [], conflicts: [], orphans: [], askAges: [] });
  });

  it('have the copy in v3 renewed when it is due', () => {
    const held = { v2: [inV2(subnet, valueOf(A), { index: 12 })], v3: [copyInV3(A)], isDue: true };
    const { lease } = copyInV3(A);
    expect(planOf(held).actions).toMatchObject([{ what: 'renew-v3', leaseId: lease, index: 12 }]);
  });

  it.each([
    [copyTtlSeconds / 2 - 1, ['replace-v2']],
    [copyTtlSeconds / 2, []],
  ])('have the copy in v2 renewed by half of its time: %i s left', (ttl, what) => {
    const held = { v2: [copyInV2(A, { ttl })], v3: [inV3(subnet, valueOf(A))] };
    expect(actionsOf(held)).toEqual(what);
  });

  it('have the copy in v3 replaced when another host has the lease in v2', () => {
    const plan = planOf({ v2: [inV2(subnet, valueOf(B))], v3: [copyInV3(A)] });
    expect(plan.actions).toMatchObject([
      { what: 'replace-v3', value: valueOf(B), kv: { lease: copyInV3(A).lease } },
    ]);
  });

  it('have the copy in v2 removed first when another host has the lease in v3: 0.7.1 would keep its old route', () => {
    const plan = planOf({ v2: [copyInV2(A)], v3: [inV3(subnet, valueOf(B))] });
    expect(plan.actions).toMatchObject([{ what: 'expire-v2', host: A, node: { modifiedIndex: 10 } }]);
  });

  it('have a copy in v2 replaced whose backend is another one', () => {
    const held = { v2: [copyInV2(A)], v3: [inV3(subnet, valueOf(A, 'vxlan'))] };
    expect(planOf(held).actions).toMatchObject([
      { what: 'replace-v2', value: `{"PublicIP":"${A}","BackendType":"vxlan","CopiedFrom":"v3"}` },
    ]);
  });

  it.each([
    ['a lease in v3', { v2: [copyInV2(A, { ttl: 'reservation' })], v3: [inV3(subnet, valueOf(A))] }, false],
    ['a reservation in v3', { v2: [copyInV2(A)], v3: [inV3(subnet, valueOf(A), { lease: '0' })] }, true],
  ] as const)('follow each other when it becomes %s', (_, held, isReservation) => {
    expect(planOf(held).actions).toMatchObject([{ what: 'replace-v2', isReservation }]);
  });

  it('follow each other when it becomes a reservation in v2, and one no longer', () => {
    const v2 = [inV2(subnet, valueOf(A), { ttl: 'reservation' })];
    expect(planOf({ v2, v3: [copyInV3(A)] }).actions).toMatchObject([{ what: 'replace-v3', leaseId: '0' }]);
    const back = planOf({ v2: [inV2(subnet, valueOf(A))], v3: [reservedInV3(A)] });
    expect(back.actions).toMatchObject([{ what: 'replace-v3', leaseId: copyInV3(A).lease }]);
  });

  it('have the copy removed beside a key of both families that the host has put', () => {
    const dual = inV3(`${subnet}&fd00:0:0:1::-64`, valueOf(A), { revision: 30 });
    expect(actionsOf({ v2: [copyInV2(A)], v3: [copyInV3(A), dual] })).toEqual(['remove-v3']);
    expect(actionsOf({ v3: [copyInV3(A), dual] })).toEqual(['remove-v3', 'create-v2']);
  });
});

describe('a copy whose lease is gone', () => {
  it.each([
    ['v3', { v3: [copyInV3(A)] }, { v2: 10 }, 'remove-v3'],
    ['v3, reserved', { v3: [reservedInV3(A)] }, { v2: 10 }, 'remove-v3'],
    ['v2', { v2: [copyInV2(A)] }, { v3: 20 }, 'expire-v2'],
  ] as const)('is removed from %s when the lease was seen before', (_, held, seen, what) => {
    expect(actionsOf({ ...held, known: known(subnet, seen) })).toEqual([what]);
  });

  it.each([
    ['v3', { v3: [copyInV3(A)] }, { v3: 20 }],
    ['v2', { v2: [copyInV2(A)] }, { v2: 10 }],
  ] as const)('is left to end in %s when the lease was not', (store, held, seen) => {
    const plan = planOf({ ...held, known: known(subnet, seen) });
    expect(plan).toMatchObject({ actions: [], orphans: [{ subnet: '10.5.1.0/24', host: A, store }] });
  });

  it('is left to end on both sides when both are copies, which came from backups', () => {
    const plan = planOf({ v2: [copyInV2(A)], v3: [copyInV3(A)], known: known(subnet, { v2: 9, v3: 19 }) });
    expect(plan).toMatchObject({ actions: [], orphans: [{ store: 'v3' }] });
  });

  it('is forgotten with the subnet, when neither store has it', () => {
    expect(planOf({ known: known(subnet, { v2: 10 }) }).known.size).toBe(0);
  });
});

describe('one subnet of two hosts', () => {
  const one = { v2: [inV2(subnet, valueOf(A))], v3: [inV3(subnet, valueOf(B))] };

  it('is a conflict that nobody touches', () => {
    const conflicts = [{ subnet: '10.5.1.0/24', why: `v2 has it for ${A}, v3 for ${B}` }];
    expect(planOf(one)).toMatchObject({ actions: [], conflicts, onV2: 0, onV3: 0 });
    expect(
      planOf({ ...one, isDue: true, known: known(subnet, { v2: 1, v3: 1, master: 'v2' }) }),
    ).toMatchObject({
      actions: [],
      conflicts,
    });
  });

  it('is solved by the removal of either', () => {
    expect(actionsOf({ v2: one.v2 })).toEqual(['create-v3']);
    expect(actionsOf({ v3: one.v3 })).toEqual(['create-v2']);
  });

  it('is a conflict within v3, too', () => {
    const two = [inV3(subnet, valueOf(A)), inV3(`${subnet}&fd00:0:0:1::-64`, valueOf(B))];
    expect(planOf({ v3: two, v2: [copyInV2(A)] })).toMatchObject({
      actions: [],
      conflicts: [{ why: 'v3 has it for two hosts' }],
    });
  });

  it('is a conflict when the key in v3 holds no lease', () => {
    expect(planOf({ v2: one.v2, v3: [inV3(subnet, 'junk')] })).toMatchObject({
      actions: [],
      conflicts: [{ why: 'its key in v3 holds no lease: junk' }],
    });
  });
});

describe('subnets that overlap', () => {
  it('are not copied, and both are reported', () => {
    const plan = planOf({ v2: [inV2(subnet, valueOf(A))], v3: [inV3('10.5.0.0-16', valueOf(B))] });
    expect(plan.actions).toEqual([]);
    expect(plan.conflicts).toEqual([
      { subnet: '10.5.1.0/24', why: `overlaps 10.5.0.0/16 of ${B} in v3` },
      { subnet: '10.5.0.0/16', why: `overlaps 10.5.1.0/24 of ${A} in v2` },
    ]);
  });

  it('keep the copies that they have', () => {
    const v2 = [inV2(subnet, valueOf(A), { index: 12 })];
    const v3 = [copyInV3(A), inV3('10.5.1.0-25', valueOf(B))];
    expect(actionsOf({ v2, v3, isDue: true })).toEqual(['renew-v3']);
  });
});

describe('a host that has written its key in both stores', () => {
  const held = {
    v2: [inV2(subnet, valueOf(A), { index: 12, ttl: 80_000 })],
    v3: [inV3(subnet, valueOf(A), { revision: 30, lease: '77' })],
  };

  it.each([
    ['v3', { v2: 12, v3: 20, master: 'v2' }, 'replace-v2'],
    ['v3', { v2: 12 }, 'replace-v2'],
    ['v3', { v2: 12, v3: 30, master: 'v3' }, 'replace-v2'],
    ['v2', { v2: 10, v3: 30, master: 'v3' }, 'replace-v3'],
    ['v2', { v3: 30 }, 'replace-v3'],
    ['v2', { v2: 12, v3: 30, master: 'v2' }, 'replace-v3'],
  ] as const)('uses %s when that is what has changed since %j', (master, seen, what) => {
    const plan = planOf({ ...held, known: known(subnet, seen) });
    expect(plan.actions.map((action) => action.what)).toEqual([what]);
    expect(plan.known.get('10.5.1.0/24')).toEqual({ v2: 12, v3: 30, master });
    expect(plan).toMatchObject(master === 'v3' ? { onV2: 0, onV3: 1 } : { onV2: 1, onV3: 0 });
  });

  it('keeps the key of both families that it has in v3 when it uses v2 again', () => {
    const name = `${subnet}&fd00:0:0:1::-64`;
    const v3 = [inV3(name, valueOf(A), { revision: 30 })];
    const plan = planOf({ v2: held.v2, v3, known: known(subnet, { v2: 10, v3: 30 }) });
    expect(plan.actions).toMatchObject([
      { what: 'replace-v3', kv: { key: `/net/subnets/${name}` }, leaseId: copyInV3(A, name).lease },
    ]);
    expect(actionsOf({ v2: held.v2, v3: [copyInV3(A, name)] })).toEqual([]);
  });

  it('has the age of its lease in v3 asked for when nobody saw what has changed', () => {
    const plan = planOf(held);
    expect(plan).toMatchObject({ actions: [], askAges: ['77'] });
    expect(plan.known.get('10.5.1.0/24')).toEqual({});
  });

  it('uses v2 when its lease there is the younger one: no election of etcd makes one in v3 look older', () => {
    const plan = planOf({ ...held, ages: { 77: copyTtlSeconds - 80_000 + 3 } });
    expect(plan).toMatchObject({ actions: [{ what: 'replace-v3' }], askAges: [], onV2: 1 });
  });

  // An etcd that elects a leader, or is restored, gives every lease its whole time again, so that one in v3 may look younger than it is.
  it.each([
    ['younger in v3', 5],
    ['of one age', copyTtlSeconds - 80_000 + 2],
  ])(
    'has both keys kept as they are while nobody knows which is in use, and that in v3 alive: %s',
    (_, age) => {
      const ages = { 77: age };
      const plan = planOf({ ...held, ages });
      expect(plan).toMatchObject({ actions: [], onV3: 1, askAges: [] });
      expect(plan.known.get('10.5.1.0/24')).toEqual({ v2: 12, v3: 30 });
      const again = { ...held, ages, known: plan.known };
      expect(actionsOf(again)).toEqual([]);
      expect(planOf({ ...again, isDue: true }).actions).toMatchObject([{ what: 'renew-v3', leaseId: '77' }]);
    },
  );

  it('uses v3 when nobody renews its lease in v2 until shortly before its end', () => {
    const seen = known(subnet, { v2: 12, v3: 30 });
    const ending = (ttl: number) => ({ ...held, v2: [inV2(subnet, valueOf(A), { index: 12, ttl })] });
    expect(actionsOf({ ...ending(301), ages: { 77: 5 }, known: seen })).toEqual([]);
    const plan = planOf({ ...ending(299), ages: { 77: 5 }, known: seen });
    expect(plan).toMatchObject({ actions: [{ what: 'replace-v2' }], onV3: 1 });
    expect(plan.known.get('10.5.1.0/24')?.master).toBe('v3');
  });
});

describe('a reservation that a host has written in both stores', () => {
  const inBoth = (ttl: number | 'reservation', lease: string) => ({
    v2: [inV2(subnet, valueOf(A), { index: 12, ttl })],
    v3: [inV3(subnet, valueOf(A), { revision: 30, lease })],
  });

  it.each([
    ['v3', { v2: 12 }, 'replace-v2', { isReservation: true }],
    ['v2', { v2: 11, v3: 30 }, 'replace-v3', { leaseId: '0' }],
    // Nothing tells when it was written, and neither side ends by itself.
    ['v3', {}, 'replace-v2', { isReservation: true }],
  ] as const)(
    'becomes a copy on the side that it does not use, so that its removal is one: %s, %j',
    (_, seen, what, more) => {
      const plan = planOf({ ...inBoth('reservation', '0'), known: known(subnet, seen) });
      expect(plan).toMatchObject({ actions: [{ what, ...more }], askAges: [] });
    },
  );

  it('is not replaced by a lease, which ends', () => {
    expect(actionsOf({ ...inBoth('reservation', '77'), known: known(subnet, { v2: 12 }) })).toEqual([]);
    expect(actionsOf({ ...inBoth(80_000, '0'), known: known(subnet, { v2: 11, v3: 30 }) })).toEqual([]);
  });

  it('replaces a lease of the side that its host has left', () => {
    expect(actionsOf({ ...inBoth('reservation', '77'), known: known(subnet, { v2: 11, v3: 30 }) })).toEqual([
      'replace-v3',
    ]);
    expect(actionsOf({ ...inBoth(80_000, '0'), known: known(subnet, { v2: 12 }) })).toEqual(['replace-v2']);
  });
});

it('settles: what it writes leaves nothing to do', () => {
  const leases = { v2: [inV2(subnet, valueOf(A))], v3: [inV3('10.5.2.0-24', valueOf(B))] };
  expect(planOf(both(leases))).toMatchObject({ actions: [], onV2: 1, onV3: 1, conflicts: [] });
  expect(nameOf(planOf(both(leases)).known)).toEqual(['10.5.1.0/24', '10.5.2.0/24']);
});
