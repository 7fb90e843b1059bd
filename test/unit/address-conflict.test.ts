import { beforeEach, describe, expect, it } from 'vitest';
import type { SimCluster, SimHost } from '../../sim/cluster.ts';
import { holderOf, subnetsPrefix } from '../../sim/simulation/oracle.ts';
import { makeCluster } from './sim-worlds.ts';

let cluster: SimCluster;
let first: SimHost;
let second: SimHost;
let peer: SimHost;

beforeEach(() => {
  cluster = makeCluster({ seed: 1, hosts: 3 });
  [peer, first, second] = cluster.hosts as [SimHost, SimHost, SimHost];
});

const leases = () =>
  cluster.etcd.list(subnetsPrefix, `${subnetsPrefix.slice(0, -1)}0`).map((kv) => ({
    key: kv.key.slice(subnetsPrefix.length),
    address: holderOf(kv),
    lease: kv.lease,
  }));
const pass = (ms: number) => cluster.clock.advance(ms);
const reasons = (host: SimHost) => host.readiness.reasons.join('; ');
const conflict = /another host \(MAC address [0-9a-f:]{17}\) uses this host's address 10\.211\.55\.21/;

/** Gives a host another address, in place of the one it has. */
function readdress(host: SimHost, address: string): void {
  host.kernel.removeAddress('eth0', `${host.address}/16`);
  host.address = address;
  host.kernel.addAddress('eth0', `${address}/16`);
  const linkIndex = host.kernel.link('eth0').index;
  host.kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.0.1', linkIndex });
}

async function start(...hosts: readonly SimHost[]): Promise<void> {
  for (const host of hosts) host.start();
  await cluster.clock.until('ready', () => hosts.every((host) => host.readiness.ready), 20_000);
}

async function subnetsOf(...hosts: readonly SimHost[]): Promise<readonly (string | undefined)[]> {
  return await Promise.all(hosts.map(async (host) => (await host.subnet())?.text));
}

/** The second host gets the address of the first one, and starts with it. */
async function intrude(ms: number): Promise<void> {
  readdress(second, first.address);
  second.start();
  await pass(ms);
}
const mac = ({ kernel }: SimHost) => kernel.link('eth0').mac ?? 'none';
const ready = (...hosts: readonly SimHost[]) => hosts.map(({ readiness }) => readiness.ready);

describe('a host that is started with the address of another one', () => {
  it.each([
    ['reaches etcd', () => {}],
    ['was cut off from etcd by that', () => cluster.etcd.cut(first.name)],
    ['hears nothing of etcd any more', () => cluster.etcd.cutAnswers(first.name)],
    ['is suspended', () => first.clock.suspend()],
    ['has its daemon down', () => first.crash()],
  ])('takes nothing of its lease when that one %s, and no other either', async (_, befall) => {
    await start(peer, first);
    const before = leases();
    const [subnet] = await subnetsOf(first);
    befall();
    await intrude(3_600_000);
    expect(reasons(second)).toMatch(conflict);
    expect(leases()).toEqual(before);
    expect(await subnetsOf(first, second)).toEqual([subnet, undefined]);
    expect(cluster.log.events('lease-probed')).toEqual([]);
    expect(peer.ownRoutes).toEqual([`${subnet} via 10.211.55.21`]);
  });

  it('gets a lease within seconds of having an address of its own; the first one is ready again', async () => {
    await start(peer, first);
    const [subnet] = await subnetsOf(first);
    await intrude(600_000);
    // Each names the other by its MAC address.
    expect(reasons(first)).toContain(mac(second));
    expect(reasons(second)).toContain(mac(first));
    readdress(second, '10.211.55.99');
    await pass(20_000);
    expect(ready(first, second, peer)).toEqual([true, true, true]);
    const named = leases().map(({ address }) => address);
    expect(new Set(named)).toEqual(new Set(['10.211.55.20', '10.211.55.21', '10.211.55.99']));
    expect(await subnetsOf(first)).toEqual([subnet]);
  });

  it('gets the lease within seconds of the first one being gone, after asking etcd whether it is held', async () => {
    await start(peer, first);
    const [subnet] = await subnetsOf(first);
    await intrude(600_000);
    await first.stop();
    first.kernel.deleteLink('eth0');
    await pass(20_000);
    expect(second.readiness.ready).toBe(true);
    expect(await subnetsOf(second)).toEqual([subnet]);
  });

  it.each(['', 'cut off from etcd'])(
    'does not get the lease of a daemon that is started again meanwhile %s',
    async (how) => {
      await start(peer, first);
      const before = leases();
      await intrude(60_000);
      await first.stop();
      await pass(60_000);
      if (how !== '') cluster.etcd.cut(first.name);
      first.start();
      await pass(60_000);
      cluster.etcd.heal(first.name);
      await pass(60_000);
      expect(leases()).toEqual(before);
      expect(reasons(first)).toMatch(conflict);
      expect(first.notifier.isReady).toBe(true);
      expect(second.notifier.isReady).toBe(false);
    },
  );
});

