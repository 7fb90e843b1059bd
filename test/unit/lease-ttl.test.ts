import { beforeEach, describe, expect, it } from 'vitest';
import type { LeaseHost, LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, valueOf } from '../../sim/leases.ts';
import { makeWorld } from './sim-worlds.ts';

const ip = '10.211.0.1';

let world: LeaseWorld;

beforeEach(() => {
  world = makeWorld();
});

async function started(options: LeaseHostOptions): Promise<LeaseHost> {
  const host = await world.host(ip, { hostIdentity: 1, ...options }).hold();
  await world.clock.advance(100);
  return host;
}

async function ttlOf(id = '0'): Promise<number> {
  const registry = world.etcd.member('etcd-0', 'observer');
  const { grantedTtlSeconds } = await registry.leaseTimeToLive(id);
  registry.close();
  return grantedTtlSeconds;
}

async function restart(host: LeaseHost, options: LeaseHostOptions): Promise<void> {
  await host.stop();
  host.options = { ...host.options, ...options };
  await host.hold();
}

describe('L7: --subnet-lease-ttl', () => {
  it.each([30, 3_600, 86_400, 31_536_000])(
    'of %i s is what leases are granted for',
    async (leaseTtlSeconds) => {
      const host = await started({ leaseTtlSeconds });
      expect(await ttlOf(host.manager.lease?.leaseId)).toBe(leaseTtlSeconds);
      // Granted anew when its own is revoked.
      world.etcd.revoke(host.manager.lease?.leaseId ?? '');
      await world.clock.advance(1_000);
      expect(host.held).toBeDefined();
      expect(await ttlOf(host.manager.lease?.leaseId)).toBe(leaseTtlSeconds);
    },
  );

  it('frees the subnet of a host that is off after that time, and not before', async () => {
    const host = await started({ leaseTtlSeconds: 600 });
    await world.clock.advance(3_600_000);
    await host.crash();
    await world.clock.advance(350_000);
    expect(world.keys).toHaveLength(1);
    await world.clock.advance(300_000);
    expect(world.keys).toEqual([]);
  });

  it.each([
    [86_400, 600],
    [600, 86_400],
  ])('changed from %i to %i s applies at the next start, to the same key', async (before, after) => {
    const host = await started({ leaseTtlSeconds: before });
    const { key } = host.manager.lease ?? {};
    await restart(host, { leaseTtlSeconds: after });
    expect(host.manager.lease).toMatchObject({ key, ttlSeconds: after, origin: 'reused' });
    expect(await ttlOf(host.manager.lease?.leaseId)).toBe(after);
    expect(world.etcd.leaseIds).toEqual([host.manager.lease?.leaseId]);
    const { revision } = world.etcd;
    await restart(host, {});
    expect(world.etcd.revision).toBe(revision);
  });

  it.each([true, false])(
    'changed, with a lost reply, leaves one key and one lease (applied: %s)',
    async (applied) => {
      for (const nth of [0, 1, 2]) {
        const host = await started({ leaseTtlSeconds: 600 });
        await host.stop();
        host.options = { ...host.options, leaseTtlSeconds: 900 };
        let writes = 0;
        host.onCall = (call) => {
          if (call !== 'leaseKeepAlive' && writes++ === nth) world.etcd.loseNextReply({ applied });
        };
        await host.hold();
        await world.clock.advance(60_000);
        expect(await ttlOf(host.manager.lease?.leaseId)).toBe(900);
        expect(world.keys).toHaveLength(1);
        expect(world.idleLeases).toEqual([]);
        const { leaseId = '' } = host.manager.lease ?? {};
        await host.stop();
        world.etcd.revoke(leaseId);
      }
    },
  );

  it('changed, and stopped at any moment, keeps the key and leaves no idle lease', async () => {
    for (let ms = 0; ms < 30; ms++) {
      world = makeWorld({ latencyMs: 3 });
      const host = await started({ leaseTtlSeconds: 600 });
      const { keys } = world;
      await host.stop();
      host.options = { ...host.options, leaseTtlSeconds: 900 };
      host.start();
      await world.clock.advance(ms);
      await host.stop();
      expect(world.keys, `stopped after ${ms} ms`).toEqual(keys);
      expect(world.idleLeases, `stopped after ${ms} ms`).toEqual([]);
    }
  });

  it('changed does not touch an etcd lease that another key uses, too', async () => {
    const host = await started({ leaseTtlSeconds: 600 });
    const { leaseId = '' } = host.manager.lease ?? {};
    world.put('10.9.9.0-24', valueOf('10.211.0.2'), leaseId);
    await restart(host, { leaseTtlSeconds: 900 });
    expect(world.etcd.leaseIds).toContain(leaseId);
    expect(world.keys).toContain('10.9.9.0-24');
  });

  it('does not apply to a lease that flanneld granted', async () => {
    const lease = world.etcd.grant(500);
    world.put('10.1.5.0-24', valueOf(ip), lease);
    const host = await started({});
    expect(host.manager.lease).toMatchObject({ leaseId: lease, ttlSeconds: 500 });
    await world.clock.advance(3_600_000);
    expect(world.etcd.leaseIds).toEqual([lease]);
  });
});

describe('L1: an exhausted pool', () => {
  const pools = { ipv4: poolOf('10.1.0.0/24', '10.1.0.0/24') };
  const wait = async (): Promise<string> => {
    const host = world.host(ip, { pools, watch: false }).start();
    await world.clock.advance(60_000);
    return host.trouble.current.join();
  };

  it.each([
    [[1_800], 'the first lease expires within 1 h'],
    [[90_000, 7_200], 'the first lease expires within 6 h'],
    [[86_400, 90_000], 'the first lease expires within 24 h'],
    [[90_000], 'the first lease expires in more than 24 h'],
    [[], 'none of them expires'],
  ])('names size, use and the soonest expiry: leases of %j s', async (ttls, expected) => {
    world.put('10.1.0.0-24', valueOf('10.211.0.2'), '0');
    for (const [index, ttl] of ttls.entries())
      world.put(`10.2.${index}.0-24`, valueOf('10.211.0.3'), world.etcd.grant(ttl));
    const text = await wait();
    expect(text).toContain('the only one, 10.1.0.0/24, is used');
    expect(text).toContain(`by ${ttls.length + 1} key`);
    expect(text).toContain(expected);
  });

  it('asks for at most 32 leases, every ten minutes', async () => {
    world.put('10.1.0.0-24', valueOf('10.211.0.2'), '0');
    for (let index = 0; index < 100; index++)
      world.put(`10.2.${index}.0-24`, valueOf('10.211.0.3'), world.etcd.grant(90_000));
    expect(await wait()).toContain('the first of 32 leases checked expires in more than 24 h');
    expect(world.etcd.calls.leaseTimeToLive).toBe(32);
    await world.clock.advance(1_800_000);
    expect(world.etcd.calls.leaseTimeToLive).toBe(4 * 32);
  });
});
