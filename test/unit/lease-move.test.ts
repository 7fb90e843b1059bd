import { beforeEach, describe, expect, it } from 'vitest';
import type { LeaseHost, LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, valueOf } from '../../sim/leases.ts';
import type { PerFamily } from '../../src/ip/ip.ts';
import { untilAborted } from '../../src/runtime/wake.ts';
import type { AddressUse } from '../../src/subnet/lease/probe.ts';
import { makeWorld } from './sim-worlds.ts';

const ip = '10.211.0.1';
const newIp = '10.211.0.77';
const hourMs = 3_600_000;
const ipv4 = poolOf('10.1.0.0/24', '10.1.255.0/24');
const ipv6 = poolOf('fc00:1::/64', 'fc00:1:0:ff::/64');
const dual: LeaseHostOptions = { pools: { ipv4, ipv6 }, addresses: { ipv4: ip, ipv6: 'fd00::1' } };
const onlyIPv6: LeaseHostOptions = { pools: { ipv6 }, addresses: { ipv6: 'fd00::1' } };

let world: LeaseWorld;

beforeEach(() => {
  world = makeWorld({ latencyMs: 1 });
});

/** `onRange` is called before each list, from the moment on that this resolves. */
async function started(
  options: LeaseHostOptions = {},
  onRange?: (host: LeaseHost) => void,
): Promise<LeaseHost> {
  const host = world.host(ip, options);
  let tells = false;
  host.onStart = (registry) => {
    registry.onRange = () => tells && onRange?.(host);
  };
  await host.hold();
  await world.clock.advance(100);
  tells = true;
  return host;
}

/** Nobody was taken for the owner of this host's key. */
const alarms = () => world.log.lines.filter(({ fields }) => fields['what'] === 'contested');

