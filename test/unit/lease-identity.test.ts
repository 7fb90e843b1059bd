import { beforeEach, describe, expect, it } from 'vitest';
import { noCalls } from '../../sim/etcd-member.ts';
import type { LeaseHost, LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, subnet, valueOf } from '../../sim/leases.ts';
import { SeededRandom } from '../../sim/random.ts';
import { Wake } from '../../src/runtime/wake.ts';
import { Grants } from '../../src/subnet/lease/grants.ts';
import { makeWorld } from './sim-worlds.ts';

/** What VirtualBox gives every machine behind its NAT. */
const ip = '10.0.2.15';
const hourMs = 3_600_000;
const onlyIPv6: LeaseHostOptions = {
  pools: { ipv6: poolOf('fc00:1::/64', 'fc00:1:0:9::/64') },
  addresses: { ipv6: 'fd00::15' },
};

let world: LeaseWorld;

beforeEach(() => {
  world = makeWorld({ latencyMs: 2 });
});

/** A host with this address; each has its own identity, unless one is given. */
function host(options: LeaseHostOptions = {}): LeaseHost {
  return world.host(ip, { hostIdentity: world.hosts.length + 1, ...options });
}

async function started(options: LeaseHostOptions = {}): Promise<LeaseHost> {
  const one = host(options).start();
  await one.hold();
  await world.clock.advance(100);
  return one;
}

const holders = () => world.hosts.filter((one) => one.running && one.held !== undefined);
const probes = () => world.log.events('lease-probed').length;

