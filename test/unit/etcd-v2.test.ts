import { getEventListeners } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimV2Etcd } from '../../sim/etcd-v2.ts';
import { V2Client } from '../../src/subnet/etcd-v2/client.ts';
import type { V2Member, V2Request } from '../../src/subnet/etcd-v2/member.ts';
import type { V2Position } from '../../src/subnet/etcd-v2/store.ts';
import { Following, failureOf } from '../contract/v2-store-suite.ts';

const dir = '/net/subnets';
const { signal } = new AbortController();
let clock: VirtualClock;
let etcd: SimV2Etcd;
let asked: { readonly member: string; readonly request: V2Request }[];

/** The way to members by their names, noted on the way. */
function client(...names: readonly string[]): V2Client {
  const members = names.map((name): V2Member => {
    const member = etcd.member(name);
    const ask: V2Member['ask'] = (request, inner) => {
      asked.push({ member: name, request });
      return member.ask(request, inner);
    };
    return { ...member, ask };
  });
  return new V2Client(members, { clock });
}

beforeEach(() => {
  clock = new VirtualClock();
  etcd = new SimV2Etcd(clock, ['a', 'b', 'c']);
  asked = [];
});
afterEach(() => etcd.close());

describe('what etcd is asked', () => {
  it('reads are linearizable, writes have a condition, and a TTL unless they say that they have none', async () => {
    const store = client('a');
    await store.list(dir, signal);
    await store.get('/net/config', signal);
    const made = await store.create(`${dir}/k`, 'v', 60, signal);
    const second = await store.replace(`${dir}/k`, 'w', made.modifiedIndex, 'permanent', signal);
    await store.expire(`${dir}/k`, 'w', second.modifiedIndex, signal);
    const key = `${dir}/k`;
    expect(asked.map(({ request: { asUser, ...request } }) => asUser && request)).toEqual([
      { method: 'GET', key: dir, query: { quorum: 'true', recursive: 'true' } },
      { method: 'GET', key: '/net/config', query: { quorum: 'true' } },
      { method: 'PUT', key, query: { prevExist: 'false' }, form: { value: 'v', ttl: '60' } },
      { method: 'PUT', key, query: { prevIndex: String(made.modifiedIndex) }, form: { value: 'w' } },
      {
        method: 'PUT',
        key,
        query: { prevIndex: String(second.modifiedIndex) },
        form: { value: 'w', ttl: '0' },
      },
    ]);
  });

  it('a poll has neither quorum nor stream, and is made anew each minute', async () => {
    const store = client('a');
    const list = await store.list(dir, signal);
    asked = [];
    const following = new Following(store, dir, list);
    await clock.advance(150_000);
    const query = { wait: 'true', recursive: 'true', waitIndex: String(list.index + 1) };
    expect(asked.map(({ request }) => request.query)).toEqual([query, query, query]);
    expect(etcd.polls).toBe(1);
    following.controller.abort(new Error('enough'));
    await clock.settle();
    expect(etcd.polls).toBe(0);
  });
});

describe('the cursor of a watch', () => {
  let store: V2Client;
  let list: V2Position;
  let following: Following;
  beforeEach(async () => {
    store = client('a');
    list = await store.list(dir, signal);
    following = new Following(store, dir, list);
    await clock.settle();
  });

  const fill = (count: number) => {
    for (let left = count; left > 0; left--) etcd.set('/elsewhere', String(left));
  };

  it('moves on with each silent minute, so that a busy store does not outrun it', async () => {
    for (let minute = 0; minute < 5; minute++) {
      fill(700);
      await clock.advance(60_100);
    }
    etcd.set(`${dir}/k`, '1');
    await clock.settle();
    expect(following.told).toEqual(['+k=1']);
    expect(Number(asked.at(-1)?.request.query['waitIndex'])).toBe(etcd.index + 1);
  });

  it('stays where it was when an event is cut off on its way', async () => {
    await clock.advance(30_000);
    fill(5);
    etcd.cutNextEvent();
    etcd.set(`${dir}/k`, '1');
    etcd.set(`${dir}/k`, '2');
    await clock.settle();
    expect(following.told).toEqual(['+k=1', '+k=2']);
  });

  it('stays where it was when a poll ends with nothing, and asks again after a pause', async () => {
    const before = asked.length;
    for (let round = 0; round < 3; round++) {
      etcd.endPolls();
      await clock.settle();
      etcd.set(`${dir}/k`, String(round));
      await clock.settle();
      expect(following.told).toHaveLength(round);
      await clock.advance(1_000);
    }
    expect(following.told).toEqual(['+k=0', '+k=1', '+k=2']);
    // For each round the poll that ended, and the one that was told.
    expect(asked.length - before).toBe(6);
  });

  it('survives polls that are cut now and then; a member that cuts each at once is given up', async () => {
    for (let round = 0; round < 5; round++) {
      etcd.cutPolls();
      await clock.advance(2_000);
    }
    etcd.set(`${dir}/k`, '1');
    await clock.settle();
    expect(following.told).toEqual(['+k=1']);
    for (let round = 0; round < 3 && !following.hasEnded; round++) {
      etcd.cutPolls();
      await clock.settle();
    }
    expect(await following.ended).toMatchObject({ kind: 'UNAVAILABLE', code: 'ETCD_V2_UNAVAILABLE' });
  });
});

