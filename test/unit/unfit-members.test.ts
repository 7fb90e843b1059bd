import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { altered } from '../../sim/altered.ts';
import { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd } from '../../sim/etcd.ts';
import {
  prefixEnd,
  type Registry,
  RegistryError,
  type WatchBatch,
} from '../../src/subnet/registry/registry.ts';
import { type Rotation, rotate } from '../../src/subnet/registry/rotation.ts';
import { outcomeOf } from '../contract/registry-suite.ts';

const names = ['etcd-0', 'etcd-1', 'etcd-2'];
const key = '/net/subnets/10.1.0.0-24';

let clock: VirtualClock;
let etcd: SimEtcd;
let registry: Rotation;
let moves: string[];
let unfit: Map<string, string>;
/** Who was said to serve again. */
let recoveries: string[];
let stop: AbortController;

beforeEach(() => {
  stop = new AbortController();
  clock = new VirtualClock();
  etcd = new SimEtcd({ clock, members: names });
  etcd.put(key, 'ours', etcd.grant(3_600));
  moves = [];
  unfit = new Map();
  recoveries = [];
  registry = connect(etcd.connect('host'));
});

afterEach(async () => {
  stop.abort(new Error('stopped'));
  registry.close();
  etcd.close();
  await clock.settle();
  expect(clock.pending).toBe(0);
});

function connect(members: readonly Registry[]): Rotation {
  return rotate(members, {
    leasesPrefix: '/net/subnets/',
    clock,
    onMove: (from, to) => moves.push(`${from} → ${to}`),
    onFitness: (endpoint, reason) => {
      if (reason === undefined) {
        unfit.delete(endpoint);
        recoveries.push(endpoint);
      } else unfit.set(endpoint, reason.message);
    },
  });
}

/** Runs a call while virtual time passes, and gives its result or error. */
const outcome = <T>(call: Promise<T>) => clock.complete(outcomeOf(call));

const subnets = { key: '/net/subnets/', rangeEnd: prefixEnd('/net/subnets/') };

/** The first messages of a watch of the subnets. */
async function firstBatch(): Promise<WatchBatch> {
  for await (const batch of registry.watch(subnets, stop.signal)) return batch;
  throw new Error('a watch ended without an error');
}

/** Watches the subnets until that fails; what came of it. */
async function watch(onBatch: () => void): Promise<unknown> {
  return await outcome(
    (async () => {
      for await (const _ of registry.watch(subnets, stop.signal)) onBatch();
    })(),
  );
}

/** Asks the members each minute, as the daemon does. */
const askEachMinute = () => void registry.run(clock, stop.signal).catch(() => undefined);

const calls = {
  'a read': async () => expect((await registry.range({ key })).kvs).toMatchObject([{ value: 'ours' }]),
  'a list at a revision': async () =>
    expect((await registry.range({ key, revision: etcd.revision })).kvs).toMatchObject([{ value: 'ours' }]),
  'a write': async () => {
    const before = etcd.get(key)?.modRevision ?? 0;
    const compare = [{ key, target: 'mod', op: '=', value: before }] as const;
    const lease = etcd.get(key)?.lease ?? '0';
    const success = [{ op: 'put', key, value: 'ours', lease }] as const;
    expect(await registry.txn({ compare, success })).toMatchObject({ succeeded: true });
    expect(etcd.get(key)).toMatchObject({ value: 'ours', modRevision: before + 1 });
  },
  'a grant': async () => {
    const { id } = await registry.leaseGrant(60);
    expect(etcd.leaseIds).toContain(id);
  },
  'a renewal': async () => {
    const id = etcd.get(key)?.lease ?? '0';
    expect(await registry.leaseKeepAlive(id)).toEqual({ ttlSeconds: 3_600 });
  },
  'a look at the time that is left': async () => {
    const id = etcd.get(key)?.lease ?? '0';
    expect(await registry.leaseTimeToLive(id)).toMatchObject({ ttlSeconds: expect.any(Number) });
  },
  'a revocation': async () => {
    const id = etcd.grant(60);
    await registry.leaseRevoke(id);
    expect(etcd.leaseIds).not.toContain(id);
  },
  'a watch': async () => expect(await firstBatch()).toMatchObject({ kind: 'created' }),
} as const;

type Call = keyof typeof calls;

async function served(call: Call): Promise<void> {
  const answer = await outcome<unknown>(calls[call]());
  if (answer instanceof RegistryError) throw answer;
}

const all = Object.keys(calls) as Call[];
const writes: readonly Call[] = ['a write', 'a grant', 'a revocation'];

interface Fault {
  readonly name: string;
  /** How a member becomes so. */
  readonly spoil: (member: string) => void;
  readonly keepsFrom: readonly Call[];
  readonly says: RegExp;
}

