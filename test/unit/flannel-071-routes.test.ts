import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { VirtualClock } from '../../sim/clock.ts';
import type { SimV2Etcd } from '../../sim/etcd-v2.ts';
import { Crash071 } from '../../sim/flannel-071-store.ts';
import { V2Client } from '../../src/subnet/etcd-v2/client.ts';
import { dir, type FlannelHost, FlannelWorld, keyOf, routeTo, valueOf } from './flannel-071-world.ts';

let world: FlannelWorld;
let clock: VirtualClock;
let etcd: SimV2Etcd;
beforeEach(() => {
  world = new FlannelWorld();
  ({ clock, etcd } = world);
});
afterEach(() => world.close());

describe('the watch of the leases', () => {
  let one: FlannelHost;
  let two: FlannelHost;
  beforeEach(async () => {
    [one, two] = await world.mesh();
  });
  const free = `${dir}/10.5.200.0-24`;
  const peer = '10.5.200.0/24 via 10.0.0.9';

  it('adds a route for whatever writes a lease, with protocol boot, and removes it with the key', async () => {
    const seen = async (act: () => void) => {
      act();
      await clock.settle();
      return one.routes.includes(peer);
    };
    expect(
      await seen(() => etcd.put(free, { value: valueOf('10.0.0.9'), ttlSeconds: 9, prevExist: false })),
    ).toBe(true);
    expect(one.kernel.routes(4).find(({ dst }) => dst === '10.5.200.0/24')).toMatchObject({ protocol: 3 });
    expect(await seen(() => etcd.delete(free))).toBe(false);
    expect(await seen(() => etcd.set(free, valueOf('10.0.0.9'), 9))).toBe(true);
    await clock.advance(10_000);
    expect(one.routes).toEqual([routeTo(two)]);
    expect(await seen(() => etcd.set(free, valueOf('10.0.0.9', 'vxlan')))).toBe(false);
    expect(await seen(() => etcd.put(free, { value: valueOf('10.0.0.9'), prevExist: true }))).toBe(true);
    expect(
      await seen(() => etcd.put(free, { value: valueOf('10.0.0.9'), prevIndex: world.indexOf(free) })),
    ).toBe(true);
  });

  it('takes our value, and the key of both families for its IPv4 half', async () => {
    const ours = { PublicIP: '10.0.0.9', PublicIPv6: null, BackendType: 'host-gw' };
    etcd.set(free, JSON.stringify(ours), 60);
    etcd.set(`${dir}/0.0.0.0-0&fd00:5::-64`, valueOf('10.0.0.8'), 60);
    await clock.settle();
    expect(one.routes).toContain(peer);
    expect(one.routes).toContain('0.0.0.0/0 via 10.0.0.8');
  });

  it('understands a removal by a TTL of 0 with a condition', async () => {
    etcd.set(free, valueOf('10.0.0.9'), 86_400);
    await clock.settle();
    expect(one.routes).toContain(peer);
    const store = new V2Client([etcd.member('etcd-0')], { clock });
    await store.expire(free, valueOf('10.0.0.9'), world.indexOf(free), new AbortController().signal);
    await clock.advance(500);
    expect(one.routes).toEqual([routeTo(two)]);
    etcd.set(free, valueOf('10.0.0.9'), 86_400);
    await clock.settle();
    expect(one.routes).toContain(peer);
  });

  it.each([
    { what: 'a removal with a condition', act: () => etcd.delete(free, { prevIndex: world.indexOf(free) }) },
    { what: 'a value that is no JSON', act: () => etcd.set(free, 'reserved') },
    { what: 'a key that names no subnet', act: () => etcd.set(`${dir}/notes`, valueOf('10.0.0.9')) },
  ])('is blind after $what: it reads that event every second', async ({ act }) => {
    etcd.set(free, valueOf('10.0.0.9'), 86_400);
    await clock.settle();
    act();
    const askedBefore = one.asked.length;
    await clock.advance(60_000);
    // All the while it asks for the same index.
    const indexes = one.asked.slice(askedBefore).map(({ query }) => query['waitIndex']);
    expect(indexes).toHaveLength(60);
    expect(new Set(indexes).size).toBe(1);
    const routes = one.routes;
    expect(routes).toContain(peer);
    etcd.set(`${dir}/10.5.201.0-24`, valueOf('10.0.0.10'), 86_400);
    etcd.delete(keyOf(two.subnet));
    await clock.advance(60_000);
    expect(one.routes).toEqual(routes);
  });

  it('sees again after a restart; a route that was to go meanwhile stays', async () => {
    etcd.set(free, valueOf('10.0.0.9'), 86_400);
    await clock.settle();
    etcd.delete(free, { prevIndex: world.indexOf(free) });
    etcd.set(`${dir}/10.5.201.0-24`, valueOf('10.0.0.10'), 86_400);
    await clock.advance(5_000);
    await one.stop();
    one.start();
    await clock.advance(100);
    expect(one.routes).toEqual([peer, '10.5.201.0/24 via 10.0.0.10', routeTo(two)].toSorted());
  });

  it('lists when etcd has forgotten the event, and forgets whose lease is gone', async () => {
    etcd.set(free, valueOf('10.0.0.9'), 86_400);
    await clock.settle();
    etcd.delete(free, { prevIndex: world.indexOf(free) });
    await clock.advance(5_000);
    expect(one.routes).toContain(peer);
    for (let count = 0; count < 1_000; count++) etcd.set('/elsewhere', String(count));
    await clock.advance(1_500);
    expect(one.log.some((line) => line.includes('outside history window'))).toBe(true);
    expect(one.routes).toEqual([routeTo(two)]);
  });

  it('crashes when it lists in the end and a key names no subnet', async () => {
    etcd.set(`${dir}/notes`, '');
    await clock.advance(5_000);
    expect(one.running).toBe(true);
    for (let count = 0; count < 1_000; count++) etcd.set('/elsewhere', String(count));
    await clock.advance(1_500);
    expect(one.ended).toBeInstanceOf(Crash071);
  });

  it('goes on where it was when polls are cut off or end with nothing', async () => {
    etcd.endPolls();
    await clock.settle();
    etcd.cutNextEvent();
    etcd.set(free, valueOf('10.0.0.9'), 86_400);
    await clock.advance(1_500);
    expect(one.routes).toContain(peer);
    expect(two.routes).toContain(peer);
  });
});

