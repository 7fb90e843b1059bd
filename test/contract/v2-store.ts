import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { v2FaultContract, v2RestoreContract } from './v2-store-faults.ts';
import { failureOf, type V2Suite, type V2World } from './v2-store-suite.ts';
import { v2HistoryContract, v2WatchContract } from './v2-store-watch.ts';

/** The rules of V2Store, and of the etcd behind it. `setup` makes a cluster of so many members. */
export function v2StoreContract(name: string, setup: (members: number) => Promise<V2World>): void {
  describe(`v2 store: ${name}`, () => {
    inWorld('one member', () => setup(1), { keys: keyContract, conditions: conditionContract });
    inWorld('one member', () => setup(1), {
      'time to live': ttlContract,
      watch: v2WatchContract,
      history: v2HistoryContract,
    });
    inWorld('three members', () => setup(3), { faults: v2FaultContract });
    inWorld('a member that is restored', () => setup(1), { restore: v2RestoreContract });
  });
}

/** As far as reading, writing and watching go: for a cluster that asks who is there, which takes 100 ms a request with a password. */
export function v2AccessContract(name: string, setup: () => Promise<V2World>): void {
  const parts = { keys: keyContract, conditions: conditionContract, watch: v2WatchContract };
  inWorld(`v2 store: ${name}`, setup, parts);
}

function inWorld(
  name: string,
  setup: () => Promise<V2World>,
  parts: Readonly<Record<string, (suite: V2Suite) => void>>,
): void {
  describe(name, () => {
    let made: V2World | undefined;
    let dirs = 0;
    const suite: V2Suite = {
      world: () => {
        if (made === undefined) throw new Error('the suite is not set up');
        return made;
      },
      freshDir: () => `/net/${dirs++}/subnets`,
      signal: new AbortController().signal,
    };
    beforeAll(async () => {
      made = await setup();
    });
    afterAll(() => made?.close());
    for (const [part, contract] of Object.entries(parts)) describe(part, () => contract(suite));
  });
}

function keyContract({ world, freshDir, signal }: V2Suite): void {
  it('a directory that does not exist has no keys, and the list has a position', async () => {
    const { nodes, index, clusterId } = await world().connect().list(freshDir(), signal);
    expect(nodes).toEqual([]);
    expect(index).toBeGreaterThan(0);
    expect(clusterId).toMatch(/^[0-9a-f]+$/);
  });

  it('lists keys at any depth by their names, without directories and hidden names', async () => {
    const dir = freshDir();
    for (const [key, value] of [
      ['b', '1'],
      ['a/c', '2'],
      ['_hidden', '3'],
      ['_dir/x', '4'],
      ['a/_x', '5'],
    ])
      await world().put(`${dir}/${key}`, { value: value ?? '' });
    await world().put(`${dir}/empty`, { dir: 'true' });
    const store = world().connect();
    const { nodes, index } = await store.list(dir, signal);
    expect(nodes.map(({ key, value }) => `${key}=${value}`)).toEqual([`${dir}/a/c=2`, `${dir}/b=1`]);
    expect(nodes.every(({ modifiedIndex }) => modifiedIndex <= index)).toBe(true);
    expect((await store.get(`${dir}/_hidden`, signal)).node?.value).toBe('3');
  });

  it.each(['10.5.1.0-24', 'a b', 'ü%2f?&=+#'])('keeps the key %j and any text', async (name) => {
    const store = world().connect();
    const key = `${freshDir()}/${name}`;
    for (const value of ['', '{"PublicIP":"10.0.0.1"}', 'ü\n&ttl=1+%20"\u0000']) {
      const { node: before } = await store.get(key, signal);
      if (before === undefined) await store.create(key, value, 60, signal);
      else await store.replace(key, value, before.modifiedIndex, 60, signal);
      const { node } = await store.get(key, signal);
      expect(node).toMatchObject({ key, value });
    }
  });

  it('an absent key is no error, and the position is that of the store', async () => {
    const dir = freshDir();
    const store = world().connect();
    const { node, index } = await store.get(`${dir}/a`, signal);
    expect(node).toBeUndefined();
    const made = await store.create(`${dir}/a`, '1', 'permanent', signal);
    expect(made.modifiedIndex).toBe(index + 1);
    expect((await store.get(`${dir}/a`, signal)).node).toEqual(made);
    expect((await store.list(dir, signal)).index).toBe(made.modifiedIndex);
  });

  it('tells a directory from a key', async () => {
    const dir = freshDir();
    const store = world().connect();
    const { modifiedIndex } = await store.create(`${dir}/a`, '1', 60, signal);
    const calls = [
      () => store.get(dir, signal),
      () => store.list(`${dir}/a`, signal),
      () => store.create(`${dir}/a/b`, '1', 60, signal),
      () => store.replace(dir, '1', modifiedIndex, 60, signal),
      () => store.expire(dir, '1', modifiedIndex, signal),
    ];
    for (const call of calls) expect(await failureOf(call())).toMatchObject({ kind: 'WRONG_TYPE' });
  });

  it('rejects with the reason of its signal', async () => {
    const reason = new Error('no longer wanted');
    await expect(world().connect().list(freshDir(), AbortSignal.abort(reason))).rejects.toBe(reason);
  });
}

