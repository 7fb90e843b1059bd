import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LeaseWorld } from '../../sim/lease-world.ts';
import { prefix, valueOf } from '../../sim/leases.ts';

let world: LeaseWorld;

beforeEach(() => {
  world = new LeaseWorld({ latencyMs: 1 });
});

afterEach(async () => {
  expect(await world.close()).toBe(true);
});

describe('a backup from before the address of a host changed', () => {
  it('does not set the host against itself when it is restored', async () => {
    const host = world.host('10.211.0.1').start();
    await world.clock.until('a lease', () => host.held !== undefined, 60_000);
    const { held } = host;
    const backup = world.etcd.snapshot();
    host.manager.moveTo({ ipv4: '10.211.0.77' });
    await world.clock.advance(10_000);
    expect(world.kvs).toMatchObject([{ value: valueOf('10.211.0.77') }]);
    world.etcd.restore(backup);
    expect(world.kvs).toMatchObject([{ value: valueOf('10.211.0.1') }]);
    await world.clock.advance(10_000);
    expect(world.kvs).toMatchObject([{ value: valueOf('10.211.0.77') }]);
    expect(host.held).toBe(held);
    expect(host.trouble.current).toEqual([]);
  });

  it('leaves alone a key under that address on a lease that is not the host’s', async () => {
    const host = world.host('10.211.0.1').start();
    await world.clock.until('a lease', () => host.held !== undefined, 60_000);
    host.manager.moveTo({ ipv4: '10.211.0.77' });
    await world.clock.advance(10_000);
    const [kv] = world.kvs;
    const lease = world.etcd.grant(3_600);
    world.etcd.put(kv?.key ?? prefix, valueOf('10.211.0.1'), lease);
    await world.clock.advance(10_000);
    expect(host.manager.state).toBe('contested');
    expect(world.kvs).toMatchObject([{ value: valueOf('10.211.0.1'), lease }]);
  });
});

describe('an etcd lease that a restored backup revives', () => {
  it('is revoked when the key that carried it is gone before the host has seen it', async () => {
    const host = world.host('10.211.0.1', { leaseTtlSeconds: 3_600 }).start();
    await world.clock.until('a lease', () => host.held !== undefined, 60_000);
    const backup = world.etcd.snapshot();
    const [kv] = world.kvs;
    world.etcd.revoke(kv?.lease ?? '');
    await world.clock.until('another', () => ![undefined, kv?.lease].includes(world.kvs[0]?.lease), 60_000);
    world.etcd.restore(backup);
    world.etcd.delete(kv?.key ?? '');
    await world.clock.advance(1_800_000);
    expect(world.etcd.leaseIds).toEqual(world.kvs.map(({ lease }) => lease));
    expect(world.kvs).toHaveLength(1);
  });
});
