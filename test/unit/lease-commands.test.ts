import { beforeEach, describe, expect, it, test } from 'vitest';
import type { LeaseWorld } from '../../sim/lease-world.ts';
import { prefix, subnet, valueOf } from '../../sim/leases.ts';
import { SeededRandom } from '../../sim/random.ts';
import { type Answer, askHost } from '../../src/cli/lease/alive.ts';
import { type LeaseParts, listLeases, watchLeases } from '../../src/cli/lease/cluster.ts';
import { showFree } from '../../src/cli/lease/free.ts';
import { type PruneParts, pruneLeases } from '../../src/cli/lease/prune.ts';
import {
  type ReserveParts,
  reserveSubnet,
  type UnreserveParts,
  unreserve,
} from '../../src/cli/lease/reserve.ts';
import { type LeaseTarget, showLease } from '../../src/cli/lease/show.ts';
import { CommandError } from '../../src/runtime/effects.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { withBackend } from './config-helpers.ts';
import { makeWorld } from './sim-worlds.ts';

const ip = (n: number) => `10.211.0.${n}`;
const hourMs = 3_600_000;

let world: LeaseWorld;
let lines: string[];
let errors: string[];

beforeEach(() => {
  world = makeWorld();
  lines = [];
  errors = [];
  world.etcd.put('/net/config', withBackend('"Network":"10.1.0.0/16"'));
});

const text = () => lines.join('\n').replaceAll(/\s+/g, ' ');
const json = () => JSON.parse(lines.join('\n'));
const put = (name: string, value: string, lease?: string) => world.put(name, value, lease);

interface Asked {
  readonly json?: boolean;
  readonly before?: (call: string) => void;
}

async function run(
  command: (parts: LeaseParts, signal: AbortSignal) => Promise<number>,
  { before = () => {}, ...asked }: Asked = {},
): Promise<number> {
  const registry = rotate(world.etcd.connect('admin'));
  const txn = registry.txn.bind(registry);
  registry.txn = (...args) => {
    before('txn');
    return txn(...args);
  };
  const parts: LeaseParts = {
    registry,
    etcdPrefix: '/net',
    clock: world.clock,
    json: false,
    colors: false,
    out: (line) => void lines.push(line),
    err: (line) => void errors.push(line),
    ...asked,
  };
  const code = await world.clock.complete(command(parts, new AbortController().signal));
  registry.close();
  return code;
}

const list =
  (heading = false) =>
  (parts: LeaseParts, signal: AbortSignal) =>
    listLeases(parts, { sort: 'subnet', heading }, signal);

