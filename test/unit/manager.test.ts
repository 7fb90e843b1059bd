import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import type { VirtualClock } from '../../sim/clock.ts';
import type { LeaseHost, LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { prefix, subnet, valueOf } from '../../sim/leases.ts';
import type { Clock } from '../../src/runtime/effects.ts';
import { renewIntervalMs } from '../../src/subnet/lease/keep/schedule.ts';
import { familiesText } from '../../src/subnet/lease/own-lease.ts';
import { makeWorld } from './sim-worlds.ts';

const ip = '10.211.0.1';
const other = valueOf('10.211.0.2');
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

let world: LeaseWorld;
let host: LeaseHost;

beforeEach(() => {
  world = makeWorld({ members: ['m0', 'm1', 'm2'] });
});

async function hold(options: LeaseHostOptions = {}): Promise<{ key: string; held: string; leaseId: string }> {
  host = await world.host(ip, options).hold();
  await world.clock.advance(100);
  return own();
}

function own(): { key: string; held: string; leaseId: string } {
  const { lease } = host.manager;
  if (lease === undefined) throw new Error('no lease');
  return { key: lease.key, held: familiesText(lease.subnets), leaseId: lease.leaseId };
}

const held = () => host.held !== undefined;
const contested = () => world.log.lines.filter(({ fields }) => fields['what'] === 'contested');
const isContested = () => host.manager.state === 'contested';

/** The key is ours, hangs on the lease we think, and nothing lives for nothing. */
function expectInOrder(expected: string): void {
  expect(host.held).toBe(expected);
  expect(world.etcd.get(own().key)).toMatchObject({ value: valueOf(ip), lease: own().leaseId });
  expect(world.idleLeases).toEqual([]);
}

describe('renewIntervalMs', () => {
  it.each([
    [0, hourMs, 500],
    [2, hourMs, 500],
    [60, hourMs, 13_333],
    [10_800, hourMs, 2_400_000],
    [10_801, hourMs, 2_400_333],
    [86_400, hourMs, 27_600_000],
    [86_400, 60_000, 28_780_000],
    [2_592_000, hourMs, 862_800_000],
  ])('TTL %i s, margin %i ms: every %i ms', (ttlSeconds, renewMarginMs, expected) => {
    expect(renewIntervalMs(ttlSeconds, renewMarginMs)).toBe(expected);
  });

  it('never leaps: a lease that lives a little longer is renewed no more often, and a fifth of its life is enough', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 30, max: 31_536_000 }),
        fc.integer({ min: 1, max: 1_439 }),
        (ttlSeconds, marginMinutes) => {
          const everyMs = renewIntervalMs(ttlSeconds, marginMinutes * 60_000);
          expect(renewIntervalMs(ttlSeconds + 1, marginMinutes * 60_000)).toBeGreaterThanOrEqual(everyMs);
          expect(everyMs).toBeGreaterThanOrEqual(ttlSeconds * 200);
          expect(everyMs).toBeLessThanOrEqual(ttlSeconds * 334);
        },
      ),
    );
  });
});

describe('a lease', () => {
  it.each([1, 60, 3_601, 86_400, 2_592_000])(
    'of %i s is kept, by few renewals',
    async (ttl) => {
      const { held: before, leaseId } = await hold({ leaseTtlSeconds: ttl });
      const renewals = ttl > 1_000_000 ? 4 : 30;
      const everyMs = renewIntervalMs(Math.max(2, ttl), hourMs);
      await world.clock.advance(renewals * everyMs);
      expectInOrder(before);
      expect(own().leaseId).toBe(leaseId);
      expect(world.etcd.calls.leaseKeepAlive).toBeGreaterThanOrEqual(renewals - 1);
      // Each may come a tenth of the time earlier.
      expect(world.etcd.calls.leaseKeepAlive).toBeLessThanOrEqual(renewals / 0.9 + 1);
      const said = world.log.lines.map(({ fields }) => String(fields['event']));
      expect(said.toSorted()).toEqual(['lease-acquired', ...(ttl < 10_800 ? ['renew-margin-cut'] : [])]);
    },
    30_000,
  );

  it('is not renewed at the moments of other hosts that started with this one', async () => {
    const [ttl, renewedMs] = [10_800, [] as number[]];
    for (let index = 1; index <= 40; index++) {
      const one = world.host(`10.211.1.${index}`, { watch: false, leaseTtlSeconds: ttl }).start();
      one.onCall = (call) => void (call === 'leaseKeepAlive' && renewedMs.push(world.clock.monotonic()));
    }
    const everyMs = renewIntervalMs(ttl, hourMs);
    await world.clock.advance(everyMs + 10_000);
    expect(renewedMs).toHaveLength(40);
    const [first = 0, last = 0] = [renewedMs[0], renewedMs.at(-1)];
    expect(first).toBeGreaterThan(0.9 * everyMs);
    expect(last - first).toBeGreaterThan(0.07 * everyMs);
    // Of the 240 seconds that are a tenth of the time.
    const seconds = new Set(renewedMs.map((ms) => Math.floor(ms / 1_000)));
    expect(seconds.size).toBeGreaterThan(30);
  });

  it('is always longer than the margin while etcd can be reached', async () => {
    const { leaseId } = await hold();
    const registry = world.etcd.member('m0', 'observer');
    for (let hours = 0; hours < 96; hours++) {
      await world.clock.advance(hourMs);
      expect((await registry.leaseTimeToLive(leaseId)).ttlSeconds).toBeGreaterThan(3_600);
    }
    registry.close();
  });

  it('survives an etcd that is away for a day, in a handful of lines', async () => {
    const { held: before } = await hold();
    for (const member of world.etcd.members) world.etcd.stop(member);
    await world.clock.advance(dayMs);
    expect(host.trouble.current.join('\n')).toMatch(
      /the lease \/net\/subnets\/\S+ could not be renewed; it.*http:\/\/m0:2379.*connection refused/,
    );
    expect(host.manager.state).toBe('held');
    for (const member of world.etcd.members) world.etcd.start(member);
    await world.clock.until('order', () => host.trouble.current.length === 0, 60_000);
    expectInOrder(before);
    expect(world.log.lines.length).toBeLessThan(80);
  }, 60_000);
});

