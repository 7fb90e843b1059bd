import { describe, expect, it } from 'vitest';
import { prefix, valueOf } from '../../sim/leases.ts';
import { leaseIdOf } from '../../src/migrate/copies.ts';
import { config, MigrateWorld, oldValue, rowOf, type Write } from './migrate-world.ts';

const [A, B, C] = ['10.0.0.1', '10.0.0.2', '10.0.0.3'];
const day = 86_400;

/** What the copy of a reservation holds. */
const reservedCopy = (ip: string) => oldValue(ip).replace(/}$/, ',"CopiedFrom":"v2"}');

/** Three hosts: one with a lease of an hour, one with a full one, one with a reservation. */
const usual = () =>
  new MigrateWorld()
    .configure()
    .lease('10.5.1.0-24', A, 3600)
    .lease('10.5.2.0-24', B, day)
    .lease('10.5.3.0-24', C);

/** What v3 has to hold afterwards. */
const copied = {
  '10.5.1.0-24': { value: oldValue(A), left: day },
  '10.5.2.0-24': { value: oldValue(B), left: day },
  '10.5.3.0-24': { value: reservedCopy(C), left: undefined },
};

describe('a migration', () => {
  it('copies leases for a day, reservations without an etcd lease, and the configuration last', async () => {
    const world = usual();
    const commits: string[] = [];
    world.v3.onCommit = ({ events }) =>
      void commits.push(...events.map((event) => ('kv' in event ? event.kv.key : '')));
    const result = await world.run();
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(world.leases).toEqual(copied);
    expect(world.v3.get('/net/config')).toMatchObject({ value: config, lease: '0' });
    expect(commits).toHaveLength(4);
    expect(commits.at(-1)).toBe('/net/config');
    expect(world.idleLeases).toEqual([]);
    expect(rowOf(result, '10.5.1.0/24')).toEqual([A, '1 h', '1 d', 'copied']);
    expect(rowOf(result, '10.5.3.0/24')).toEqual([C, 'reservation', 'reservation', 'copied']);
    expect(result.lines).toContain('leases: 3 copied');
    expect(result.lines).toContain('configuration /net/config: copied');
    expect(result.lines.join('\n')).toContain(
      'deadline: 1 h, until 2026-01-01 01:00:00 UTC, for all hosts to use v3. 10.5.1.0/24 of 10.0.0.1 ends first',
    );
  });

  it('says with --dry-run what it would do, and writes nothing', async () => {
    const world = usual();
    const indexes = [world.v2.index, world.v3.revision];
    const result = await world.run({ dryRun: true });
    expect(result.code).toBe(0);
    expect([world.v2.index, world.v3.revision]).toEqual(indexes);
    expect(world.v3.leaseIds).toEqual([]);
    expect(rowOf(result, '10.5.1.0/24')).toEqual([A, '1 h', '-', 'to copy']);
    expect(result.lines).toContain('configuration /net/config: to copy');
    expect(result.lines.at(-1)).toBe('dry run: nothing was written');
  });

  it('run again changes nothing, and has its copies live for a day from then on', async () => {
    const world = usual();
    await world.run();
    const { revision } = world.v3;
    await world.clock.advance(1_800_000);
    expect(world.leases['10.5.2.0-24']?.left).toBe(day - 1800);
    const calls: Write[] = [];
    const result = await world.run({ onWrite: (call) => void calls.push(call) });
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(rowOf(result, '10.5.1.0/24')).toEqual([A, '30 min', '1 d', 'already there']);
    expect(world.v3.revision).toBe(revision);
    expect(world.leases).toEqual(copied);
    expect(calls).toEqual(['leaseKeepAlive', 'leaseKeepAlive']);
  });

  it('neither renews nor writes what the daemon of a host has taken over', async () => {
    const world = usual();
    await world.run();
    const { lease = '' } = world.v3.get(`${prefix}10.5.1.0-24`) ?? {};
    world.v3.put(`${prefix}10.5.1.0-24`, valueOf(A), lease);
    await world.clock.advance(600_000);
    const result = await world.run();
    expect(world.leases['10.5.1.0-24']).toEqual({ value: valueOf(A), left: day - 600 });
    expect(rowOf(result, '10.5.1.0/24')).toEqual([A, '50 min', '23 h 50 min', 'already there']);
  });

  it("gives each host's daemon on v3 the subnet that it had, on a lease of a day, and leaves it to that daemon", async () => {
    const world = usual();
    await world.run();
    expect(await world.join(B)).toBe('10.5.2.0/24');
    expect(await world.join(A)).toBe('10.5.1.0/24');
    expect(world.leases['10.5.1.0-24']).toEqual({ value: valueOf(A), left: expect.closeTo(day, -1) });
    const { revision } = world.v3;
    expect(await world.run()).toMatchObject({ code: 0, errors: [] });
    expect(world.v3.revision).toBe(revision);
    expect(Object.keys(world.leases)).toHaveLength(3);
  });

  it('names the first end of those leases that are in both stores as the deadline', async () => {
    const world = usual().lease('10.5.9.0-24', '10.0.0.9', 1800).lease('10.5.8.0-24', '10.0.0.8', 60);
    world.put('10.5.8.0-24', valueOf('10.0.0.7'));
    const { lines } = await world.run();
    expect(lines.join('\n')).toMatch(
      /^deadline: 30 min, until 2026-01-01 00:30:00 UTC, .* 10\.5\.9\.0\/24 of 10\.0\.0\.9 ends first/m,
    );
  });

  it('does not bring back what ended in v2', async () => {
    const world = usual();
    await world.clock.advance(3_601_000);
    expect((await world.run()).code).toBe(0);
    expect(Object.keys(world.leases)).toEqual(['10.5.2.0-24', '10.5.3.0-24']);
  });
});

