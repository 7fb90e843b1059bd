import { describe, expect, it } from 'vitest';
import { prefix, valueOf } from '../../sim/leases.ts';
import { isCopy } from '../../src/migrate/copies.ts';
import { MigrateWorld, oldValue, rowOf, type Write } from './migrate-world.ts';

const [A, B, C] = ['10.0.0.1', '10.0.0.2', '10.0.0.3'];
const day = 86_400;
const noLease = (value: string) => ({ value, left: undefined });

/** After `etcdctl migrate`: two leases and a reservation of v2, all of them reservations in v3. */
const converted = () =>
  new MigrateWorld()
    .configure()
    .lease('10.5.1.0-24', A, 3600)
    .lease('10.5.2.0-24', B, day)
    .lease('10.5.3.0-24', C)
    .convert();

const repaired = {
  '10.5.1.0-24': { value: oldValue(A), left: day },
  '10.5.2.0-24': { value: oldValue(B), left: day },
  '10.5.3.0-24': noLease(oldValue(C)),
};

/** What an operator does with etcdctl: puts a key as it is, without an etcd lease. */
function reserve({ v3 }: MigrateWorld, name: string): void {
  v3.put(prefix + name, v3.get(prefix + name)?.value ?? '');
}

describe('the repair of reservations', () => {
  it('gives those that are leases in v2 a lease of a day, and leaves the one that is a reservation there, too', async () => {
    const world = converted();
    const result = await world.run({ repair: [] });
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(world.leases).toEqual(repaired);
    expect(world.idleLeases).toEqual([]);
    expect(rowOf(result, '10.5.1.0/24')).toEqual([A, '1 h', 'repaired']);
    expect(rowOf(result, '10.5.3.0/24')).toEqual([
      C,
      'reservation',
      'kept',
      'it is a reservation in v2, too',
    ]);
    expect(result.lines).toContain('reservations: 2 repaired, 1 kept');
  });

  it('says with --dry-run what it would do, and writes nothing', async () => {
    const world = converted();
    const { revision } = world.v3;
    const result = await world.run({ repair: [], dryRun: true });
    expect(result.code).toBe(0);
    expect(rowOf(result, '10.5.1.0/24')).toEqual([A, '1 h', 'to repair']);
    expect(result.lines.at(-1)).toBe('dry run: nothing was written');
    expect(world.v3.revision).toBe(revision);
    expect(world.v3.leaseIds).toEqual([]);
  });

  it('run again writes nothing', async () => {
    const world = converted();
    await world.run({ repair: [] });
    const { revision } = world.v3;
    const calls: Write[] = [];
    const result = await world.run({ repair: [], onWrite: (call) => void calls.push(call) });
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(result.lines).toContain('reservations: 1 kept');
    expect([world.v3.revision, calls]).toEqual([revision, []]);
  });

  it('leaves to migrate what it repaired: that renews it as a copy of its own', async () => {
    const world = converted();
    await world.run({ repair: [] });
    await world.clock.advance(600_000);
    expect(await world.run()).toMatchObject({ code: 0, errors: [] });
    expect(world.leases).toEqual(repaired);
  });

  it('is done with a lease that flannel 0.7.1 has renewed since', async () => {
    const world = converted();
    await world.clock.advance(600_000);
    world.lease('10.5.1.0-24', A, day);
    await world.run({ repair: [] });
    expect(world.leases).toEqual(repaired);
  });

  it('has a host that lives on its reservation go on, and renew it', async () => {
    const world = converted();
    expect(await world.join(A)).toBe('10.5.1.0/24');
    expect(world.leases['10.5.1.0-24']).toEqual(noLease(valueOf(A)));
    await world.run({ repair: [] });
    expect(world.leases['10.5.1.0-24']).toEqual({ value: valueOf(A), left: day });
    // Not a copy of v2's any more: its end there means nothing.
    const kv = world.v3.get(`${prefix}10.5.1.0-24`);
    expect(kv && isCopy(kv)).toBe(false);
    await world.clock.advance(1.5 * day * 1000);
    expect(world.leases['10.5.1.0-24']?.value).toBe(valueOf(A));
    expect(world.leases['10.5.1.0-24']?.left).toBeGreaterThan(day / 2);
    expect(world.leases['10.5.2.0-24']).toBeUndefined();
  });
});