function conditionContract({ world, freshDir, signal }: V2Suite): void {
  it('makes a key only where there is none', async () => {
    const key = `${freshDir()}/a`;
    const store = world().connect();
    const made = await store.create(key, '1', 60, signal);
    expect(made).toMatchObject({ key, value: '1', createdIndex: made.modifiedIndex, ttlSeconds: 60 });
    const error = await failureOf(store.create(key, '2', 60, signal));
    expect(error).toMatchObject({ kind: 'EXISTS', code: 'ETCD_V2_EXISTS' });
    expect(error.message).toMatch(/^etcd at https?:\/\/[^ ]+: \/net\/\d+\/subnets\/a exists already$/);
    expect((await store.get(key, signal)).node).toMatchObject({
      value: '1',
      createdIndex: made.createdIndex,
    });
  });

  it('replaces only what nobody has written since, and keeps the createdIndex', async () => {
    const key = `${freshDir()}/a`;
    const store = world().connect();
    const made = await store.create(key, '1', 60, signal);
    const second = await store.replace(key, '2', made.modifiedIndex, 60, signal);
    expect(second.createdIndex).toBe(made.createdIndex);
    expect(second.modifiedIndex).toBeGreaterThan(made.modifiedIndex);
    const error = await failureOf(store.replace(key, '3', made.modifiedIndex, 60, signal));
    expect(error).toMatchObject({ kind: 'COMPARE_FAILED' });
    expect((await store.get(key, signal)).node?.value).toBe('2');
  });

  it('a plain set by somebody else gives the key a new createdIndex, and fails our condition', async () => {
    const key = `${freshDir()}/a`;
    const store = world().connect();
    const made = await store.create(key, '1', 60, signal);
    await world().put(key, { value: '1', ttl: '60' });
    const { node } = await store.get(key, signal);
    expect(node?.createdIndex).toBeGreaterThan(made.createdIndex);
    for (const call of [
      () => store.replace(key, '1', made.modifiedIndex, 60, signal),
      () => store.expire(key, '1', made.modifiedIndex, signal),
    ])
      expect(await failureOf(call())).toMatchObject({ kind: 'COMPARE_FAILED' });
  });

  it('replaces and expires nothing that is gone', async () => {
    const key = `${freshDir()}/a`;
    const store = world().connect();
    for (const call of [
      () => store.replace(key, '1', 4, 60, signal),
      () => store.expire(key, '1', 4, signal),
    ])
      expect(await failureOf(call())).toMatchObject({ kind: 'NOT_FOUND' });
    expect((await store.get(key, signal)).node).toBeUndefined();
  });

  it('refuses an index and a TTL that etcd takes for none', async () => {
    const key = `${freshDir()}/a`;
    const store = world().connect();
    const { modifiedIndex } = await store.create(key, '1', 60, signal);
    for (const index of [0, -1, 1.5, Number.NaN]) {
      await expect(store.replace(key, '2', index, 60, signal)).rejects.toThrow(RangeError);
      await expect(store.expire(key, '2', index, signal)).rejects.toThrow(RangeError);
    }
    for (const ttl of [0, -1, 0.5, Number.NaN]) {
      await expect(store.replace(key, '2', modifiedIndex, ttl, signal)).rejects.toThrow(RangeError);
      await expect(store.create(`${key}x`, '2', ttl, signal)).rejects.toThrow(RangeError);
    }
    expect((await store.get(key, signal)).node?.value).toBe('1');
    // etcd itself: index 0 is no condition.
    await world().put(key, { value: '3' }, { prevIndex: '0' });
    expect((await store.get(key, signal)).node?.value).toBe('3');
  });
}

function ttlContract({ world, freshDir, signal }: V2Suite): void {
  const gone = (key: string) => async () => (await world().connect().get(key, signal)).node === undefined;

  it('every write sets the time to live anew', async () => {
    const key = `${freshDir()}/a`;
    const store = world().connect();
    let node = await store.create(key, '1', 60, signal);
    for (const [ttl, seconds] of [
      [86_400, 86_400],
      ['permanent', undefined],
      [7, 7],
    ] as const) {
      node = await store.replace(key, '1', node.modifiedIndex, ttl, signal);
      expect(node.ttlSeconds).toBe(seconds);
      expect((await store.get(key, signal)).node?.ttlSeconds).toBe(seconds);
    }
    await world().put(key, { value: '1', ttl: '' });
    expect((await store.get(key, signal)).node?.ttlSeconds).toBeUndefined();
  });

  it('a refresh by somebody else prolongs a key', async () => {
    const key = `${freshDir()}/a`;
    const store = world().connect();
    const made = await store.create(key, '1', 5, signal);
    await world().put(key, { ttl: '500' }, { refresh: 'true', prevExist: 'true' });
    const { node } = await store.get(key, signal);
    expect(node).toMatchObject({ value: '1', ttlSeconds: 500, createdIndex: made.createdIndex });
  });

  it('a key whose time is over is removed', async () => {
    const key = `${freshDir()}/a`;
    await world().connect().create(key, '1', 1, signal);
    await world().until('the key is gone', gone(key));
  });

  it('removes a key by its expiry; until then it is listed as due, and not as permanent', async () => {
    const dir = freshDir();
    const store = world().connect();
    // etcd removes what is due every half a second: at least one of many is seen before.
    let seen = 0;
    for (let round = 0; round < 20 && seen === 0; round++) {
      const key = `${dir}/${round}`;
      const { modifiedIndex } = await store.create(key, '1', 60, signal);
      await store.expire(key, '1', modifiedIndex, signal);
      const { nodes } = await store.list(dir, signal);
      const due = nodes.find((node) => node.key === key);
      if (due === undefined) continue;
      seen += 1;
      expect(due.ttlSeconds).toBe(0);
    }
    expect(seen).toBeGreaterThan(0);
    await world().until('all are gone', async () => (await store.list(dir, signal)).nodes.length === 0);
  });
}