/** Keys that an operator or an older program left beside the own one. */
const besides: Record<string, string> = {
  'of the same subnet, with an IPv6 half': '10.1.5.0-24&fc00:1::-64',
  'of a larger subnet around it': '10.1.4.0-23',
  'of a part of it': '10.1.5.128-25',
};

describe.each(Object.entries(besides))('of two keys of this host, the second %s,', (_, second) => {
  const holdBoth = async () => {
    const both = await hold({ hint: { ipv4: subnet('10.1.5.0/24') } });
    world.etcd.put(prefix + second, valueOf(ip), both.leaseId);
    await world.clock.advance(1_000);
    return both;
  };

  it.each([0, 2])(
    'the held one is taken again when it is deleted and %i replies are lost',
    async (replies) => {
      const { key, held: before } = await holdBoth();
      for (let nth = 0; nth < replies; nth++) world.etcd.loseNextReply({ applied: true });
      world.etcd.delete(key);
      await world.clock.advance(replies === 0 ? 2_000 : 60_000);
      expectInOrder(before);
      expect(own().key).toBe(key);
      expect(host.trouble.current).toEqual([]);
      expect(contested()).toEqual([]);
      if (replies === 0) expect(world.etcd.get(prefix + second)).toBeDefined();
    },
  );

  it('the held one stays contested while another host has a part of the subnet, and not a moment longer', async () => {
    const { key, held: before } = await holdBoth();
    world.etcd.delete(key);
    world.etcd.put(key, other);
    await world.clock.advance(2_000);
    expect(host.manager.state).toBe('contested');
    world.etcd.delete(key);
    await world.clock.advance(2_000);
    expectInOrder(before);
  });
});

/** What may happen to the own key; each is seen through the watch at once, and without it at the next renewal. */
const mishaps: Record<string, (key: string, leaseId: string) => void> = {
  'is deleted': (key) => world.etcd.delete(key),
  'goes with its revoked lease': (_, leaseId) => world.etcd.revoke(leaseId),
  'gets a value that is junk': (key, leaseId) => world.etcd.put(key, '{', leaseId),
  'is said to be vxlan': (key, leaseId) =>
    world.etcd.put(key, `{"PublicIP":"${ip}","BackendType":"vxlan"}`, leaseId),
  'is put again as it was': (key, leaseId) => world.etcd.put(key, valueOf(ip), leaseId),
  'is made a reservation': (key) => world.etcd.put(key, valueOf(ip)),
  'is made a reservation with another value': (key) => world.etcd.put(key, `{"PublicIP":"${ip}"}`),
  'gets another lease': (key) => world.etcd.put(key, valueOf(ip), world.etcd.grant(7_200)),
  'is deleted and put again by another program': (key) => {
    world.etcd.delete(key);
    world.etcd.put(key, valueOf(ip), world.etcd.grant(7_200));
  },
};

