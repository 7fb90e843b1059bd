import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type LeaseHost, type LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, valueOf } from '../../sim/leases.ts';
import { parseSubnetKey } from '../../src/subnet/keys.ts';

const members = ['m0', 'm1', 'm2'];
const stranger = valueOf('10.211.9.9');
const hourMs = 3_600_000;

interface World {
  readonly world: LeaseWorld;
  /** The IPv4 subnet each host had first, for ever its own. */
  readonly first: ReadonlyMap<LeaseHost, string>;
  /** The key each host was seen with last. */
  readonly keys: Map<LeaseHost, string>;
  /** Keys that a stranger put, with the revision at which it did. */
  readonly strangers: Map<string, number>;
}

type Step = ((state: World) => void | Promise<void>) & { toString(): string };

const ipv4 = poolOf('10.1.0.0/24', '10.1.7.0/24');
const ipv6 = poolOf('fc00:1::/64', 'fc00:1:0:7::/64');

/** A host with IPv4 alone, or with both families. */
function optionsOf(ip: string, dualStack: boolean): LeaseHostOptions {
  return dualStack
    ? { pools: { ipv4, ipv6 }, addresses: { ipv4: ip, ipv6: `fd00::${ip.split('.').at(-1)}` } }
    : { pools: { ipv4 }, addresses: { ipv4: ip } };
}

const valueFor = (host: LeaseHost) => valueOf(host.ip, host.options.addresses?.ipv6);
const ipv4Of = (text: string | undefined) => text?.split(' and ')[0];

const step = (name: string, run: (state: World) => void | Promise<void>): Step =>
  Object.assign(run, { toString: () => name });

const onHost = (name: string, run: (state: World, host: LeaseHost, key: string) => void | Promise<void>) =>
  fc.integer({ min: 0, max: 1 }).map((index) =>
    step(`${name} ${index}`, (state) => {
      const host = state.world.hosts[index];
      if (host === undefined) throw new RangeError('no such host');
      return run(state, host, state.keys.get(host) ?? '');
    }),
  );

/** The key is taken by a stranger, unless one has it; remembers the revision, which nobody may change from then on. */
function usurp({ world, strangers }: World, key: string, lease = '0'): void {
  if (strangers.has(key)) return;
  world.etcd.put(key, stranger, lease);
  strangers.set(key, world.etcd.revision);
}

const steps: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc
      .constantFrom(10, 1_000, 60_000, hourMs, 7 * hourMs, 20 * hourMs)
      .map((ms) => step(`+${ms}`, ({ world }) => world.clock.advance(ms))),
  },
  {
    weight: 2,
    arbitrary: onHost('delete', ({ world, strangers }, _, key) => {
      if (!strangers.has(key)) world.etcd.delete(key);
    }),
  },
  {
    weight: 2,
    arbitrary: onHost('revoke', ({ world, strangers }, _, key) => {
      const lease = world.etcd.get(key)?.lease;
      if (lease !== undefined && lease !== '0' && !strangers.has(key)) world.etcd.revoke(lease);
    }),
  },
  {
    weight: 1,
    arbitrary: onHost('reserve', ({ world, strangers }, host, key) => {
      if (!strangers.has(key)) world.etcd.put(key, valueFor(host));
    }),
  },
  {
    weight: 1,
    arbitrary: onHost('edit', ({ world, strangers }, host, key) => {
      const lease = world.etcd.get(key)?.lease;
      if (lease !== undefined && !strangers.has(key)) world.etcd.put(key, `{"PublicIP":"${host.ip}"}`, lease);
    }),
  },
  { weight: 2, arbitrary: onHost('usurp', (state, _, key) => usurp(state, key)) },
  {
    weight: 2,
    arbitrary: onHost('release', ({ world, strangers }, host, key) => {
      if (!strangers.delete(key)) return;
      world.etcd.delete(key);
      // It may have seen the stranger's key, and be about to take another subnet.
      if (host.running && host.manager.lease === undefined) host.renumbered = true;
    }),
  },
  { weight: 3, arbitrary: onHost('stop', (_, host) => host.stop()) },
  { weight: 3, arbitrary: onHost('crash', (_, host) => host.crash()) },
  {
    weight: 6,
    arbitrary: onHost('start', (_, host) => {
      if (!host.running) host.start();
    }),
  },
  {
    weight: 3,
    // IPv6 is turned on, or off.
    arbitrary: onHost('turn', async (_, host) => {
      await host.stop();
      const dualStack = host.options.pools?.ipv6 === undefined;
      host.options = { ...host.options, ...optionsOf(host.ip, dualStack) };
      host.start();
    }),
  },
  { weight: 2, arbitrary: onHost('cut', ({ world }, host) => world.etcd.cut(host.name)) },
  { weight: 3, arbitrary: onHost('heal', ({ world }, host) => world.etcd.heal(host.name)) },
  {
    weight: 2,
    arbitrary: fc
      .boolean()
      .map((applied) => step(`lose ${applied}`, ({ world }) => world.etcd.loseNextReply({ applied }))),
  },
  {
    weight: 2,
    arbitrary: fc
      .constantFrom(...members)
      .map((name) => step(`stop ${name}`, ({ world }) => world.etcd.stop(name))),
  },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom(...members)
      .map((name) => step(`freeze ${name}`, ({ world }) => world.etcd.freeze(name))),
  },
  {
    weight: 4,
    arbitrary: fc
      .constantFrom(...members)
      .map((name) => step(`start ${name}`, ({ world }) => world.etcd.start(name))),
  },
  {
    weight: 1,
    arbitrary: fc
      .constantFrom(-30, -1, 1, 30)
      .map((hours) => step(`clock ${hours} h`, ({ world }) => world.clock.jumpWallClock(hours * hourMs))),
  },
  {
    weight: 1,
    arbitrary: fc.constant(
      step('compact', ({ world }) => {
        if (world.etcd.revision > 3) world.etcd.compact(world.etcd.revision);
      }),
    ),
  },
);