describe('lease list', () => {
  it('prints a table of 80 columns, with what is wrong below each lease', async () => {
    put('10.1.15.0-24', valueOf('10.211.155.101'));
    await world.clock.advance(2 * hourMs + 60_000);
    put('10.1.15.128-25', valueOf(ip(2)));
    put('10.1.42.0-24', valueOf(ip(3)), '0');
    expect(await run(list())).toBe(1);
    expect(lines).toEqual([
      'SUBNET          HOST            FAM  LEFT      AGE   ETCD LEASE',
      expect.stringMatching(/^10\.1\.15\.0\/24 {4}10\.211\.155\.101 {2}4 {4}21h59m {4}2h1m {2}[\da-f]+$/),
      '  ! 10.1.15.128/25 of 10.211.0.2 overlaps it, and is younger: hosts route this',
      '    one',
      expect.stringMatching(/^10\.1\.15\.128\/25 {2}10\.211\.0\.2 {6}4 {4}1d {8}0s {4}[\da-f]+$/),
      '  - a /25, SubnetLen is 24: its host takes another subnet at its next start',
      '  ! it overlaps 10.1.15.0/24 of 10.211.155.101, which is older: hosts route that',
      '    one',
      '10.1.42.0/24    10.211.0.3      4    reserved  -     -',
      '3 leases, 1 of them a reservation; 2 problems',
    ]);
    expect(lines.filter((line) => line.length > 80)).toEqual([]);
  });

  it('has a row for each family of a host', async () => {
    put('10.1.5.0-24&fc00:1::-64', valueOf(ip(1), 'fd00::1'), '0');
    expect(await run(list())).toBe(0);
    expect(lines.slice(1)).toEqual([
      '10.1.5.0/24  10.211.0.1  4    reserved  -    -',
      'fc00:1::/64  fd00::1     6',
      '1 lease, 1 of them a reservation; no problems',
    ]);
  });

  it('prints one JSON document', async () => {
    put('10.1.5.0-24', valueOf(ip(1)));
    put('junk', 'x');
    expect(await run(list(), { json: true })).toBe(1);
    expect(json()).toMatchObject({
      prefix,
      configured: true,
      problems: 1,
      pools: [{ network: '10.1.0.0/16', size: 255, free: 254 }],
      leases: [{ subnets: { ipv4: '10.1.5.0/24' }, secondsLeft: 86_400 }, { marks: [{ code: 'NO_LEASE' }] }],
    });
  });

  it('asks again every two seconds with --watch', async () => {
    const stop = new AbortController();
    const registry = rotate(world.etcd.connect('admin'));
    const out = (line: string) => void lines.push(line);
    const parts = {
      registry,
      etcdPrefix: '/net',
      clock: world.clock,
      json: false,
      colors: false,
      out,
      err: out,
    };
    const watching = watchLeases(parts, { sort: 'subnet', heading: false }, true, stop.signal).catch(
      (error: unknown) => error,
    );
    await world.clock.advance(1_000);
    put('10.1.5.0-24', valueOf(ip(1)));
    await world.clock.advance(2_000);
    stop.abort('stopped');
    expect(await world.clock.complete(watching)).toBe('stopped');
    registry.close();
    expect(lines).toHaveLength(2);
    expect(lines[0]).toContain('0 leases; no problems');
    expect(lines[1]?.startsWith('\u001b[H')).toBe(true);
    expect(lines[1]).toContain('10.1.5.0/24');
  });
});

describe('status --cluster', () => {
  it('says where the network stands, then the same table', async () => {
    put('10.1.5.0-24', valueOf(ip(1)));
    expect(await run(list(true))).toBe(0);
    expect(lines.slice(0, 5)).toEqual([
      'etcd     http://etcd-0:2379, under /net',
      'network  10.1.0.0/16: /24 from 10.1.1.0/24 to 10.1.255.0/24',
      '         254 of 255 subnets free',
      '',
      'SUBNET       HOST        FAM  LEFT  AGE  ETCD LEASE',
    ]);
  });

  it.each([
    ['{', /cannot be used: it is not|cut off/],
    [undefined, /cannot be used: there is none/],
  ])('exits 1 when the configuration is %j', async (stored, said) => {
    if (stored === undefined) world.etcd.delete('/net/config');
    else world.etcd.put('/net/config', stored);
    expect(await run(list(true))).toBe(1);
    expect(text()).toMatch(said);
    expect(await run(list())).toBe(0);
  });
});

const noAnswer = async (): Promise<Answer | undefined> => undefined;

describe('lease show', () => {
  const show = (target: LeaseTarget, answer = noAnswer) =>
    run((parts, signal) => showLease({ ...parts, target, askHost: answer }, signal));

  it.each<[string, LeaseTarget]>([
    ['its subnet', { subnet: subnet('10.1.5.0/24') }],
    ['its host', { address: ip(1) }],
    ['the address of a container', { address: '10.1.5.77' }],
  ])('finds a lease by %s', async (_, target) => {
    put('10.1.5.0-24', valueOf(ip(1)));
    put('10.1.6.0-24', valueOf(ip(2)));
    expect(await show(target, async () => 'ARP')).toBe(0);
    expect(lines).toEqual([
      'subnet   10.1.5.0/24',
      'host     10.211.0.1, answers ARP',
      'backend  host-gw',
      expect.stringMatching(/^lease {4}1 d left, renewed 0 s ago, etcd lease [\da-f]+$/),
      `key      ${prefix}10.1.5.0-24`,
      `value    ${valueOf(ip(1))}`,
      expect.stringMatching(/^created {2}at revision \d+$/),
      expect.stringMatching(/^changed {2}at revision \d+$/),
    ]);
  });

  it('exits 1 when there is none, or it has a problem', async () => {
    put('192.168.5.0-24', valueOf(ip(1)));
    expect(await show({ address: '10.1.9.9' })).toBe(1);
    expect(errors.join()).toContain('no lease of a host or container with the address 10.1.9.9 under');
    expect(await show({ address: ip(1) })).toBe(1);
    expect(text()).toContain('does not answer ping or ARP');
    expect(text()).toContain('! outside Network 10.1.0.0/16');
  });
});

