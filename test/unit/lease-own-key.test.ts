import { beforeEach, describe, expect, it } from 'vitest';
import type { LeaseHost, LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, valueOf } from '../../sim/leases.ts';
import { type LensRegistry } from '../../sim/lens-registry.ts';
import { makeWorld } from './sim-worlds.ts';

const ip = '10.211.0.1';
const newIp = '10.211.0.77';
const disputed = `${prefix}10.1.7.0-24`;
const alone = { pools: { ipv4: poolOf('10.1.7.0/24', '10.1.7.0/24') }, leaseTtlSeconds: 300 };

let world: LeaseWorld;
let host: LeaseHost;

beforeEach(() => {
  world = makeWorld({ latencyMs: 1 });
});

async function hold(options: LeaseHostOptions = {}): Promise<{ key: string; leaseId: string }> {
  host = await world.host(ip, options).hold();
  await world.clock.advance(100);
  const { key = '', leaseId = '' } = host.manager.lease ?? {};
  return { key, leaseId };
}

const alarms = () => world.log.lines.filter(({ fields }) => fields['what'] === 'contested');

describe('a value that this host has written itself', () => {
  it('is corrected when a move that was given up takes effect late', async () => {
    const { key, leaseId } = await hold();
    world.etcd.loseNextReply({ applied: false });
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(3);
    host.manager.moveTo({ ipv4: ip });
    await world.clock.advance(60_000);
    world.etcd.put(key, valueOf(newIp), leaseId);
    await world.clock.advance(60_000);
    expect(world.etcd.get(key)).toMatchObject({ value: valueOf(ip), lease: leaseId });
    expect(host.held).toBeDefined();
    expect(alarms()).toEqual([]);
  });

  it('is corrected when an etcd from before a move is restored', async () => {
    const { key, leaseId } = await hold();
    const backup = world.etcd.snapshot();
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(1_000);
    expect(world.etcd.get(key)?.value).toBe(valueOf(newIp));
    world.etcd.restore(backup);
    expect(world.etcd.get(key)?.value).toBe(valueOf(ip));
    await world.clock.advance(10_000);
    expect(world.etcd.get(key)).toMatchObject({ value: valueOf(newIp), lease: leaseId });
    expect(host.held).toBeDefined();
    expect(host.trouble.current).toEqual([]);
    expect(alarms()).toEqual([]);
  });

  it('on an etcd lease from elsewhere is corrected three times in a minute, and the fourth time is another host’s', async () => {
    const leaseId = world.etcd.grant(86_400);
    const key = `${prefix}10.1.5.0-24`;
    world.etcd.put(key, valueOf(ip), leaseId);
    await hold();
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(1_000);
    expect(world.etcd.get(key)).toMatchObject({ value: valueOf(newIp), lease: leaseId });
    for (let times = 1; times <= 4; times++) {
      expect(host.manager.state).toBe('held');
      world.etcd.put(key, valueOf(ip), leaseId);
      await world.clock.advance(5_000);
      expect(world.etcd.get(key)?.value).toBe(valueOf(times < 4 ? newIp : ip));
    }
    expect(host.manager.state).toBe('contested');
  });

  it('on another etcd lease is another host’s, which got the address', async () => {
    const { key } = await hold();
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(1_000);
    world.etcd.put(key, valueOf(ip), world.etcd.grant(900));
    await world.clock.advance(60_000);
    expect(host.manager.state).toBe('contested');
    expect(world.etcd.get(key)?.value).toBe(valueOf(ip));
  });

  it.each([
    ['another', 'contested'],
    ['its own', 'held'],
  ])('and that names another host in one family, on %s etcd lease, is %s', async (whose, state) => {
    const ipv6 = poolOf('fc00:1::/64', 'fc00:1:0:ff::/64');
    const ipv4 = poolOf('10.1.0.0/24', '10.1.255.0/24');
    const { key, leaseId } = await hold({ pools: { ipv4, ipv6 }, addresses: { ipv4: ip, ipv6: 'fd00::1' } });
    const theirs = valueOf(ip, 'fd00::9');
    world.etcd.put(key, theirs, whose === 'another' ? world.etcd.grant(900) : leaseId);
    await world.clock.advance(10_000);
    expect(host.manager.state).toBe(state);
    expect(world.etcd.get(key)?.value).toBe(state === 'held' ? valueOf(ip, 'fd00::1') : theirs);
  });

  it('is ours on the lease that replaced a dead one, although the answer was lost', async () => {
    host = world.host(ip, { watch: false });
    const started: LensRegistry[] = [];
    host.onStart = (registry) => void started.push(registry);
    await host.hold();
    const before = host.manager.lease;
    const [lens] = started;
    if (lens === undefined) throw new Error('not started');
    const keepAlive = lens.leaseKeepAlive;
    lens.leaseKeepAlive = () => Promise.resolve({ ttlSeconds: 0 });
    lens.onCall = (call) => {
      if (call !== 'txn') return;
      lens.leaseKeepAlive = keepAlive;
      world.etcd.loseNextReply({ applied: true });
      lens.onCall = () => {};
    };
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(60_000);
    expect(host.held).toBeDefined();
    expect(host.manager.lease?.leaseId).not.toBe(before?.leaseId);
    expect(world.etcd.get(before?.key ?? '')?.value).toBe(valueOf(newIp));
    expect(alarms()).toEqual([]);
  });
});

it('L4: a key that names no subnet does not keep a host from a free one, nor from its own', async () => {
  for (const odd of ['0', '0&x', 'x', ' ']) world.put(`10.1.7.0-24${odd}`, valueOf('10.211.0.2'), '0');
  // It neither keeps the host from the free subnet nor from the one that is taken away.
  const { key } = await hold(alone);
  world.etcd.delete(key);
  await world.clock.advance(5_000);
  expect(host.held).toBe('10.1.7.0/24');
  expect(world.etcd.get(key)?.value).toBe(valueOf(ip));
  expect(alarms()).toEqual([]);
});

