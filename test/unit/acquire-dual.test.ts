import { beforeEach, describe, expect, it } from 'vitest';
import type { LeaseHost, LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, subnet, valueOf } from '../../sim/leases.ts';
import { type PerFamily } from '../../src/ip/ip.ts';
import { type LeaseSubnets } from '../../src/subnet/keys.ts';
import { makeWorld } from './sim-worlds.ts';

const ip = '10.211.0.1';
const ip6 = 'fd00::1';
const other = valueOf('10.211.0.2', 'fd00::2');
const ipv4 = poolOf('10.1.0.0/24', '10.1.255.0/24');
const ipv6 = poolOf('fc00:1::/64', 'fc00:1:0:ff::/64');

type Kind = 'IPv4 alone' | 'IPv6 alone' | 'both';

/** What a host is told, and what it writes. */
const kinds: Record<Kind, LeaseHostOptions & { readonly addresses: PerFamily<string> }> = {
  'IPv4 alone': { pools: { ipv4 }, addresses: { ipv4: ip } },
  'IPv6 alone': { pools: { ipv6 }, addresses: { ipv6: ip6 } },
  both: { pools: { ipv4, ipv6 }, addresses: { ipv4: ip, ipv6: ip6 } },
};
const values: Record<Kind, string> = {
  'IPv4 alone': valueOf(ip),
  'IPv6 alone': valueOf('0.0.0.0', ip6),
  both: valueOf(ip, ip6),
};
const keyForms: Record<Kind, RegExp> = {
  'IPv4 alone': /^10\.1\.\d+\.0-24$/,
  'IPv6 alone': /^0\.0\.0\.0-0&fc00:1:[\da-f:]*:-64$/,
  both: /^10\.1\.\d+\.0-24&fc00:1:[\da-f:]*:-64$/,
};
const allKinds = Object.keys(kinds) as Kind[];

let world: LeaseWorld;

beforeEach(() => {
  world = makeWorld();
});

async function acquire(kind: Kind, options: LeaseHostOptions = {}): Promise<LeaseHost> {
  return await world.host(ip, { watch: false, ...kinds[kind], ...options }).hold();
}

const put: LeaseWorld['put'] = (...args) => world.put(...args);
const keyOf = (host: LeaseHost) => host.manager.lease?.key.slice(prefix.length) ?? '';
const subnets = (text4?: string, text6?: string): LeaseSubnets => ({
  ...(text4 === undefined ? {} : { ipv4: subnet(text4) }),
  ...(text6 === undefined ? {} : { ipv6: subnet(text6) }),
});

describe.each(allKinds)('a host with %s', (kind) => {
  it('takes a subnet per family, as flanneld writes it, and goes on with it after a restart', async () => {
    const host = await acquire(kind);
    const { leaseId } = host.manager.lease ?? {};
    expect(keyOf(host)).toMatch(keyForms[kind]);
    expect(world.kvs).toMatchObject([{ key: prefix + keyOf(host), value: values[kind], lease: leaseId }]);
    const { revision } = world.etcd;
    await host.stop();
    await host.hold(10_000);
    expect(world.etcd.revision).toBe(revision);
    expect(host.manager.lease).toMatchObject({ origin: 'reused', leaseId });
  });

  it('takes the same subnets again when its key is deleted', async () => {
    const host = await acquire(kind, { watch: true });
    const key = keyOf(host);
    await world.clock.advance(1_000);
    world.etcd.delete(prefix + key);
    await world.clock.advance(1_000);
    expect(world.keys).toEqual([key]);
    expect(host.held).toBeDefined();
  });
});

it('a lease of another IPv6-only host is neither taken for the own one nor in the way of IPv4', async () => {
  put('0.0.0.0-0&fc00:1:0:5::-64', valueOf('0.0.0.0', 'fd00::2'));
  const host = await acquire('IPv6 alone');
  expect(world.keys).toHaveLength(2);
  expect(keyOf(host)).not.toContain('fc00:1:0:5:');
  const one = { ipv4: poolOf('10.1.7.0/24', '10.1.7.0/24') };
  expect((await acquire('IPv4 alone', { pools: one })).held).toBe('10.1.7.0/24');
});

