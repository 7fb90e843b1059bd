import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type LeaseHost, type LeaseHostOptions, LeaseWorld } from '../../sim/lease-world.ts';
import { poolOf, prefix, subnet, valueOf } from '../../sim/leases.ts';
import { SeededRandom } from '../../sim/random.ts';
import { DesiredRoutes } from '../../src/backend/hostgw/desired.ts';
import { type LeaseUpdate, LeaseWatch } from '../../src/subnet/lease/watch/lease-watch.ts';

const ip = '10.211.0.1';
const ipv4 = poolOf('10.1.0.0/24', '10.1.255.0/24');
const ipv6 = poolOf('fc00:1::/64', 'fc00:1:0:ff::/64');
const alone: LeaseHostOptions = { pools: { ipv4 } };
const both: LeaseHostOptions = { pools: { ipv4, ipv6 }, addresses: { ipv4: ip, ipv6: 'fd00::1' } };

let world: LeaseWorld;

beforeEach(() => {
  world = new LeaseWorld();
});

afterEach(async () => {
  expect(await world.close()).toBe(true);
});

async function started(options: LeaseHostOptions): Promise<LeaseHost> {
  const host = world.host(ip, options).start();
  await world.clock.until('a lease', () => host.held !== undefined, 60_000);
  await world.clock.advance(100);
  return host;
}

const put = (name: string) => world.etcd.put(prefix + name, valueOf('10.211.0.2'), world.etcd.grant(86_400));
const warnings = () => world.log.events('mixed-families');

describe('leases of IPv4 alone beside leases of both families', () => {
  it.each([
    ['a host with both finds one of IPv4 alone', both, ['10.1.9.0-24'], 1],
    ['a host of IPv4 alone finds one with both', alone, ['10.1.9.0-24&fc00:1:0:9::-64'], 1],
    ['a host with both finds only such', both, ['10.1.9.0-24&fc00:1:0:9::-64'], 0],
    ['a host of IPv4 alone finds only such', alone, ['10.1.9.0-24'], 0],
    ['a host finds one of IPv6 alone', alone, ['0.0.0.0-0&fc00:1:0:9::-64'], 0],
    ['a host finds junk', both, ['junk', '10.1.9.0'], 0],
    ['a host finds both kinds', alone, ['10.1.8.0-24', '10.1.9.0-24&fc00:1:0:9::-64'], 1],
  ])('%s: warned of once, before anything is written', async (_, options, names, expected) => {
    names.forEach(put);
    const host = await started(options);
    expect(warnings()).toHaveLength(expected);
    if (expected > 0) expect(world.log.lines.map(({ fields }) => fields['event'])[0]).toBe('mixed-families');
    put('10.1.7.0-24');
    await world.clock.advance(60_000);
    await host.stop();
    expect(warnings()[0]?.message ?? 'EnableIPv6').toContain('EnableIPv6');
  });

  it.each([
    ['of IPv4 alone', both, '10.1.9.0-24'],
    ['of both', alone, '10.1.9.0-24&fc00:1:0:9::-64'],
  ])('one %s that appears later is warned of, once', async (_, options, name) => {
    await started(options);
    expect(warnings()).toHaveLength(0);
    put(name);
    await world.clock.advance(100);
    expect(warnings()).toHaveLength(1);
    expect(warnings()[0]?.message).toContain(name);
    world.etcd.delete(prefix + name);
    put(name);
    await world.clock.advance(100);
    expect(warnings()).toHaveLength(1);
  });

  it('the own lease of IPv4 alone does not count while IPv6 is being turned on', async () => {
    world.etcd.put(`${prefix}10.1.5.0-24`, valueOf(ip), world.etcd.grant(86_400));
    await started(both);
    expect(world.keys[0]).toMatch(/^10\.1\.5\.0-24&/);
    expect(warnings()).toHaveLength(0);
  });
});

describe('L11: a peer that watches while a host turns IPv6 on or off', () => {
  it.each([
    ['on', valueOf(ip), '10.1.5.0-24', both],
    ['off', valueOf(ip, 'fd00::1'), '10.1.5.0-24&fc00:1:0:5::-64', alone],
  ])('(%s) has the route to its IPv4 subnet all the time', async (_, value, name, options) => {
    world.etcd.put(prefix + name, value, world.etcd.grant(86_400));
    const routes = new DesiredRoutes({ subnet: subnet('10.1.99.0/24'), address: '10.211.0.99' });
    const seen: (string | undefined)[] = [];
    const stop = new AbortController();
    const peer = world.host('10.211.0.99');
    const registry = world.etcd.member('etcd-0', 'peer');
    const watch = new LeaseWatch({
      registry,
      clock: world.clock,
      random: new SeededRandom(1),
      log: world.log.of('peer'),
      trouble: peer.trouble,
      subnetsPrefix: prefix,
    });
    const ended = watch
      .run(stop.signal, (update: LeaseUpdate) => {
        if (update.type === 'snapshot') routes.replaceAll(update.leases);
        else routes.apply(update.put, update.removed);
        seen.push(routes.get('10.1.5.0/24')?.gateway);
      })
      .catch(() => undefined);
    await world.clock.settle();
    const host = await started(options);
    expect(host.held).toContain('10.1.5.0/24');
    // The list, and the one revision that replaced the key.
    expect(seen).toEqual([ip, ip]);
    stop.abort();
    await ended;
    registry.close();
  });
});
