import { beforeEach, describe, expect, it } from 'vitest';
import type { LeaseWorld } from '../../sim/lease-world.ts';
import { prefix, subnet, valueOf } from '../../sim/leases.ts';
import { SeededRandom } from '../../sim/random.ts';
import {
  addressesOfThisHost,
  type LeaseReleaseParts,
  runLeaseRelease,
  type ThisHost,
} from '../../src/cli/lease.ts';
import { RegistryError } from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { makeWorld } from './sim-worlds.ts';

const ip = '10.211.0.1';

let world: LeaseWorld;
let lines: string[];
let errors: string[];

beforeEach(() => {
  world = makeWorld();
  lines = [];
  errors = [];
});

const put = (name: string, value = valueOf(ip), lease?: string) => world.put(name, value, lease);

async function run(
  target: LeaseReleaseParts['target'],
  {
    before = () => {},
    ...asked
  }: Partial<Pick<LeaseReleaseParts, 'force' | 'dryRun' | 'confirm' | 'heldHere'>> & {
    before?: (call: string) => void;
  } = {},
): Promise<number> {
  const registry = rotate(world.etcd.connect('admin'));
  const txn = registry.txn.bind(registry);
  registry.txn = (...args) => {
    before('txn');
    return txn(...args);
  };
  const out = (line: string) => void lines.push(line);
  const err = (line: string) => void errors.push(line);
  const options = {
    registry,
    etcdPrefix: '/net',
    target,
    force: false,
    dryRun: false,
    heldHere: () => undefined,
    clock: world.clock,
    random: new SeededRandom(1),
    out,
    err,
    ...asked,
  };
  const running = runLeaseRelease(options, new AbortController().signal);
  let code: number | undefined;
  void running.then((value) => {
    code = value;
  });
  await world.clock.until('it ends', () => code !== undefined, 60_000);
  registry.close();
  return await running;
}