/** Families turned on and off: what the own key was, what is on now, what the key must be. */
const turns: readonly [string, Kind, string, Kind, RegExp][] = [
  ['IPv6 is turned on', 'IPv4 alone', '10.1.5.0-24', 'both', /^10\.1\.5\.0-24&fc00:1:/],
  ['IPv6 is turned off', 'both', '10.1.5.0-24&fc00:1:0:5::-64', 'IPv4 alone', /^10\.1\.5\.0-24$/],
  [
    'IPv4 is turned off',
    'both',
    '10.1.5.0-24&fc00:1:0:5::-64',
    'IPv6 alone',
    /^0\.0\.0\.0-0&fc00:1:0:5::-64$/,
  ],
  [
    'IPv4 is turned on',
    'IPv6 alone',
    '0.0.0.0-0&fc00:1:0:5::-64',
    'both',
    /^10\.1\.\d+\.0-24&fc00:1:0:5::-64$/,
  ],
  ['IPv6Network changes', 'both', '10.1.5.0-24&fc00:9::-64', 'both', /^10\.1\.5\.0-24&fc00:1:[\da-f:]*:-64$/],
  ['Network changes', 'both', '10.9.5.0-24&fc00:1:0:5::-64', 'both', /^10\.1\.\d+\.0-24&fc00:1:0:5::-64$/],
];

describe.each(turns)('L11: when %s', (_, before, name, after, expected) => {
  it.each([true, false])('the subnet that stays is kept, at one revision (a lease: %s)', async (leased) => {
    const lease = put(name, values[before], leased ? undefined : '0');
    const { revision } = world.etcd;
    const host = await acquire(after);
    expect(keyOf(host)).toMatch(expected);
    // One write: whoever watches sees the old key go and the new one come in one batch.
    expect(world.etcd.revision).toBe(revision + 1);
    expect(world.kvs).toMatchObject([{ key: prefix + keyOf(host), value: values[after], lease }]);
    expect(world.etcd.leaseIds).toEqual(leased ? [lease] : []);
    expect(host.manager.lease?.origin).toBe('reused');
  });

  it.each<[string, (lease: string, call: string) => void]>([
    ['a reply is lost', (_lease, call) => call === 'start' && world.etcd.loseNextReply({ applied: true })],
    ['a request is lost', (_lease, call) => call === 'start' && world.etcd.loseNextReply({ applied: false })],
    ['its etcd lease is revoked', (lease, call) => call === 'leaseKeepAlive' && world.etcd.revoke(lease)],
  ])('the host has one key when %s in that moment', async (_mishap, befall) => {
    const lease = put(name, values[before]);
    const host = world.host(ip, { watch: false, ...kinds[after] });
    befall(lease, 'start');
    host.onCall = (call) => befall(lease, call);
    await host.hold();
    expect(keyOf(host)).toMatch(expected);
    expect(world.keys).toEqual([keyOf(host)]);
    expect(world.idleLeases).toEqual([]);
  });
});

it('L11: IPv6 is turned on over and over, and the IPv4 subnet and the etcd lease are the same all the time', async () => {
  const host = await acquire('IPv4 alone');
  const [held] = (host.held ?? '').split(' and ');
  const { leaseIds } = world.etcd;
  for (const kind of ['both', 'IPv4 alone', 'both', 'both', 'IPv4 alone'] as const) {
    await host.stop();
    host.options = { watch: false, ...kinds[kind] };
    await host.hold(10_000);
    expect(host.held?.split(' and ')[0]).toBe(held);
    expect(world.keys).toHaveLength(1);
    expect(world.etcd.leaseIds).toEqual(leaseIds);
  }
});

describe('the value of a key found', () => {
  it.each([
    ['a changed PublicIPv6', valueOf(ip, 'fd00::99')],
    ['no PublicIPv6', valueOf(ip)],
  ])('with %s is put right, keeping the lease', async (_, value) => {
    const lease = put('10.1.5.0-24&fc00:1:0:5::-64', value);
    const host = await acquire('both');
    expect(keyOf(host)).toBe('10.1.5.0-24&fc00:1:0:5::-64');
    expect(world.kvs).toMatchObject([{ value: values.both, lease }]);
  });

  it('is found by PublicIPv6 in any spelling while IPv4 is off', async () => {
    put('0.0.0.0-0&fc00:1:0:5::-64', '{"PublicIP":null,"PublicIPv6":"FD00:0:0::1"}');
    const host = await acquire('IPv6 alone');
    expect(keyOf(host)).toBe('0.0.0.0-0&fc00:1:0:5::-64');
    expect(world.kvs).toMatchObject([{ value: values['IPv6 alone'] }]);
  });
});