describe('lease reserve', () => {
  const reserve = (
    subnetText: string,
    address: string,
    asked: Asked & { dryRun?: boolean } = {},
    more: Partial<ReserveParts> = {},
  ) =>
    run((parts, signal) => {
      const { dryRun = false } = asked;
      const wish = { subnets: { ipv4: subnet(subnetText) }, addresses: { ipv4: address } };
      return reserveSubnet({ ...parts, ...wish, dryRun, ...more }, signal);
    }, asked);

  it('makes a key without a lease, which the host takes at its start', async () => {
    expect(await reserve('10.1.42.0/24', ip(1))).toBe(0);
    expect(world.kvs).toMatchObject([{ key: `${prefix}10.1.42.0-24`, value: valueOf(ip(1)), lease: '0' }]);
    expect(text()).toBe(`reserved 10.1.42.0/24 for ${ip(1)}: ${prefix}10.1.42.0-24`);
    expect((await world.host(ip(1)).hold()).held).toBe('10.1.42.0/24');
    expect(await reserve('10.1.42.0/24', ip(1))).toBe(0);
    expect(lines.at(-1)).toContain('is reserved already');
  });

  it('turns the lease that a running host holds into a reservation, which it keeps', async () => {
    const host = await world.host(ip(1)).hold();
    const held = String(host.held);
    expect(await reserve(held, ip(1))).toBe(0);
    await world.clock.advance(2 * 24 * hourMs);
    expect(host.held).toBe(held);
    expect(world.kvs).toMatchObject([{ lease: '0' }]);
    expect(world.etcd.leaseIds).toEqual([]);
  });

  it.each<[string, string, string, RegExp]>([
    ['another host has', '10.1.5.0/24', ip(2), /10\.1\.5\.0-24 of 10\.211\.0\.1 has it, or a part of it/],
    ['overlaps that of another host', '10.1.6.0/24', ip(2), /10\.1\.6\.128-25 of 10\.211\.0\.3 has it/],
    ['is outside the network', '10.9.0.0/24', ip(2), /would not be kept: outside Network 10\.1\.0\.0\/16/],
    ['has another length', '10.1.7.0/25', ip(2), /would not be kept: a \/25, SubnetLen is 24/],
    ['is below SubnetMin', '10.1.0.0/24', ip(2), /would not be kept: outside SubnetMin 10\.1\.1\.0/],
  ])('refuses a subnet that %s', async (_, subnetText, address, said) => {
    put('10.1.5.0-24', valueOf(ip(1)));
    put('10.1.6.128-25', valueOf(ip(3)));
    const before = world.kvs;
    expect(await reserve(subnetText, address)).toBe(1);
    expect(errors.join()).toMatch(said);
    expect(world.kvs).toEqual(before);
  });

  it('wants both subnets where both families are on, and none of one that is off', async () => {
    const ipv6 = { subnets: { ipv6: subnet('fc00:1::/64') }, addresses: { ipv6: 'fd00::1' } };
    expect(await reserve('10.1.5.0/24', ip(1), {}, ipv6)).toBe(1);
    expect(errors.at(-1)).toContain('IPv4 is on');
    world.etcd.put(
      '/net/config',
      withBackend('"Network":"10.1.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/16"'),
    );
    expect(await reserve('10.1.5.0/24', ip(1))).toBe(1);
    expect(errors.at(-1)).toContain('IPv6 is on, so that the reservation needs an IPv6 subnet');
    const both = {
      subnets: { ipv4: subnet('10.1.5.0/24'), ...ipv6.subnets },
      addresses: { ipv4: ip(1), ...ipv6.addresses },
    };
    expect(await reserve('10.1.5.0/24', ip(1), {}, both)).toBe(0);
    expect(world.kvs).toMatchObject([
      { key: `${prefix}10.1.5.0-24&fc00:1::-64`, value: valueOf(ip(1), 'fd00::1'), lease: '0' },
    ]);
  });

  it('looks again when somebody takes a lease at the same moment', async () => {
    let taken = 0;
    const before = () => {
      if (taken++ === 0) put('10.1.9.0-24', valueOf(ip(9)));
    };
    expect(await reserve('10.1.42.0/24', ip(1), { before })).toBe(0);
    expect(world.keys).toEqual(['10.1.42.0-24', '10.1.9.0-24']);
    const thief = () => put('10.1.43.0-24', valueOf(ip(9)));
    expect(await reserve('10.1.43.0/24', ip(1), { before: thief })).toBe(1);
    expect(errors.at(-1)).toContain('10.1.43.0-24 of 10.211.0.9 has it');
    const always = () => put('10.1.9.0-24', valueOf(ip(9)));
    expect(await reserve('10.1.44.0/24', ip(1), { before: always })).toBe(1);
    expect(errors.at(-1)).toContain('keep changing the leases');
  });

  it.each([true, false])('reserves once when the answer is lost (applied: %s)', async (applied) => {
    let lost = 0;
    const before = () => {
      if (lost++ === 0) world.etcd.loseNextReply({ applied });
    };
    expect(await reserve('10.1.42.0/24', ip(1), { before })).toBe(0);
    expect(world.keys).toEqual(['10.1.42.0-24']);
  });

  it('changes nothing in a dry run, and names the lease that the host has', async () => {
    put('10.1.9.0-24', valueOf(ip(1)));
    expect(await reserve('10.1.42.0/24', ip(1), { dryRun: true })).toBe(0);
    expect(text()).toContain('would reserve 10.1.42.0/24');
    expect(text()).toContain('The host has 10.1.9.0-24 now');
    expect(world.keys).toEqual(['10.1.9.0-24']);
  });
});