const spoilt = (kind: Parameters<SimEtcd['spoil']>[1]) => (member: string) => etcd.spoil(member, kind);
const tooOld: Fault = {
  name: 'too old',
  spoil: (member) => {
    etcd.stop(member);
    etcd.spoil(member, 'old');
    etcd.start(member);
  },
  keepsFrom: all,
  says: /older than etcd 3\.3/,
};
const faults: readonly Fault[] = [
  tooOld,
  { name: 'a learner', spoil: spoilt('learner'), keepsFrom: all, says: /learner/ },
  { name: 'overloaded', spoil: spoilt('overloaded'), keepsFrom: writes, says: /overloaded/ },
  { name: 'corrupt', spoil: spoilt('corrupt'), keepsFrom: writes, says: /alarm CORRUPT/ },
  { name: 'read-only', spoil: spoilt('read-only'), keepsFrom: writes, says: /read-only/ },
  { name: 'a proxy without etcd', spoil: spoilt('proxy alone'), keepsFrom: all, says: /reaches no etcd/ },
  { name: 'cut off', spoil: (member) => etcd.isolate(member), keepsFrom: all, says: /no leader/ },
  {
    name: 'of another cluster',
    spoil: (member) => etcd.replace(member),
    keepsFrom: all,
    says: /another cluster/,
  },
];

function heal(member: string): void {
  etcd.spoil(member, undefined);
  etcd.putBack(member);
  etcd.start(member);
}

/** Has this member serve, and nobody be known as unfit. */
async function use(member: string): Promise<void> {
  await served('a read');
  const others = registry.endpoint.includes(member) ? [] : names.filter((name) => name !== member);
  for (const other of others) etcd.cut('host', other);
  await served('a read');
  for (const other of others) etcd.heal('host', other);
  await clock.advance(61_000);
  expect([...unfit.keys()]).toEqual([]);
  expect(registry.endpoint).toContain(member);
}

const places = ['first', 'in the middle', 'last'] as const;
const rows = faults.flatMap((fault) =>
  places.flatMap((place, index) => all.map((call) => ({ fault, place, call, member: names[index] ?? '' }))),
);

describe('a member that answers and cannot serve', () => {
  it.each(rows)('$fault.name, listed $place: $call is served by another', async ({ fault, call, member }) => {
    fault.spoil(member);
    await served(call);
    await served(call);
    if (fault.keepsFrom.includes(call)) expect(registry.endpoint).not.toContain(member);
    // All are asked at the start, and what refuses no more than writes is found out by one.
    const found = fault.keepsFrom === all || (member === names[0] && fault.keepsFrom.includes(call));
    expect([...unfit.keys()]).toEqual(found ? [`http://${member}:2379`] : []);
    for (const reason of unfit.values()) expect(reason).toMatch(fault.says);
  });

  it.each(rows.filter(({ fault }) => fault !== tooOld))(
    '$fault.name while in use, listed $place: the next one serves $call, and why is remembered',
    async ({ fault, call, member }) => {
      askEachMinute();
      await use(member);
      fault.spoil(member);
      // The next read finds out where the answer itself does not tell.
      await served('a read');
      await served(call);
      if (!fault.keepsFrom.includes(call)) return;
      expect(registry.endpoint).not.toContain(member);
      await served(call);
      expect([...unfit.keys()]).toEqual([`http://${member}:2379`]);
      expect([...unfit.values()].join()).toMatch(fault.says);
    },
  );

  // It is another one at the same address: the connection ends, and with it the watch.
  it.each(names)(
    'too old while in use, as %s: the next one serves, and why is remembered',
    async (member) => {
      askEachMinute();
      await use(member);
      let batches = 0;
      await watch(() => {
        if (batches++ === 0) tooOld.spoil(member);
      });
      for (const call of all) await served(call);
      await clock.advance(61_000);
      expect(registry.endpoint).not.toContain(member);
      expect([...unfit]).toEqual([[`http://${member}:2379`, expect.stringMatching(/older than etcd 3\.3/)]]);
    },
  );

  it.each(faults)(
    '$name: is asked again each minute, and used when it has to be',
    async ({ spoil, says }) => {
      askEachMinute();
      spoil('etcd-0');
      await served('a write');
      await served('a write');
      await clock.advance(200_000);
      expect([...unfit]).toEqual([['http://etcd-0:2379', expect.stringMatching(says)]]);
      expect(recoveries).toEqual([]);
      const { revision } = etcd;
      heal('etcd-0');
      await clock.advance(61_000);
      expect([...unfit.keys()]).toEqual([]);
      // To be asked whether one writes changes nothing.
      expect(etcd.revision).toBe(revision);
      for (const other of ['etcd-1', 'etcd-2']) etcd.cut('host', other);
      await served('a read');
      expect(registry.endpoint).toBe('http://etcd-0:2379');
    },
  );
});