describe('L6: when the host’s address changes', () => {
  it.each([
    ['IPv4', {}, { ipv4: newIp }, valueOf(newIp)],
    ['IPv4 of both', dual, { ipv4: newIp, ipv6: 'fd00::1' }, valueOf(newIp, 'fd00::1')],
    ['IPv6 of both', dual, { ipv4: ip, ipv6: 'fd00::77' }, valueOf(ip, 'fd00::77')],
    ['IPv6 alone', onlyIPv6, { ipv6: 'fd00::77' }, valueOf('0.0.0.0', 'fd00::77')],
  ])(
    '(%s) the lease moves to it in one write, and key, subnet and etcd lease stay',
    async (_, options, to, value) => {
      const host = await started(options);
      const { held } = host;
      const { key = '', leaseId } = host.manager.lease ?? {};
      const { revision } = world.etcd;
      host.manager.moveTo(to);
      expect(host.manager.state).toBe('moving');
      host.manager.moveTo(to);
      await world.clock.advance(1_000);
      expect(host.held).toBe(held);
      expect(host.manager.addresses).toEqual(to);
      expect(world.kvs).toMatchObject([{ key, value, lease: leaseId }]);
      expect(world.etcd.revision).toBe(revision + 1);
      expect(world.idleLeases).toEqual([]);
      expect(host.trouble.current).toEqual([]);
      expect(world.log.events('lease-moved')).toHaveLength(1);
      await world.clock.advance(48 * hourMs);
      expect(world.kvs).toMatchObject([{ key, value, lease: leaseId }]);
    },
  );

  it('a reservation moves and stays one', async () => {
    world.put('10.1.5.0-24', valueOf(ip), '0');
    const host = await started();
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(1_000);
    expect(world.kvs).toMatchObject([{ key: `${prefix}10.1.5.0-24`, value: valueOf(newIp), lease: '0' }]);
  });

  it('and changes back before etcd could be told, nothing is written', async () => {
    const host = await started();
    const { revision } = world.etcd;
    host.manager.moveTo({ ipv4: newIp });
    host.manager.moveTo({ ipv4: ip });
    expect(host.manager.state).toBe('held');
    await world.clock.advance(10_000);
    expect(world.etcd.revision).toBe(revision);
  });

  it.each([
    ['and the reply is lost', true, newIp],
    ['and the request is lost', false, newIp],
    ['and back again while the reply is lost', true, ip],
    ['and back again while the request is lost', false, ip],
  ])('%s, the lease ends with the last address', async (_, applied, last) => {
    const host = await started({ watch: last === newIp });
    const { held } = host;
    world.etcd.loseNextReply({ applied });
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(3);
    host.manager.moveTo({ ipv4: last });
    await world.clock.advance(60_000);
    expect(host.held).toBe(held);
    expect(world.kvs).toMatchObject([{ value: valueOf(last) }]);
    expect(alarms()).toEqual([]);
  });

  it('while etcd is away, it is told soon after etcd is back', async () => {
    const host = await started();
    world.etcd.cut(host.name);
    host.manager.moveTo({ ipv4: '10.211.0.66' });
    await world.clock.advance(60_000);
    expect(host.manager.state).toBe('moving');
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(540_000);
    world.etcd.heal(host.name);
    await host.hold(16_000);
    expect(world.kvs).toMatchObject([{ value: valueOf(newIp) }]);
  });

  it('in the moment the key is deleted, it is taken again and moved', async () => {
    const host = await started();
    const { held } = host;
    world.etcd.delete(host.manager.lease?.key ?? '');
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(5_000);
    expect(host.held).toBe(held);
    expect(world.kvs).toMatchObject([{ value: valueOf(newIp) }]);
    expect(world.idleLeases).toEqual([]);
  });

  it('before there is a lease, the new one is asked for', async () => {
    const pools = { ipv4: poolOf('10.1.7.0/24', '10.1.7.0/24') };
    world.put('10.1.7.0-24', valueOf('10.211.0.2'), '0');
    const host = world.host(ip, { pools }).start();
    await world.clock.advance(5_000);
    host.manager.moveTo({ ipv4: newIp });
    world.etcd.delete(`${prefix}10.1.7.0-24`);
    await host.hold(20_000);
    expect(world.kvs).toMatchObject([{ value: valueOf(newIp) }]);
  });

  it('survives a stop at any moment with one key, under the old or the new address', async () => {
    for (let ms = 0; ms < 12; ms++) {
      const host = await started();
      const { key = '' } = host.manager.lease ?? {};
      host.manager.moveTo({ ipv4: newIp });
      await world.clock.advance(ms);
      await host.stop();
      expect([valueOf(ip), valueOf(newIp)]).toContain(world.etcd.get(key)?.value);
      expect(world.idleLeases).toEqual([]);
      const [kv] = world.kvs;
      if (kv !== undefined) world.etcd.revoke(kv.lease);
    }
  });

  it.each<[string, PerFamily<string>]>([
    ['gains a family', { ipv4: ip, ipv6: 'fd00::1' }],
    ['loses all', {}],
    ['changes its family', { ipv6: 'fd00::1' }],
  ])('no lease moves when it %s', async (_, to) => {
    const host = await started();
    expect(() => host.manager.moveTo(to)).toThrow(RangeError);
    expect(host.manager.state).toBe('held');
  });
});

