import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimV2Etcd } from '../../sim/etcd-v2.ts';
import { OtherBackend071 } from '../../sim/flannel-071.ts';
import { Flannel071Host } from '../../sim/flannel-071-host.ts';
import { Crash071, subnetOfKey } from '../../sim/flannel-071-store.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { SeededRandom } from '../../sim/random.ts';
import { V2Client } from '../../src/subnet/etcd-v2/client.ts';

const prefix = '/net';
const dir = `${prefix}/subnets`;
const hourMs = 3_600_000;
const config = {
  Network: '10.5.0.0/16',
  SubnetMin: '10.5.1.0',
  SubnetMax: '10.5.9.0',
  Backend: { Type: 'host-gw' },
};

let clock: VirtualClock;
let etcd: SimV2Etcd;
let hosts: Host[];

interface Host extends Flannel071Host {
  readonly kernel: SimKernel;
}

/** The next host: 10.0.0.1, 10.0.0.2, … */
function host(options: { readonly renewMarginMinutes?: number; readonly next?: () => number } = {}): Host {
  const publicIp = `10.0.0.${hosts.length + 1}`;
  const kernel = new SimKernel({ clock });
  kernel.createLink('eth0');
  kernel.addAddress('eth0', `${publicIp}/24`);
  const { next, ...more } = options;
  const random = next === undefined ? new SeededRandom(hosts.length + 1) : { next };
  const place = { clock, random, etcd, kernel };
  const made = Object.assign(new Flannel071Host(place, { prefix, publicIp, ...more }), { kernel });
  hosts.push(made);
  return made;
}

/** Hosts that have a lease each, and routes to all others. */
async function mesh(count: number): Promise<readonly Host[]> {
  const made = Array.from({ length: count }, () => host());
  for (const one of made) one.start();
  await clock.advance(100);
  for (const one of made) expect(one.routes).toEqual(routesTo(made.filter((other) => other !== one)));
  return made;
}

function routesTo(others: readonly Host[]): readonly string[] {
  return others.map(({ subnet, publicIp }) => `${subnet} via ${publicIp}`).toSorted();
}

const keyOf = (subnet: string | undefined) => `${dir}/${subnet?.replace('/', '-')}`;
const lease = (publicIp: string, type = 'host-gw') =>
  JSON.stringify({ PublicIP: publicIp, BackendType: type });
/** `10.5.1.0-24 by 10.0.0.1 for 86400 s` */
const leases = () => {
  const nodes = etcd.snapshot().data.entries;
  return [...nodes]
    .filter(([key, { dir: isDir }]) => key.startsWith(`${dir}/`) && !isDir)
    .map(([key, { value, expiresAtMs }]) => {
      const rest = expiresAtMs === undefined ? 'ever' : `${Math.round((expiresAtMs - clock.now()) / 1000)} s`;
      return `${key.slice(dir.length + 1)} by ${JSON.parse(value).PublicIP} for ${rest}`;
    })
    .toSorted();
};
const indexOf = (key: string) => etcd.snapshot().data.entries.get(key)?.modifiedIndex ?? 0;

beforeEach(() => {
  clock = new VirtualClock();
  etcd = new SimV2Etcd(clock);
  etcd.set(`${prefix}/config`, JSON.stringify(config));
  hosts = [];
});
afterEach(async () => {
  for (const one of hosts) await one.stop();
  etcd.close();
  await clock.settle();
  expect(clock.pending).toBe(0);
});

