import { describe, expect, it } from 'vitest';
import type { BridgeWorld } from '../../sim/bridge-world.ts';
import { inStep, keyOf, mixed, subnetsIn } from './migrate-bridge-setting.ts';

/** A second bridge beside the first, which waits. */
async function withSecond(world: BridgeWorld) {
  const second = world.another('second').start();
  await world.clock.advance(5_000);
  expect(second.view).toMatchObject({ waitsFor: 'bridge', inStep: false });
  return second;
}

/** What a bridge writes: its count. */
const writesOf = (bridge: BridgeWorld['bridge']) =>
  [...bridge.view.writes.values()].reduce((sum, count) => sum + count, 0);

describe('a second bridge', () => {
  it('waits while the first is at work, and writes nothing', async () => {
    const world = await mixed();
    const second = await withSecond(world);
    await world.move(0, 'ours');
    await world.clock.advance(120_000);
    expect(writesOf(second)).toBe(0);
    expect(world.cluster.log.events('bridge-waits')).toHaveLength(1);
    expect(await second.stop()).toBeUndefined();
  });

  it('takes over within 20 s of the death of the first', async () => {
    const world = await mixed();
    const second = await withSecond(world);
    world.bridge.kill();
    const sinceMs = world.clock.monotonic();
    await world.clock.until('it works', () => second.view.inStep, 20_000);
    expect(world.clock.monotonic() - sinceMs).toBeGreaterThan(10_000);
    expect(second.view).toMatchObject({ onV2: 2, onV3: 1, waitsFor: undefined, orphans: [] });
    await second.stop();
  });

  it('takes over at once after a stop of the first', async () => {
    const world = await mixed();
    const second = await withSecond(world);
    await world.bridge.stop();
    await world.clock.until('it works', () => second.view.inStep, 1_500);
    await second.stop();
  });

  it('takes the lock alone when several wait', async () => {
    const world = await mixed();
    const waiting = ['second', 'third', 'fourth'].map((name) => world.another(name).start());
    await world.clock.advance(5_000);
    await world.bridge.stop();
    await world.clock.advance(60_000);
    expect(waiting.filter(({ view }) => view.inStep)).toHaveLength(1);
    for (const bridge of waiting) await bridge.stop();
  });
});

describe('a bridge that is cut off from v3', () => {
  it.each(['both', 'answers', 'requests'] as const)(
    'writes to no store while another is at work: %s',
    async (way) => {
      const world = await mixed();
      const { etcd } = world.cluster;
      const second = await withSecond(world);
      etcd.cut('bridge', undefined, way);
      await world.clock.until('the second works', () => second.view.inStep, 25_000);
      const before = writesOf(world.bridge);
      expect(world.bridge.view.inStep).toBe(false);
      // What the first took for a lease whose copy is missing, and would put back.
      const key = keyOf(world, 2);
      world.host(2).ours.crash();
      etcd.delete(subnetsIn + key);
      await world.clock.advance(60_000);
      expect([key in world.inV2, key in world.inV3]).toEqual([false, false]);
      expect(writesOf(world.bridge)).toBe(before);
      etcd.heal('bridge');
      await world.clock.advance(60_000);
      expect(writesOf(world.bridge)).toBe(before);
      expect(world.bridge.view.waitsFor).toBe('second');
      await second.stop();
      await inStep(world, 2);
    },
  );

  it('has left its work when its lock ends, however long etcd is silent', async () => {
    const world = await mixed();
    world.cluster.etcd.cut('bridge');
    await world.clock.advance(15_500);
    const before = writesOf(world.bridge);
    // It hears of this in v2, and would put the copy back.
    world.v2.delete(subnetsIn + keyOf(world, 2));
    await world.clock.advance(40_000);
    expect(writesOf(world.bridge)).toBe(before);
    world.cluster.etcd.heal('bridge');
    await inStep(world, 3, 60_000);
  });
});

describe('a lock that is taken away', () => {
  it('ends the work, and is taken again', async () => {
    const world = await mixed();
    world.cluster.etcd.delete('/atomic.io/network/bridge');
    await world.clock.advance(10_000);
    await inStep(world, 3);
    expect(world.cluster.etcd.get('/atomic.io/network/bridge')?.value).toBe('bridge');
  });

  it('lets nothing be written to v3 in between', async () => {
    const world = await mixed();
    const { etcd } = world.cluster;
    etcd.delete('/atomic.io/network/bridge');
    etcd.put('/atomic.io/network/bridge', 'somebody', etcd.grant(60));
    const before = etcd.revision;
    world.v2.set(`${subnetsIn}172.20.99.0-24`, '{"PublicIP":"10.211.55.99","BackendType":"host-gw"}', 86_400);
    await world.clock.advance(50_000);
    expect(etcd.revision).toBe(before);
    await world.clock.advance(20_000);
    await inStep(world, 4);
  });
});
