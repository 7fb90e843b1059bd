import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import type { StatusView } from '../../src/cli/ask-daemon.ts';
import { type ClusterHost, PREFIX } from '../testbed/cluster.ts';
import type { DaemonProcess } from '../testbed/daemon.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { HEALTH, untilReadyz } from './bench.ts';
import { runProgram } from './program.ts';
import {
  etcdLeaseIds,
  ownRoutes,
  type StoredLease,
  storedLease,
  storedLeases,
  subnetOf,
  untilOwnRoutes,
} from './route-watch.ts';
import { useCluster } from './use-cluster.ts';

const SUBNET = '172.20.40.0/24';
const KEY = leaseKey(SUBNET);
/** The etcd lease of an adopted key; etcd's shortest is 2 s. */
const SHORT_TTL_S = 6;
/** Who else may claim a subnet: on the segment, with nobody there. */
const OTHER = '10.211.55.199';

const cluster = useCluster({ hosts: 2, flags: ['--iface=eth0', ...HEALTH] });
let host: ClusterHost;
let daemon: DaemonProcess;
/** A host whose daemon runs all the while: it routes to what the leases say. */
let peer: ClusterHost;

beforeAll(async () => {
  [host, peer] = [cluster.at(0), cluster.at(1)];
  daemon = host.daemon;
  // Reserved: by chance it would be the subnet of these tests once in a while.
  await put(leaseKey('172.20.30.0/24'), leaseValue(peer.address));
  await peer.daemon.start();
});

beforeEach(async () => {
  const { key: peersKey, leaseId: peersLease } = await storedLease(cluster, peer);
  for (const { key } of await storedLeases(cluster.etcd.first)) {
    if (key !== peersKey) await cluster.etcd.ctl('del', key);
  }
  // What a test before has granted would run out in the middle of a comparison.
  for (const id of await etcdLeaseIds(cluster.etcd.first)) {
    if (id !== peersLease) await cluster.etcd.ctl('lease', 'revoke', id);
  }
  rmSync(daemon.subnetFile, { force: true });
  await peerRoutes([]);
});

afterEach(async () => {
  if (daemon.running) await daemon.stop();
});

const put = (key: string, value: string, leaseId = '0') =>
  cluster.etcd.ctl('put', key, value, `--lease=${leaseId}`);

/** What a key holds; undefined when it is not there. */
async function stored(key: string): Promise<StoredLease | undefined> {
  return (await storedLeases(cluster.etcd.first)).find((lease) => lease.key === key);
}

/** Waits until the peer's routes are exactly these. */
async function peerRoutes(expected: readonly string[]): Promise<void> {
  const wanted = expected.map((route) => `${route} dev eth0`);
  await untilOwnRoutes(peer, wanted, () => daemon.process.tail());
}

const readyz = (status: 200 | 503) =>
  untilReadyz(host.net.namespace, 8471, { status, timeoutMs: 20_000, more: () => daemon.process.tail() });

test(`an adopted key on a lease of ${SHORT_TTL_S} s lives on by renewals that write nothing`, async () => {
  const leaseId = await cluster.etcd.grant(SHORT_TTL_S);
  await put(KEY, leaseValue(host.address), leaseId);
  await daemon.start();
  const adopted = await stored(KEY);
  // Granted after the daemon has adopted its own: it is gone when nobody renews it.
  const control = leaseKey('172.20.3.0/24');
  await put(control, leaseValue(OTHER), await cluster.etcd.grant(SHORT_TTL_S));
  const isGone = async () => (await stored(control)) === undefined;
  await until(isGone, 4 * SHORT_TTL_S * 1000, 'the lease that nobody renews lives on');
  expect(await stored(KEY)).toEqual(adopted);
  expect(adopted).toMatchObject({ value: leaseValue(host.address), leaseId });
  expect(subnetOf(host)).toBe(SUBNET);
  expect(daemon.logs.filter(({ level }) => level === 'warn')).toEqual([]);
});