describe('a member that is left', () => {
  it('is reported when a watch ends there and it does not serve a minute later, until it is back', async () => {
    askEachMinute();
    await served('a read');
    await watch(() => etcd.stop('etcd-0'));
    expect([...unfit.keys()]).toEqual([]);
    await served('a read');
    await clock.advance(61_000);
    expect([...unfit]).toEqual([['http://etcd-0:2379', expect.stringContaining('connection refused')]]);
    etcd.start('etcd-0');
    await clock.advance(61_000);
    expect([...unfit]).toEqual([]);
  });

  it.each([
    ['an answer was lost', () => etcd.loseNextReply({ applied: true })],
    ['it was down', () => etcd.stop('etcd-0')],
  ])('is not reported when it serves again a minute after %s', async (_, fault) => {
    askEachMinute();
    await served('a read');
    fault();
    await outcome(registry.leaseGrant(60));
    await served('a read');
    expect([...unfit]).toEqual([]);
    etcd.start('etcd-0');
    await clock.advance(61_000);
    expect([...unfit]).toEqual([]);
  });

  it('is not reported when it serves again before another one has served', async () => {
    askEachMinute();
    await served('a read');
    etcd.loseNextReply({ applied: true });
    await outcome(registry.leaseGrant(60));
    await clock.advance(61_000);
    await served('a read');
    expect([...unfit.keys()]).toEqual([]);
  });

  it('is not reported when no other member serves', async () => {
    askEachMinute();
    await served('a read');
    for (const name of names) etcd.stop(name);
    await expect(served('a read')).rejects.toMatchObject({ kind: 'UNAVAILABLE' });
    for (const name of names) etcd.start(name);
    await served('a read');
    expect([...unfit.keys()]).toEqual([]);
  });

  it('is asked once a minute, and the members that serve are not', async () => {
    askEachMinute();
    etcd.stop('etcd-2');
    await served('a read');
    await served('a read');
    const before = { ...etcd.calls };
    await clock.advance(300_000);
    expect(etcd.calls.txn - before.txn).toBe(5);
    await served('a read');
    expect(etcd.calls).toMatchObject({ range: before.range + 1, txn: before.txn + 5 });
  });
});

it('an error names every member with its reason when none serves', async () => {
  await served('a read');
  etcd.spoil('etcd-0', 'learner');
  etcd.stop('etcd-1');
  etcd.replace('etcd-2');
  for (const call of ['a read', 'a write', 'a watch'] as const)
    await expect(served(call)).rejects.toMatchObject({
      kind: 'UNAVAILABLE',
      message: expect.stringMatching(
        /^no etcd endpoint can be used: etcd at http:\/\/etcd-0:2379: this member is a learner.*; etcd at http:\/\/etcd-1:2379: connection refused.*; etcd at http:\/\/etcd-2:2379: .*another cluster/,
      ),
    });
});

describe('a full database', () => {
  it('serves reads and watches, and a write fails with the alarm and every member', async () => {
    etcd.fill(true);
    for (const call of ['a read', 'a list at a revision', 'a renewal', 'a watch'] as const)
      await served(call);
    const error = await outcome(registry.txn({ compare: [], success: [{ op: 'delete', key: 'x' }] }));
    expect(error).toMatchObject({
      kind: 'EXHAUSTED',
      outcomeUnknown: false,
      message:
        'no etcd endpoint can be used: etcd at http://etcd-0:2379, http://etcd-1:2379, http://etcd-2:2379: ' +
        'the etcd database is full (alarm NOSPACE), it accepts no writes',
    });
    expect(registry.endpoint).toBe('http://etcd-0:2379');
    await served('a read');
    expect([...unfit.keys()]).toEqual([]);
    etcd.fill(false);
    await served('a write');
    expect([...unfit.keys()]).toEqual([]);
  });
});

