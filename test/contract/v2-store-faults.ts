import { expect, it } from 'vitest';
import { Following, failureOf, type V2Suite } from './v2-store-suite.ts';

/** What the members of a cluster of three may do, and what it means for a call. */
export function v2FaultContract({ world, freshDir, signal }: V2Suite): void {
  it('a write that no member has got goes to the next one; reads and watches, too', async () => {
    const dir = freshDir();
    const store = world().connect();
    const list = await store.list(dir, signal);
    await world().stop(0);
    try {
      const following = new Following(store, dir, list);
      // Until the others have a leader a write may fail; what failed for certain has not happened.
      await world().until('another member writes', async () =>
        world()
          .connect()
          .create(`${dir}/a`, '1', 60, signal)
          .then(
            () => true,
            ({ kind }) => kind === 'EXISTS',
          ),
      );
      await world().until('the watch tells it', () => following.told.length > 0);
      expect(following.told).toEqual(['+a=1']);
    } finally {
      await world().start(0);
    }
  });

  it('a watch whose member ends goes on at another, without a gap', async () => {
    const dir = freshDir();
    const store = world().connect();
    const following = new Following(store, dir, await store.list(dir, signal));
    await world().put(`${dir}/a`, { value: '1' });
    await world().until('the first is told', () => following.told.length === 1);
    // One of them has the watch.
    await world().stop(0);
    await world().start(0);
    await world().put(`${dir}/b`, { value: '2' });
    await world().until('the second is told', () => following.told.length === 2);
    expect(following.told).toEqual(['+a=1', '+b=2']);
  });

  it('a read passes a silent member by; a write there has an unknown outcome, and may happen later', async () => {
    const dir = freshDir();
    const deadlineMs = 1_000;
    await world().until(
      'it is there',
      async () =>
        (
          await world()
            .connect({ members: [2] })
            .list(dir, signal)
        ).nodes.length === 0,
    );
    world().freeze(2);
    try {
      const impatient = world().connect({ members: [2, 0, 1], deadlineMs });
      const error = await failureOf(world().settled(impatient.create(`${dir}/late`, '1', 60, signal)));
      expect(error).toMatchObject({ kind: 'OUTCOME_UNKNOWN', code: 'ETCD_V2_OUTCOME_UNKNOWN' });
      expect(error.message).toMatch(/no answer within 1 s; .*late may be written or not$/);
      expect(error.remedy).toMatch(/Read the key/);
      const other = world().connect({ members: [2, 0, 1], deadlineMs });
      await world().until('another member reads', async () =>
        world()
          .settled(other.list(dir, signal))
          .then(
            ({ nodes }) => nodes.length === 0,
            () => false,
          ),
      );
      const only = world().connect({ members: [2], deadlineMs });
      expect(await failureOf(world().settled(only.list(dir, signal)))).toMatchObject({
        kind: 'UNAVAILABLE',
      });
    } finally {
      world().thaw(2);
    }
    await world().until('the write has happened', async () => {
      const { nodes } = await world().connect().list(dir, signal);
      return nodes.some(({ key }) => key === `${dir}/late`);
    });
  });

  it('without a leader reads fail, writes have an unknown outcome, and time goes on', async () => {
    const dir = freshDir();
    const store = world().connect({ members: [0] });
    await store.create(`${dir}/short`, '1', 2, signal);
    const before = await store.create(`${dir}/long`, '1', 600, signal);
    await Promise.all([world().stop(1), world().stop(2)]);
    try {
      const read = await failureOf(world().settled(store.list(dir, signal)));
      expect(read).toMatchObject({ kind: 'UNAVAILABLE' });
      expect(read.message).toMatch(/consistent read \(.*code 300\)/);
      const write = store.replace(`${dir}/long`, '2', before.modifiedIndex, 600, signal);
      expect(await failureOf(world().settled(write))).toMatchObject({ kind: 'OUTCOME_UNKNOWN' });
    } finally {
      await world().start(1, 2);
    }
    const { nodes } = await world().settled(world().connect().list(dir, signal));
    // No outage prolongs what had two seconds.
    expect(nodes.find(({ key }) => key.endsWith('short'))?.ttlSeconds ?? 0).toBe(0);
    expect(nodes.find(({ key }) => key.endsWith('long'))?.ttlSeconds).toBeLessThan(600);
    await world().until('what fell due is gone', async () =>
      (await world().connect().list(dir, signal)).nodes.every(({ key }) => key.endsWith('long')),
    );
  });
}

/** What an older state of the store, or another store, does to a watch. */
export function v2RestoreContract({ world, freshDir, signal }: V2Suite): void {
  it.each([
    ['the same cluster', 'index'],
    ['another cluster', 'cluster'],
  ] as const)('asks for a list when an older state is back, as %s', async (as, why) => {
    const dir = freshDir();
    await world().put(`${dir}/a`, { value: '1' });
    await world().save();
    for (const value of ['2', '3', '4', '5', '6', '7', '8', '9']) await world().put(`${dir}/a`, { value });
    const store = world().connect();
    const list = await store.list(dir, signal);
    const following = new Following(store, dir, list);
    await world().put(`${dir}/b`, { value: '1' });
    await world().until('it watches', () => following.told.length === 1);
    await world().restore(as);
    await world().until('it has ended', () => following.hasEnded);
    // With one member there may be nobody to ask for a while.
    expect(['again', 'ETCD_V2_UNAVAILABLE']).toContain(
      following.told[1]?.slice(0, 5) ?? ((await following.ended) as { code?: string }).code,
    );
    const next = new Following(store, dir, list);
    await world().until('it has ended', () => next.hasEnded);
    expect(next.told).toEqual([`again: ${why}`]);
  });
}