describe('lease release', () => {
  it.each<[string, LeaseReleaseParts['target'], string]>([
    ['of the host with an address', { addresses: { ipv4: ip } }, '10.1.5.0-24'],
    ['of a host by one of its two addresses', { addresses: { ipv6: 'fd00::1' } }, '10.1.5.0-24&fc00:1::-64'],
    ['of a subnet', { subnet: subnet('10.1.5.0/24') }, '10.1.5.0-24'],
    ['of a subnet with an IPv6 half', { subnet: subnet('10.1.5.0/24') }, '10.1.5.0-24&fc00:1::-64'],
    ['of an IPv6 subnet', { subnet: subnet('fc00:1::/64') }, '10.1.5.0-24&fc00:1::-64'],
    ['of an IPv6-only host', { subnet: subnet('fc00:1::/64') }, '0.0.0.0-0&fc00:1::-64'],
  ])('%s deletes the key and revokes its etcd lease, and says so', async (_, target, name) => {
    put(name, valueOf(ip, 'fd00::1'));
    put('10.1.6.0-24', valueOf('10.211.0.2', 'fd00::2'));
    expect(await run(target)).toBe(0);
    expect(world.keys).toEqual(['10.1.6.0-24']);
    expect(world.etcd.leaseIds).toHaveLength(1);
    expect(errors).toEqual([]);
    expect(lines.join('\n')).toContain(`deleted ${prefix}${name}`);
    expect(lines.join('\n')).toContain(`of ${ip}`);
    expect(lines.join('\n')).toContain('revoked');
  });

  it('leaves the lease of another host that carries one of its addresses beside its own', async () => {
    put('10.1.5.0-24&fc00:1::-64', valueOf(ip, 'fd00::1'));
    put('10.1.6.0-24&fc00:2::-64', valueOf('10.211.0.2', 'fd00::1'));
    expect(await run({ addresses: { ipv4: ip, ipv6: 'fd00::1' } })).toBe(0);
    expect(world.keys).toEqual(['10.1.6.0-24&fc00:2::-64']);
  });

  it('leaves an etcd lease that another key hangs on', async () => {
    const lease = put('10.1.5.0-24');
    put('10.1.6.0-24', valueOf('10.211.0.2'), lease);
    expect(await run({ subnet: subnet('10.1.5.0/24') })).toBe(0);
    expect(world.keys).toEqual(['10.1.6.0-24']);
    expect(lines.join('\n')).toContain(`${prefix}10.1.6.0-24 uses it, too`);
  });

  it('speaks of several keys as of several', async () => {
    const lease = put('10.1.5.0-24');
    put('10.1.6.0-24', valueOf('10.211.0.2'), lease);
    put('10.1.7.0-24', valueOf('10.211.0.3'), lease);
    await run({ subnet: subnet('10.1.5.0/24') });
    expect(lines.join('\n')).toContain('10.1.7.0-24 use it, too');
    put('10.1.8.0-24', valueOf(ip), '0');
    put('10.1.9.0-24', valueOf(ip), '0');
    await run({ addresses: { ipv4: ip } });
    expect(errors.join()).toContain('10.1.9.0-24 are reservations, which');
  });

  it('releases a key whose value cannot be read, by its subnet', async () => {
    put('10.1.5.0-24', 'junk');
    expect(await run({ subnet: subnet('10.1.5.0/24') })).toBe(0);
    expect(world.keys).toEqual([]);
  });

  it('refuses a reservation, and what comes with it, unless forced', async () => {
    put('10.1.5.0-24', valueOf(ip), '0');
    put('10.1.6.0-24');
    expect(await run({ addresses: { ipv4: ip } })).toBe(1);
    expect(world.keys).toHaveLength(2);
    expect(errors.join()).toContain(`${prefix}10.1.5.0-24 is a reservation`);
    expect(await run({ addresses: { ipv4: ip } }, { force: true })).toBe(0);
    expect(world.keys).toEqual([]);
  });

  it.each<[string, LeaseReleaseParts['target'], string]>([
    [
      'no lease of that address',
      { addresses: { ipv4: '10.211.0.9' } },
      'no lease of a host with the address 10.211.0.9',
    ],
    ['no lease of that subnet', { subnet: subnet('10.1.9.0/24') }, 'no lease of the subnet 10.1.9.0/24'],
    ['only one of another length', { subnet: subnet('10.1.5.0/25') }, 'no lease of the subnet'],
  ])('with %s says where it looked, and exits 1', async (_, target, text) => {
    put('10.1.5.0-24');
    expect(await run(target)).toBe(1);
    expect(errors.join()).toContain(text);
    expect(errors.join()).toContain('/net/subnets/');
    expect(world.keys).toHaveLength(1);
  });

  it('leaves a key that somebody changes in the same moment', async () => {
    put('10.1.5.0-24');
    const before = () => put('10.1.5.0-24', valueOf('10.211.0.2'));
    expect(await run({ subnet: subnet('10.1.5.0/24') }, { before, force: true })).toBe(1);
    expect(world.kvs).toMatchObject([{ value: valueOf('10.211.0.2') }]);
    expect(errors.join()).toContain('meanwhile');
  });

  it.each([
    [true, 0, 0],
    [false, 1, 1],
  ])('reads back when the answer is lost (applied: %s)', async (applied, code, keys) => {
    put('10.1.5.0-24');
    const before = () => world.etcd.loseNextReply({ applied });
    expect(await run({ subnet: subnet('10.1.5.0/24') }, { before, force: true })).toBe(code);
    expect(world.keys).toHaveLength(keys);
    expect(errors).toHaveLength(code);
  });

  it('says why when etcd cannot be reached, and exits 1', async () => {
    put('10.1.5.0-24');
    world.etcd.stop('etcd-0');
    expect(await run({ subnet: subnet('10.1.5.0/24') })).toBe(1);
    expect(errors.join()).toContain('connection refused');
    world.etcd.start('etcd-0');
  });

  it('makes the host free its subnet for another: the daemon that is gone does not get it back', async () => {
    const gone = await world.host(ip).hold(10_000);
    const held = gone.held ?? '';
    await gone.crash();
    expect(await run({ addresses: { ipv4: ip } })).toBe(0);
    expect(world.etcd.leaseIds).toEqual([]);
    const [name] = world.keys;
    expect(name).toBeUndefined();
    expect(lines.join()).toContain(`released ${held}`);
  });

  it('revokes the etcd lease that two released keys share', async () => {
    const lease = put('10.1.5.0-24');
    put('10.1.5.0-24&fc00:1::-64', valueOf(ip, 'fd00::1'), lease);
    expect(await run({ addresses: { ipv4: ip } })).toBe(0);
    expect([world.keys, world.etcd.leaseIds]).toEqual([[], []]);
    expect(lines.filter((line) => line === 'revoked its etcd lease')).toHaveLength(1);
    expect(lines.join()).not.toContain('stays');
  });

  it('leaves the lease of a daemon that runs, unless forced', async () => {
    const host = await world.host(ip).hold(10_000);
    const { keys } = world;
    const leases = world.etcd.leaseIds;
    expect(await run({ addresses: { ipv4: ip } })).toBe(1);
    expect(errors.join()).toContain(
      `the daemon of ${ip} runs and holds ${prefix}${keys[0]}; nothing was released`,
    );
    expect([world.keys, world.etcd.leaseIds]).toEqual([keys, leases]);
    expect(host.held).toBeDefined();
    expect(await run({ addresses: { ipv4: ip } }, { force: true })).toBe(0);
    expect(lines.join()).toContain('released');
    expect(lines.at(-1)).toContain('takes a subnet again at once');
  });

  it("leaves the lease that this host's daemon holds, without asking etcd for an answer", async () => {
    put('10.1.5.0-24');
    const calls: string[] = [];
    const heldHere = ({ key }: { key: string }) => `the daemon of this host (pid 7) holds ${key}`;
    const before = (call: string) => void calls.push(call);
    expect(await run({ addresses: { ipv4: ip } }, { heldHere, before })).toBe(1);
    expect(errors.join()).toMatch(/pid 7\) holds .*nothing was released\. Stop it first .*--force/);
    expect([world.keys, calls]).toEqual([['10.1.5.0-24'], []]);
    expect(await run({ addresses: { ipv4: ip } }, { heldHere, force: true })).toBe(0);
  });

  it.each([
    [true, 0, 0],
    [false, 1, 1],
  ])('asks the operator once no daemon has answered, and heeds %s', async (yes, code, left) => {
    put('10.1.5.0-24');
    const questions: string[] = [];
    const confirm = async (question: string) => {
      questions.push(question);
      return yes;
    };
    expect(await run({ addresses: { ipv4: ip } }, { confirm })).toBe(code);
    expect(questions).toEqual(['Release it?']);
    expect(lines[1]).toBe(
      `no daemon answers for 10.1.5.0/24 of ${ip} (a flanneld never does); its lease was renewed 2 s ago`,
    );
    expect(world.keys).toHaveLength(left);
    expect(errors).toEqual(yes ? [] : ['nothing was released']);
    put('10.1.6.0-24');
    expect(await run({ subnet: subnet('10.1.6.0/24') }, { confirm, force: true })).toBe(0);
    expect(questions).toHaveLength(1);
  });

  it('changes nothing in a dry run, and says what it would do', async () => {
    put('10.1.5.0-24');
    const before = world.kvs;
    expect(await run({ addresses: { ipv4: ip } }, { dryRun: true })).toBe(0);
    expect(lines[0]).toBe(`would release 10.1.5.0/24 of ${ip}: delete ${prefix}10.1.5.0-24`);
    expect(lines[1]).toContain('stops if the daemon answers');
    expect(world.kvs).toEqual(before);
  });
});

