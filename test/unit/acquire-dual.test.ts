import { beforeEach, describe, expect, it } from 'vitest';
import type { LeaseHost, LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, subnet, valueOf } from '../../sim/leases.ts';
import { SeededRandom } from '../../sim/random.ts';
import { DesiredRoutes } from '../../src/backend/hostgw/desired.ts';
import { type PerFamily } from '../../src/ip/ip.ts';
import { type LeaseSubnets } from '../../src/subnet/keys.ts';
import { LeaseWatch } from '../../src/subnet/lease/watch/lease-watch.ts';
import type { LeaseUpdate } from '../../src/subnet/lease/watch/reader.ts';
import { makeWorld } from './sim-worlds.ts';

const ip = '10.211.0.1';
const ip6 = 'fd00::1';
const other = valueOf('10.211.0.2', 'fd00::2');
const dayS = 86_400;
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
  const host = await world.host(ip, { watch: false, ...kinds[kind], ...options }).hold();
  return host;
}

const put = (name: string, value: string, lease = world.etcd.grant(dayS)) => {
  world.etcd.put(prefix + name, value, lease);
  return lease;
};
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

  it('keeps its lease for days, by renewals that write nothing', async () => {
    const host = await acquire(kind, { watch: true });
    const { revision, leaseIds } = world.etcd;
    await world.clock.advance(3 * dayS * 1000);
    expect(host.held).toBeDefined();
    expect(world.etcd.revision).toBe(revision);
    expect(world.etcd.leaseIds).toEqual(leaseIds);
  });
});

describe('an IPv6-only host', () => {
  it('does not take another’s lease for its own, although all of them say PublicIP 0.0.0.0', async () => {
    put('0.0.0.0-0&fc00:1:0:5::-64', valueOf('0.0.0.0', 'fd00::2'));
    const host = await acquire('IPv6 alone');
    expect(world.keys).toHaveLength(2);
    expect(keyOf(host)).not.toContain('fc00:1:0:5:');
  });

  it('leaves the IPv4 pool as it is: 0.0.0.0-0 overlaps nothing', async () => {
    put('0.0.0.0-0&fc00:1:0:5::-64', valueOf('0.0.0.0', 'fd00::2'));
    const host = await acquire('IPv4 alone', { pools: { ipv4: poolOf('10.1.7.0/24', '10.1.7.0/24') } });
    expect(host.held).toBe('10.1.7.0/24');
  });
});