describe('L9: two hosts with one address', () => {
  it('that start one after the other do not share a lease: the second refuses, and names address, key and flags', async () => {
    const first = await started();
    const { key = '', leaseId } = first.manager.lease ?? {};
    const second = host().start();
    await world.clock.advance(5_000);
    expect(second.manager.state).toBe('acquiring');
    const [trouble = ''] = second.trouble.current;
    for (const part of [ip, key, '--iface', '--public-ip']) expect(trouble).toContain(part);
    for (let hours = 0; hours < 24; hours++) {
      await world.clock.advance(hourMs);
      expect(second.manager.state).toBe('acquiring');
      expect(world.kvs).toMatchObject([{ key, value: valueOf(ip), lease: leaseId }]);
      expect(first.held).toBeDefined();
    }
    expect(world.idleLeases).toEqual([]);
    // It asks every ten minutes at the most, and the holder says so, too.
    expect(probes()).toBeLessThan(24 * 13);
    expect(first.trouble.current.join()).toContain(`another host uses this host's address ${ip}`);
    expect(first.trouble.current.join()).toContain('--iface');
    expect(world.log.lines.length).toBeLessThan(1_000);
    // It takes over when the first one stops.
    const { held } = first;
    await first.crash();
    await second.hold(700_000);
    expect(second.held).toBe(held);
    expect(second.trouble.current).toEqual([]);
    expect(world.keys).toEqual([key.slice(prefix.length)]);
  }, 30_000);

  it('the first is told that all is well again half an hour after the second has gone', async () => {
    const first = await started();
    const second = host().start();
    await world.clock.advance(hourMs);
    expect(first.trouble.current).toHaveLength(1);
    await second.stop();
    await world.clock.advance(hourMs);
    expect(first.trouble.current).toEqual([]);
  });

  it('one that asks again right after another has left is counted from its first time on', async () => {
    const seen = new Wake();
    const use = {
      rival: undefined as string | undefined,
      alone: false,
      looked: async () => {},
      changed: async (rival: string | undefined, signal: AbortSignal) => {
        while (use.rival === rival) await seen.wait(signal);
      },
    };
    const first = await started({ addressUse: use });
    const { key = '', leaseId } = first.manager.lease ?? {};
    const ask = async (thenMs: number) => {
      world.etcd.put(key, valueOf(ip), leaseId);
      await world.clock.advance(thenMs);
    };
    const show = async (rival: string | undefined) => {
      use.rival = rival;
      seen.wake();
      await world.clock.advance(100);
    };
    await show('52:54:00:00:00:09');
    await ask(1_000);
    await show(undefined);
    for (const thenMs of [6_000, 6_000, 6_000]) {
      expect(first.trouble.current).toEqual([]);
      await ask(thenMs);
    }
    expect(first.trouble.current.join()).toContain(`another host uses this host's address ${ip}`);
  });

  it.each([2, 3, 20])(
    '%i that start at once on an empty etcd: one gets a subnet, the others refuse',
    async (count) => {
      for (let index = 0; index < count; index++) host().start();
      for (const waitMs of [60_000, 3 * hourMs]) {
        await world.clock.advance(waitMs);
        expect(holders()).toHaveLength(1);
        expect(world.keys).toHaveLength(1);
        expect(world.idleLeases).toEqual([]);
      }
    },
    30_000,
  );

  it.each([1, 2, 20])('%i that start at once while one lives: all refuse', async (count) => {
    const first = await started();
    for (let index = 0; index < count; index++) host().start();
    await world.clock.advance(2 * hourMs);
    expect(holders()).toEqual([first]);
    expect(world.keys).toHaveLength(1);
  });

  it('that start at once and find a lease left behind: one adopts it', async () => {
    world.put('10.1.5.0-24', valueOf(ip));
    host().start();
    host().start();
    await world.clock.advance(60_000);
    expect(holders()).toHaveLength(1);
    expect(world.keys).toEqual(['10.1.5.0-24']);
  });

  it('a lease that does not fit here is not deleted while its host lives', async () => {
    const first = await started();
    const before = world.kvs;
    const second = host({ pools: { ipv4: poolOf('10.2.0.0/24', '10.2.9.0/24') } }).start();
    await world.clock.advance(hourMs);
    expect(second.manager.state).toBe('acquiring');
    expect(first.held).toBeDefined();
    expect(world.kvs).toMatchObject([{ key: before[0]?.key, lease: before[0]?.lease }]);
  });

  it('that both think the lease theirs, because one could not answer, are told; they do not write without end', async () => {
    const first = await started();
    world.etcd.cut(first.name);
    const second = await started();
    world.etcd.heal(first.name);
    await world.clock.advance(hourMs);
    for (const one of [first, second])
      expect(one.trouble.current.join()).toContain(`another host uses this host's address ${ip}`);
    const { revision } = world.etcd;
    await world.clock.advance(24 * hourMs);
    expect(world.etcd.revision - revision).toBeLessThan(24 * 130);
    expect(world.keys).toHaveLength(1);
  }, 30_000);

  it.each<[string, string, LeaseHostOptions, () => void]>([
    ['of IPv6 alone', 'fd00::15', onlyIPv6, () => {}],
    ['one with a reservation', ip, {}, () => world.put('10.1.5.0-24', valueOf(ip), '0')],
  ])('%s: the second refuses, and names the address', async (_, address, options, prepare) => {
    prepare();
    const first = await started({ ...options, hint: { ipv4: subnet('10.1.5.0/24') } });
    const [before] = world.kvs;
    const second = host(options).start();
    await world.clock.advance(hourMs);
    expect(holders()).toEqual([first]);
    expect(second.trouble.current.join()).toContain('another host that is running');
    expect(second.trouble.current.join()).toContain(address);
    expect(world.kvs).toMatchObject([{ key: before?.key, lease: before?.lease }]);
  });
});