describe('lease unreserve', () => {
  const undo = (target: LeaseTarget, asked: Asked & Partial<Pick<UnreserveParts, 'dryRun'>> = {}) =>
    run((parts, signal) => unreserve({ ...parts, target, dryRun: asked.dryRun ?? false }, signal), asked);

  it('gives a running host a lease that it renews, and its subnet stays', async () => {
    put('10.1.42.0-24', valueOf(ip(1)), '0');
    const host = await world.host(ip(1)).hold();
    expect(await undo({ address: ip(1) })).toBe(0);
    await world.clock.advance(3 * 24 * hourMs);
    expect(host.held).toBe('10.1.42.0/24');
    expect(world.kvs[0]?.lease).not.toBe('0');
  });

  it('frees the subnet of a host that is gone after a day', async () => {
    put('10.1.42.0-24', valueOf(ip(1)), '0');
    expect(await undo({ subnet: subnet('10.1.42.0/24') })).toBe(0);
    expect(world.keys).toHaveLength(1);
    await world.clock.advance(25 * hourMs);
    expect(world.keys).toEqual([]);
  });

  it('refuses what is no reservation, and leaves alone what somebody changes', async () => {
    put('10.1.5.0-24', valueOf(ip(1)));
    expect(await undo({ address: ip(1) })).toBe(1);
    expect(errors.at(-1)).toBe(`${prefix}10.1.5.0-24 is no reservation`);
    expect(await undo({ address: ip(7) })).toBe(1);
    expect(errors.at(-1)).toContain('there is no lease');
    put('10.1.42.0-24', valueOf(ip(2)), '0');
    expect(await undo({ address: ip(2) }, { dryRun: true })).toBe(0);
    expect(world.kvs[0]?.lease).toBe('0');
    const leases = world.etcd.leaseIds;
    const before = () => put('10.1.42.0-24', valueOf(ip(3)), '0');
    expect(await undo({ address: ip(2) }, { before })).toBe(1);
    expect(world.kvs[0]).toMatchObject({ lease: '0', value: valueOf(ip(3)) });
    expect(world.etcd.leaseIds).toEqual(leases);
  });
});