describe('killed', () => {
  it('at any step, and run again, it leaves what one run leaves', async () => {
    let kills = 0;
    for (let step = 0.5; ; step += 0.5) {
      const world = usual();
      const wasKilled = await world.runAndKill(step);
      if (!wasKilled) break;
      kills += 1;
      const result = await world.run();
      expect(result, `killed at step ${step}`).toMatchObject({ code: 0, errors: [] });
      expect(world.leases, `killed at step ${step}`).toEqual(copied);
      expect(world.v3.get('/net/config')?.value).toBe(config);
      expect(world.idleLeases, `killed at step ${step}`).toEqual([]);
    }
    // Two reads of the configuration, two lists twice, times left, two grants, three puts, one more for the configuration.
    expect(kills).toBeGreaterThan(20);
  });

  it('at any step, it overwrites nothing that a daemon writes before the next run', async () => {
    let conflicts = 0;
    for (let step = 0.5; ; step += 0.5) {
      const world = usual();
      if (!(await world.runAndKill(step))) break;
      const isFree = world.leases['10.5.2.0-24'] === undefined;
      const theirs = isFree ? valueOf('10.0.0.9') : valueOf(B);
      world.put('10.5.2.0-24', theirs);
      const result = await world.run();
      expect(world.leases['10.5.2.0-24'], `killed at step ${step}`).toEqual({ value: theirs, left: day });
      expect(result.code).toBe(isFree ? 1 : 0);
      if (isFree) conflicts += 1;
    }
    expect(conflicts).toBeGreaterThan(5);
  });
});

/** Runs `what` before the `count`th call of this kind. */
function before(call: Write, count: number, what: () => void): (made: Write) => void {
  let seen = 0;
  return (made) => {
    if (made === call && ++seen === count) what();
  };
}

describe('a write without an answer', () => {
  it.each<[Write, number, boolean]>([
    ['leaseGrant', 1, true],
    ['leaseGrant', 1, false],
    ['txn', 1, true],
    ['txn', 1, false],
    ['txn', 4, true],
    ['txn', 4, false],
  ])('%s %i, applied: %s: is found or done again', async (call, count, applied) => {
    const world = usual();
    const result = await world.run({
      onWrite: before(call, count, () => world.v3.loseNextReply({ applied })),
    });
    expect(world.v3.get('/net/config')?.value).toBe(config);
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(world.leases).toEqual(copied);
    expect(world.idleLeases).toEqual([]);
  });

  it('is done again when the etcd lease is revoked before the put', async () => {
    const world = usual();
    const id = leaseIdOf(`${prefix}10.5.1.0-24`, oldValue(A));
    let revoked = 0;
    const onWrite = (call: Write) => {
      if (call !== 'txn' || revoked > 0 || !world.v3.leaseIds.includes(id)) return;
      world.v3.revoke(id);
      revoked += 1;
    };
    expect(await world.run({ onWrite })).toMatchObject({ code: 0, errors: [] });
    expect(revoked).toBe(1);
    expect(world.leases).toEqual(copied);
  });
});