/** L10: a hint never wins against a live lease, whichever half or length it overlaps with. */
describe('a hint of both families', () => {
  const hint = subnets('10.1.77.0/24', 'fc00:1:0:77::/64');
  it.each([
    ['is used when both subnets are free', [], '10.1.77.0-24&fc00:1:0:77::-64'],
    ['is void when another host has the IPv4 subnet', ['10.1.77.0-24'], undefined],
    ['is void when another host has the IPv6 subnet', ['10.1.9.0-24&fc00:1:0:77::-64'], undefined],
    ['is void when a larger IPv6 subnet overlaps it', ['10.1.9.0-24&fc00:1:0:70::-60'], undefined],
    ['is void when an IPv6-only host has the IPv6 subnet', ['0.0.0.0-0&fc00:1:0:77::-64'], undefined],
  ])('%s', async (_, taken, expected) => {
    for (const name of taken) put(name, other);
    const host = await acquire('both', { hint });
    if (expected === undefined) {
      expect(keyOf(host)).not.toContain('10.1.77.0');
      expect(keyOf(host)).not.toContain(':77:');
    } else expect(keyOf(host)).toBe(expected);
    expect(host.manager.lease?.origin).toBe(expected === undefined ? 'new' : 'hint');
  });

  it.each([
    ['IPv4 alone', '10.1.77.0-24'],
    ['IPv6 alone', '0.0.0.0-0&fc00:1:0:77::-64'],
  ] as const)('counts for the family that is on: %s', async (kind, expected) => {
    expect(keyOf(await acquire(kind, { hint }))).toBe(expected);
  });

  it('of IPv4 alone is used when IPv6 is on, too', async () => {
    const host = await acquire('both', { hint: subnets('10.1.77.0/24') });
    expect(keyOf(host)).toMatch(/^10\.1\.77\.0-24&fc00:1:/);
  });
});

describe('an IPv6 subnet that another host takes in the same moment', () => {
  /** A host of both families; another one puts a key just before each of its first puts. */
  async function outrun(
    times: number,
    last6: string,
    hint: LeaseSubnets,
    theirs: (nth: number, key: string) => string,
  ) {
    let races = 0;
    const pools = { ipv4, ipv6: poolOf('fc00:1::/64', last6) };
    const host = world.host(ip, { watch: false, ...kinds.both, pools, hint });
    host.onCall = (call, argument) => {
      if (call !== 'txn') return;
      const [step] = (argument as { success: { op: string; key: string }[] }).success;
      if (step && races++ < times) put(theirs(races, step.key), other);
    };
    await host.hold();
    expect(races).toBeGreaterThan(times);
    return host;
  }

  it.each(['10.1.9.0-24&fc00:1::-64', '0.0.0.0-0&fc00:1::-64', '10.1.9.0-24&fc00:1::-60'])(
    'by %s: the later one chooses again',
    async (theirs) => {
      const hint = subnets('10.1.77.0/24', 'fc00:1::/64');
      const host = await outrun(1, 'fc00:1:0:10::/64', hint, () => theirs);
      expect(keyOf(host)).not.toContain('fc00:1::');
      expect(world.keys).toHaveLength(2);
      expect(world.etcd.leaseIds).toHaveLength(2);
    },
  );

  it('that was chosen at random: the host takes the IPv4 subnet that the hint names all the same', async () => {
    const theirs = (nth: number, key: string) => `10.1.${nth}.0-24&${key.split('&')[1]}`;
    const host = await outrun(5, 'fc00:1:0:7::/64', subnets('10.1.77.0/24'), theirs);
    expect(host.held).toMatch(/^10\.1\.77\.0\/24 and /);
  });

  it('while IPv6 is being turned on: the IPv4 subnet stays, another IPv6 subnet is chosen', async () => {
    put('10.1.5.0-24', valueOf(ip));
    const hint = subnets(undefined, 'fc00:1::/64');
    await outrun(1, 'fc00:1:0:1::/64', hint, () => '10.1.9.0-24&fc00:1::-64');
    expect(world.keys).toEqual(['10.1.5.0-24&fc00:1:0:1::-64', '10.1.9.0-24&fc00:1::-64']);
    expect(world.idleLeases).toEqual([]);
  });
});