describe('a start of flannel 0.7.1', () => {
  it('asks for the configuration and the leases, takes a free subnet, writes subnet.env and polls', async () => {
    const one = host({ next: () => 0 });
    one.start();
    await clock.advance(100);
    const all = { quorum: 'true', recursive: 'true' };
    const key = `${dir}/10.5.1.0-24`;
    expect(one.asked.slice(0, 3)).toEqual([
      { method: 'GET', key: `${prefix}/config`, query: { quorum: 'true' } },
      { method: 'GET', key: dir, query: all },
      { method: 'PUT', key, query: { prevExist: 'false' }, form: { value: lease('10.0.0.1'), ttl: '86400' } },
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
    const [one] = await mesh(1);
    etcd.set(`${prefix}/config`, JSON.stringify({ ...config, Network: '10.6.0.0/16' }));
    await clock.advance(3 * hourMs);
    expect(one?.asked.filter(({ key }) => key === `${prefix}/config`)).toHaveLength(1);
  });

  it('takes a configuration without Backend for udp', async () => {
    etcd.set(`${prefix}/config`, JSON.stringify({ Network: '10.5.0.0/16' }));
    const one = host();
    one.start();
    await clock.advance(100);
    expect(one.running).toBe(false);
    expect(one.ended).toBeInstanceOf(OtherBackend071);
    expect(String(one.ended)).toContain('without Backend means udp');
  });

  it('looks every second for a configuration', async () => {
    etcd.delete(`${prefix}/config`);
    const one = host();
    one.start();
    await clock.advance(5_500);
    expect(one.asked).toHaveLength(6);
    etcd.set(`${prefix}/config`, JSON.stringify(config));
    await clock.advance(1_000);
    expect(one.subnet).toBeDefined();
  });

  it('leaves out the first subnet of a network without SubnetMin', async () => {
    etcd.set(`${prefix}/config`, JSON.stringify({ Network: '10.5.0.0/23', Backend: { Type: 'host-gw' } }));
    const one = host();
    one.start();
    await clock.advance(100);
    expect(one.subnet).toBe('10.5.1.0/24');
    const two = host();
    two.start();
    await clock.advance(100);
    expect(two.subnet).toBeUndefined();
    expect(two.log.at(-1)).toContain('out of subnets');
  });

  it('draws again when another host is faster', async () => {
    const [one, two] = [host({ next: () => 0 }), host({ next: () => 0 })];
    one.start();
    two.start();
    await clock.advance(100);
    expect(new Set([one.subnet, two.subnet])).toEqual(new Set(['10.5.1.0/24', '10.5.2.0/24']));
  });

  it('finds its subnet by its PublicIP, and writes it without a condition; subnet.env counts for nothing', async () => {
    const [one] = await mesh(1);
    const before = one?.subnet;
    await one?.stop();
    etcd.delete(keyOf(before));
    etcd.set(`${dir}/10.5.9.0-24`, lease('10.0.0.1', 'vxlan'), 1_000);
    one?.start();
    await clock.advance(100);
    expect(one?.subnet).toBe('10.5.9.0/24');
    expect(one?.asked.findLast(({ method }) => method === 'PUT')).toMatchObject({ query: {} });
    expect(leases()).toEqual(['10.5.9.0-24 by 10.0.0.1 for 86400 s']);
  });

  it('deletes a lease that is outside of the configured range', async () => {
    etcd.set(`${dir}/10.5.77.0-24`, lease('10.0.0.1'), 1_000);
    const one = host({ next: () => 0 });
    one.start();
    await clock.advance(100);
    expect(leases()).toEqual(['10.5.1.0-24 by 10.0.0.1 for 86400 s']);
  });

  it.each(['notes', '10.5.3.1-32', 'old/10.5.3'])('crashes at the key %s', async (name) => {
    etcd.set(`${dir}/${name}`, lease('10.0.0.9'));
    const one = host();
    one.start();
    await clock.advance(100);
    expect(one.ended).toBeInstanceOf(Crash071);
  });

  it('skips a value that is no JSON', async () => {
    etcd.set(`${dir}/10.5.3.0-24`, 'reserved');
    const one = host();
    one.start();
    await clock.advance(100);
    expect(one.subnet).toBeDefined();
  });
});

describe('the renewal', () => {
  it('writes the key an hour before its end, with what the host has in memory', async () => {
    const [one] = await mesh(1);
    const key = keyOf(one?.subnet);
    // As we do, and as nobody should: with another value.
    etcd.put(key, { value: lease('10.0.0.9'), ttlSeconds: 86_400, prevIndex: indexOf(key) });
    await clock.advance(22.9 * hourMs);
    expect(leases()[0]).toContain('by 10.0.0.9');
    expect(one?.asked.filter(({ method }) => method === 'PUT')).toHaveLength(1);
    await clock.advance(0.2 * hourMs);
    expect(one?.asked.filter(({ method }) => method === 'PUT').at(-1)).toEqual({
      method: 'PUT',
      key,
      query: {},
      form: { value: lease('10.0.0.1'), ttl: '86400' },
    });
    expect(leases()[0]).toContain('by 10.0.0.1');
  });

  it('follows the expiry that others give the key', async () => {
    const [one] = await mesh(1);
    const key = keyOf(one?.subnet);
    etcd.put(key, { value: lease('10.0.0.9'), ttlSeconds: 3_602, prevIndex: indexOf(key) });
    await clock.advance(1_900);
    expect(leases()).toEqual([expect.stringContaining('by 10.0.0.9 for 3600 s')]);
    await clock.advance(200);
    expect(leases()).toEqual([expect.stringContaining('by 10.0.0.1 for 86400 s')]);
  });

  it('tries again a minute after a failure', async () => {
    const [one] = await mesh(1);
    await clock.advance(22.9 * hourMs);
    etcd.isServed = false;
    etcd.endPolls();
    await clock.advance(0.2 * hourMs);
    etcd.isServed = true;
    await clock.advance(60_000);
    expect(one?.log.filter((line) => line.startsWith('Error renewing lease')).length).toBeGreaterThan(2);
    expect(Number(/for (\d+) s/.exec(leases()[0] ?? '')?.[1])).toBeGreaterThan(86_300);
  });

  it.each([
    { margin: 60, kept: '10.5.4.0-24 by 10.0.0.1 for ever' },
    { margin: 0, kept: '10.5.4.0-24 by 10.0.0.1 for 86400 s' },
  ])('keeps a reservation one, unless the margin is 0: $margin', async ({ margin, kept }) => {
    etcd.set(`${dir}/10.5.4.0-24`, lease('10.0.0.1'));
    const one = host({ renewMarginMinutes: margin });
    one.start();
    await clock.advance(100);
    expect(leases()).toEqual([kept]);
  });

  it('never pauses with a margin of the whole 24 hours', async () => {
    const one = host({ renewMarginMinutes: 1_440 });
    one.start();
    await clock.until('many renewals', () => one.asked.length > 1_000, 1_000);
  });
});

describe('the watch of the leases', () => {
  let one: Host;
  let two: Host;
  beforeEach(async () => {
    const made = await mesh(2);
    [one, two] = [made[0] as Host, made[1] as Host];
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
      await seen(() => etcd.put(free, { value: lease('10.0.0.9'), ttlSeconds: 9, prevExist: false })),
    ).toBe(true);
    expect(one.kernel.routes(4).find(({ dst }) => dst === '10.5.200.0/24')).toMatchObject({ protocol: 3 });
    expect(await seen(() => etcd.delete(free))).toBe(false);
    expect(await seen(() => etcd.set(free, lease('10.0.0.9'), 9))).toBe(true);
    await clock.advance(10_000);
    expect(one.routes).toEqual(routesTo([two]));
    expect(await seen(() => etcd.set(free, lease('10.0.0.9', 'vxlan')))).toBe(false);
    expect(await seen(() => etcd.put(free, { value: lease('10.0.0.9'), prevExist: true }))).toBe(true);
    expect(await seen(() => etcd.put(free, { value: lease('10.0.0.9'), prevIndex: indexOf(free) }))).toBe(
      true,
    );
  });

  it('takes our value, and the key of both families for its IPv4 half', async () => {
    const ours = { PublicIP: '10.0.0.9', PublicIPv6: null, BackendType: 'host-gw' };
    etcd.set(free, JSON.stringify(ours), 60);
    etcd.set(`${dir}/0.0.0.0-0&fd00:5::-64`, lease('10.0.0.8'), 60);
    await clock.settle();
    expect(one.routes).toContain(peer);
    expect(one.routes).toContain('0.0.0.0/0 via 10.0.0.8');
  });

  it('understands a removal by a TTL of 0 with a condition', async () => {
    etcd.set(free, lease('10.0.0.9'), 86_400);
    await clock.settle();
    expect(one.routes).toContain(peer);
    const store = new V2Client([etcd.member('etcd-0')], { clock });
    await store.expire(free, lease('10.0.0.9'), indexOf(free), new AbortController().signal);
    await clock.advance(500);
    expect(one.routes).toEqual(routesTo([two]));
    etcd.set(free, lease('10.0.0.9'), 86_400);
    await clock.settle();
    expect(one.routes).toContain(peer);
  });

  it.each([
    { what: 'a removal with a condition', act: () => etcd.delete(free, { prevIndex: indexOf(free) }) },
    { what: 'a value that is no JSON', act: () => etcd.set(free, 'reserved') },
    { what: 'a key that names no subnet', act: () => etcd.set(`${dir}/notes`, lease('10.0.0.9')) },
  ])('is blind after $what: it reads that event every second', async ({ act }) => {
    etcd.set(free, lease('10.0.0.9'), 86_400);
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
    etcd.set(`${dir}/10.5.201.0-24`, lease('10.0.0.10'), 86_400);
    etcd.delete(keyOf(two.subnet));
    await clock.advance(60_000);
    expect(one.routes).toEqual(routes);
  });

  it('sees again after a restart; a route that was to go meanwhile stays', async () => {
    etcd.set(free, lease('10.0.0.9'), 86_400);
    await clock.settle();
    etcd.delete(free, { prevIndex: indexOf(free) });
    etcd.set(`${dir}/10.5.201.0-24`, lease('10.0.0.10'), 86_400);
    await clock.advance(5_000);
    await one.stop();
    one.start();
    await clock.advance(100);
    expect(one.routes).toEqual([peer, '10.5.201.0/24 via 10.0.0.10', ...routesTo([two])].toSorted());
  });

  it('lists when etcd has forgotten the event, and forgets whose lease is gone', async () => {
    etcd.set(free, lease('10.0.0.9'), 86_400);
    await clock.settle();
    etcd.delete(free, { prevIndex: indexOf(free) });
    await clock.advance(5_000);
    expect(one.routes).toContain(peer);
    for (let count = 0; count < 1_000; count++) etcd.set('/elsewhere', String(count));
    await clock.advance(1_500);
    expect(one.log.some((line) => line.includes('outside history window'))).toBe(true);
    expect(one.routes).toEqual(routesTo([two]));
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
    etcd.set(free, lease('10.0.0.9'), 86_400);
    await clock.advance(1_500);
    expect(one.routes).toContain(peer);
    expect(two.routes).toContain(peer);
  });
});

describe('the routes', () => {
  it('the old one stays when the PublicIP in a key changes, even when the key goes', async () => {
    const [one] = await mesh(1);
    const key = `${dir}/10.5.200.0-24`;
    const old = ['10.5.200.0/24 via 10.0.0.9'];
    etcd.set(key, lease('10.0.0.9'), 86_400);
    await clock.settle();
    etcd.set(key, lease('10.0.0.10'), 86_400);
    await clock.advance(60_000);
    expect(one?.routes).toEqual(old);
    etcd.delete(key);
    await clock.advance(60_000);
    expect(one?.routes).toEqual(old);
  });

  it('a key that goes and comes with another PublicIP moves the route', async () => {
    const [one] = await mesh(1);
    const key = `${dir}/10.5.200.0-24`;
    etcd.set(key, lease('10.0.0.9'), 86_400);
    await clock.settle();
    etcd.delete(key);
    etcd.set(key, lease('10.0.0.10'), 86_400);
    await clock.advance(100);
    expect(one?.routes).toEqual(['10.5.200.0/24 via 10.0.0.10']);
  });

  it('one that somebody removes is back within ten seconds', async () => {
    const [one, two] = (await mesh(2)) as [Host, Host];
    one.kernel.deleteRoute({ dst: two.subnet ?? '' });
    expect(one.routes).toEqual([]);
    await clock.advance(10_000);
    expect(one.routes).toEqual(routesTo([two]));
  });

  it('one of another protocol that is there at the start is kept, and deleted with the lease', async () => {
    const one = host();
    const linkIndex = one.kernel.link('eth0').index;
    one.kernel.addRoute({ dst: '10.5.200.0/24', gateway: '10.0.0.9', linkIndex, protocol: 102 });
    etcd.set(`${dir}/10.5.200.0-24`, lease('10.0.0.9'), 86_400);
    one.start();
    await clock.advance(100);
    const routes = () => one.kernel.routes(4).filter(({ dst }) => dst === '10.5.200.0/24');
    expect(routes().map(({ protocol }) => protocol)).toEqual([102]);
    etcd.delete(`${dir}/10.5.200.0-24`);
    await clock.settle();
    expect(routes()).toEqual([]);
  });

  it('stay when flannel is stopped, with key and subnet.env; peers notice nothing', async () => {
    const [one, two] = (await mesh(2)) as [Host, Host];
    const [before, subnetEnv, routes] = [leases(), await one.subnetEnv(), one.routes];
    await one.stop();
    expect([leases(), await one.subnetEnv(), one.routes]).toEqual([before, subnetEnv, routes]);
    one.start();
    await clock.advance(100);
    expect([leases(), await one.subnetEnv(), one.routes]).toEqual([before, subnetEnv, routes]);
    expect(two.log.filter((line) => line.startsWith('Subnet removed'))).toEqual([]);
  });
});

describe('the loss of the own key', () => {
  it.each([
    { how: 'deleted', act: (key: string) => etcd.delete(key) },
    // By etcd's clock alone: as after an outage, all the while the host could not renew.
    { how: 'expired', act: () => clock.jumpWallClock(25 * hourMs) },
  ])('$how: another random subnet, at once', async ({ how, act }) => {
    const [one, two] = (await mesh(2)) as [Host, Host];
    if (how === 'expired') etcd.set(keyOf(two.subnet), lease('10.0.0.2'));
    const before = one.subnet;
    act(keyOf(before));
    await clock.advance(600);
    expect(one.running).toBe(true);
    expect(one.subnet).not.toBe(before);
    expect(await one.subnetEnv()).toContain(`FLANNEL_SUBNET=${one.subnet?.replace('.0/', '.1/')}\n`);
    expect(one.routes).toEqual(routesTo([two]));
    expect(two.routes).toEqual(routesTo([one]));
  });

  it('does not come about by a TTL of 0: the host renews before etcd looks', async () => {
    const [one] = (await mesh(1)) as [Host];
    const key = keyOf(one.subnet);
    const store = new V2Client([etcd.member('etcd-0')], { clock });
    await store.expire(key, lease('10.0.0.1'), indexOf(key), new AbortController().signal);
    await clock.advance(5_000);
    expect(keyOf(one.subnet)).toBe(key);
    expect(leases()).toEqual([expect.stringContaining('by 10.0.0.1 for 863')]);
  });

  it('goes unnoticed by a removal with a condition, until the next renewal puts the key back', async () => {
    // Ten minutes from now.
    const one = host({ renewMarginMinutes: 1_430 });
    one.start();
    await clock.advance(100);
    const before = one.subnet;
    etcd.delete(keyOf(before), { prevIndex: indexOf(keyOf(before)) });
    await clock.advance(9 * 60_000);
    expect([one.subnet, leases()]).toEqual([before, []]);
    await clock.advance(2 * 60_000);
    expect(leases()).toEqual([expect.stringContaining('by 10.0.0.1')]);
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