describe('managers that live for weeks with faults', () => {
  it('never lose their subnet unless another host has it, and never touch another host’s key', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(steps, { maxLength: 40 }), fc.constantFrom(0, 5), async (run, latencyMs) => {
        const state = await begin(latencyMs);
        const { world } = state;
        for (const each of run) {
          await tolerateRepeatedCompaction(each, state);
          noteKeys(state);
          expectStrangersUntouched(state);
          for (const host of world.hosts) expectSubnetKept(state, host);
        }
        for (const member of members) world.etcd.start(member);
        for (const host of world.hosts) {
          world.etcd.heal(host.name);
          if (!host.running) host.start();
        }
        await world.clock.advance(120_000);
        expectStrangersUntouched(state);
        for (const host of world.hosts) expectSubnetKept(state, host);
        for (const host of world.hosts) {
          if (isUsurped(state, host) || isOvertaken(state, host)) continue;
          expect(host.held).toBeDefined();
          const own = world.etcd.get(host.manager.lease?.key ?? '');
          expect(own).toMatchObject({ value: valueFor(host), lease: host.manager.lease?.leaseId });
        }
        // Crashes between grant and use leave a lease, and so does a lost connection at a stop.
        expect(world.idleLeases.length).toBeLessThanOrEqual(
          run.filter((each) => /crash|stop [01]|turn/.test(String(each))).length +
            run.filter((each) => /reserve/.test(String(each))).length,
        );
        expect(await world.close()).toBe(true);
      }),
      { numRuns: 60 },
    );
  }, 300_000);
});

async function begin(latencyMs: number): Promise<World> {
  const world = new LeaseWorld({ members, latencyMs });
  ['10.211.0.1', '10.211.0.2'].forEach((ip, index) =>
    world.host(ip, { hostIdentity: index, ...optionsOf(ip, index === 1) }).start(),
  );
  await world.clock.until('both hold one', () => world.hosts.every(({ held }) => held !== undefined), 10_000);
  const first = new Map(world.hosts.map((host) => [host, ipv4Of(host.held) ?? '']));
  // As the daemon does it: the last subnets are remembered in a file.
  for (const host of world.hosts) {
    const hint = host.manager.lease?.subnets;
    if (hint !== undefined) host.options = { ...host.options, hint };
  }
  const state = { world, first, keys: new Map<LeaseHost, string>(), strangers: new Map<string, number>() };
  noteKeys(state);
  return state;
}

function noteKeys({ world, keys }: World): void {
  for (const host of world.hosts) {
    const key = host.running ? host.manager.lease?.key : undefined;
    if (key !== undefined) keys.set(host, key);
  }
}

/** A stranger has a key of this host's first IPv4 subnet, the key it was seen with last, or one with the IPv6 half of that. */
function isUsurped({ strangers, first, keys }: World, host: LeaseHost): boolean {
  const own = prefix + (first.get(host) ?? '').replace('/', '-');
  const half = ipv6Of(keys.get(host));
  return [...strangers.keys()].some(
    (key) => key.startsWith(own) || key === keys.get(host) || (half !== undefined && ipv6Of(key) === half),
  );
}

function ipv6Of(key = ''): string | undefined {
  return parseSubnetKey(prefix, key)?.ipv6?.text;
}

async function tolerateRepeatedCompaction(run: Step, state: World): Promise<void> {
  try {
    await run(state);
  } catch (error) {
    if (!(error instanceof RangeError && error.message.startsWith('cannot compact'))) throw error;
  }
}

function expectStrangersUntouched({ world, strangers }: World): void {
  for (const [key, modRevision] of strangers)
    expect(world.etcd.get(key)).toMatchObject({ value: stranger, modRevision });
}

/**
 * The key was deleted, and the other host was faster to take a subnet of it: because it had lost its own to a stranger, or
 * for its IPv6.
 */
function isOvertaken({ world, first, keys }: World, host: LeaseHost): boolean {
  const ipv6Own = ipv6Of(keys.get(host)) ?? 'none';
  return world.hosts.some(
    (other) =>
      other !== host && (ipv4Of(other.held) === first.get(host) || other.held?.endsWith(` ${ipv6Own}`)),
  );
}

/** Never another IPv4 subnet; contested only when somebody has it; and two never hold one, of either family. */
function expectSubnetKept(state: World, host: LeaseHost): void {
  if (!host.running) return;
  const { world, first } = state;
  const { lease, state: leaseState } = host.manager;
  if (leaseState === 'contested')
    expect(lease !== undefined && !world.etcd.get(lease.key)?.value.includes(host.ip)).toBe(true);
  if (lease !== undefined && lease.subnets.ipv4?.text !== first.get(host)) {
    expect(host.renumbered || isUsurped(state, host) || isOvertaken(state, host)).toBe(true);
    host.renumbered = true;
  }
  const held = world.hosts.flatMap((one) => one.held?.split(' and ') ?? []);
  expect(new Set(held).size).toBe(held.length);
}
