import { afterEach, describe, expect, it } from 'vitest';
import { BridgeWorld, holdersOf } from '../../sim/bridge-world.ts';

const worlds: BridgeWorld[] = [];
afterEach(async () => {
  for (const world of worlds.splice(0)) {
    await world.close();
    await world.clock.settle();
    expect(world.v2.polls).toBe(0);
  }
});

function worldOf(options: ConstructorParameters<typeof BridgeWorld>[0] = {}): BridgeWorld {
  const world = new BridgeWorld(options);
  worlds.push(world);
  return world;
}

/** Three hosts: two on flannel 0.7.1, one on our daemon, with a bridge between. */
async function mixed(): Promise<BridgeWorld> {
  const world = worldOf();
  world.host(0).old.start();
  world.host(1).old.start();
  world.bridge.start();
  await world.clock.advance(1_000);
  world.host(2).ours.start();
  await inStep(world, 3);
  return world;
}

/** Waits until both stores hold these many leases, the same, and all hosts have routes to each other. */
async function inStep(world: BridgeWorld, leases: number, withinMs = 20_000): Promise<void> {
  await world.clock.until(
    'both stores alike',
    () => world.alike && Object.keys(world.inV2).length === leases && world.bridge.view.inStep,
    withinMs,
  );
  await world.clock.advance(1_500);
  expect(await world.missingRoutes()).toEqual([]);
}

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
        for (let i = 0; i < 20; i++) {
          await world.clock.advance(100);
          expect(await world.missingRoutes()).toEqual([]);
        }
        await inStep(world, 3);
        expect(holdersOf(world.inV3)).toEqual(before);
        expect(world.bridge.view).toMatchObject({ conflicts: [], orphans: [] });
      }
    expect(world.bridge.view).toMatchObject({ onV2: 0, onV3: 3 });
  });
});