describe('a dual-stack host whose pool', () => {
  it.each([
    ['IPv4', { ipv4: poolOf('10.1.7.0/24', '10.1.7.0/24'), ipv6 }, 'Network or SubnetMin'],
    ['IPv6', { ipv4, ipv6: poolOf('fc00:1:0:7::/64', 'fc00:1:0:7::/64') }, 'IPv6Network or IPv6SubnetMin'],
  ])('of %s has no free subnet waits, says which, and holds nothing meanwhile', async (_, pools, remedy) => {
    put('10.1.7.0-24&fc00:1:0:7::-64', other);
    const host = world.host(ip, { watch: false, ...kinds.both, pools }).start();
    await world.clock.advance(60_000);
    expect(host.trouble.current.join()).toContain(`no lease for ${ip} and ${ip6}`);
    expect(host.trouble.current.join()).toContain(remedy);
    expect(host.trouble.current.join()).toContain('the first lease expires within 24 h');
    expect(world.keys).toHaveLength(1);
    expect(world.idleLeases).toEqual([]);
    expect(world.etcd.calls.leaseTimeToLive).toBe(1);
  });
});

it('a host with several own keys prefers a reservation, then one that needs no change, and reports the others', async () => {
  put('10.1.4.0-24', valueOf(ip));
  put('10.1.5.0-24&fc00:1:0:5::-64', values.both);
  const host = await acquire('both');
  expect(keyOf(host)).toBe('10.1.5.0-24&fc00:1:0:5::-64');
  expect(world.log.events('other-own-leases')[0]?.message).toContain('10.1.4.0-24');
  await host.stop();
  put('10.1.6.0-24', valueOf(ip), '0');
  const reserved = await acquire('both');
  expect(keyOf(reserved)).toMatch(/^10\.1\.6\.0-24&/);
  expect(world.etcd.get(prefix + keyOf(reserved))?.lease).toBe('0');
});

it('L2: a reservation of both is made one of IPv4 alone also when a lease of that name is there already', async () => {
  put('10.1.5.0-24', valueOf(ip));
  put('10.1.5.0-24&fc00:1:0:5::-64', values.both, '0');
  const host = await acquire('IPv4 alone');
  expect(host.held).toBe('10.1.5.0/24');
  expect(world.kvs).toMatchObject([{ key: `${prefix}10.1.5.0-24`, value: valueOf(ip), lease: '0' }]);
});

async function started(kind: Kind): Promise<void> {
  await acquire(kind, { watch: true });
  await world.clock.advance(100);
}

const putPeer = (name: string) => put(name, valueOf('10.211.0.2'));
const warnings = () => world.log.events('mixed-families');

describe('a host warns of leases of IPv4 alone beside leases of both families', () => {
  it.each<[Kind, string, string[], number]>([
    ['both', 'one of IPv4 alone', ['10.1.9.0-24'], 1],
    ['IPv4 alone', 'one of both', ['10.1.9.0-24&fc00:1:0:9::-64'], 1],
    ['both', 'only leases of both', ['10.1.9.0-24&fc00:1:0:9::-64'], 0],
    ['IPv4 alone', 'only leases of IPv4 alone', ['10.1.9.0-24'], 0],
    ['IPv4 alone', 'one of IPv6 alone', ['0.0.0.0-0&fc00:1:0:9::-64'], 0],
    ['both', 'junk', ['junk', '10.1.9.0'], 0],
    ['IPv4 alone', 'leases of each kind', ['10.1.8.0-24', '10.1.9.0-24&fc00:1:0:9::-64'], 1],
  ])('once, before it writes: a host with %s finds %s', async (kind, _, names, expected) => {
    names.forEach(putPeer);
    await started(kind);
    expect(warnings()).toHaveLength(expected);
    if (expected > 0) expect(world.log.lines.map(({ fields }) => fields['event'])[0]).toBe('mixed-families');
    putPeer('10.1.7.0-24');
    await world.clock.advance(60_000);
    expect(warnings()[0]?.message ?? 'EnableIPv6').toContain('EnableIPv6');
  });

  it.each<[Kind, string]>([
    ['both', '10.1.9.0-24'],
    ['IPv4 alone', '10.1.9.0-24&fc00:1:0:9::-64'],
  ])('once, when one appears later: a host with %s sees %s', async (kind, name) => {
    await started(kind);
    expect(warnings()).toHaveLength(0);
    for (const _ of [1, 2]) {
      putPeer(name);
      await world.clock.advance(100);
      expect(warnings()).toEqual([expect.objectContaining({ message: expect.stringContaining(name) })]);
      world.etcd.delete(prefix + name);
    }
  });

  it('but not of its own lease of IPv4 alone while IPv6 is being turned on', async () => {
    put('10.1.5.0-24', valueOf(ip));
    await started('both');
    expect(world.keys[0]).toMatch(/^10\.1\.5\.0-24&/);
    expect(warnings()).toHaveLength(0);
  });
});