describe('a reservation that an operator made', () => {
  it.each<[string, (world: MigrateWorld) => MigrateWorld]>([
    [
      'of what migrate had copied',
      (world) => {
        reserve(world, '10.5.1.0-24');
        return world;
      },
    ],
    [
      'of what the daemon of its host had taken over',
      (world) => {
        const { lease = '' } = world.v3.get(`${prefix}10.5.1.0-24`) ?? {};
        world.v3.put(`${prefix}10.5.1.0-24`, valueOf(A), lease);
        reserve(world, '10.5.1.0-24');
        return world;
      },
    ],
  ])('%s is kept, although v2 still has its lease', async (_, make) => {
    const world = new MigrateWorld().configure().lease('10.5.1.0-24', A, 3600).lease('10.5.2.0-24', B, day);
    for (let write = 0; write < 20; write++) world.v2.set('/unrelated', String(write));
    await world.run();
    make(world);
    const before = world.leases;
    const result = await world.run({ repair: [] });
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(rowOf(result, '10.5.1.0/24').slice(2)).toEqual([
      'kept',
      'a lease in v2, but somebody wrote it in v3 since then',
    ]);
    expect(world.leases).toEqual(before);
  });

  it('is kept when v2 has nothing there', async () => {
    const world = converted();
    world.v3.put(`${prefix}10.5.9.0-24`, valueOf('10.0.0.9'));
    const result = await world.run({ repair: [] });
    expect(rowOf(result, '10.5.9.0/24')).toEqual(['10.0.0.9', '-', 'kept']);
    expect(result.lines.join('\n')).toMatch(/^kept: .* --repair --repair-subnet=SUBNET,…$/m);
    expect(world.leases['10.5.9.0-24']).toEqual(noLease(valueOf('10.0.0.9')));
  });

  it('gets a lease when it is named, and other ones do not', async () => {
    const world = converted();
    world.v2.isServed = false;
    const result = await world.run({ repair: ['10.5.2.0/24'] });
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(rowOf(result, '10.5.2.0/24')).toEqual([B, '-', 'repaired', 'named']);
    expect(world.leases).toEqual({
      '10.5.1.0-24': noLease(oldValue(A)),
      '10.5.2.0-24': { value: oldValue(B), left: day },
      '10.5.3.0-24': noLease(oldValue(C)),
    });
    expect(await world.run({ repair: ['10.5.2.0/24'] })).toMatchObject({ code: 0, errors: [] });
  });

  it('gets none even when it is named, if it is a reservation in v2', async () => {
    const world = converted();
    await world.run({ repair: ['10.5.3.0/24'] });
    expect(world.leases).toEqual(repaired);
  });
});

describe('killed', () => {
  it('at any step, and run again, the repair leaves what one run leaves', async () => {
    let kills = 0;
    for (let step = 0.5; ; step += 0.5) {
      const world = converted();
      if (!(await world.runAndKill(step, { repair: [] }))) break;
      kills += 1;
      const result = await world.run({ repair: [] });
      expect(result, `killed at step ${step}`).toMatchObject({ code: 0, errors: [] });
      const { left, ...more } = world.leases['10.5.1.0-24'] ?? {};
      expect(more, `killed at step ${step}`).toEqual({ value: oldValue(A) });
      // A run that is killed leaves a lease some seconds old.
      expect(left, `killed at step ${step}`).toBeGreaterThan(day - 60);
      expect(Object.values(world.leases).filter((one) => one.left === undefined)).toHaveLength(1);
      expect(world.idleLeases, `killed at step ${step}`).toEqual([]);
    }
    // Two lists twice, two grants, two puts.
    expect(kills).toBeGreaterThan(10);
  });

  it('at any step, it overwrites nothing that is put before the next run', async () => {
    for (let step = 0.5; ; step += 0.5) {
      const world = converted();
      if (!(await world.runAndKill(step, { repair: [] }))) break;
      world.put('10.5.2.0-24', valueOf('10.0.0.9'));
      await world.run({ repair: [] });
      expect(world.leases['10.5.2.0-24'], `killed at step ${step}`).toEqual({
        value: valueOf('10.0.0.9'),
        left: day,
      });
    }
  });
});