describe('a lease under the own address', () => {
  it('that nobody holds is adopted after two seconds, as it is', async () => {
    const lease = world.put('10.1.5.0-24', valueOf(ip));
    const one = host().start();
    await world.clock.advance(1_500);
    expect(one.held).toBeUndefined();
    await world.clock.advance(1_000);
    expect(one.held).toBe('10.1.5.0/24');
    expect(world.kvs).toMatchObject([{ value: valueOf(ip), lease }]);
    expect(world.idleLeases).toEqual([]);
  });

  it('is adopted also when every reply of the probe is lost once', async () => {
    world.put('10.1.5.0-24', valueOf(ip));
    for (const applied of [true, false]) world.etcd.loseNextReply({ applied });
    expect((await started()).held).toBe('10.1.5.0/24');
  });

  it.each([true, false])(
    'is adopted when etcd is restored while it is asked for (the same id: %s)',
    async (sameId) => {
      world.put('10.1.5.0-24', valueOf(ip));
      const backup = world.etcd.snapshot();
      const one = host().start();
      await world.clock.advance(1_000);
      expect(probes()).toBe(1);
      world.etcd.restore(backup, { sameId });
      await one.hold(20_000);
      expect(one.held).toBe('10.1.5.0/24');
      expect(one.trouble.current).toEqual([]);
    },
  );

  it.each([
    ['booted again, with subnet.env there', { hostIdentity: 77 }, true],
    ['started again without subnet.env', { hostIdentity: 1 }, false],
    ['started again', { hostIdentity: 1 }, true],
  ])('costs no call and no time more when the host was %s', async (_, options, hinted) => {
    const one = await started();
    const { held = '' } = one;
    await one.stop();
    one.options = { ...options, ...(hinted ? { hint: { ipv4: subnet(held) } } : {}), watch: false };
    const before = { ...world.etcd.calls };
    const { revision } = world.etcd;
    const startedMs = world.clock.now();
    await one.hold(1_000);
    const made = Object.fromEntries(
      Object.entries(world.etcd.calls).map(([call, count]) => [call, count - before[call as 'range']]),
    );
    // A list, and a keepalive.
    expect(made).toEqual({ ...noCalls(), range: 1, leaseKeepAlive: 1 });
    expect(world.clock.now() - startedMs).toBeLessThan(20);
    expect(world.etcd.revision).toBe(revision);
    expect(probes()).toBe(0);
  });

  it('is asked for only once there is a subnet to go with the half of it that still fits', async () => {
    const pools = { ...onlyIPv6.pools, ipv4: poolOf('10.1.1.0/24', '10.1.1.0/24') };
    const rival = world.put('10.1.1.0-24', valueOf('10.0.2.99'));
    world.put('10.1.5.0-24&fc00:1:0:5::-64', valueOf(ip, 'fd00::15'));
    const { revision } = world.etcd;
    const one = host({ pools, addresses: { ipv4: ip, ipv6: 'fd00::15' } }).start();
    await world.clock.advance(hourMs);
    expect(one.trouble.current.join()).toContain('no free subnet');
    expect([world.etcd.revision, probes()]).toEqual([revision, 0]);
    world.etcd.revoke(rival);
    await one.hold(20_000);
    expect(one.held).toBe('10.1.1.0/24 and fc00:1:0:5::/64');
    expect(probes()).toBe(1);
    expect(world.keys).toEqual(['10.1.1.0-24&fc00:1:0:5::-64']);
  });

  it.each([
    ['somebody puts it again by hand, twice', [60_000, 60_000], 2],
    ['a host with another address now asks for it twice at each start', [500, 60_000], 10],
  ])('is no trouble when %s', async (_, pausesMs, times) => {
    const one = await started();
    const { key = '', leaseId } = one.manager.lease ?? {};
    const { revision } = world.etcd;
    for (let nth = 0; nth < times; nth++) {
      world.etcd.put(key, valueOf(ip), leaseId);
      await world.clock.advance(pausesMs[nth % 2] ?? 0);
    }
    expect(world.log.events('probe-answered')).toHaveLength(times);
    expect(world.etcd.revision).toBe(revision + 2 * times);
    expect(one.trouble.current).toEqual([]);
    expect(one.held).toBeDefined();
  });
});

it('a stop at any moment of a probe leaves the lease as it was, and nothing running', async () => {
  const lease = world.put('10.1.5.0-24', valueOf(ip));
  for (let ms = 0; ms < 2_200; ms += 53) {
    const one = host().start();
    await world.clock.advance(ms);
    await one.stop();
    expect(world.kvs, `stopped after ${ms} ms`).toMatchObject([{ value: valueOf(ip), lease }]);
    expect(world.etcd.leaseIds).toEqual([lease]);
  }
});

describe('ids of granted etcd leases', () => {
  it.each([0, 1, 77, 2 ** 31 - 1])('carry the host’s identity %i, and never come twice', async (identity) => {
    const ids = new Set<string>();
    for (let run = 0; run < 5; run++) {
      const registry = world.etcd.member('etcd-0');
      const grants = new Grants(registry, new SeededRandom(run), identity);
      const other = new Grants(registry, new SeededRandom(run), identity ^ 1);
      for (let times = 0; times < 50; times++) {
        const granting = grants.grant(60, new AbortController().signal);
        await world.clock.advance(10);
        const { id } = await granting;
        expect(BigInt(id) > 0n && BigInt(id) < 2n ** 63n).toBe(true);
        expect([grants.isOurs(id), other.isOurs(id)]).toEqual([true, false]);
        ids.add(id);
      }
      registry.close();
    }
    expect(ids.size).toBe(250);
  });
});