describe('L6: when the host’s address changes while no daemon runs', () => {
  const restarted = async (identity: number, hinted: boolean, to: string): Promise<LeaseHost> => {
    const host = await started({ hostIdentity: 1 });
    const { lease } = host.manager;
    await host.stop();
    host.options = {
      hostIdentity: identity,
      addresses: { ipv4: to },
      ...(hinted && lease ? { hint: lease.subnets } : {}),
    };
    await host.hold();
    return host;
  };

  it.each([
    ['the lease that this host was granted moves at the next start, and the subnet stays', true],
    ['also when subnet.env is gone, once no other daemon of this host answers for it', false],
  ])('%s', async (_, hinted) => {
    const host = await restarted(1, hinted, newIp);
    expect(host.manager.lease?.origin).toBe('reused');
    expect(world.log.events('lease-probed')).toHaveLength(1);
    expect(world.kvs).toMatchObject([{ key: host.manager.lease?.key, value: valueOf(newIp) }]);
    expect(world.etcd.leaseIds).toHaveLength(1);
  });

  it('but not the lease of a second daemon of this host, which has another address', async () => {
    const first = await started({ hostIdentity: 1 });
    const second = await world.host(newIp, { hostIdentity: 1 }).hold();
    await world.clock.advance(100);
    expect(second.held).not.toBe(first.held);
    expect(world.kvs.map(({ value }) => value).toSorted()).toEqual([valueOf(ip), valueOf(newIp)].toSorted());
    expect([first, second].flatMap((host) => host.trouble.current)).toEqual([]);
  });

  it('but not when the host that got the old address in the meantime holds it', async () => {
    const pools = { ipv4: poolOf('10.1.7.0/24', '10.1.8.0/24') };
    const host = await started({ hostIdentity: 1, pools });
    const { lease } = host.manager;
    await host.stop();
    const next = await world.host(ip, { hostIdentity: 2, pools }).hold();
    expect(next.manager.lease?.key).toBe(lease?.key);
    const free = world.etcd.grant(86_400);
    const [last = ''] = ['10.1.7.0-24', '10.1.8.0-24'].filter((name) => prefix + name !== lease?.key);
    world.put(last, valueOf('10.211.0.9'), free);
    host.options = { ...host.options, addresses: { ipv4: newIp }, ...(lease && { hint: lease.subnets }) };
    host.start();
    await world.clock.advance(hourMs);
    // It asks twice, as another that asks may seem to answer, and not each time it looks for a free subnet.
    expect(world.log.events('lease-probed')).toHaveLength(3);
    expect(host.trouble.current.join()).toContain('no free subnet');
    world.etcd.revoke(free);
    await host.hold();
    expect(next.held).not.toBe(host.held);
    expect(next.trouble.current).toEqual([]);
  });

  it('but not when the host was booted in between: a lease under another address may be another host’s', async () => {
    const host = await restarted(2, true, newIp);
    expect(host.manager.lease?.origin).toBe('new');
    expect(world.kvs.map(({ value }) => value).toSorted()).toEqual([valueOf(ip), valueOf(newIp)].toSorted());
  });

  it.each([true, false])(
    'also when the lease of a dead host names the new address (subnet.env is there: %s)',
    async (hinted) => {
      const lease = world.put('10.1.9.0-24', valueOf(newIp));
      const dead = { key: `${prefix}10.1.9.0-24`, value: valueOf(newIp), lease };
      const host = await restarted(1, hinted, newIp);
      const { held } = host;
      expect(host.manager.lease).toMatchObject({ origin: 'reused', value: valueOf(newIp) });
      expect(host.manager.lease?.key).not.toBe(dead.key);
      expect(world.etcd.get(dead.key)).toMatchObject(dead);
      // And it stays so at every start.
      for (let times = 0; times < 3; times++) {
        await host.stop();
        await host.hold();
        expect(host.held).toBe(held);
      }
      expect(world.keys).toHaveLength(2);
    },
  );
});