describe('the routes', () => {
  it('the old one stays when the PublicIP in a key changes, even when the key goes', async () => {
    const one = await world.one();
    const key = `${dir}/10.5.200.0-24`;
    const old = ['10.5.200.0/24 via 10.0.0.9'];
    etcd.set(key, valueOf('10.0.0.9'), 86_400);
    await clock.settle();
    etcd.set(key, valueOf('10.0.0.10'), 86_400);
    await clock.advance(60_000);
    expect(one.routes).toEqual(old);
    etcd.delete(key);
    await clock.advance(60_000);
    expect(one.routes).toEqual(old);
  });

  it('a key that goes and comes with another PublicIP moves the route', async () => {
    const one = await world.one();
    const key = `${dir}/10.5.200.0-24`;
    etcd.set(key, valueOf('10.0.0.9'), 86_400);
    await clock.settle();
    etcd.delete(key);
    etcd.set(key, valueOf('10.0.0.10'), 86_400);
    await clock.advance(100);
    expect(one.routes).toEqual(['10.5.200.0/24 via 10.0.0.10']);
  });

  it('one that somebody removes is back within ten seconds', async () => {
    const [one, two] = await world.mesh();
    one.kernel.deleteRoute({ dst: two.subnet ?? '' });
    expect(one.routes).toEqual([]);
    await clock.advance(10_000);
    expect(one.routes).toEqual([routeTo(two)]);
  });

  it('one of another protocol that is there at the start is kept, and deleted with the lease', async () => {
    const one = world.host();
    const linkIndex = one.kernel.link('eth0').index;
    one.kernel.addRoute({ dst: '10.5.200.0/24', gateway: '10.0.0.9', linkIndex, protocol: 102 });
    etcd.set(`${dir}/10.5.200.0-24`, valueOf('10.0.0.9'), 86_400);
    one.start();
    await clock.advance(100);
    const routes = () => one.kernel.routes(4).filter(({ dst }) => dst === '10.5.200.0/24');
    expect(routes().map(({ protocol }) => protocol)).toEqual([102]);
    etcd.delete(`${dir}/10.5.200.0-24`);
    await clock.settle();
    expect(routes()).toEqual([]);
  });

  it('stay when flannel is stopped, with key and subnet.env; peers notice nothing', async () => {
    const [one, two] = await world.mesh();
    const [before, subnetEnv, routes] = [world.leases(), await one.subnetEnv(), one.routes];
    await one.stop();
    expect([world.leases(), await one.subnetEnv(), one.routes]).toEqual([before, subnetEnv, routes]);
    one.start();
    await clock.advance(100);
    expect([world.leases(), await one.subnetEnv(), one.routes]).toEqual([before, subnetEnv, routes]);
    expect(two.log.filter((line) => line.startsWith('Subnet removed'))).toEqual([]);
  });
});
