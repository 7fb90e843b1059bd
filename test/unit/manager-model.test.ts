import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type LeaseHost, type LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, valueOf } from '../../sim/leases.ts';
import { parseSubnetKey } from '../../src/subnet/keys.ts';
import { type ModelStep, stepsOf } from './model-step.ts';

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

type Step = ModelStep<World>;

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

const step = stepsOf<World>();

/** A step of one of the two hosts, with the key it was seen with last. */
const onHost = (weight: number, name: string, run: (state: World, host: LeaseHost, key: string) => unknown) =>
  step(weight, name, fc.nat(1), (state, index) => {
    const host = state.world.hosts[index];
    if (host === undefined) throw new RangeError('no such host');
    return run(state, host, state.keys.get(host) ?? '');
  });

/** The key is taken by a stranger, unless one has it; remembers the revision, which nobody may change from then on. */
function usurp({ world, strangers }: World, key: string, lease = '0'): void {
  if (strangers.has(key)) return;
  world.etcd.put(key, stranger, lease);
  strangers.set(key, world.etcd.revision);
}

const anyMember = fc.constantFrom(...members);
const waitsMs = fc.constantFrom(10, 1_000, 60_000, hourMs, 7 * hourMs, 20 * hourMs);

const steps: fc.Arbitrary<Step> = fc.oneof(
  step(8, 'wait ms', waitsMs, ({ world }, ms) => world.clock.advance(ms)),
  onHost(2, 'delete', ({ world, strangers }, _, key) => {
    if (!strangers.has(key)) world.etcd.delete(key);
  }),
  onHost(2, 'revoke', ({ world, strangers }, _, key) => {
    const lease = world.etcd.get(key)?.lease;
    if (lease !== undefined && lease !== '0' && !strangers.has(key)) world.etcd.revoke(lease);
  }),
  onHost(1, 'reserve', ({ world, strangers }, host, key) => {
    if (!strangers.has(key)) world.etcd.put(key, valueFor(host));
  }),
  onHost(1, 'edit', ({ world, strangers }, host, key) => {
    const lease = world.etcd.get(key)?.lease;
    if (lease !== undefined && !strangers.has(key)) world.etcd.put(key, `{"PublicIP":"${host.ip}"}`, lease);
  }),
  onHost(2, 'usurp', (state, _, key) => usurp(state, key)),
  onHost(2, 'release', ({ world, strangers }, host, key) => {
    if (!strangers.delete(key)) return;
    world.etcd.delete(key);
    // It may have seen the stranger's key, and be about to take another subnet.
    if (host.running && host.manager.lease === undefined) host.renumbered = true;
  }),
  onHost(3, 'stop host', (_, host) => host.stop()),
  onHost(3, 'crash', (_, host) => host.crash()),
  onHost(6, 'start host', (_, host) => host.running || host.start()),
  // IPv6 is turned on, or off.
  onHost(3, 'turn', async (_, host) => {
    await host.stop();
    host.options = { ...host.options, ...optionsOf(host.ip, host.options.pools?.ipv6 === undefined) };
    host.start();
  }),
  onHost(2, 'cut', ({ world }, host) => world.etcd.cut(host.name)),
  onHost(3, 'heal', ({ world }, host) => world.etcd.heal(host.name)),
  step(2, 'lose', fc.boolean(), ({ world }, applied) => world.etcd.loseNextReply({ applied })),
  step(2, 'stop', anyMember, ({ world }, name) => world.etcd.stop(name)),
  step(1, 'freeze', anyMember, ({ world }, name) => world.etcd.freeze(name)),
  step(4, 'start', anyMember, ({ world }, name) => world.etcd.start(name)),
  step(1, 'clock h', fc.constantFrom(-30, -1, 1, 30), ({ world }, h) =>
    world.clock.jumpWallClock(h * hourMs),
  ),
  step(1, 'compact', fc.constant(undefined), ({ world }) => {
    if (world.etcd.revision > 3) world.etcd.compact(world.etcd.revision);
  }),
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
          run.filter((each) => /crash|stop host|turn/.test(String(each))).length +
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