/** Runs `what` before the `count`th call of this kind. */
function beforeCall(call: Write, count: number, what: () => void): (made: Write) => void {
  let seen = 0;
  return (made) => {
    if (made === call && ++seen === count) what();
  };
}

describe('while it repairs', () => {
  it('a host that takes over its reservation keeps what it writes, and gets a lease for that', async () => {
    const world = converted();
    const key = `${prefix}10.5.1.0-24`;
    const result = await world.run({
      repair: [],
      onWrite: beforeCall('txn', 1, () => world.v3.put(key, valueOf(A))),
    });
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(world.leases['10.5.1.0-24']).toEqual({ value: valueOf(A), left: day });
  });

  it('leaves a key alone that another host takes', async () => {
    const world = converted();
    const result = await world.run({
      repair: [],
      onWrite: beforeCall('txn', 1, () => world.put('10.5.1.0-24', valueOf('10.0.0.9'))),
    });
    expect(result.code).toBe(1);
    expect(rowOf(result, '10.5.1.0/24').slice(2)).toEqual([
      'not finished',
      'somebody wrote its key meanwhile: run this again',
    ]);
    expect(world.leases['10.5.1.0-24']?.value).toBe(valueOf('10.0.0.9'));
  });

  it.each<[Write, boolean]>([
    ['leaseGrant', true],
    ['leaseGrant', false],
    ['txn', true],
    ['txn', false],
  ])('a lost answer to %s, applied: %s, is found or done again', async (call, applied) => {
    const world = converted();
    const result = await world.run({
      repair: [],
      onWrite: beforeCall(call, 1, () => world.v3.loseNextReply({ applied })),
    });
    expect(result).toMatchObject({ code: 0, errors: [] });
    expect(world.leases).toEqual(repaired);
    expect(world.idleLeases).toEqual([]);
  });
});

describe('it exits with 1 and one clear line', () => {
  it('when v2 has the subnet for another host', async () => {
    const world = converted();
    world.lease('10.5.1.0-24', '10.0.0.9', day);
    const result = await world.run({ repair: [] });
    expect(result.code).toBe(1);
    expect(rowOf(result, '10.5.1.0/24').slice(2)).toEqual(['in conflict', 'v2 has it for 10.0.0.9']);
    expect(result.errors).toEqual([
      expect.stringMatching(/^1 reservation is in conflict and nothing was done/),
    ]);
    expect(world.leases['10.5.1.0-24']).toEqual(noLease(oldValue(A)));
  });

  it('when v2 is not served and no subnet is named', async () => {
    const world = converted();
    world.v2.isServed = false;
    const before = world.leases;
    const result = await world.run({ repair: [] });
    expect(result.code).toBe(1);
    expect(result.errors).toEqual([
      expect.stringMatching(
        /does not serve its v2 store, .* nothing was repaired: .*--repair-subnet=SUBNET,…$/,
      ),
    ]);
    expect(world.leases).toEqual(before);
  });

  it('when a named subnet has no key', async () => {
    const { code, errors } = await converted().run({ repair: ['10.5.77.0/24'] });
    expect([code, errors]).toEqual([1, ['the v3 store has no key for 10.5.77.0/24']]);
  });

  it('when etcd fails in the middle, with what was done before', async () => {
    const world = new MigrateWorld().configure();
    for (let host = 1; host <= 17; host++) world.lease(`10.5.${host}.0-24`, `10.0.0.${host}`, day);
    world.convert();
    const stop = beforeCall('txn', 17, () => world.v3.stop('etcd-0'));
    const result = await world.run({ repair: [], onWrite: stop });
    expect(result.errors).toEqual([
      expect.stringMatching(
        /^the v3 store cannot be used: .* 16 reservations had been repaired before; run this again\.$/,
      ),
    ]);
    world.v3.start('etcd-0');
    expect((await world.run({ repair: [] })).lines).toContain('reservations: 1 repaired');
  });
});
