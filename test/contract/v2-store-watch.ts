import { expect, it } from 'vitest';
import { Following, type V2Suite } from './v2-store-suite.ts';

/** The rules of V2Store.watch. */
export function v2WatchContract({ world, freshDir, signal }: V2Suite): void {
  /** What is done below `dir`, and what a watch has to tell of it. */
  const changes = async (dir: string) => {
    const store = world().connect();
    const made = await store.create(`${dir}/a`, '1', 60, signal);
    await store.replace(`${dir}/a`, '2', made.modifiedIndex, 'permanent', signal);
    await world().put(`${dir}/b/c`, { value: '3' });
    await world().put(`${dir}/b/c`, { value: '4', ttl: '60' });
    await world().put(`${dir}x/a`, { value: 'elsewhere' });
    await world().put(`${dir}/_hidden`, { value: '5' });
    await world().put(`${dir}/b/_hidden/d`, { value: '6' });
    await world().put(`${dir}/b/c`, { ttl: '90' }, { refresh: 'true', prevExist: 'true' });
    await world().remove(`${dir}/a`);
    const { node } = await store.get(`${dir}/b/c`, signal);
    await store.expire(`${dir}/b/c`, '4', node?.modifiedIndex ?? 0, signal);
    await world().put(`${dir}/last`, { value: '7' });
    return ['+a=1', '+a=2', '+b/c=3', '+b/c=4', '-a', '+b/c=4', '-b/c', '+last=7'].toSorted();
  };

  it.each(['as they happen', 'from history'])('tells all changes below the directory, %s', async (when) => {
    const dir = freshDir();
    const store = world().connect();
    const list = await store.list(dir, signal);
    const early = when === 'from history' ? undefined : new Following(store, dir, list);
    const wanted = await changes(dir);
    const { told, events } = early ?? new Following(store, dir, list);
    await world().until('all is told', () => told.length >= wanted.length);
    // When the key that is due is removed is etcd's affair.
    expect(told.toSorted()).toEqual(wanted);
    expect(told.slice(0, 6)).toEqual(['+a=1', '+a=2', '+b/c=3', '+b/c=4', '-a', '+b/c=4']);
    const indexes = events.map((event) => {
      if (event.type === 'put') return event.node.modifiedIndex;
      return event.type === 'removed' ? event.index : 0;
    });
    expect(indexes).toEqual([...new Set(indexes)].toSorted((a, b) => a - b));
    expect(indexes[0]).toBeGreaterThan(list.index);
  });

  it('continues after any event that it told', async () => {
    const dir = freshDir();
    const store = world().connect();
    const list = await store.list(dir, signal);
    for (const name of ['a', 'b', 'c']) await world().put(`${dir}/${name}`, { value: '1' });
    const first = new Following(store, dir, list);
    await world().until('all is told', () => first.told.length >= 3);
    const second = first.events[1];
    const index = second?.type === 'put' ? second.node.modifiedIndex : 0;
    const rest = new Following(store, dir, { ...list, index });
    await world().until('the rest is told', () => rest.told.length > 0);
    expect(rest.told).toEqual(['+c=1']);
  });

  it.each(['', '/..'])('asks for a list when a directory is removed: its own%s', async (above) => {
    const dir = freshDir();
    const target = above === '' ? dir : dir.slice(0, dir.lastIndexOf('/'));
    const store = world().connect();
    await world().put(`${dir}/a`, { value: '1' });
    const list = await store.list(dir, signal);
    const live = new Following(store, dir, list);
    await world().put(`${dir}/b`, { value: '2' });
    await world().until('the key is told', () => live.told.length === 1);
    await world().remove(target, { recursive: 'true' });
    const late = new Following(store, dir, list);
    await world().until('both have ended', () => live.hasEnded && late.hasEnded);
    expect([live.told, late.told]).toEqual([
      ['+b=2', 'again: directory'],
      ['+b=2', 'again: directory'],
    ]);
    expect(await live.ended).toBeUndefined();
  });

  it('takes a removal by compareAndDelete for what it is', async () => {
    const dir = freshDir();
    const store = world().connect();
    const list = await store.list(dir, signal);
    const { modifiedIndex } = await store.create(`${dir}/a`, '1', 60, signal);
    await world().remove(`${dir}/a`, { prevIndex: String(modifiedIndex) });
    await world().put(`${dir}/b`, { value: '2' });
    const { told } = new Following(store, dir, list);
    await world().until('all is told', () => told.length >= 3);
    expect(told).toEqual(['+a=1', '-a', '+b=2']);
  });

  it('ends with the reason of its signal, while it waits', async () => {
    const dir = freshDir();
    const store = world().connect();
    const following = new Following(store, dir, await store.list(dir, signal));
    await world().put(`${dir}/a`, { value: '1' });
    await world().until('the key is told', () => following.told.length === 1);
    const reason = new Error('no longer wanted');
    following.controller.abort(reason);
    expect(await world().settled(following.ended)).toBe(reason);
  });
}

/** How far back a watch reaches. */
export function v2HistoryContract({ world, freshDir, signal }: V2Suite): void {
  it('asks for a list when what comes next is older than etcd’s memory of 1,000 events', async () => {
    const dir = freshDir();
    const store = world().connect();
    const list = await store.list(dir, signal);
    await world().put(`${dir}/a`, { value: '1' });
    // Refreshes use it up, although no watch is told of them.
    for (let left = 998; left > 0; left -= 1) await world().put('/elsewhere', { value: String(left) });
    await world().put('/elsewhere', { ttl: '900' }, { refresh: 'true', prevExist: 'true' });
    const inTime = new Following(store, dir, list);
    await world().until('the key is told', () => inTime.told.length > 0);
    expect(inTime.told).toEqual(['+a=1']);
    await world().put('/elsewhere', { value: 'one more' });
    const tooLate = new Following(store, dir, list);
    await world().until('it has ended', () => tooLate.hasEnded);
    expect(tooLate.told).toEqual(['again: history']);
  });

  it('keeps up with a busy store, of which it is told nothing, by what silent polls tell', async () => {
    const dir = freshDir();
    const store = world().connect({ pollMs: 100 });
    const following = new Following(store, dir, await store.list(dir, signal));
    for (let left = 1_500; left > 0; left -= 1) await world().put('/elsewhere', { value: String(left) });
    await world().put(`${dir}/a`, { value: '1' });
    await world().until('it is told', () => following.told.length > 0);
    expect(following.told).toEqual(['+a=1']);
  });
}