describe('the cluster of the endpoints', () => {
  it('is that of most endpoints, and the stranger is named with both ids', async () => {
    etcd.replace('etcd-0');
    await served('a read');
    expect([...unfit]).toEqual([
      [
        'http://etcd-0:2379',
        expect.stringMatching(
          /^etcd at http:\/\/etcd-0:2379: this member belongs to another cluster \([\da-f]+\) than the endpoints in use \([\da-f]+\)$/,
        ),
      ],
    ]);
  });

  it('does not change to a stranger’s while its own members are away', async () => {
    await served('a read');
    etcd.replace('etcd-2');
    etcd.stop('etcd-0');
    etcd.stop('etcd-1');
    for (let tries = 0; tries < 5; tries++) {
      const error = await outcome(registry.range({ key }));
      expect(error).toMatchObject({ kind: 'UNAVAILABLE' });
      expect((error as RegistryError).message).toMatch(/refused.*another cluster/);
    }
    etcd.start('etcd-0');
    etcd.start('etcd-1');
    await served('a read');
  });

  it('does not change while one of its members is read from, however many are strangers’', async () => {
    await served('a read');
    etcd.fill(true);
    etcd.replace('etcd-0');
    etcd.replace('etcd-2');
    await served('a read');
    expect(await outcome(registry.leaseGrant(60))).toMatchObject({
      kind: 'UNAVAILABLE',
      outcomeUnknown: false,
    });
    await served('a read');
  });

  it('changes within one call after a restore under a new id, with one endpoint too', async () => {
    await served('a read');
    const backup = etcd.snapshot();
    etcd.restore(backup);
    await served('a read');
    etcd.restore(backup);
    await served('a watch');
    expect([...unfit.keys()]).toEqual([]);
    registry = connect([etcd.member('etcd-0')]);
    await served('a read');
    etcd.restore(backup);
    await served('a read');
  });

  it('changes after a restore although a member is still down', async () => {
    await served('a read');
    etcd.restore(etcd.snapshot());
    etcd.stop('etcd-1');
    await served('a read');
  });

  it('is that of most as soon as they are back, when a stranger was alone at the start', async () => {
    etcd.replace('etcd-2');
    etcd.stop('etcd-0');
    etcd.stop('etcd-1');
    const running = registry.run(clock, stop.signal).catch(() => undefined);
    const read = async () => {
      const answer = await outcome(registry.range({ key }));
      return answer instanceof RegistryError ? answer : answer.kvs.map(({ value }) => value);
    };
    expect(await read()).toEqual([]);
    const watching = async () => {
      for await (const _ of registry.watch({ ...subnets, startRevision: 1 }, stop.signal));
    };
    const cut = watching().catch((error: unknown) => error);
    await clock.advance(1_000);
    etcd.start('etcd-0');
    etcd.start('etcd-1');
    await clock.advance(10_000);
    expect(await read()).toEqual(['ours']);
    expect(await cut).toMatchObject({ kind: 'NOT_SERVING' });
    expect([...unfit.keys()]).toEqual(['http://etcd-2:2379']);
    stop.abort(new Error('stopped'));
    await running;
  });

  it('is known a moment after one of two endpoints has answered, though the other is silent', async () => {
    registry = connect([etcd.member('etcd-1'), etcd.member('etcd-0')]);
    etcd.freeze('etcd-1');
    await served('a read');
    expect(clock.monotonic()).toBeLessThan(6_000);
    registry = connect([etcd.member('etcd-0'), etcd.member('etcd-1')]);
    const before = clock.monotonic();
    await served('a read');
    expect(clock.monotonic() - before).toBeLessThan(1_000);
  });
});

describe('a proxy with an open watch', () => {
  /** Its streams stay open and say nothing; calls fail. */
  function proxied(member: Registry): { readonly proxy: Registry; readonly lose: () => void } {
    let lost = false;
    const proxy = altered(member, {
      range: (...call) => (lost ? Promise.reject(gone(member)) : member.range(...call)),
      txn: (...call) => (lost ? Promise.reject(gone(member)) : member.txn(...call)),
    });
    const lose = () => {
      lost = true;
    };
    return { proxy, lose };
  }
  const gone = ({ endpoint }: Registry) => new RegistryError('UNAVAILABLE', endpoint, 'no answer');

  it('loses the watch to another member within about a minute', async () => {
    const [first, ...others] = etcd.connect('host');
    if (first === undefined) throw new RangeError('no member');
    const { proxy, lose } = proxied(first);
    registry = connect([proxy, ...others]);
    askEachMinute();
    const startedMs = clock.monotonic();
    expect(await watch(lose)).toMatchObject({ kind: 'UNAVAILABLE', message: 'no answer' });
    expect(clock.monotonic() - startedMs).toBeLessThan(70_000);
    await served('a watch');
    expect(registry.endpoint).toBe('http://etcd-1:2379');
  });

  it('keeps its watch while it answers', async () => {
    askEachMinute();
    let ended = false;
    const ending = async () => {
      for await (const _ of registry.watch(subnets, stop.signal)) continue;
    };
    void ending().catch(() => {
      ended = true;
    });
    await clock.advance(600_000);
    expect(ended).toBe(false);
    expect(etcd.watchers).toBe(1);
  });
});

it('a member that serves is asked for its cluster and version once', async () => {
  for (let times = 0; times < 5; times++) await served('a read');
  expect(etcd.calls).toMatchObject({ range: 5, txn: 3 });
});