it('a watch does not skip an event that was there at once and is read late, as after a stop of the process', async () => {
  const member = etcd.member('a');
  const late: V2Member['ask'] = async (request, inner) => {
    const answer = await member.ask(request, inner);
    const body = async () => {
      await clock.sleep(60_050, inner);
      return await answer.body();
    };
    return request.query['wait'] === undefined ? answer : { ...answer, body };
  };
  const store = new V2Client([{ ...member, ask: late }], { clock });
  const list = await store.list(dir, signal);
  etcd.set(`${dir}/k`, '1');
  const { told } = new Following(store, dir, list);
  await clock.advance(200_000);
  expect(told).toEqual(['+k=1']);
});

describe('members that fail', () => {
  it('a watch at a member that is cut off from the others gets what it missed', async () => {
    const store = client('a');
    const following = new Following(store, dir, await store.list(dir, signal));
    await clock.settle();
    etcd.isolate('a');
    etcd.set(`${dir}/k`, '1');
    await clock.advance(200_000);
    expect(following.told).toEqual([]);
    etcd.start('a');
    await clock.settle();
    expect(following.told).toEqual(['+k=1']);
  });

  it('a watch leaves a member that cuts it', async () => {
    const store = client('a', 'b');
    const following = new Following(store, dir, await store.list(dir, signal));
    await clock.settle();
    etcd.cutPolls();
    etcd.set(`${dir}/k`, '1');
    await clock.settle();
    expect(following.told).toEqual(['+k=1']);
    expect(asked.map(({ member }) => member)).toEqual(['a', 'a', 'b', 'b']);
  });

  it('a watch leaves a member that freezes with its next poll', async () => {
    const store = client('a', 'b');
    const following = new Following(store, dir, await store.list(dir, signal));
    await clock.settle();
    etcd.freeze('a');
    etcd.set(`${dir}/k`, '1');
    await clock.advance(59_000);
    expect(following.told).toEqual([]);
    // The end of the minute, and 10 s for the head of the next answer.
    await clock.advance(11_100);
    expect(following.told).toEqual(['+k=1']);
    expect(asked.at(-1)?.member).toBe('b');
  });

  it.each([true, false])(
    'a write whose answer is lost is told apart from none; applied: %s',
    async (applied) => {
      const store = client('a', 'b');
      etcd.loseNextAnswer({ applied });
      const error = await failureOf(store.create(`${dir}/k`, '1', 60, signal));
      expect(error).toMatchObject({ kind: 'OUTCOME_UNKNOWN', endpoint: 'http://a:2379' });
      // No member was asked to write it again.
      expect(asked.map(({ member }) => member)).toEqual(['a']);
      expect((await store.get(`${dir}/k`, signal)).node?.value).toBe(applied ? '1' : undefined);
      expect(asked.map(({ member }) => member)).toEqual(['a', 'b']);
    },
  );

  it('a write that failed for want of a leader may be done after all', async () => {
    etcd.writesLate = true;
    const store = client('a');
    etcd.stop('b');
    etcd.stop('c');
    const writing = failureOf(store.create(`${dir}/k`, '1', 60, signal));
    expect(await clock.complete(writing)).toMatchObject({ kind: 'OUTCOME_UNKNOWN' });
    etcd.start('b');
    expect((await store.get(`${dir}/k`, signal)).node?.value).toBe('1');
  });

  it('asks the member that served last', async () => {
    etcd.stop('a');
    const store = client('a', 'b');
    await store.list(dir, signal);
    await store.create(`${dir}/k`, '1', 60, signal);
    expect(asked.map(({ member }) => member)).toEqual(['a', 'b', 'b']);
  });

  it('names all members when none serves, and what to do', async () => {
    etcd.stop('a');
    etcd.freeze('b');
    const error = await clock.complete(failureOf(client('a', 'b').list(dir, signal)));
    expect(error.message).toBe(
      'etcd at http://a:2379: connection refused, nothing listens there; etcd at http://b:2379: no answer within 10 s',
    );
    expect(error.remedy).toBe('Check that etcd runs there.');
  });

  it('leaves no listener at a signal that lives on', async () => {
    const { signal: lasting } = new AbortController();
    const store = client('a');
    const list = await store.list(dir, lasting);
    await store.create(`${dir}/k`, '1', 60, lasting);
    await failureOf(store.create(`${dir}/k`, '1', 60, lasting));
    expect(getEventListeners(lasting, 'abort')).toHaveLength(0);
    const following = new Following(store, dir, list);
    await clock.advance(600_000);
    expect(getEventListeners(following.controller.signal, 'abort')).toHaveLength(1);
  });

  it('a signal ends a call, and none of its timers is left', async () => {
    etcd.freeze('a');
    const controller = new AbortController();
    const listing = client('a').list(dir, controller.signal);
    await clock.settle();
    const reason = new Error('no longer wanted');
    controller.abort(reason);
    await expect(listing).rejects.toBe(reason);
    etcd.close();
    await clock.settle();
    expect(clock.pending).toBe(0);
  });
});