/** Families turned on and off: what the own key was, what is on now, what the key must be. */
const turns: readonly [string, Kind, string, Kind, string | RegExp][] = [
  ['IPv6 is turned on', 'IPv4 alone', '10.1.5.0-24', 'both', /^10\.1\.5\.0-24&fc00:1:/],
  ['IPv6 is turned off', 'both', '10.1.5.0-24&fc00:1:0:5::-64', 'IPv4 alone', '10.1.5.0-24'],
  ['IPv4 is turned off', 'both', '10.1.5.0-24&fc00:1:0:5::-64', 'IPv6 alone', '0.0.0.0-0&fc00:1:0:5::-64'],
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
    const lease = put(name, values[before], leased ? world.etcd.grant(dayS) : '0');
    const { revision } = world.etcd;
    const host = await acquire(after);
    if (typeof expected === 'string') expect(keyOf(host)).toBe(expected);
    else expect(keyOf(host)).toMatch(expected);
    // One write: whoever watches sees the old key go and the new one come in one batch.
    expect(world.etcd.revision).toBe(revision + 1);
    expect(world.kvs).toMatchObject([{ key: prefix + keyOf(host), value: values[after], lease }]);
    expect(world.etcd.leaseIds).toEqual(leased ? [lease] : []);
    expect(host.manager.lease?.origin).toBe('reused');
  });

  it.each([true, false])('a lost reply leaves one key (applied: %s)', async (applied) => {
    put(name, values[before]);
    world.etcd.loseNextReply({ applied });
    const host = await acquire(after);
    if (typeof expected === 'string') expect(keyOf(host)).toBe(expected);
    else expect(keyOf(host)).toMatch(expected);
    expect(world.keys).toEqual([keyOf(host)]);
    expect(world.idleLeases).toEqual([]);
  });

  it('the key stays the host’s when its etcd lease died in the same moment', async () => {
    const lease = put(name, values[before]);
    const host = world.host(ip, { watch: false, ...kinds[after] });
    host.onCall = (call) => {
      if (call === 'leaseKeepAlive') world.etcd.revoke(lease);
    };
    await host.hold();
    if (typeof expected === 'string') expect(keyOf(host)).toBe(expected);
    else expect(keyOf(host)).toMatch(expected);
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
    ['another spelling', `{"PublicIP":"${ip}","PublicIPv6":"FD00:0::1","BackendType":"host-gw"}`],
    ['another backend', `{"PublicIP":"${ip}","PublicIPv6":"${ip6}","BackendType":"vxlan"}`],
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
    ['is void when the IPv4 subnet is taken', ['10.1.77.0-24'], undefined],
    ['is void when the IPv4 subnet is overlapped by another length', ['10.1.64.0-20'], undefined],
    [
      'is void when the same IPv6 subnet hangs on another IPv4 one',
      ['10.1.9.0-24&fc00:1:0:77::-64'],
      undefined,
    ],
    [
      'is void when the IPv6 subnet is overlapped by another length',
      ['10.1.9.0-24&fc00:1:0:70::-60'],
      undefined,
    ],
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
  it.each(['10.1.9.0-24&fc00:1::-64', '0.0.0.0-0&fc00:1::-64', '10.1.9.0-24&fc00:1::-60'])(
    'by %s: the later one chooses again',
    async (theirs) => {
      let races = 0;
      const host = world.host(ip, {
        watch: false,
        ...kinds.both,
        pools: { ipv4, ipv6: poolOf('fc00:1::/64', 'fc00:1:0:10::/64') },
        hint: subnets('10.1.77.0/24', 'fc00:1::/64'),
      });
      host.onCall = (call) => {
        if (call === 'txn' && races++ === 0) put(theirs, other);
      };
      await host.hold();
      expect(keyOf(host)).not.toContain('fc00:1::');
      expect(world.keys).toHaveLength(2);
      expect(world.etcd.leaseIds).toHaveLength(2);
    },
  );

  it('that was chosen at random: the IPv4 subnet that the hint names is taken all the same', async () => {
    let races = 0;
    const host = world.host(ip, {
      watch: false,
      ...kinds.both,
      pools: { ipv4, ipv6: poolOf('fc00:1::/64', 'fc00:1:0:7::/64') },
      hint: subnets('10.1.77.0/24'),
    });
    host.onCall = (call, argument) => {
      if (call !== 'txn') return;
      const [step] = (argument as { success: { op: string; key: string }[] }).success;
      if (step?.op === 'put' && races++ < 5) put(`10.1.${races}.0-24&${step.key.split('&')[1]}`, other);
    };
    await host.hold();
    expect(races).toBe(6);
    expect(host.held).toMatch(/^10\.1\.77\.0\/24 and /);
  });

  it('while IPv6 is being turned on: the IPv4 subnet stays, another IPv6 subnet is chosen', async () => {
    let races = 0;
    put('10.1.5.0-24', valueOf(ip));
    const host = world.host(ip, {
      watch: false,
      ...kinds.both,
      pools: { ipv4, ipv6: poolOf('fc00:1::/64', 'fc00:1:0:1::/64') },
      hint: subnets(undefined, 'fc00:1::/64'),
    });
    host.onCall = (call) => {
      if (call === 'txn' && races++ === 0) put('10.1.9.0-24&fc00:1::-64', other);
    };
    await host.hold();
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

it('of several own keys a reservation is preferred, then one that needs no change; the others are reported', async () => {
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

const alone: LeaseHostOptions = { pools: { ipv4 } };
const dualStack: LeaseHostOptions = { pools: { ipv4, ipv6 }, addresses: { ipv4: ip, ipv6: 'fd00::1' } };

async function started(options: LeaseHostOptions): Promise<LeaseHost> {
  const host = await world.host(ip, options).hold();
  await world.clock.advance(100);
  return host;
}

const putPeer = (name: string) =>
  world.etcd.put(prefix + name, valueOf('10.211.0.2'), world.etcd.grant(86_400));
const warnings = () => world.log.events('mixed-families');

describe('leases of IPv4 alone beside leases of dualStack families', () => {
  it.each([
    ['a host with dualStack finds one of IPv4 alone', dualStack, ['10.1.9.0-24'], 1],
    ['a host of IPv4 alone finds one with both', alone, ['10.1.9.0-24&fc00:1:0:9::-64'], 1],
    ['a host with dualStack finds only such', dualStack, ['10.1.9.0-24&fc00:1:0:9::-64'], 0],
    ['a host of IPv4 alone finds only such', alone, ['10.1.9.0-24'], 0],
    ['a host finds one of IPv6 alone', alone, ['0.0.0.0-0&fc00:1:0:9::-64'], 0],
    ['a host finds junk', dualStack, ['junk', '10.1.9.0'], 0],
    ['a host finds dualStack kinds', alone, ['10.1.8.0-24', '10.1.9.0-24&fc00:1:0:9::-64'], 1],
  ])('%s: warned of once, before anything is written', async (_, options, names, expected) => {
    names.forEach(putPeer);
    const host = await started(options);
    expect(warnings()).toHaveLength(expected);
    if (expected > 0) expect(world.log.lines.map(({ fields }) => fields['event'])[0]).toBe('mixed-families');
    putPeer('10.1.7.0-24');
    await world.clock.advance(60_000);
    await host.stop();
    expect(warnings()[0]?.message ?? 'EnableIPv6').toContain('EnableIPv6');
  });

  it.each([
    ['of IPv4 alone', dualStack, '10.1.9.0-24'],
    ['of both', alone, '10.1.9.0-24&fc00:1:0:9::-64'],
  ])('one %s that appears later is warned of, once', async (_, options, name) => {
    await started(options);
    expect(warnings()).toHaveLength(0);
    putPeer(name);
    await world.clock.advance(100);
    expect(warnings()).toHaveLength(1);
    expect(warnings()[0]?.message).toContain(name);
    world.etcd.delete(prefix + name);
    putPeer(name);
    await world.clock.advance(100);
    expect(warnings()).toHaveLength(1);
  });

  it('the own lease of IPv4 alone does not count while IPv6 is being turned on', async () => {
    world.etcd.put(`${prefix}10.1.5.0-24`, valueOf(ip), world.etcd.grant(86_400));
    await started(dualStack);
    expect(world.keys[0]).toMatch(/^10\.1\.5\.0-24&/);
    expect(warnings()).toHaveLength(0);
  });
});

describe('L11: a peer that watches while a host turns IPv6 on or off', () => {
  it.each([
    ['on', valueOf(ip), '10.1.5.0-24', dualStack],
    ['off', valueOf(ip, 'fd00::1'), '10.1.5.0-24&fc00:1:0:5::-64', alone],
  ])('(%s) has the route to its IPv4 subnet all the time', async (_, value, name, options) => {
    world.etcd.put(prefix + name, value, world.etcd.grant(86_400));
    const routes = new DesiredRoutes({ subnet: subnet('10.1.99.0/24'), address: '10.211.0.99' });
    const seen: (string | undefined)[] = [];
    const stop = new AbortController();
    const peer = world.host('10.211.0.99');
    const registry = world.etcd.member('etcd-0', 'peer');
    const watch = new LeaseWatch({
      registry,
      clock: world.clock,
      random: new SeededRandom(1),
      log: world.log.of('peer'),
      trouble: peer.trouble,
      subnetsPrefix: prefix,
    });
    const ended = watch
      .run(stop.signal, (update: LeaseUpdate) => {
        if (update.type === 'snapshot') routes.replaceAll(update.leases);
        else routes.apply(update.put, update.removed);
        seen.push(routes.get('10.1.5.0/24')?.gateway);
      })
      .catch(() => undefined);
    await world.clock.settle();
    const host = await started(options);
    expect(host.held).toContain('10.1.5.0/24');
    // The list, and the one revision that replaced the key.
    expect(seen).toEqual([ip, ip]);
    stop.abort();
    await ended;
    registry.close();
  });
});