describe.each(Object.keys(mishaps))('when the own key %s', (mishap) => {
  it('is in order again within a second', async () => {
    const { key, held: before, leaseId } = await hold();
    mishaps[mishap]?.(key, leaseId);
    await world.clock.advance(1_000);
    expectInOrder(before);
    expect(world.log.lines.length).toBeLessThan(6);
    await world.clock.advance(3 * dayMs);
    expectInOrder(before);
  });

  it('is in order again after the next renewal when nothing watches', async () => {
    const { key, held: before, leaseId } = await hold({ watch: false });
    mishaps[mishap]?.(key, leaseId);
    await world.clock.advance(9 * hourMs);
    expectInOrder(before);
  });

  it('is in order again soon after etcd is back that went away in the same moment', async () => {
    const { key, held: before, leaseId } = await hold();
    mishaps[mishap]?.(key, leaseId);
    // The watch has told of it; the look at the key fails.
    await Promise.resolve();
    world.etcd.cut('h0');
    await world.clock.advance(60_000);
    world.etcd.heal('h0');
    await world.clock.advance(60_000);
    expectInOrder(before);
  });

  it.each([0, 1, 2].flatMap((nth) => [true, false].map((applied) => ({ nth, applied }))))(
    'is in order again when a reply is lost on the way: $nth $applied',
    async ({ nth, applied }) => {
      const { key, held: before, leaseId } = await hold();
      for (let good = 0; good < nth; good++) world.etcd.loseNextReply({ applied: true });
      world.etcd.loseNextReply({ applied });
      mishaps[mishap]?.(key, leaseId);
      await world.clock.advance(120_000);
      expectInOrder(before);
      await host.stop();
      expect(world.keys).toHaveLength(1);
      expect(world.idleLeases).toEqual([]);
    },
  );

  it('a stop at any moment after it leaves no idle lease, and no key deleted that was there', async () => {
    for (let ms = 0; ms < 36; ms++) {
      world = makeWorld({ latencyMs: 3 });
      const { key, held: before, leaseId } = await hold();
      mishaps[mishap]?.(key, leaseId);
      await world.clock.advance(ms);
      const there = world.etcd.get(key) !== undefined;
      const ours = world.etcd.get(key)?.value.includes(ip);
      await host.stop();
      expect(world.etcd.get(key) !== undefined || !there, `stopped after ${ms} ms`).toBe(true);
      // An adopted lease that lost its key is not ours to revoke.
      expect(
        world.idleLeases.filter((id) => id !== leaseId),
        `stopped after ${ms} ms`,
      ).toEqual([]);
      host.start();
      await world.clock.until('a lease', held, 10_000);
      await world.clock.advance(1_000);
      // A key whose value names nobody cannot be known for ours after a restart.
      if (ours) expect(host.held).toBe(before);
    }
  });
});

it('a key that is deleted while the database is full is put back once it is not, and until then is said to be gone', async () => {
  const { key, held: before } = await hold();
  world.etcd.fill(true);
  world.etcd.delete(key);
  await world.clock.advance(hourMs);
  expect(host.trouble.current.join()).toMatch(
    new RegExp(`the lease ${key} could not be renewed; its key is gone from etcd, .*NOSPACE`),
  );
  world.etcd.fill(false);
  await world.clock.until('it is ours again', held, 60_000);
  expectInOrder(before);
  expect(host.trouble.current).toEqual([]);
});

describe('a subnet that another host has now', () => {
  it.each([
    ['the own key, with a lease of its own', (key: string) => key, () => world.etcd.grant(9_999_999)],
    ['the own key, as a reservation', (key: string) => key, () => '0'],
    ['the own key, under the own lease', (key: string) => key, (leaseId: string) => leaseId],
    ['a key with an IPv6 half, after the own went', (key: string) => `${key}&fc00:1::-64`, () => '0'],
    ['a key that overlaps, after the own went', () => `${prefix}10.1.0.0-16`, () => '0'],
  ])('by %s is never touched; one alarm; taken again when it is released', async (_, at, leaseOf) => {
    const { key, held: before, leaseId } = await hold();
    if (at(key) !== key) world.etcd.delete(key);
    world.etcd.put(at(key), other, leaseOf(leaseId));
    const theirs = world.kvs.find(({ value }) => value === other);
    await world.clock.advance(1_000);
    expect(host.manager.state).toBe('contested');
    expect(host.trouble.current.join()).toContain('now belongs to 10.211.0.2');
    expect(host.trouble.current.join()).toContain(`etcdctl --endpoints=http://m0:2379 del '${theirs?.key}'`);
    for (let hours = 0; hours < 20; hours++) {
      await world.clock.advance(hourMs);
      expect(world.kvs).toEqual([theirs]);
    }
    expect(world.idleLeases).toEqual([]);
    expect(contested().length).toBeLessThan(10);
    expect(world.etcd.calls.range).toBeLessThan(5_000);
    world.etcd.delete(theirs?.key ?? '');
    if (theirs && theirs.lease !== leaseId) world.etcd.revoke(theirs.lease);
    await world.clock.until('the subnet is ours again', held, 1_000);
    expectInOrder(before);
    expect(host.trouble.current).toEqual([]);
  });

  it('is looked at again every few seconds, however long etcd was away before', async () => {
    const { key } = await hold();
    for (const member of world.etcd.members) world.etcd.stop(member);
    world.etcd.delete(key);
    world.etcd.put(key, other);
    await world.clock.advance(hourMs / 6);
    for (const member of world.etcd.members) world.etcd.start(member);
    await world.clock.until('it is contested', isContested, 60_000);
    const { range } = world.etcd.calls;
    await world.clock.advance(3_000);
    expect(world.etcd.calls.range).toBeGreaterThan(range + 1);
  });

  it('by a key with an unreadable value is reported, too', async () => {
    const { key } = await hold();
    world.etcd.delete(key);
    world.put('10.1.0.0-16', 'junk', '0');
    await world.clock.advance(1_000);
    expect(host.trouble.current.join()).toContain('an unidentified host');
  });
});

