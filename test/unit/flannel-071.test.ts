import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { VirtualClock } from '../../sim/clock.ts';
import type { SimV2Etcd } from '../../sim/etcd-v2.ts';
import { OtherBackend071 } from '../../sim/flannel-071.ts';
import { Crash071, subnetOfKey } from '../../sim/flannel-071-store.ts';
import { V2Client } from '../../src/subnet/etcd-v2/client.ts';
import { config, dir, FlannelWorld, keyOf, prefix, routeTo, valueOf } from './flannel-071-world.ts';

const hourMs = 3_600_000;
let world: FlannelWorld;
let clock: VirtualClock;
let etcd: SimV2Etcd;
beforeEach(() => {
  world = new FlannelWorld();
  ({ clock, etcd } = world);
});
afterEach(() => world.close());

describe('a start of flannel 0.7.1', () => {
  it('asks for the configuration and the leases, takes a free subnet, writes subnet.env and polls', async () => {
    const one = world.host({ next: () => 0 });
    one.start();
    await clock.advance(100);
    const all = { quorum: 'true', recursive: 'true' };
    const key = `${dir}/10.5.1.0-24`;
    expect(one.asked.slice(0, 3)).toEqual([
      { method: 'GET', key: `${prefix}/config`, query: { quorum: 'true' } },
      { method: 'GET', key: dir, query: all },
      {
        method: 'PUT',
        key,
        query: { prevExist: 'false' },
        form: { value: valueOf('10.0.0.1'), ttl: '86400' },
      },
    ]);
    const { index } = etcd;
    expect(one.asked.slice(3).toSorted((a, b) => a.key.localeCompare(b.key))).toEqual([
      { method: 'GET', key: dir, query: all },
      { method: 'GET', key: dir, query: { recursive: 'true', wait: 'true', waitIndex: `${index + 1}` } },
      { method: 'GET', key, query: { quorum: 'true' } },
      { method: 'GET', key, query: { recursive: 'false', wait: 'true', waitIndex: `${index + 1}` } },
    ]);
    expect(await one.subnetEnv()).toBe(
      'FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n',
    );
  });

  it('never looks at the configuration again', async () => {
    const one = await world.one();
    etcd.set(`${prefix}/config`, JSON.stringify({ ...config, Network: '10.6.0.0/16' }));
    await clock.advance(3 * hourMs);
    expect(one.asked.filter(({ key }) => key === `${prefix}/config`)).toHaveLength(1);
  });

  it('takes a configuration without Backend for udp', async () => {
    etcd.set(`${prefix}/config`, JSON.stringify({ Network: '10.5.0.0/16' }));
    const one = world.host();
    one.start();
    await clock.advance(100);
    expect(one.running).toBe(false);
    expect(one.ended).toBeInstanceOf(OtherBackend071);
    expect(String(one.ended)).toContain('without Backend means udp');
  });

  it('looks every second for a configuration', async () => {
    etcd.delete(`${prefix}/config`);
    const one = world.host();
    one.start();
    await clock.advance(5_500);
    expect(one.asked).toHaveLength(6);
    etcd.set(`${prefix}/config`, JSON.stringify(config));
    await clock.advance(1_000);
    expect(one.subnet).toBeDefined();
  });

  it('leaves out the first subnet of a network without SubnetMin', async () => {
    etcd.set(`${prefix}/config`, JSON.stringify({ Network: '10.5.0.0/23', Backend: { Type: 'host-gw' } }));
    const one = world.host();
    one.start();
    await clock.advance(100);
    expect(one.subnet).toBe('10.5.1.0/24');
    const two = world.host();
    two.start();
    await clock.advance(100);
    expect(two.subnet).toBeUndefined();
    expect(two.log.at(-1)).toContain('out of subnets');
  });

  it('draws again when another host is faster', async () => {
    const [one, two] = [world.host({ next: () => 0 }), world.host({ next: () => 0 })];
    one.start();
    two.start();
    await clock.advance(100);
    expect(new Set([one.subnet, two.subnet])).toEqual(new Set(['10.5.1.0/24', '10.5.2.0/24']));
  });

  it('finds its subnet by its PublicIP, and writes it without a condition; subnet.env counts for nothing', async () => {
    const one = await world.one();
    const before = one.subnet;
    await one.stop();
    etcd.delete(keyOf(before));
    etcd.set(`${dir}/10.5.9.0-24`, valueOf('10.0.0.1', 'vxlan'), 1_000);
    one.start();
    await clock.advance(100);
    expect(one.subnet).toBe('10.5.9.0/24');
    expect(one.asked.findLast(({ method }) => method === 'PUT')).toMatchObject({ query: {} });
    expect(world.leases()).toEqual(['10.5.9.0-24 by 10.0.0.1 for 86400 s']);
  });

  it('deletes a lease that is outside of the configured range', async () => {
    etcd.set(`${dir}/10.5.77.0-24`, valueOf('10.0.0.1'), 1_000);
    const one = world.host({ next: () => 0 });
    one.start();
    await clock.advance(100);
    expect(world.leases()).toEqual(['10.5.1.0-24 by 10.0.0.1 for 86400 s']);
  });

  it.each(['notes', '10.5.3.1-32', 'old/10.5.3'])('crashes at the key %s', async (name) => {
    etcd.set(`${dir}/${name}`, valueOf('10.0.0.9'));
    const one = world.host();
    one.start();
    await clock.advance(100);
    expect(one.ended).toBeInstanceOf(Crash071);
  });

  it('skips a value that is no JSON', async () => {
    etcd.set(`${dir}/10.5.3.0-24`, 'reserved');
    const one = world.host();
    one.start();
    await clock.advance(100);
    expect(one.subnet).toBeDefined();
  });
});