describe('while it copies', () => {
  it('a daemon that takes one of the subnets keeps it', async () => {
    const world = usual();
    const result = await world.run({
      onWrite: before('txn', 1, () => world.put('10.5.1.0-24', valueOf('10.0.0.9'))),
    });
    expect(result.code).toBe(1);
    expect(rowOf(result, '10.5.1.0/24').slice(3)).toEqual(['in conflict', 'v3 has it for 10.0.0.9']);
    expect(world.leases['10.5.1.0-24']?.value).toBe(valueOf('10.0.0.9'));
    expect(result.errors.join()).toContain('1 lease is in conflict and nothing was done about it');
  });

  it('a daemon that takes one with an IPv6 half keeps it alone', async () => {
    const world = usual();
    const name = '10.5.1.0-24&fc00::-64';
    const result = await world.run({
      onWrite: before('txn', 1, () => world.put(name, valueOf(A, 'fd00::1'))),
    });
    expect(Object.keys(world.leases)).toEqual([name, '10.5.2.0-24', '10.5.3.0-24']);
    expect(rowOf(result, '10.5.1.0/24')[3]).toBe('already there');
  });

  it('takes its key back when another one that overlaps has come', async () => {
    const world = usual();
    const result = await world.run({
      onWrite: before('txn', 1, () => world.put('10.5.0.0-23', valueOf('10.0.0.9'))),
    });
    expect(result.code).toBe(1);
    expect(Object.keys(world.leases)).toEqual(['10.5.0.0-23', '10.5.2.0-24', '10.5.3.0-24']);
    expect(rowOf(result, '10.5.1.0/24').at(-1)).toBe('overlaps 10.5.0.0/23 of 10.0.0.9 in v3');
  });

  it('takes its key back when the lease ends in v2', async () => {
    const world = usual();
    const result = await world.run({
      onWrite: before('txn', 1, () => void world.v2.delete('/old/subnets/10.5.1.0-24')),
    });
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(Object.keys(world.leases)).toEqual(['10.5.2.0-24', '10.5.3.0-24']);
  });

  it('leaves its key when its daemon has taken it over by then', async () => {
    const world = usual();
    const key = `${prefix}10.5.1.0-24`;
    await world.run({
      onWrite: (() => {
        const end = before('txn', 1, () => void world.v2.delete('/old/subnets/10.5.1.0-24'));
        // The fourth transaction would take it back.
        const adopt = before('txn', 4, () => world.v3.put(key, valueOf(A), world.v3.get(key)?.lease));
        return (call) => {
          end(call);
          adopt(call);
        };
      })(),
    });
    expect(world.leases['10.5.1.0-24']).toEqual({ value: valueOf(A), left: day });
  });

  it('follows v2 when it gives the subnet to another host, and copies what joins', async () => {
    const world = usual();
    const result = await world.run({
      onWrite: before('txn', 1, () => {
        world.lease('10.5.1.0-24', '10.0.0.9', day).lease('10.5.4.0-24', '10.0.0.4', day);
      }),
    });
    expect(result.code).toBe(0);
    expect(world.leases).toMatchObject({
      '10.5.1.0-24': { value: oldValue('10.0.0.9'), left: day },
      '10.5.4.0-24': { value: oldValue('10.0.0.4'), left: day },
    });
  });

  it.each([{ sameId: true }, { sameId: false }])(
    'takes nothing back because a restored v2 store lacks it: %j',
    async (as) => {
      const world = new MigrateWorld();
      const empty = world.v2.snapshot();
      world.configure().lease('10.5.1.0-24', A, 3600).lease('10.5.2.0-24', B, day).lease('10.5.3.0-24', C);
      const result = await world.run({ onWrite: before('txn', 1, () => world.v2.restore(empty, as)) });
      expect(result.code).toBe(1);
      expect(result.errors).toEqual([
        expect.stringMatching(/another v2 store answers than at first.*3 leases had been copied/),
      ]);
      expect(world.leases).toEqual(copied);
    },
  );

  it('gives up when v2 changes all the while, and says so', async () => {
    const world = usual();
    let joined = 9;
    const result = await world.run({
      onWrite: (call) => {
        if (call === 'txn') world.lease(`10.5.${++joined}.0-24`, `10.0.0.${joined}`, day);
      },
    });
    expect(result.code).toBe(1);
    expect(result.lines.join('\n')).toMatch(/not finished +the stores changed all the while: run this again/);
  });
});

