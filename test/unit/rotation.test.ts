import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { altered } from '../../sim/altered.ts';
import { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import type { SimMember } from '../../sim/etcd-member.ts';
import { SeededRandom } from '../../sim/random.ts';
import {
  type Operation,
  prefixEnd,
  type Registry,
  RegistryError,
  type RegistryErrorCode,
} from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { outcomeOf } from '../contract/registry-suite.ts';

const names = ['etcd-0', 'etcd-1', 'etcd-2'];

let clock: VirtualClock;
let etcd: SimEtcd;
let members: readonly SimMember[];
let registry: Registry;
let moves: string[];

beforeEach(() => {
  clock = new VirtualClock();
  etcd = new SimEtcd({ clock, members: names });
  members = etcd.connect('host');
  moves = [];
  registry = rotate(members, { onMove: (from, to) => moves.push(`${from} → ${to}`) });
});

afterEach(() => {
  registry.close();
  etcd.close();
});

const put = (key: string): Operation => ({ op: 'put', key, value: 'v', lease: '0' });

const read = () => registry.range({ key: 'a' });
const write = () => registry.txn({ compare: [], success: [put('a')] });

/** Runs a call while virtual time passes, and gives its result or error. */
const outcome = <T>(call: Promise<T>) => clock.complete(outcomeOf(call));

describe('calls that change nothing', () => {
  it('stick to one member while it answers', async () => {
    await read();
    await registry.leaseTimeToLive('1');
    await registry.leaseKeepAlive('1');
    const callsOf = members.map(({ calls }) => calls.range + calls.leaseTimeToLive + calls.leaseKeepAlive);
    expect(callsOf).toEqual([3, 0, 0]);
    expect(registry.endpoint).toBe('http://etcd-0:2379');
    expect(moves).toEqual([]);
  });

  it('move to the next member when one refuses connections, and stay there', async () => {
    etcd.stop('etcd-0');
    etcd.put('a', '1');
    expect((await read()).kvs).toHaveLength(1);
    etcd.start('etcd-0');
    await read();
    expect(members.map(({ calls }) => calls.range)).toEqual([1, 2, 0]);
    expect(moves).toEqual(['http://etcd-0:2379 → http://etcd-1:2379']);
  });

  it.each(['range', 'leaseTimeToLive', 'leaseKeepAlive'] as const)(
    '%s is tried once on every member, and the error names each with its reason in one line',
    async (method) => {
      etcd.stop('etcd-0');
      etcd.cut('host', 'etcd-1');
      etcd.isolate('etcd-2');
      const error = await outcome<unknown>(method === 'range' ? read() : registry[method]('1'));
      expect(error).toBeInstanceOf(RegistryError);
      expect(error).toMatchObject({
        kind: 'UNAVAILABLE',
        outcomeUnknown: false,
        message:
          'no etcd endpoint can be used: etcd at http://etcd-0:2379: connection refused, nothing listens there; ' +
          'etcd at http://etcd-1:2379: no answer within the deadline; ' +
          'etcd at http://etcd-2:2379: no leader: this member is cut off from the majority of its cluster',
      });
      expect(members.map(({ calls }) => calls[method])).toEqual([1, 1, 1]);
    },
  );

  it('reject with the reason of their signal, trying nobody else', async () => {
    etcd.cut('host', 'etcd-0');
    const controller = new AbortController();
    const call = registry.range({ key: 'a' }, controller.signal);
    await clock.settle();
    controller.abort(new Error('stopping'));
    await expect(call).rejects.toThrow('stopping');
    expect(etcd.calls.range).toBe(1);
  });
});

describe('calls that change something', () => {
  it('go to the next member when the failure is certain', async () => {
    etcd.stop('etcd-0');
    await write();
    expect(etcd.get('a')?.value).toBe('v');
    const { id } = await registry.leaseGrant(60);
    await registry.leaseRevoke(id);
    expect(members.map(({ calls }) => calls.txn)).toEqual([1, 1, 0]);
  });

  it('are not repeated when they may have taken effect, but later calls go elsewhere', async () => {
    etcd.loseNextReply({ applied: true });
    expect(await outcome(write())).toMatchObject({ kind: 'UNAVAILABLE', outcomeUnknown: true });
    expect(etcd.calls.txn).toBe(1);
    expect(registry.endpoint).toBe('http://etcd-1:2379');
    expect((await read()).kvs).toHaveLength(1);
  });

  it('are not repeated after a member stayed silent', async () => {
    etcd.freeze('etcd-0');
    expect(await outcome(registry.leaseGrant(60))).toMatchObject({ outcomeUnknown: true });
    expect(etcd.calls.leaseGrant).toBe(1);
  });

  it('reject with every reason when nobody can be reached', async () => {
    for (const name of names) etcd.stop(name);
    const error = await outcome(registry.leaseRevoke('7'));
    expect(error).toMatchObject({
      kind: 'UNAVAILABLE',
      outcomeUnknown: false,
      endpoint: 'http://etcd-0:2379,http://etcd-1:2379,http://etcd-2:2379',
    });
    expect(etcd.calls.leaseRevoke).toBe(3);
  });
});

describe('an error of one member', () => {
  /** A rotation whose first member rejects reads so, and these writes. */
  function refusing(kind: RegistryErrorCode, outcomeUnknown = false): Registry {
    const [first, ...others] = members;
    const refuse = (unknown: boolean) => () =>
      Promise.reject(new RegistryError(kind, 'http://etcd-0:2379', 'no', { outcomeUnknown: unknown }));
    const refuseWrite = refuse(outcomeUnknown);
    const odd = altered(first as SimMember, {
      range: refuse(false),
      txn: refuseWrite,
      leaseGrant: refuseWrite,
    });
    return rotate([odd, ...others]);
  }

  it('that is not known moves a read to the next one, and a write that had no effect', async () => {
    for (const call of [read, write]) {
      registry = refusing('UNEXPECTED');
      await call();
      expect(registry.endpoint).toBe('http://etcd-1:2379');
    }
  });

  it('that is not known moves the calls after a write that may have had an effect', async () => {
    registry = refusing('UNEXPECTED', true);
    const failure = { kind: 'UNEXPECTED', outcomeUnknown: true };
    expect(await outcome(registry.leaseGrant(60))).toMatchObject(failure);
    expect(etcd.calls.leaseGrant).toBe(0);
    expect(registry.endpoint).toBe('http://etcd-1:2379');
    await registry.leaseGrant(60);
  });

  it.each(['PERMISSION_DENIED', 'COMPACTED', 'LEASE_NOT_FOUND', 'PROTOCOL'] as const)(
    '%s is the answer to the request itself: nobody else is asked',
    async (kind) => {
      registry = refusing(kind);
      expect(await outcome(read())).toMatchObject({ kind });
      expect(await outcome(registry.leaseGrant(60))).toMatchObject({ kind });
      expect(etcd.calls).toMatchObject({ range: 0, leaseGrant: 0 });
      expect(registry.endpoint).toBe('http://etcd-0:2379');
    },
  );
});

it('calls side by side that fail on the same member move on once', async () => {
  etcd.stop('etcd-0');
  await Promise.all([read(), registry.range({ key: 'b' }), registry.leaseKeepAlive('1')]);
  expect(registry.endpoint).toBe('http://etcd-1:2379');
  expect(moves).toHaveLength(1);
});

describe('a watch', () => {
  const request = { key: 'a/', rangeEnd: prefixEnd('a/'), startRevision: 1 };

  it('goes to the current member, and its loss moves the next one elsewhere', async () => {
    etcd.put('a/1', 'x');
    const signal = new AbortController().signal;
    const seen: string[] = [];
    const watch = async () => {
      for await (const batch of registry.watch(request, signal)) {
        seen.push(`${registry.endpoint} ${batch.kind}`);
        if (batch.kind === 'events') etcd.stop(seen.length < 3 ? 'etcd-0' : 'etcd-1');
      }
    };
    expect(await outcome(watch())).toBeInstanceOf(RegistryError);
    etcd.start('etcd-0');
    expect(await outcome(watch())).toBeInstanceOf(RegistryError);
    expect(seen).toEqual([
      'http://etcd-0:2379 created',
      'http://etcd-0:2379 events',
      'http://etcd-1:2379 created',
      'http://etcd-1:2379 events',
    ]);
    expect(registry.endpoint).toBe('http://etcd-2:2379');
    expect(etcd.watchers).toBe(0);
  });

  it('that was compacted stays with its member', async () => {
    etcd.put('a/1', 'x');
    etcd.put('a/1', 'y');
    etcd.compact();
    const batches = registry.watch(request, new AbortController().signal)[Symbol.asyncIterator]();
    expect(await batches.next()).toMatchObject({ value: { kind: 'created' } });
    expect(await outcome(batches.next())).toMatchObject({ kind: 'COMPACTED', compactRevision: 3 });
    expect(moves).toEqual([]);
  });
});

it('a rotation over one member names that member in its error; over none it throws', async () => {
  const alone = rotate([members[0] as Registry]);
  etcd.stop('etcd-0');
  const error = await outcome(alone.range({ key: 'a' }));
  expect((error as RegistryError).message).toBe(
    'etcd at http://etcd-0:2379: connection refused, nothing listens there',
  );
  expect(etcd.calls.range).toBe(1);
  expect(() => rotate([])).toThrow(RangeError);
});

it('hosts that start together ask after their member once a minute, each at its own moment', async () => {
  const [random, stop, hosts] = [new SeededRandom(1), new AbortController(), 60];
  const ended = Array.from({ length: hosts }, async (_, index) => {
    const rotation = rotate(etcd.connect(`h${index}`), { leasesPrefix: '/net/subnets/', clock, random });
    const watch = rotation.watch({ key: 'a', rangeEnd: 'b' }, stop.signal);
    await watch.next();
    await rotation.run(clock, stop.signal).catch(() => undefined);
    rotation.close();
  });
  const perSecond: number[] = [];
  for (let second = 0; second < 180; second++) {
    const { range } = etcd.calls;
    await clock.advance(1_000);
    perSecond.push(etcd.calls.range - range);
  }
  for (const from of [0, 60, 120])
    expect(perSecond.slice(from, from + 60).reduce((sum, count) => sum + count, 0)).toBe(hosts);
  expect(Math.max(...perSecond)).toBeLessThan(8);
  stop.abort(new Error('stopped'));
  await Promise.all(ended);
});