describe('L6: an address that another key carries', () => {
  it.each<[string, string, PerFamily<string>]>([
    ['PublicIP', valueOf(newIp, 'fd00::9'), { ipv4: newIp, ipv6: 'fd00::1' }],
    ['PublicIPv6', valueOf('10.211.0.2', 'fd00::77'), { ipv4: ip, ipv6: 'fd00::77' }],
  ])('as its %s, a dead host’s: the lease moves once nobody has answered for it', async (_, value, to) => {
    const lease = world.put('10.1.9.0-24&fc00:1:0:9::-64', value);
    const dead = { key: `${prefix}10.1.9.0-24&fc00:1:0:9::-64`, value, lease };
    const host = await started(dual);
    const { held } = host;
    host.manager.moveTo(to);
    await world.clock.advance(1_500);
    expect(host.manager.state).toBe('moving');
    await world.clock.advance(2_000);
    expect(host.held).toBe(held);
    expect(host.manager.addresses).toEqual(to);
    expect(world.etcd.get(dead.key)).toMatchObject(dead);
    expect(host.trouble.current).toEqual([]);
    expect(world.log.events('trouble')).toEqual([]);
  });

  it('a dead host’s whose etcd lease is gone as well: it moves at once', async () => {
    const lease = world.put('10.1.9.0-24', valueOf(newIp));
    const host = await started();
    world.etcd.revoke(lease);
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(500);
    expect(host.manager.addresses).toEqual({ ipv4: newIp });
  });

  it('a living host’s: nothing is changed, both are named; moved when that host has gone', async () => {
    const host = await started();
    const { held } = host;
    const other = await world.host(newIp).hold();
    const before = world.kvs.map(({ key, value, lease }) => ({ key, value, lease }));
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(12 * hourMs);
    expect(world.kvs).toMatchObject(before);
    expect(host.manager.state).toBe('moving');
    const { key = '' } = other.manager.lease ?? {};
    for (const part of [key, newIp, 'etcdctl']) expect(host.trouble.current.join()).toContain(part);
    expect(world.log.lines.filter(({ fields }) => fields['what'] === 'address').length).toBeLessThan(10);
    expect(world.log.events('lease-probed').length).toBeLessThan(12 * 7 + 10);
    expect(other.held).toBeDefined();
    await other.crash();
    await host.hold(700_000);
    expect(host.held).toBe(held);
    expect(host.trouble.current).toEqual([]);
  });

  it('is no trouble any more once the host gives it up', async () => {
    const host = await started();
    await world.host(newIp).hold();
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(3_000);
    expect(host.trouble.current).toHaveLength(1);
    host.manager.moveTo({ ipv4: ip });
    expect(host.trouble.current).toEqual([]);
    await world.clock.advance(1_000);
    expect(host.held).toBeDefined();
  });

  it('is none either when the host gives it up while the leases are read', async () => {
    const use: AddressUse & { rival: string | undefined } = {
      rival: undefined,
      alone: false,
      looked: async () => {},
      changed: async (_, signal) => await untilAborted(signal),
    };
    const host = await started({ watch: false, addressUse: use }, ({ manager }) => {
      if (manager.state === 'moving') manager.moveTo({ ipv4: ip });
    });
    await world.host(newIp).hold();
    const { revision } = world.etcd;
    use.rival = '52:54:00:00:00:09';
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(60_000);
    expect(host.held).toBeDefined();
    expect(host.trouble.current).toEqual([]);
    expect(world.etcd.revision).toBe(revision);
  });

  it('an address given up for another one while the leases are read is not put into the lease', async () => {
    const host = await started({ watch: false }, ({ manager }) => {
      if (manager.addresses.ipv4 === ip) manager.moveTo({ ipv4: newIp });
    });
    const { revision } = world.etcd;
    host.manager.moveTo({ ipv4: '10.211.0.66' });
    await world.clock.advance(60_000);
    expect(host.manager.addresses).toEqual({ ipv4: newIp });
    expect(world.kvs).toMatchObject([{ value: valueOf(newIp) }]);
    expect(world.etcd.revision).toBe(revision + 1);
  });

  it('a key on its own etcd lease: it moves at once', async () => {
    const host = await started({ hostIdentity: 1 });
    const { leaseId = '' } = host.manager.lease ?? {};
    world.put('10.1.9.0-24', valueOf(newIp), leaseId);
    host.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(200);
    expect(host.held).toBeDefined();
    expect(host.manager.addresses).toEqual({ ipv4: newIp });
    expect(world.log.events('lease-probed')).toEqual([]);
  });
});