it('a key that another program of this host puts just before we do is ours, and no alarm', async () => {
  host = world.host(ip, { hint: { ipv4: subnet('10.1.7.0/24') } });
  let races = 0;
  host.onCall = (call) => {
    if (call === 'txn' && ++races === 2) world.put('10.1.7.0-24', valueOf(ip), world.etcd.grant(900));
  };
  host.start();
  await world.clock.until('a lease', held, 1_000);
  await world.clock.advance(100);
  world.etcd.delete(own().key);
  await world.clock.advance(5_000);
  expect(races).toBeGreaterThan(1);
  expectInOrder('10.1.7.0/24');
  expect(contested()).toEqual([]);
});

it('a key put by a retake whose answer was lost gives way to an older one that overlaps it', async () => {
  const { key } = await hold({ watch: false });
  const { revision } = world.etcd;
  world.etcd.delete(key);
  world.put('10.1.0.0-16', other, '0');
  world.etcd.loseNextReply({ applied: true });
  await world.clock.until('it is contested', isContested, dayMs);
  expect(world.keys).toEqual(['10.1.0.0-16']);
  expect(world.etcd.revision).toBeGreaterThan(revision + 2);
  expect(world.idleLeases).toEqual([]);
});

describe('clocks', () => {
  it('that are set back by hours do not put the renewal off', async () => {
    const { held: before, leaseId } = await hold();
    for (let times = 0; times < 20; times++) {
      await world.clock.advance(7 * hourMs);
      world.clock.jumpWallClock(-6 * hourMs);
    }
    expectInOrder(before);
    expect(own().leaseId).toBe(leaseId);
  });

  it('that are set forward do not take the lease for expired', async () => {
    const { held: before, leaseId } = await hold();
    world.clock.jumpWallClock(30 * dayMs);
    await world.clock.advance(60_000);
    expectInOrder(before);
    expect(own().leaseId).toBe(leaseId);
    expect(world.log.lines).toHaveLength(1);
  });

  it.each([
    ['free', false],
    ['another’s', true],
  ])('of a VM that was suspended past the end of its lease: the subnet is %s', async (_, taken) => {
    const guest = new GuestClock(world.clock);
    const { key, held: before } = await hold({ clock: guest, watch: false });
    await world.clock.advance(hourMs);
    await guest.suspend(30 * hourMs);
    expect(world.etcd.get(key)).toBeUndefined();
    if (taken) world.etcd.put(key, other);
    await world.clock.advance(31_000);
    if (!taken) expectInOrder(before);
    else {
      expect(host.manager.state).toBe('contested');
      expect(world.etcd.get(key)?.value).toBe(other);
    }
  });

  it.each([
    ['for less: renewed at once', 0],
    ['and set back meanwhile: renewed at once, although neither clock tells the time', -21 * hourMs],
  ])('of a VM that was suspended %s', async (_, setMs) => {
    const guest = new GuestClock(world.clock);
    const { held: before, leaseId } = await hold({ clock: guest, watch: false });
    for (let times = 0; times < 3; times++) {
      await guest.suspend(20 * hourMs);
      world.clock.jumpWallClock(setMs);
      await world.clock.advance(31_000);
    }
    expectInOrder(before);
    expect(own().leaseId).toBe(leaseId);
  });
});

/** The clocks of a virtual machine: while it is suspended its timers and its monotonic clock stand still. */
class GuestClock implements Clock {
  readonly #base: VirtualClock;
  #lostMs = 0;
  #suspended = false;

  constructor(base: VirtualClock) {
    this.#base = base;
  }

  now(): number {
    return this.#base.now();
  }

  monotonic(): number {
    return this.#base.monotonic() - this.#lostMs;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const endMs = this.monotonic() + ms;
    do {
      await this.#base.sleep(this.#suspended ? 60_000 : Math.ceil(endMs - this.monotonic()), signal);
    } while (this.#suspended || this.monotonic() < endMs);
  }

  async suspend(ms: number): Promise<void> {
    this.#suspended = true;
    await this.#base.advance(ms);
    this.#lostMs += ms;
    this.#suspended = false;
  }
}
