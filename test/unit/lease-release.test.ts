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
const ofHost = { addresses: { ipv4: ip } };
const ofSubnet = { subnet: subnet('10.1.5.0/24') };

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
  }: Partial<Pick<LeaseReleaseParts, 'force' | 'dryRun' | 'confirm' | 'heldHere' | 'askHost'>> & {
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
  const code = await world.clock.complete(runLeaseRelease(options, new AbortController().signal));
  registry.close();
  return code;
}

describe('lease release', () => {
  it.each<[string, LeaseReleaseParts['target'], string]>([
    ['of the host with an address', ofHost, '10.1.5.0-24'],
    ['of a host by one of its two addresses', { addresses: { ipv6: 'fd00::1' } }, '10.1.5.0-24&fc00:1::-64'],
    ['of a subnet', ofSubnet, '10.1.5.0-24'],
    ['of a subnet with an IPv6 half', ofSubnet, '10.1.5.0-24&fc00:1::-64'],
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

  it.each([
    ['another key uses', ['10.1.6.0-24'], /10\.1\.6\.0-24 uses it, too/],
    ['other keys use', ['10.1.6.0-24', '10.1.7.0-24'], /10\.1\.7\.0-24 use it, too/],
  ])('keeps an etcd lease that %s', async (_, others, says) => {
    // By its subnet a key is found although nobody can read its value.
    const lease = put('10.1.5.0-24', 'junk');
    for (const name of others) put(name, valueOf('10.211.0.2'), lease);
    expect(await run(ofSubnet)).toBe(0);
    expect(world.keys).toEqual(others);
    expect(lines.join('\n')).toMatch(says);
  });

  it.each([
    [['10.1.5.0-24'], /10\.1\.5\.0-24 is a reservation/],
    [['10.1.5.0-24', '10.1.7.0-24'], /10\.1\.7\.0-24 are reservations, which/],
  ])('releases nothing when a key is a reservation, unless forced: %j', async (reserved, says) => {
    for (const name of reserved) put(name, valueOf(ip), '0');
    put('10.1.6.0-24');
    expect(await run(ofHost)).toBe(1);
    expect(world.keys).toHaveLength(reserved.length + 1);
    expect(errors.join()).toMatch(says);
    expect(await run(ofHost, { force: true })).toBe(0);
    expect(world.keys).toEqual([]);
  });

  it.each<[string, LeaseReleaseParts['target'], string]>([
    ['address', { addresses: { ipv4: '10.211.0.9' } }, 'no lease of a host with the address 10.211.0.9'],
    ['subnet', { subnet: subnet('10.1.5.0/25') }, 'no lease of the subnet 10.1.5.0/25'],
  ])('says where it looked and exits 1 when there is no lease of that %s', async (_, target, text) => {
    put('10.1.5.0-24');
    expect(await run(target)).toBe(1);
    expect(errors.join()).toContain(text);
    expect(errors.join()).toContain('/net/subnets/');
    expect(world.keys).toHaveLength(1);
  });

  it('keeps a key that somebody changes in the same moment', async () => {
    put('10.1.5.0-24');
    const before = () => put('10.1.5.0-24', valueOf('10.211.0.2'));
    expect(await run(ofSubnet, { before, force: true })).toBe(1);
    expect(world.kvs).toMatchObject([{ value: valueOf('10.211.0.2') }]);
    expect(errors.join()).toContain('meanwhile');
  });

  it.each([
    [true, 0, 0],
    [false, 1, 1],
  ])('reads back when the answer is lost (applied: %s)', async (applied, code, keys) => {
    put('10.1.5.0-24');
    const before = () => world.etcd.loseNextReply({ applied });
    expect(await run(ofSubnet, { before, force: true })).toBe(code);
    expect(world.keys).toHaveLength(keys);
    expect(errors).toHaveLength(code);
  });

  it('says why when etcd cannot be reached, and exits 1', async () => {
    put('10.1.5.0-24');
    world.etcd.stop('etcd-0');
    expect(await run(ofSubnet)).toBe(1);
    expect(errors.join()).toContain('connection refused');
  });

  it('revokes the etcd lease that two released keys share', async () => {
    const lease = put('10.1.5.0-24');
    put('10.1.5.0-24&fc00:1::-64', valueOf(ip, 'fd00::1'), lease);
    expect(await run(ofHost)).toBe(0);
    expect([world.keys, world.etcd.leaseIds]).toEqual([[], []]);
    expect(lines.filter((line) => line === 'revoked its etcd lease')).toHaveLength(1);
    expect(lines.join()).not.toContain('stays');
  });

  it('leaves the lease of a daemon that runs, unless forced', async () => {
    const host = await world.host(ip).hold(10_000);
    const { keys } = world;
    const leases = world.etcd.leaseIds;
    expect(await run(ofHost)).toBe(1);
    expect(errors.join()).toContain(
      `the daemon of ${ip} runs and holds ${prefix}${keys[0]}; nothing was released`,
    );
    expect([world.keys, world.etcd.leaseIds]).toEqual([keys, leases]);
    expect(host.held).toBeDefined();
    expect(await run(ofHost, { force: true })).toBe(0);
    expect(lines.join()).toContain('released');
    expect(lines.at(-1)).toContain('takes a subnet again at once');
  });

  it("leaves the lease that this host's daemon holds, without asking etcd for an answer", async () => {
    put('10.1.5.0-24');
    const calls: string[] = [];
    const heldHere = ({ key }: { key: string }) => `the daemon of this host (pid 7) holds ${key}`;
    const before = (call: string) => void calls.push(call);
    expect(await run(ofHost, { heldHere, before })).toBe(1);
    expect(errors.join()).toMatch(/pid 7\) holds .*nothing was released\. Stop it first .*--force/);
    expect([world.keys, calls]).toEqual([['10.1.5.0-24'], []]);
    expect(await run(ofHost, { heldHere, force: true })).toBe(0);
  });

  it('leaves the lease of a host that answers ping or ARP, as a flanneld answers nothing else', async () => {
    put('10.1.5.0-24');
    const asked: string[] = [];
    const askHost = async (address: string) => {
      asked.push(address);
      return 'ARP' as const;
    };
    expect(await run(ofSubnet, { askHost, confirm: async () => true })).toBe(1);
    expect(errors).toEqual([
      `${ip} answers ARP: it may run a flanneld, which answers no question of this program; ` +
        'nothing was released. If the host has left the cluster, pass --force',
    ]);
    expect([world.keys, asked]).toEqual([['10.1.5.0-24'], [ip]]);
    expect(await run(ofSubnet, { askHost, force: true })).toBe(0);
    put('10.1.5.0-24');
    expect(await run(ofSubnet, { askHost: async () => undefined })).toBe(0);
    expect(world.keys).toEqual([]);
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
    expect(await run(ofHost, { confirm })).toBe(code);
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
    expect(await run(ofHost, { dryRun: true })).toBe(0);
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
  const answer = await world.clock.complete(asking.catch((error: unknown) => error));
  registry.close();
  return answer;
}

it('without a name, lease release looks for the addresses that the daemon of this host would choose', async () => {
  world.etcd.put('/net/config', config);
  expect(await ask()).toEqual(chosen.addresses);
});

it.each<[string, string | undefined, ThisHost['chooseInterface'] | undefined, RegExp]>([
  ['there is no configuration', undefined, undefined, /no network configuration|is no configuration/i],
  ['it cannot be read', '{', undefined, /^the network configuration at \/net\/config cannot be used: /],
  ['no interface can be chosen', config, async () => 'no default route', /^no default/],
])('when %s, the error says so, and how to name the lease', async (_, text, choose, reason) => {
  if (text !== undefined) world.etcd.put('/net/config', text);
  const answer = await ask(choose);
  expect(answer).toMatch(reason);
  expect(answer).toMatch(hint);
});

it('when etcd does not answer, the error does not advise to name the lease', async () => {
  world.etcd.stop('etcd-0');
  const error = await ask();
  expect(error).toBeInstanceOf(RegistryError);
  expect(String(error)).toContain('connection refused');
  expect(String(error)).not.toMatch(/To name the lease/);
});