describe('the configuration', () => {
  it.each<[string, string | undefined, RegExp]>([
    [
      'differs',
      '{"Network":"10.6.0.0/16","Backend":{"Type":"host-gw"}}',
      /: not copied, v3 has another one: from v2 to v3: Network 10\.5\.0\.0\/16 → 10\.6/,
    ],
    [
      'is of another backend',
      undefined,
      /: not copied: the daemon cannot use it: Backend is missing: flannel then means udp/,
    ],
  ])('that %s is reported, and stays as it is; leases are copied', async (_, inV3, line) => {
    const world = usual();
    if (inV3 === undefined) world.configure('{"Network":"10.5.0.0/16"}');
    else world.v3.put('/net/config', inV3);
    const result = await world.run();
    expect(result.code).toBe(1);
    expect(result.lines.join('\n')).toMatch(line);
    expect(result.errors.join()).toContain('run this again');
    expect(world.v3.get('/net/config')?.value).toBe(inV3);
    expect(world.leases).toEqual(copied);
  });

  it('that another one stores at the same moment stays', async () => {
    const world = usual();
    const theirs = config.replace('10.5', '10.6');
    const result = await world.run({ onWrite: before('txn', 4, () => world.v3.put('/net/config', theirs)) });
    expect(result.code).toBe(1);
    expect(world.v3.get('/net/config')?.value).toBe(theirs);
  });
});

describe('one clear line when', () => {
  it.each<[string, (world: MigrateWorld) => void, RegExp]>([
    [
      'etcd does not serve v2',
      ({ v2 }) => void (v2.isServed = false),
      /^the v2 store cannot be read: etcd at \S+ it does not serve the v2 API\. .*--enable-v2=true.*--from-endpoints=URL\.$/,
    ],
    [
      'v2 asks for a user',
      ({ v2 }) => void (v2.users = new Map()),
      /it requires a user for \/old\/config .*--from-username with --from-password-file\.$/,
    ],
    ['v2 is down', ({ v2 }) => v2.stop('etcd-0'), /^the v2 store cannot be read: .*connection refused/],
    ['v3 is down', ({ v3 }) => v3.stop('etcd-0'), /^the v3 store cannot be used: /],
    [
      'etcd takes no writes',
      ({ v3 }) => v3.fill(true),
      /^the v3 store cannot be used: .*the etcd database is full/,
    ],
  ])('%s', async (_, spoil, line) => {
    const world = usual();
    spoil(world);
    const result = await world.run();
    expect(result).toEqual({ code: 1, lines: [], errors: [expect.stringMatching(line)] });
    expect(world.leases).toEqual({});
  });

  it('the prefix is wrong, with the right one if it is a usual one', async () => {
    const world = usual();
    world.v2.set('/atomic.io/network/config', config);
    const result = await world.run({ fromPrefix: '/nope' });
    expect(result).toEqual({
      code: 1,
      lines: [],
      errors: [
        'the v2 store at http://etcd-0:2379 has no network here: neither /nope/config nor a lease. There is one with --from-prefix=/atomic.io/network',
      ],
    });
  });

  it('etcd fails in the middle, with what was done before', async () => {
    const world = usual();
    const result = await world.run({ onWrite: before('txn', 4, () => world.v3.stop('etcd-0')) });
    expect(result.errors).toEqual([
      expect.stringMatching(/ 3 leases had been copied before; run this again\.$/),
    ]);
    world.v3.start('etcd-0');
    expect(await world.run()).toMatchObject({ code: 0, errors: [] });
  });
});

it('names the leases that only v3 has', async () => {
  const world = usual();
  for (let host = 10; host < 17; host++) world.put(`10.5.${host}.0-24`, valueOf(`10.0.0.${host}`));
  const { code, lines } = await world.run();
  expect(code).toBe(0);
  expect(lines.join('\n')).toContain(
    'only in v3: 10.5.10.0/24 of 10.0.0.10, 10.5.11.0/24 of 10.0.0.11, 10.5.12.0/24 of 10.0.0.12, 10.5.13.0/24 of 10.0.0.13, 10.5.14.0/24 of 10.0.0.14 and 2 more. Hosts',
  );
});