const hint = /\nTo name the lease: lease release SUBNET, or --public-ip=ADDRESS$/;
const config = '{"Network":"10.0.0.0/8","Backend":{"Type":"host-gw"}}';
const chosen = { name: 'eth0', index: 2, addresses: { ipv4: '10.211.0.1' } };

/** What it resolves to, or rejects with. */
async function ask(chooseInterface: ThisHost['chooseInterface'] = async () => chosen): Promise<unknown> {
  const registry = rotate(world.etcd.connect('admin'));
  const oldStore = { has: async () => false };
  const asking = addressesOfThisHost(
    { registry, oldStore, etcdPrefix: '/net', chooseInterface },
    new AbortController().signal,
  );
  let answer: unknown;
  void asking
    .catch((error: unknown) => error)
    .then((value) => {
      answer = value;
    });
  await world.clock.until('an answer', () => answer !== undefined, 60_000);
  registry.close();
  return answer;
}

it('the addresses that a lease of this host carries are those its daemon would choose', async () => {
  world.etcd.put('/net/config', config);
  expect(await ask()).toEqual(chosen.addresses);
});

it.each<[string, string | undefined, ThisHost['chooseInterface'] | undefined, RegExp]>([
  ['there is no configuration', undefined, undefined, /no network configuration|is no configuration/i],
  ['it cannot be read', '{', undefined, /^the network configuration at \/net\/config cannot be used: /],
  ['no interface can be chosen', config, async () => 'no default route', /^no default/],
])('when %s, that is said, and that a lease can be named', async (_, text, choose, reason) => {
  if (text !== undefined) world.etcd.put('/net/config', text);
  const answer = await ask(choose);
  expect(answer).toMatch(reason);
  expect(answer).toMatch(hint);
});

it('when etcd does not answer it is of no use to name one, and that is not said', async () => {
  world.etcd.stop('etcd-0');
  const error = await ask();
  expect(error).toBeInstanceOf(RegistryError);
  expect(String(error)).toContain('connection refused');
  expect(String(error)).not.toMatch(/can be named/);
  world.etcd.start('etcd-0');
});