test('L2: a reservation is taken, and after two restarts it is as it was', async () => {
  await put(KEY, leaseValue(host.address));
  const leaseIds = await etcdLeaseIds(cluster.etcd.first);
  await daemon.start();
  const taken = await stored(KEY);
  expect(taken).toMatchObject({ value: leaseValue(host.address), leaseId: '0'.repeat(16) });
  for (const _ of [1, 2]) {
    expect(subnetOf(host)).toBe(SUBNET);
    await daemon.restart();
  }
  await daemon.stop();
  expect(subnetOf(host)).toBe(SUBNET);
  expect(await stored(KEY)).toEqual(taken);
  expect(await etcdLeaseIds(cluster.etcd.first)).toEqual(leaseIds);
});

test('an own key that another host has taken is left to it, loudly, until an operator deletes it', async () => {
  await daemon.start();
  const { key } = await storedLease(cluster, host);
  const subnet = subnetOf(host);
  await peerRoutes([`${subnet} via ${host.address}`]);

  await put(key, leaseValue(OTHER));
  const line = await daemon.waitForLog(({ event, what }) => event === 'trouble' && what === 'contested');
  for (const text of [subnet, OTHER, `del '${key}'`]) expect(line.msg).toContain(text);
  expect(await readyz(503)).toContain(`now belongs to ${OTHER}`);
  await peerRoutes([`${subnet} via ${OTHER}`]);
  const taken = await stored(key);
  // It has looked again: the first time after about one second.
  const attempts = async () => {
    const { stdout } = await runProgram({ ...daemon.options, argv: ['status', '--json'] });
    const { errors }: StatusView = JSON.parse(stdout.join(''));
    return errors.find(({ what }) => what === 'contested')?.attempts ?? 0;
  };
  await until(async () => (await attempts()) > 2, 20_000, 'it does not look again');
  expect(await stored(key)).toEqual(taken);
  expect(taken?.value).toBe(leaseValue(OTHER));
  expect(await ownRoutes(host)).toHaveLength(1);
  expect(daemon.logs.filter(({ what }) => what === 'contested')).toHaveLength(1);

  await cluster.etcd.ctl('del', key);
  await readyz(200);
  await peerRoutes([`${subnet} via ${host.address}`]);
  const own = await stored(key);
  expect(own?.value).toBe(leaseValue(host.address));
  expect(await etcdLeaseIds(cluster.etcd.first)).toContain(own?.leaseId);
});

/** Leaves a subnet.env as from a run before, with {@link SUBNET} in it. */
function leaveSubnetFile(): void {
  mkdirSync(dirname(daemon.subnetFile), { recursive: true });
  writeFileSync(daemon.subnetFile, 'FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.40.1/24\n');
}

test.each([
  ['another length', '172.20.40.0-23'],
  ['an IPv6 half', '172.20.40.0-24&fd20:0:0:40::-64'],
])('L10: the subnet of a previous subnet.env never wins against a live lease with %s', async (_, name) => {
  const theirs = `${PREFIX}/subnets/${name}`;
  const both = name.includes('&') ? { PublicIPv6: 'fd00:55::199' } : {};
  await put(theirs, leaseValue(OTHER, both), await cluster.etcd.grant(3_600));
  const before = await stored(theirs);
  leaveSubnetFile();
  await daemon.start();
  expect(subnetOf(host)).not.toBe(SUBNET);
  expect(await stored(KEY)).toBeUndefined();
  expect(await stored(theirs)).toEqual(before);
  expect(await daemon.waitForLog('lease-acquired')).not.toMatchObject({ origin: 'hint' });
});

test('the subnet of a previous subnet.env is taken while it is free, and another one when it is not', async () => {
  leaveSubnetFile();
  await daemon.start();
  expect(subnetOf(host)).toBe(SUBNET);
  expect(await daemon.waitForLog('lease-acquired')).toMatchObject({ origin: 'hint' });

  await daemon.stop();
  await put(KEY, leaseValue(OTHER));
  const theirs = await stored(KEY);
  await daemon.start();
  expect(subnetOf(host)).not.toBe(SUBNET);
  expect(await stored(KEY)).toEqual(theirs);
});

test('nothing outside the subnets was written', async () => {
  const keys = await cluster.etcd.ctl('get', '--prefix', '', '--keys-only');
  const others = keys.split('\n').filter((key) => key !== '' && !key.startsWith(`${PREFIX}/subnets/`));
  expect(others).toEqual([`${PREFIX}/config`]);
});