describe('lease prune', () => {
  const prune = (more: Partial<PruneParts> = {}, asked: Asked = {}) =>
    run((parts, signal) => {
      const usual = { olderThanSeconds: 12 * 3_600, yes: false, force: false, askHost: noAnswer };
      const rest = { heldHere: () => undefined, random: new SeededRandom(1) };
      return pruneLeases({ ...parts, ...usual, ...rest, ...more }, signal);
    }, asked);
  const answersFor = (address: string) => async (asked: string) =>
    asked === address ? ('ping' as const) : undefined;

  /** Two hosts that are gone, one that does not renew and lives, one that has just renewed, and a reservation. */
  async function age(): Promise<void> {
    put('10.1.1.0-24', valueOf(ip(1)));
    put('10.1.2.0-24', valueOf(ip(2)));
    put('10.1.3.0-24', valueOf(ip(3)));
    put('10.1.5.0-24', valueOf(ip(5)), '0');
    await world.clock.advance(13 * hourMs);
    put('10.1.4.0-24', valueOf(ip(4)));
  }

  it('only says which leases would go, and asks no daemon, without --yes', async () => {
    await age();
    const before = world.kvs;
    expect(await prune({ askHost: answersFor(ip(3)) })).toBe(1);
    expect(world.kvs).toEqual(before);
    expect(lines).toEqual([
      'SUBNET       HOST        RENEWED  RESULT',
      '10.1.1.0/24  10.211.0.1  13h      does not answer',
      '10.1.2.0/24  10.211.0.2  13h      does not answer',
      '10.1.3.0/24  10.211.0.3  13h      kept: answers ping',
      '3 of 5 leases were not renewed for 12 h; 2 would be released: run this again',
      'with --yes, which also asks each daemon by etcd',
    ]);
  });

  it('releases them with --yes, and keeps what answers', async () => {
    await age();
    expect(await prune({ yes: true, askHost: answersFor(ip(3)) })).toBe(0);
    expect(world.keys).toEqual(['10.1.3.0-24', '10.1.4.0-24', '10.1.5.0-24']);
    expect(world.idleLeases).toEqual([]);
    expect(text()).toContain('2 released');
    expect(await prune({ askHost: answersFor(ip(3)), olderThanSeconds: 23 * 3_600 })).toBe(0);
    expect(lines.at(-1)).toContain('0 of 3 leases were not renewed for 23 h; nothing to release');
  });

  it('leaves the lease of a daemon that answers by etcd alone, whatever else does not', async () => {
    const host = await world.host(ip(6)).hold();
    put('10.1.255.0-24', valueOf(ip(7)));
    await world.clock.advance(10_000);
    expect(await prune({ yes: true, force: true, olderThanSeconds: 1 })).toBe(0);
    expect(text()).toContain('kept: its daemon answers');
    expect(world.keys).toEqual([String(host.held).replace('/', '-')]);
  });

  it("keeps the lease of this host's daemon", async () => {
    await age();
    const heldHere = ({ key }: { key: string }) => (key.endsWith('10.1.1.0-24') ? 'held' : undefined);
    expect(await prune({ yes: true, force: true, heldHere })).toBe(0);
    expect(world.keys).toContain('10.1.1.0-24');
    expect(text()).toContain('kept: the daemon of this host holds it');
  });

  it('releases nothing where no host at all answers, unless forced', async () => {
    await age();
    expect(await prune({ yes: true })).toBe(1);
    expect(world.keys).toHaveLength(5);
    expect(errors.at(-1)).toMatch(/no host of the cluster answers ping or ARP here.*nothing was released/);
    expect(await prune({ yes: true, askHost: answersFor(ip(4)) })).toBe(0);
    expect(world.keys).toEqual(['10.1.4.0-24', '10.1.5.0-24']);
  });

  it('leaves alone what somebody changes meanwhile', async () => {
    put('10.1.1.0-24', valueOf(ip(1)));
    await world.clock.advance(13 * hourMs);
    let calls = 0;
    const before = () => {
      // The probe comes first, then the delete.
      if (++calls === 2) put('10.1.1.0-24', valueOf(ip(9)));
    };
    expect(await prune({ yes: true, force: true }, { before })).toBe(1);
    expect(world.kvs).toMatchObject([{ value: valueOf(ip(9)) }]);
  });

  it('prints one JSON document', async () => {
    await age();
    expect(await prune({ askHost: answersFor(ip(3)) }, { json: true })).toBe(1);
    expect(json()).toMatchObject({
      dryRun: true,
      leases: 5,
      old: [{ verdict: 'gone' }, { verdict: 'gone' }, { verdict: 'answers' }],
    });
  });
});