it('a host that lost its subnet does not revoke an etcd lease that another key uses', async () => {
  const theirs = world.etcd.grant(900);
  world.put('10.1.7.0-24', valueOf(ip), theirs);
  world.etcd.put('/elsewhere', 'an operator’s', theirs);
  const { key } = await hold();
  expect(key).toBe(`${prefix}10.1.7.0-24`);
  world.etcd.delete(key);
  world.put('10.1.0.0-16', valueOf('10.211.0.2'), '0');
  await world.clock.advance(60_000);
  expect(host.manager.state).toBe('contested');
  expect(world.etcd.get('/elsewhere')?.value).toBe('an operator’s');
});

it('the alarm about a hostile key with our subnet is short and has no command to paste', async () => {
  const { key } = await hold();
  world.etcd.delete(key);
  const hostile = `${key}&';touch /tmp/x;'${'y'.repeat(100_000)}`;
  world.etcd.put(hostile, valueOf('10.211.0.2'));
  await world.clock.advance(1_000);
  expect(host.manager.state).toBe('contested');
  const [line] = alarms();
  expect(line?.message).toContain('now belongs to 10.211.0.2');
  expect(line?.message).not.toContain('etcdctl');
  expect(JSON.stringify(line).length).toBeLessThan(1_000);
});

it('the log line about junk in the own key is short', async () => {
  const { key, leaseId } = await hold();
  world.etcd.put(key, 'x'.repeat(1_000_000), leaseId);
  await world.clock.advance(1_000);
  expect(world.etcd.get(key)?.value).toBe(valueOf(ip));
  const lines = world.log.events('lease-rewritten');
  expect(lines).toHaveLength(1);
  expect(JSON.stringify(lines).length).toBeLessThan(1_000);
});

it('an etcd lease that a restored backup revives is revoked when its key is gone before the host has seen it', async () => {
  await hold({ leaseTtlSeconds: 3_600 });
  const backup = world.etcd.snapshot();
  const [kv] = world.kvs;
  world.etcd.revoke(kv?.lease ?? '');
  await world.clock.until('another', () => ![undefined, kv?.lease].includes(world.kvs[0]?.lease), 60_000);
  world.etcd.restore(backup);
  world.etcd.delete(kv?.key ?? '');
  await world.clock.advance(1_800_000);
  expect(world.etcd.leaseIds).toEqual(world.kvs.map(({ lease }) => lease));
  expect(world.kvs).toHaveLength(1);
});

describe('a subnet that another host took while this one was away', () => {
  it.each(['', 'null', '{"PublicIP":null,"BackendType":"host-gw"}'])(
    'stays with it when somebody spoils its value: %j',
    async (junk) => {
      const late = await world.host('10.211.0.1', alone).hold();
      const holder = world.host('10.211.0.2', alone);
      world.etcd.cut(late.name);
      await world.clock.advance(301_000);
      await holder.hold();
      world.etcd.heal(late.name);
      await world.clock.until('the first sees that', () => late.manager.state === 'contested', 120_000);
      // The holder is slow to put it right.
      world.etcd.cut(holder.name);
      const { lease = '0' } = world.etcd.get(disputed) ?? {};
      world.etcd.put(disputed, junk, lease);
      await world.clock.advance(100_000);
      expect(late.manager.state).toBe('contested');
      expect(world.etcd.get(disputed)).toMatchObject({ value: junk, lease });
      world.etcd.heal(holder.name);
      await world.clock.until(
        'it is put right',
        () => world.etcd.get(disputed)?.value === valueOf(holder.ip),
      );
      expect(holder.held).toBe('10.1.7.0/24');
    },
  );

  it('stays with it when a restored backup has its spoilt value from before', async () => {
    const holder = await world.host('10.211.0.2', alone).hold();
    world.etcd.cut(holder.name);
    const { lease = '0' } = world.etcd.get(disputed) ?? {};
    world.etcd.put(disputed, '', lease);
    const backup = world.etcd.snapshot();
    world.etcd.delete(disputed);
    const other = await world.host('10.211.0.1', alone).hold();
    world.etcd.restore(backup);
    await world.clock.advance(100_000);
    expect(world.etcd.get(disputed)).toMatchObject({ value: '', lease });
    expect(other.manager.state).toBe('contested');
    world.etcd.heal(holder.name);
    await world.clock.until('it is put right', () => world.etcd.get(disputed)?.value === valueOf(holder.ip));
  });

  it.each(['10.1.7.0-24&fc00:1:0:9::-64', '10.1.6.0-23'])(
    'is noticed at once by %s, where nothing tells that a restored backup lacks the own key',
    async (name) => {
      const backup = world.etcd.snapshot();
      const pools = { ...alone.pools, ipv6: poolOf('fc00:1::/64', 'fc00:1:0:8::/64') };
      const addresses = { ipv4: '10.211.0.1', ipv6: 'fd00::1' };
      await hold({ pools, addresses });
      await world.clock.advance(60_000);
      const { revision } = world.etcd;
      world.etcd.restore(backup, { sameId: true });
      while (world.etcd.revision <= revision) world.etcd.put('/somebody/else', '');
      await world.clock.advance(1_000);
      expect(host.manager.state).toBe('held');
      world.put(name, valueOf('10.211.0.2', 'fd00::2'), world.etcd.grant(300));
      await world.clock.advance(1_000);
      expect(host.manager.state).toBe('contested');
      expect(host.trouble.current.join()).toContain(`now belongs to 10.211.0.2 (${prefix}${name})`);
    },
  );
});