describe('the renewal', () => {
  it('writes the key an hour before its end, with what the host has in memory', async () => {
    const one = await world.one();
    const key = keyOf(one.subnet);
    // As we do, and as nobody should: with another value.
    etcd.put(key, { value: valueOf('10.0.0.9'), ttlSeconds: 86_400, prevIndex: world.indexOf(key) });
    await clock.advance(22.9 * hourMs);
    expect(world.leases()[0]).toContain('by 10.0.0.9');
    expect(one.asked.filter(({ method }) => method === 'PUT')).toHaveLength(1);
    await clock.advance(0.2 * hourMs);
    expect(one.asked.filter(({ method }) => method === 'PUT').at(-1)).toEqual({
      method: 'PUT',
      key,
      query: {},
      form: { value: valueOf('10.0.0.1'), ttl: '86400' },
    });
    expect(world.leases()[0]).toContain('by 10.0.0.1');
  });

  it('follows the expiry that others give the key', async () => {
    const one = await world.one();
    const key = keyOf(one.subnet);
    etcd.put(key, { value: valueOf('10.0.0.9'), ttlSeconds: 3_602, prevIndex: world.indexOf(key) });
    await clock.advance(1_900);
    expect(world.leases()).toEqual([expect.stringContaining('by 10.0.0.9 for 3600 s')]);
    await clock.advance(200);
    expect(world.leases()).toEqual([expect.stringContaining('by 10.0.0.1 for 86400 s')]);
  });

  it('tries again a minute after a failure', async () => {
    const one = await world.one();
    await clock.advance(22.9 * hourMs);
    etcd.isServed = false;
    etcd.endPolls();
    await clock.advance(0.2 * hourMs);
    etcd.isServed = true;
    await clock.advance(60_000);
    expect(one.log.filter((line) => line.startsWith('Error renewing lease')).length).toBeGreaterThan(2);
    expect(Number(/for (\d+) s/.exec(world.leases()[0] ?? '')?.[1])).toBeGreaterThan(86_300);
  });

  it.each([
    { margin: 60, kept: '10.5.4.0-24 by 10.0.0.1 for ever' },
    { margin: 0, kept: '10.5.4.0-24 by 10.0.0.1 for 86400 s' },
  ])('keeps a reservation one, unless the margin is 0: $margin', async ({ margin, kept }) => {
    etcd.set(`${dir}/10.5.4.0-24`, valueOf('10.0.0.1'));
    const one = world.host({ renewMarginMinutes: margin });
    one.start();
    await clock.advance(100);
    expect(world.leases()).toEqual([kept]);
  });

  it('never pauses with a margin of the whole 24 hours', async () => {
    const one = world.host({ renewMarginMinutes: 1_440 });
    one.start();
    await clock.until('many renewals', () => one.asked.length > 1_000, 1_000);
  });
});

describe('the loss of the own key', () => {
  it.each([
    { how: 'deleted', act: (key: string) => etcd.delete(key) },
    // By etcd's clock alone: as after an outage, all the while the host could not renew.
    { how: 'expired', act: () => clock.jumpWallClock(25 * hourMs) },
  ])('$how: another random subnet, at once', async ({ how, act }) => {
    const [one, two] = await world.mesh();
    if (how === 'expired') etcd.set(keyOf(two.subnet), valueOf('10.0.0.2'));
    const before = one.subnet;
    act(keyOf(before));
    // The etcd in memory sees a jump of its clock late.
    await clock.advance(how === 'expired' ? 60_600 : 600);
    expect(one.running).toBe(true);
    expect(one.subnet).not.toBe(before);
    expect(await one.subnetEnv()).toContain(`FLANNEL_SUBNET=${one.subnet?.replace('.0/', '.1/')}\n`);
    expect(one.routes).toEqual([routeTo(two)]);
    expect(two.routes).toEqual([routeTo(one)]);
  });

  it('does not come about by a TTL of 0: the host renews before etcd looks', async () => {
    const one = await world.one();
    const key = keyOf(one.subnet);
    const store = new V2Client([etcd.member('etcd-0')], { clock });
    await store.expire(key, valueOf('10.0.0.1'), world.indexOf(key), new AbortController().signal);
    await clock.advance(5_000);
    expect(keyOf(one.subnet)).toBe(key);
    expect(world.leases()).toEqual([expect.stringContaining('by 10.0.0.1 for 863')]);
  });

  it('goes unnoticed by a removal with a condition, until the next renewal puts the key back', async () => {
    // Ten minutes from now.
    const one = world.host({ renewMarginMinutes: 1_430 });
    one.start();
    await clock.advance(100);
    const before = one.subnet;
    etcd.delete(keyOf(before), { prevIndex: world.indexOf(keyOf(before)) });
    await clock.advance(9 * 60_000);
    expect([one.subnet, world.leases()]).toEqual([before, []]);
    await clock.advance(2 * 60_000);
    expect(world.leases()).toEqual([expect.stringContaining('by 10.0.0.1')]);
    expect(one.subnet).toBe(before);
  });
});

it.each([
  ['/net/subnets/10.5.1.0-24', '10.5.1.0/24'],
  ['/net/subnets/10.5.1.0-24&fd00:5::-64', '10.5.1.0/24'],
  ['/net/subnets/0.0.0.0-0&fd00:5::-64', '0.0.0.0/0'],
  ['/net/subnets/10.5.1.0-31', '10.5.1.0/31'],
  ['/net/subnets/10.5.1.0-32', undefined],
  ['/net/subnets/10.5.1-24', undefined],
  ['/net/subnets/999.5.1.0-24', undefined],
])('reads %s as %s', (key, subnet) => {
  expect(subnetOfKey(key)?.text).toBe(subnet);
});
