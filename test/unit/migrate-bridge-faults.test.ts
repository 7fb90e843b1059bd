import { describe, expect, it } from 'vitest';
import { type BridgeWorld, holdersOf } from '../../sim/bridge-world.ts';
import {
  copiesOf,
  inStep,
  isInStep,
  keyOf,
  mixed,
  passWithRoutes,
  subnetsIn,
  worldOf,
} from './migrate-bridge-setting.ts';

/** Does something to all members of a store. */
const inAll = (members: readonly string[], act: (member: string) => void) => {
  for (const member of members) act(member);
};

type Fault = 'stop' | 'freeze' | 'isolate';
const toV2 = ({ v2 }: BridgeWorld, fault: Fault | 'start') => inAll(v2.members, (one) => v2[fault](one));
const toV3 = ({ cluster: { etcd } }: BridgeWorld, fault: Fault | 'start') =>
  inAll(etcd.members, (one) => etcd[fault](one));

const lease = (ip: string) => `{"PublicIP":"${ip}","BackendType":"host-gw"}`;

describe.each(['stop', 'freeze', 'isolate'] as const)('etcd: %s', (fault) => {
  it.each([
    ['v2', [toV2]],
    ['v3', [toV3]],
    ['both', [toV2, toV3]],
  ] as const)(
    'of %s for ten minutes costs no route, and what happened meanwhile appears afterwards',
    async (store, all) => {
      const world = await mixed();
      const before = holdersOf(world.inV2);
      for (const act of all) act(world, fault);
      await world.clock.advance(1_000);
      // What an operator does to the store that serves.
      if (store === 'v2') world.cluster.etcd.put(`${subnetsIn}172.20.99.0-24`, lease('10.211.55.99'));
      if (store === 'v3') world.v2.set(`${subnetsIn}172.20.99.0-24`, lease('10.211.55.99'));
      await passWithRoutes(world, 60_000);
      await world.clock.advance(540_000);
      for (const act of all) act(world, 'start');
      await inStep(world, store === 'both' ? 3 : 4, 60_000);
      expect(holdersOf(world.inV2)).toMatchObject(before);
      expect(copiesOf(world)[keyOf(world, 2)]).toBe('v3');
      const troubles = world.cluster.log.events('trouble', 'bridge').length;
      expect(troubles).toBeGreaterThan(0);
      expect(troubles).toBeLessThan(16);
    },
  );

  it('of v2 while a lease of v3 ends, which is removed from v2 afterwards', async () => {
    const world = await mixed();
    const key = keyOf(world, 2);
    toV2(world, fault);
    world.host(2).ours.crash();
    world.cluster.etcd.delete(subnetsIn + key);
    await world.clock.advance(180_000);
    toV2(world, 'start');
    await world.clock.until('it is gone', () => !(key in world.inV2), 60_000);
  });
});

describe('history that is gone', () => {
  it('is read anew from v2 (401)', async () => {
    const world = await mixed();
    toV2(world, 'stop');
    await world.clock.advance(5_000);
    for (let i = 0; i < 1_100; i++) world.v2.set('/somebody/else', String(i));
    world.v2.set(`${subnetsIn}172.20.99.0-24`, lease('10.211.55.99'), 86_400);
    toV2(world, 'start');
    await inStep(world, 4, 60_000);
  });

  it('is read anew from v2 when it goes while the watch is open', async () => {
    const world = await mixed();
    await world.clock.advance(30_000);
    for (let i = 0; i < 1_100; i++) world.v2.set('/somebody/else', String(i));
    world.v2.cutPolls();
    world.v2.set(`${subnetsIn}172.20.99.0-24`, lease('10.211.55.99'), 86_400);
    await inStep(world, 4, 3_000);
  });

  it('is read anew from v3 (a compaction)', async () => {
    const world = await mixed();
    const { etcd } = world.cluster;
    etcd.cut('bridge');
    await world.clock.advance(3_000);
    etcd.put(`${subnetsIn}172.20.99.0-24`, lease('10.211.55.99'), etcd.grant(86_400));
    etcd.put('/somebody/else', '');
    etcd.compact();
    etcd.cutWatches('bridge');
    etcd.heal('bridge');
    await inStep(world, 4, 30_000);
  });
});

/** flannel 0.7.1 renews its lease of a day every hour with this margin. */
const renewMarginMinutes = 23 * 60;
const renewsWithinMs = 65 * 60_000;