describe('what etcd itself does', () => {
  it('holds no poll that was given up on its way there', async () => {
    const controller = new AbortController();
    const request = { method: 'GET', key: dir, query: { wait: 'true' }, asUser: false } as const;
    const asking = etcd.member('a').ask(request, controller.signal);
    const reason = new Error('no longer wanted');
    controller.abort(reason);
    await expect((await asking).body()).rejects.toBe(reason);
    expect(etcd.polls).toBe(0);
  });

  it('removes keys by the wall clock, and at once when it jumps or a leader is back', async () => {
    const store = client('a');
    etcd.set(`${dir}/jump`, '1', 600);
    etcd.set(`${dir}/kept`, '1');
    clock.jumpWallClock(600_000);
    await clock.advance(500);
    expect((await store.list(dir, signal)).nodes.map(({ key }) => key)).toEqual([`${dir}/kept`]);
    etcd.set(`${dir}/outage`, '1', 5);
    for (const member of ['a', 'b']) etcd.isolate(member);
    await clock.advance(60_000);
    for (const member of ['a', 'b']) etcd.start(member);
    expect((await store.list(dir, signal)).nodes.map(({ ttlSeconds }) => ttlSeconds)).toEqual([undefined, 0]);
    await clock.advance(500);
    expect((await store.list(dir, signal)).nodes).toHaveLength(1);
  });

  it('refuses users, and does not serve v2, as it is told', async () => {
    etcd.users = new Map([['flannel', { password: 'right', rights: ['/net/*'] }]]);
    const as = (name: string, password: string) =>
      new V2Client([etcd.member('a', name, password)], { clock });
    await as('flannel', 'right').create(`${dir}/k`, '1', 60, signal);
    for (const [store, key] of [
      [as('flannel', 'wrong'), dir],
      [as('flannel', 'right'), '/net'],
      [client('a'), dir],
    ] as const) {
      expect(await failureOf(store.list(key, signal))).toMatchObject({ kind: 'REFUSED' });
      expect(await failureOf(store.create(key, '1', 60, signal))).toMatchObject({ kind: 'REFUSED' });
    }
    etcd.isServed = false;
    expect(await failureOf(client('a', 'b').list(dir, signal))).toMatchObject({ kind: 'NOT_SERVED' });
    etcd.stop('b');
    expect(await failureOf(client('a', 'b').list(dir, signal))).toMatchObject({ kind: 'UNAVAILABLE' });
  });
});