describe('a host whose lease was taken over while it was off the network', () => {
  /** The second one takes the lease of the first one, which nobody answers for. */
  async function takeOver(): Promise<void> {
    await start(peer, first);
    await first.stop();
    first.kernel.setCarrier('eth0', false);
    readdress(second, first.address);
    await start(second);
    expect(await subnetsOf(second)).toEqual(await subnetsOf(first));
  }

  it('leaves it to the one that answers for it, when its daemon is started again without a boot', async () => {
    await takeOver();
    first.kernel.setCarrier('eth0', true);
    first.start();
    await pass(50_000);
    expect(reasons(first)).toMatch(/uses this host's address/);
    expect(first.notifier.isReady).toBe(false);
    expect(reasons(second)).toMatch(conflict);
    readdress(first, '10.211.55.99');
    await pass(30_000);
    expect(ready(first, second, peer)).toEqual([true, true, true]);
    expect(new Set(await subnetsOf(first, second, peer)).size).toBe(3);
  });

  it('is no ready owner of it beside the other one when neither can ask etcd', async () => {
    await takeOver();
    cluster.etcd.cut(second.name);
    first.kernel.setCarrier('eth0', true);
    first.start();
    await pass(60_000);
    expect(ready(first, second)).toEqual([false, false]);
    for (const host of [first, second]) expect(reasons(host)).toMatch(conflict);
  });

  it('is no ready owner of it beside the other one when its daemon ran all the time', async () => {
    await start(peer, first);
    cluster.etcd.cut(first.name);
    first.kernel.setCarrier('eth0', false);
    readdress(second, first.address);
    await start(second);
    first.kernel.setCarrier('eth0', true);
    await pass(1_000);
    expect(ready(first, second)).toEqual([false, false]);
    cluster.etcd.heal(first.name);
    await pass(60_000);
    for (const host of [first, second]) expect(reasons(host)).toMatch(conflict);
  });
});

it('two hosts with one address that are started at once both wait, and both say why', async () => {
  first.start();
  await intrude(600_000);
  for (const host of [first, second]) expect(reasons(host)).toMatch(conflict);
  expect(leases()).toEqual([]);
  readdress(second, '10.211.55.99');
  await pass(20_000);
  expect(ready(first, second)).toEqual([true, true]);
});

it('a host that gets the address of another one while it runs says so, as does the other one; both keep their subnets', async () => {
  await start(peer, first, second);
  const before = await subnetsOf(first, second);
  const { address } = second;
  readdress(second, first.address);
  await pass(60_000);
  for (const host of [first, second]) expect(reasons(host)).toMatch(conflict);
  readdress(second, address);
  await pass(60_000);
  expect(await subnetsOf(first, second)).toEqual(before);
  expect(ready(first, second)).toEqual([true, true]);
});

it.each([
  ['that nobody has moves to it', false],
  ['that another host has does not', true],
])('a host with a lease whose new address is named by another lease, %s', async (_, isTaken) => {
  await start(peer, first, second);
  const { address } = second;
  await second.stop();
  if (!isTaken) second.kernel.deleteLink('eth0');
  readdress(first, address);
  await pass(30_000);
  const named = leases().filter((lease) => lease.address === address);
  expect(named).toHaveLength(isTaken ? 1 : 2);
  expect(reasons(first)).toMatch(isTaken ? /holds the lease/ : /^$/);
});

describe('a start', () => {
  const readyAfter = async (host: SimHost) => {
    const startMs = cluster.clock.monotonic();
    host.start();
    await cluster.clock.until('ready', () => host.notifier.isReady, 10_000);
    return cluster.clock.monotonic() - startMs;
  };

  it('takes less than a tenth of a second for the first look', async () => {
    expect(await readyAfter(first)).toBeLessThan(100);
  });

  it('of a host that has its lease already does not wait for it', async () => {
    await start(first);
    await first.stop();
    expect(await readyAfter(first)).toBeLessThan(50);
  });

  it('does its work without ARP when that is not allowed, and says so in a notice', async () => {
    cluster.segment.refusal = 'EPERM';
    expect(await readyAfter(first)).toBeLessThan(50);
    await pass(100);
    expect(first.readiness.ready).toBe(true);
    expect(first.readiness.notices.join()).toMatch(/10\.211\.55\.21.*EPERM/);
  });
});
