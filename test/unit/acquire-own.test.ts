import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type LeaseHost, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, valueOf } from '../../sim/leases.ts';
import { prefixEnd } from '../../src/subnet/registry/registry.ts';

// Which of the keys that carry its address a host goes on with, and what it does not do to them.

const ip = '10.211.0.1';
const ip6 = 'fd00::1';
const theirs = valueOf('10.211.0.2');
const pools = {
  ipv4: poolOf('10.1.0.0/24', '10.1.255.0/24'),
  ipv6: poolOf('fc00:1::/64', 'fc00:1:0:ff::/64'),
};

let world: LeaseWorld;

beforeEach(() => {
  world = new LeaseWorld();
});

afterEach(async () => {
  expect(await world.close()).toBe(true);
});

async function untilHeld(host: LeaseHost): Promise<LeaseHost> {
  host.start();
  await world.clock.until('a lease', () => host.held !== undefined, 60_000);
  return host;
}

const put = (name: string, value: string, leased = true) =>
  world.etcd.put(prefix + name, value, leased ? world.etcd.grant(86_400) : '0');

describe('of several own keys', () => {
  it('that are as good, the first in byte order is gone on with, as flanneld does', async () => {
    for (const name of ['10.1.30.0-24', '10.1.200.0-24', '10.1.4.0-24']) put(name, valueOf(ip));
    const host = await untilHeld(world.host(ip, { watch: false }));
    expect(host.held).toBe('10.1.200.0/24');
    const others = ['10.1.30.0-24', '10.1.4.0-24'].map((name) => prefix + name);
    expect(world.log.events('other-own-leases').map(({ fields }) => fields['keys'])).toEqual([others]);
  });

  it('the one with the IPv4 subnet is gone on with, when each has one half', async () => {
    put('0.0.0.0-0&fc00:1:0:5::-64', valueOf('0.0.0.0', ip6));
    put('10.1.5.0-24', valueOf(ip));
    const addresses = { ipv4: ip, ipv6: ip6 };
    const host = await untilHeld(world.host(ip, { watch: false, pools, addresses }));
    expect(host.held).toMatch(/^10\.1\.5\.0\/24 and fc00:1:/);
  });
});

it('a key that names another PublicIP, or an IPv4 subnet and none, is not told by its PublicIPv6', async () => {
  const foreign = {
    '0.0.0.0-0&fc00:1:0:7::-64': valueOf('10.211.0.2', ip6),
    '10.1.5.0-24&fc00:1:0:5::-64': `{"PublicIP":null,"PublicIPv6":"${ip6}","BackendType":"host-gw"}`,
    '10.1.6.0-24&fc00:1:0:6::-64': valueOf('10.211.0.2', ip6),
  };
  for (const [name, value] of Object.entries(foreign)) put(name, value);
  const host = await untilHeld(world.host(ip, { watch: false, pools, addresses: { ipv4: ip, ipv6: ip6 } }));
  const own = host.manager.lease?.key.slice(prefix.length) ?? '';
  expect(world.keys.toSorted()).toEqual([...Object.keys(foreign), own].toSorted());
  for (const [name, value] of Object.entries(foreign))
    expect(world.etcd.get(prefix + name)?.value).toBe(value);
});

it('a key that gets an IPv6 half is told as gone and then as new: flanneld must end up with the route', async () => {
  put('10.1.5.0-24', valueOf(ip));
  const stop = new AbortController();
  const [member] = world.etcd.connect('watcher');
  const told: string[] = [];
  const watching = (async () => {
    const range = { key: prefix, rangeEnd: prefixEnd(prefix) };
    for await (const { events } of member?.watch(range, stop.signal) ?? []) {
      for (const event of events)
        told.push(`${event.type} ${event.type === 'put' ? event.kv.key : event.key}`);
    }
  })().catch(() => {});
  await world.clock.settle();
  const host = await untilHeld(world.host(ip, { watch: false, pools, addresses: { ipv4: ip, ipv6: ip6 } }));
  await world.clock.settle();
  stop.abort(new Error('stopped'));
  await watching;
  expect(told).toEqual([`delete ${prefix}10.1.5.0-24`, `put ${host.manager.lease?.key}`]);
});

it('two leases that fit no more, on one etcd lease, are given back with it', async () => {
  const lease = world.etcd.grant(86_400);
  for (const name of ['10.2.5.0-24', '10.2.6.0-24']) world.etcd.put(prefix + name, valueOf(ip), lease);
  const host = await untilHeld(world.host(ip, { watch: false }));
  expect(world.keys).toEqual([host.manager.lease?.key.slice(prefix.length)]);
  expect(world.etcd.leaseIds).toEqual([host.manager.lease?.leaseId]);
});

describe('a value that is being put right', () => {
  const vxlan = `{"PublicIP":"${ip}","BackendType":"vxlan"}`;

  it.each([
    ['a lease', true],
    ['a reservation', false],
  ])('is not written over what somebody puts there in the meantime (%s)', async (_, leased) => {
    put('10.1.5.0-24', vxlan, leased);
    const host = world.host(ip, { watch: false });
    let writes = 0;
    host.onStart = (registry) => {
      registry.onCall = (call) => {
        if (call === 'txn' && writes++ === 0) put('10.1.5.0-24', theirs, false);
      };
    };
    await untilHeld(host);
    expect(host.held).not.toBe('10.1.5.0/24');
    expect(world.etcd.get(`${prefix}10.1.5.0-24`)).toMatchObject({ value: theirs, lease: '0' });
  });
});