describe('a restored backup', () => {
  /** A host joins after the backup on either side; one moves. */
  async function restored(options: {
    readonly store: 'v2' | 'v3';
    readonly sameId: boolean;
    readonly writes: number;
  }) {
    const world = worldOf({ hosts: 4, renewMarginMinutes });
    const { v2, cluster } = world;
    world.host(0).old.start();
    world.bridge.start();
    await world.clock.advance(2_000);
    world.host(2).ours.start();
    await inStep(world, 2);
    const [ofV2, ofV3] = [v2.snapshot(), cluster.etcd.snapshot()];
    world.host(1).old.start();
    world.host(3).ours.start();
    await inStep(world, 4);
    await world.move(0, 'ours');
    await inStep(world, 4);
    const before = holdersOf(world.inV2);
    if (options.store === 'v2') v2.restore(ofV2, options);
    else cluster.etcd.restore(ofV3, options);
    for (let i = 0; i < options.writes; i++) {
      if (options.store === 'v2') v2.set('/somebody/else', String(i));
      else cluster.etcd.put('/somebody/else', String(i));
    }
    return { world, before };
  }

  it.each([true, false])(
    'of v3 removes no copy of a living host, whose lease it lacks: same id %s',
    async (sameId) => {
      const { world, before } = await restored({ store: 'v3', sameId, writes: 0 });
      for (let i = 0; i < 60; i++) {
        await world.clock.advance(1_000);
        expect(holdersOf(world.inV2)).toMatchObject(before);
      }
      await inStep(world, 4, 60_000);
      expect(holdersOf(world.inV3)).toEqual(before);
      expect(world.bridge.view.conflicts).toEqual([]);
    },
  );

  it.each([true, false])(
    'of v2 removes no copy of a living host, whose lease it lacks: same id %s',
    async (sameId) => {
      const { world, before } = await restored({ store: 'v2', sameId, writes: 0 });
      for (let i = 0; i < 60; i++) {
        await world.clock.advance(1_000);
        expect(holdersOf(world.inV3)).toMatchObject(before);
      }
      // h1 has its lease in memory alone, until it renews.
      const { [keyOf(world, 1)]: ofH1, ...others } = before;
      expect(ofH1).toBe(world.host(1).ours.address);
      expect(holdersOf(world.inV2)).toEqual(others);
      expect(world.bridge.view.orphans).toMatchObject([{ host: ofH1, store: 'v3' }]);
      await world.clock.advance(renewsWithinMs);
      await world.clock.until('all', () => isInStep(world, 4), 120_000);
      expect(holdersOf(world.inV2)).toEqual(before);
    },
  );

  it('of v2 under its id, and written to until past what was read, is found by a key that is older than before', async () => {
    const { world, before } = await restored({ store: 'v2', sameId: true, writes: 40 });
    world.v2.cutPolls();
    await world.clock.advance(90_000);
    expect(holdersOf(world.inV3)).toMatchObject(before);
    expect(world.cluster.log.events('bridge-restored')).toMatchObject([{ fields: { store: 'v2' } }]);
  });

  it('of v3 under its id, and written to until past what was read, is put right by the daemons', async () => {
    const { world, before } = await restored({ store: 'v3', sameId: true, writes: 40 });
    await world.clock.advance(90_000);
    expect(holdersOf(world.inV2)).toMatchObject(before);
    await inStep(world, 4, 60_000);
    expect(holdersOf(world.inV3)).toEqual(before);
  });
});

describe('answers that are lost', () => {
  it.each([true, false])('of writes to v2 leave the stores alike: done %s', async (applied) => {
    const world = await mixed();
    world.v2.loseNextAnswer({ applied });
    await world.move(0, 'ours');
    await passWithRoutes(world, 3_000);
    await inStep(world, 3);
    world.host(0).ours.crash();
    world.v2.loseNextAnswer({ applied });
    world.cluster.etcd.delete(subnetsIn + keyOf(world, 0));
    await inStep(world, 2);
  });

  it.each([true, false, { afterMs: 3_000 }])(
    'of writes to v3 leave the stores alike: done %j',
    async (applied) => {
      const world = await mixed();
      for (let i = 0; i < 2; i++) world.cluster.etcd.loseNextReply({ applied, host: 'bridge' });
      world.v2.set(`${subnetsIn}172.20.99.0-24`, lease('10.211.55.99'), 86_400);
      await inStep(world, 4);
      world.cluster.etcd.loseNextReply({ applied, host: 'bridge' });
      world.v2.delete(`${subnetsIn}172.20.99.0-24`);
      await inStep(world, 3);
    },
  );
});

it('a removal of the whole directory of v2 takes no host its route: flannel 0.7.1 does not hear of it', async () => {
  const world = await mixed({ renewMarginMinutes });
  const before = holdersOf(world.inV3);
  world.v2.delete(subnetsIn.slice(0, -1), { recursive: true });
  for (let i = 0; i < 30; i++) {
    await world.clock.advance(1_000);
    expect(holdersOf(world.inV3)).toEqual(before);
    expect(await world.missingRoutes()).toEqual([]);
  }
  expect(world.bridge.view.orphans).toMatchObject([{ store: 'v3' }, { store: 'v3' }]);
  // It puts its key again when it renews.
  await world.clock.advance(renewsWithinMs);
  await world.clock.until('all', () => isInStep(world, 3), 120_000);
  expect(holdersOf(world.inV2)).toEqual(before);
});