describe('lease free', () => {
  it('says how much is left, the largest gap, and when the next lease ends', async () => {
    world.etcd.put('/net/config', withBackend('"Network":"10.1.0.0/20","SubnetMin":"10.1.0.0"'));
    put('10.1.3.0-24', valueOf(ip(1)));
    await world.clock.advance(hourMs);
    put('10.1.9.0-24', valueOf(ip(2)));
    put('10.1.10.0-24', valueOf(ip(3)), '0');
    expect(await run(showFree)).toBe(0);
    expect(lines).toEqual([
      '10.1.0.0/20: 13 of 16 subnets free (/24 from 10.1.0.0/24 to 10.1.15.0/24)',
      '  largest gap: 5, from 10.1.4.0/24 to 10.1.8.0/24',
      'next to end: 10.1.3.0/24 of 10.211.0.1, in 23 h unless it is renewed',
    ]);
    lines = [];
    expect(await run(showFree, { json: true })).toBe(0);
    expect(json()).toMatchObject({
      pools: [{ size: 16, free: 13, largestGap: { count: 5 } }],
      nextEnd: { secondsLeft: 82_800 },
    });
  });

  it('exits 1 when none is left, or nothing is known of the pool', async () => {
    world.etcd.put('/net/config', withBackend('"Network":"10.1.0.0/16","SubnetMax":"10.1.1.0"'));
    put('10.1.1.0-24', valueOf(ip(1)), '0');
    expect(await run(showFree)).toBe(1);
    expect(text()).toContain('0 of 1 subnet free');
    expect(text()).toContain('no lease ends by itself');
    world.etcd.delete('/net/config');
    expect(await run(showFree)).toBe(1);
    expect(errors.at(-1)).toContain('there is none');
  });
});

test.each([
  ['list', list()],
  ['free', showFree],
])('lease %s exits 3 when etcd cannot be asked', async (_, command) => {
  world.etcd.stop('etcd-0');
  expect(await run(command)).toBe(3);
  expect(errors.join()).toContain('connection refused');
});

describe('whether a host answers', () => {
  const result = (exitCode: number, stdout = '') => ({ exitCode, stdout, stderr: '' });
  const ask = async (answers: Readonly<Record<string, ReturnType<typeof result>>>, address = ip(1)) => {
    const calls: string[] = [];
    const commands = {
      async run(program: string, args: readonly string[]) {
        calls.push([program, ...args].join(' '));
        const answer = answers[program];
        if (answer === undefined) throw new CommandError('COMMAND_MISSING', `${program} is missing`);
        return answer;
      },
    };
    return { answer: await askHost(commands, address, new AbortController().signal), calls };
  };

  it.each([
    ['ping', { ping: result(0) }],
    ['ARP', { ping: result(1), ip: result(0, `${ip(1)} dev eth0 lladdr 02:00:00:00:00:01 REACHABLE \n`) }],
    ['ARP', { ip: result(0, `${ip(1)} dev eth0 lladdr 02:00:00:00:00:01 PROBE\n`) }],
    [undefined, { ping: result(1), ip: result(0, `${ip(1)} dev eth0 lladdr 02:00:00:00:00:01 STALE\n`) }],
    [undefined, { ping: result(1), ip: result(0, `${ip(1)} dev eth0 FAILED\n`) }],
    [undefined, { ping: result(1), ip: result(0) }],
    [undefined, {}],
  ])('%s by %j', async (expected, answers) => {
    expect((await ask(answers)).answer).toBe(expected);
  });

  it('runs nothing for what is no address', async () => {
    expect(await ask({ ping: result(0) }, '-f')).toEqual({ answer: undefined, calls: [] });
  });
});
