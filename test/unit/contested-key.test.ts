import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, valueOf } from '../../sim/leases.ts';

const key = `${prefix}10.1.7.0-24`;
const options = { pools: { ipv4: poolOf('10.1.7.0/24', '10.1.7.0/24') }, leaseTtlSeconds: 300 };

let world: LeaseWorld;

beforeEach(() => {
  world = new LeaseWorld();
});

afterEach(async () => {
  expect(await world.close()).toBe(true);
});

describe('a subnet that another host took while this one was away', () => {
  it.each(['', 'null', '{"PublicIP":null,"BackendType":"host-gw"}'])(
    'stays with it when somebody spoils its value: %j',
    async (junk) => {
      const late = world.host('10.211.0.1', options).start();
      await world.clock.until('the first has it', () => late.held !== undefined, 60_000);
      const holder = world.host('10.211.0.2', options);
      world.etcd.cut(late.name);
      await world.clock.advance(301_000);
      holder.start();
      await world.clock.until('the second has it', () => holder.held !== undefined, 60_000);
      world.etcd.heal(late.name);
      await world.clock.until('the first sees that', () => late.manager.state === 'contested', 120_000);
      // The holder is slow to put it right.
      world.etcd.cut(holder.name);
      const { lease = '0' } = world.etcd.get(key) ?? {};
      world.etcd.put(key, junk, lease);
      await world.clock.advance(100_000);
      expect(late.manager.state).toBe('contested');
      expect(world.etcd.get(key)).toMatchObject({ value: junk, lease });
      world.etcd.heal(holder.name);
      await world.clock.until('it is put right', () => world.etcd.get(key)?.value === valueOf(holder.ip));
      expect(holder.held).toBe('10.1.7.0/24');
    },
  );

  it('stays with it when a restored backup has its spoilt value from before', async () => {
    const holder = world.host('10.211.0.2', options).start();
    await world.clock.until('one has it', () => holder.held !== undefined, 60_000);
    world.etcd.cut(holder.name);
    const { lease = '0' } = world.etcd.get(key) ?? {};
    world.etcd.put(key, '', lease);
    const backup = world.etcd.snapshot();
    world.etcd.delete(key);
    const other = world.host('10.211.0.1', options).start();
    await world.clock.until('another has it', () => other.held !== undefined, 60_000);
    world.etcd.restore(backup);
    await world.clock.advance(100_000);
    expect(world.etcd.get(key)).toMatchObject({ value: '', lease });
    expect(other.manager.state).toBe('contested');
    world.etcd.heal(holder.name);
    await world.clock.until('it is put right', () => world.etcd.get(key)?.value === valueOf(holder.ip));
  });

  it.each(['10.1.7.0-24&fc00:1:0:9::-64', '10.1.6.0-23'])(
    'is noticed at once by %s, where nothing tells that a restored backup lacks the own key',
    async (name) => {
      const backup = world.etcd.snapshot();
      const pools = { ...options.pools, ipv6: poolOf('fc00:1::/64', 'fc00:1:0:8::/64') };
      const addresses = { ipv4: '10.211.0.1', ipv6: 'fd00::1' };
      const host = world.host('10.211.0.1', { pools, addresses }).start();
      await world.clock.until('it has it', () => host.held !== undefined, 60_000);
      await world.clock.advance(60_000);
      const { revision } = world.etcd;
      world.etcd.restore(backup, { sameId: true });
      while (world.etcd.revision <= revision) world.etcd.put('/somebody/else', '');
      await world.clock.advance(1_000);
      expect(host.manager.state).toBe('held');
      world.etcd.put(prefix + name, valueOf('10.211.0.2', 'fd00::2'), world.etcd.grant(300));
      await world.clock.advance(1_000);
      expect(host.manager.state).toBe('contested');
      expect(host.trouble.current.join()).toContain(`now belongs to 10.211.0.2 (${prefix}${name})`);
    },
  );
});