describe('L6: hosts that exchange their addresses', () => {
  it.each([2, 3])(
    '%i of them, at once or one after the other, keep their subnets',
    async (count) => {
      for (const apartMs of [0, 1, 500, 1_000, 1_900, 2_500, 30_000]) {
        const ips = Array.from({ length: count }, (_, index) => `10.211.1.${index + 1}`);
        const hosts = ips.map((one) => world.host(one, { hostIdentity: world.hosts.length + 1 }).start());
        await world.clock.until('leases', () => hosts.every(({ held }) => held !== undefined), 60_000);
        await world.clock.advance(100);
        const before = hosts.map(({ held }) => held);
        for (const [index, host] of hosts.entries()) {
          host.manager.moveTo({ ipv4: ips[(index + 1) % count] ?? '' });
          await world.clock.advance(apartMs);
        }
        await world.clock.until('all moved', () => hosts.every(({ held }) => held !== undefined), 70_000);
        expect(hosts.map(({ held }) => held)).toEqual(before);
        const carried = world.kvs.map(({ value }) => value).toSorted();
        expect(carried).toEqual(ips.map((one) => valueOf(one)).toSorted());
        for (const host of hosts) {
          expect(host.trouble.current).toEqual([]);
          await host.stop();
        }
        for (const { lease } of world.kvs) world.etcd.revoke(lease);
      }
    },
    30_000,
  );

  it('two that both keep one lease, as the first was suspended while the other took it over, do not write without end', async () => {
    const first = await started({ hostIdentity: 1 });
    for (const address of [newIp, ip]) {
      first.manager.moveTo({ ipv4: address });
      await world.clock.advance(1_000);
    }
    world.etcd.cut(first.name);
    const second = await world.host(ip, { hostIdentity: 2 }).hold();
    second.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(1_000);
    world.etcd.heal(first.name);
    const { revision } = world.etcd;
    await world.clock.advance(hourMs);
    expect(world.etcd.revision - revision).toBeLessThan(40);
    // Who was granted the lease keeps it.
    expect(first.manager.state).toBe('held');
    expect(second.manager.state).toBe('contested');
  });

  it('two that both keep one lease and differ in their IPv6 address alone do not put it right without end', async () => {
    const first = await started({ ...dual, hostIdentity: 1 });
    world.etcd.cut(first.name);
    const addresses = { ipv4: ip, ipv6: 'fd00::2' };
    const second = await world.host(ip, { ...dual, addresses, hostIdentity: 2 }).hold();
    expect(second.held).toBe(first.held);
    world.etcd.heal(first.name);
    const { revision } = world.etcd;
    await world.clock.advance(hourMs);
    expect(world.etcd.revision - revision).toBeLessThan(40);
    const states = [first, second].map(({ manager }) => manager.state);
    expect(states.toSorted()).toEqual(['contested', 'held']);
    const loser = states[0] === 'contested' ? first : second;
    expect(loser.trouble.current.join()).toMatch(/now belongs to fd00::[12] /);
  });

  it('the one that gets another address at last does not go on saying that it shares the former one, nor does the other', async () => {
    const first = await started({ hostIdentity: 1 });
    world.etcd.cut(first.name);
    const second = await world.host(ip, { hostIdentity: 2 }).hold();
    world.etcd.heal(first.name);
    await world.clock.advance(60_000);
    for (const host of [first, second])
      expect(host.trouble.current.join()).toContain(`another host uses this host's address ${ip}`);
    first.manager.moveTo({ ipv4: newIp });
    await world.clock.advance(60_000);
    expect(first.manager.state).toBe('held');
    expect(first.trouble.current).toEqual([]);
    expect(second.trouble.current).toEqual([expect.stringContaining(`now belongs to ${newIp}`)]);
  });

  it('a host that takes the address of one that moves to a dead host’s gets a subnet of its own', async () => {
    for (const afterMs of [0, 100, 500, 1_000, 1_900, 2_100, 5_000]) {
      world.put('10.1.9.0-24', valueOf(newIp));
      const host = await started({ hostIdentity: 1 });
      const { held } = host;
      host.manager.moveTo({ ipv4: newIp });
      await world.clock.advance(afterMs);
      const second = world.host(ip, { hostIdentity: 2 }).start();
      await world.clock.until('both', () => host.held !== undefined && second.held !== undefined, 70_000);
      expect(host.held).toBe(held);
      expect(second.held).not.toBe(held);
      for (const one of [host, second]) await one.stop();
      for (const { lease } of world.kvs) world.etcd.revoke(lease);
    }
  }, 30_000);
});

it('L6: a host that was suspended and has another address by then gives way to who has taken its subnet and its address', async () => {
  const host = await started(dual);
  const { key = '' } = host.manager.lease ?? {};
  const taken = key.replace(/&.*/, '&fc00:1:0:99::-64');
  const lease = world.etcd.grant(86_400);
  world.etcd.delete(key);
  world.etcd.put(taken, valueOf(ip, 'fd00::99'), lease);
  await world.clock.advance(1_000);
  // As long as it has the address nothing tells that key from one of its own.
  expect(world.kvs.map((kv) => kv.key).toSorted()).toEqual([key, taken].toSorted());
  host.manager.moveTo({ ipv4: newIp, ipv6: 'fd00::1' });
  await world.clock.advance(10_000);
  expect(host.manager.state).toBe('contested');
  expect(host.trouble.current.join()).toContain(`now belongs to ${ip} (${taken})`);
  expect(world.kvs).toMatchObject([{ key: taken, lease }]);
  world.etcd.delete(taken);
  await world.clock.advance(10_000);
  expect(host.manager.state).toBe('held');
  expect(world.kvs).toMatchObject([{ key, value: valueOf(newIp, 'fd00::1') }]);
  expect(host.trouble.current).toEqual([]);
  expect(world.idleLeases).toEqual([lease]);
});
