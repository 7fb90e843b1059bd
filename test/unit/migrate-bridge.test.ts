import { describe, expect, it } from 'vitest';
import { type BridgeWorld, holdersOf } from '../../sim/bridge-world.ts';
import {
  inStep,
  isInStep,
  keyOf,
  mixed,
  passWithRoutes,
  subnetsIn,
  worldOf,
} from './migrate-bridge-setting.ts';

const dayMs = 86_400_000;

/** Etcd's counters of writes: a bridge that echoes what it writes itself moves them at rest. */
const writesOf = ({ v2, cluster }: BridgeWorld) => ({ v2: v2.index, v3: cluster.etcd.revision });

describe('a bridge', () => {
  it('has hosts of both stores reach each other, within a second of their joining', async () => {
    const world = await mixed();
    expect(world.bridge.view).toMatchObject({ onV2: 2, onV3: 1, conflicts: [], orphans: [], inStep: true });
    expect(Object.values(holdersOf(world.inV2)).toSorted()).toEqual(
      world.hosts.map(({ ours }) => ours.address).toSorted(),
    );
  });

  it('follows hosts there and back, with all their subnets and no route missing', async () => {
    const world = await mixed();
    const before = holdersOf(world.inV2);
    for (const to of ['ours', 'old', 'ours'] as const)
      for (const index of [0, 1, 2]) {
        if (to === 'ours' && world.host(index).ours.running) continue;
        await world.move(index, to);
        await passWithRoutes(world, 2_000);
        await inStep(world, 3);
        expect(holdersOf(world.inV3)).toEqual(before);
        expect(world.bridge.view).toMatchObject({ conflicts: [], orphans: [] });
      }
    expect(world.bridge.view).toMatchObject({ onV2: 0, onV3: 3 });
  });

  it.each(['old', 'ours'] as const)(
    'copies the lease of a host that joins on %s within a second',
    async (side) => {
      const world = worldOf({ hosts: 4 });
      world.host(0).old.start();
      world.host(1).ours.start();
      world.bridge.start();
      await world.clock.until('the others', () => isInStep(world, 2), 20_000);
      world.host(2)[side].start();
      const own = side === 'old' ? () => world.inV2 : () => world.inV3;
      await world.clock.until('its lease', () => Object.keys(own()).length === 3, 20_000);
      await world.clock.advance(1_000);
      expect(world.alike).toBe(true);
      await inStep(world, 3);
    },
  );

  it.each([0, 2])(
    'removes the copy of a lease that an operator removes, within a second: of h%i',
    async (index) => {
      const world = await mixed();
      const key = keyOf(world, index);
      const { ours, old } = world.host(index);
      await Promise.all([old.stop(), ours.stop()]);
      if (index === 2) world.cluster.etcd.delete(subnetsIn + key);
      else world.v2.delete(subnetsIn + key);
      await world.clock.advance(1_000);
      expect([key in world.inV2, key in world.inV3]).toEqual([false, false]);
      await inStep(world, 2);
    },
  );

  it('puts a copy back that an operator removes', async () => {
    const world = await mixed();
    world.v2.delete(subnetsIn + keyOf(world, 2));
    world.cluster.etcd.delete(subnetsIn + keyOf(world, 0));
    expect(world.alike).toBe(false);
    await world.clock.advance(1_000);
    await inStep(world, 3);
  });

  it('follows the end of the lease of a dead host within a second', async () => {
    const world = await mixed();
    const [k0, k2] = [keyOf(world, 0), keyOf(world, 2)];
    await world.host(0).old.stop();
    await world.host(1).old.stop();
    world.host(2).ours.crash();
    await world.clock.advance(dayMs - 120_000);
    await world.clock.until('an end', () => !(k0 in world.inV2));
    await world.clock.advance(1_000);
    expect(k0 in world.inV3).toBe(false);
    await world.clock.until('the other', () => !(k2 in world.inV3));
    await world.clock.advance(1_000);
    expect([world.inV2, world.inV3]).toEqual([{}, {}]);
  });

  it('gives a freed subnet of one side to a host of the other, which all route to', async () => {
    const world = await mixed();
    const key = keyOf(world, 0);
    await world.host(0).old.stop();
    world.v2.delete(subnetsIn + key);
    const host = world.host(0).ours.address;
    const value = '{"PublicIP":"10.211.55.99","BackendType":"host-gw"}';
    world.cluster.etcd.put(subnetsIn + key, value, world.cluster.etcd.grant(86_400));
    await world.clock.advance(2_500);
    expect(holdersOf(world.inV2)[key]).toBe('10.211.55.99');
    expect(host).not.toBe('10.211.55.99');
    const gateways = world
      .host(1)
      .ours.kernel.routes(4)
      .filter(({ dst }) => dst === key.replace('-', '/'));
    expect(gateways.map(({ gateway }) => gateway)).toEqual(['10.211.55.99']);
  });

  it('writes nothing at rest: for an hour both stores stand still', async () => {
    const world = await mixed();
    await world.move(0, 'ours');
    await inStep(world, 3);
    const before = writesOf(world);
    await world.clock.advance(3_600_000);
    expect(writesOf(world)).toEqual(before);
    await inStep(world, 3);
  });

  it('keeps all leases for longer than they live, and writes no more than the copies need', async () => {
    const world = worldOf({ latencyMs: 0 });
    const { v2, cluster } = world;
    const lease = (host: number) => `{"PublicIP":"10.211.55.${20 + host}","BackendType":"host-gw"}`;
    const id = cluster.etcd.grant(86_400);
    cluster.etcd.put(`${subnetsIn}172.20.12.0-24`, lease(2), id);
    world.bridge.start();
    let renewals = 0;
    for (let hour = 0; hour < 30; hour++) {
      // As flannel 0.7.1 renews, an hour before the end, and our daemon, which leaves no trace.
      if (hour % 23 === 0) v2.set(`${subnetsIn}172.20.11.0-24`, lease(1), 86_400);
      if (hour % 23 === 0) renewals += 1;
      cluster.etcd.access.leases.keepAlive(id);
      await world.clock.advance(3_600_000);
      expect([world.alike, Object.keys(world.inV2).length]).toEqual([true, 2]);
    }
    const { writes, ...view } = world.bridge.view;
    expect(view).toMatchObject({ onV2: 1, onV3: 1, orphans: [], inStep: true });
    expect(Object.fromEntries(writes)).toEqual({
      'create-v2': 1,
      'create-v3': 1,
      // Every twelve hours.
      'replace-v2': 2,
      // Every six hours, and when the original is renewed.
      'renew-v3': expect.toSatisfy((count: number) => count >= 4 && count <= 5 + renewals),
    });
  });

  it('ends at once when it is stopped, wherever it is, and leaves no timer', async () => {
    const world = await mixed();
    for (let i = 0; i < 40; i++) {
      const since = world.clock.monotonic();
      expect(await world.bridge.stop()).toBeUndefined();
      expect(world.clock.monotonic() - since).toBeLessThan(1_500);
      world.bridge.start();
      await world.clock.advance(7 * i);
    }
    await inStep(world, 3);
    await world.close();
    expect(world.clock.pending).toBe(0);
  });
});
