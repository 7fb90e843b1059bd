import { join } from 'node:path';
import { beforeAll, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { EtcdMember } from '../../src/subnet/etcd/member.ts';
import type { ClusterHost } from '../testbed/cluster.ts';
import { leaderOf } from '../testbed/etcd-leader.ts';
import { GrpcProxy } from '../testbed/grpc-proxy.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { enterNamespace, until } from '../testbed/netns.ts';
import { httpGet } from './bench.ts';
import { expectFullMesh, ownRoutes, routesTo, type StoredLease, storedLeases } from './route-watch.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

// The proxy merges the watches of all daemons into few at etcd. What it tells them then differs from what etcd tells.

const PROXY = '10.211.55.103:23790';
/** A peer without a host: its subnet lies outside the pool, so no daemon can take it; its address changes. */
const PEER = '172.20.5.0/24';
/** The daemons renew every 20 s. */
const TTL_SECONDS = 90;
/** As long as a change takes to arrive while all is well. */
const SOON_MS = 5_000;
/** As long as etcd or the proxy may take to be back, and the daemons to have found out. */
const BACK_MS = 40_000;

/** Three hosts with a daemon and a member of etcd each, and one with the proxy. */
const cluster = useCluster({
  hosts: 4,
  flags: ['--iface=eth0', `--etcd-endpoints=http://${PROXY}`, `--subnet-lease-ttl=${TTL_SECONDS}`],
});
const hosts = () => cluster.hosts.slice(0, 3);
const routes = useRoutes(cluster, hosts);
let proxy: GrpcProxy;
let lastNumber = 150;

beforeAll(async () => {
  const { endpoints } = cluster.etcd;
  proxy = new GrpcProxy({
    dir: join(cluster.dir, 'proxy'),
    host: cluster.at(3).net,
    listen: PROXY,
    endpoints,
  });
  cluster.onClose(() => proxy.kill());
  await proxy.start();
  for (const { daemon } of hosts()) await daemon.start();
});

beforeEach(() => routes.mark());

/** Gives the peer another address, by a member and not by the proxy; resolves to the address. */
async function movePeer(through = cluster.etcd.first): Promise<string> {
  lastNumber += 1;
  const address = `10.211.55.${lastNumber}`;
  await through.ctl('put', leaseKey(PEER), leaseValue(address));
  return address;
}

/** Writes that no daemon watches: the revisions of the daemons' watches differ, and the proxy merges them all the same. */
async function writeElsewhere(): Promise<void> {
  for (let n = 0; n < 5; n++) await cluster.etcd.ctl('put', '/elsewhere', String(n));
}

/** How many messages the proxy has spared etcd, because it sent one of etcd's to several clients. */
async function messagesSpared(): Promise<number> {
  const { body } = await httpGet(cluster.at(3).net.namespace, `${proxy.url}/proxy/metrics`);
  return Number(/^etcd_grpc_proxy_events_coalescing_total (\d+)$/m.exec(body)?.[1]);
}

async function expectAllRoutes(address: string): Promise<void> {
  for (const host of hosts()) {
    const expected = [...routesTo(host, hosts()), `${PEER} via ${address} dev eth0`];
    expect(await ownRoutes(host), host.name).toEqual(expected.toSorted());
  }
}

test('each daemon leases a subnet and routes to all others', async () => {
  const meshed = async (host: ClusterHost) => (await ownRoutes(host)).length === 2;
  for (const host of hosts()) await until(() => meshed(host), SOON_MS, host.name);
  await expectFullMesh(hosts());
});

test('a lease that comes, moves and goes becomes a route on each host, moves it and removes it', async () => {
  for (let turn = 0; turn < 2; turn++) await routes.arrived(hosts(), PEER, await movePeer(), SOON_MS);
  await cluster.etcd.ctl('del', leaseKey(PEER));
  await routes.left(hosts(), PEER, SOON_MS);
});

test('a daemon whose watch the proxy merges into a running one gets each change', async () => {
  for (const { daemon } of hosts()) {
    await writeElsewhere();
    await daemon.restart();
  }
  const before = await messagesSpared();
  const address = await movePeer();
  await routes.arrived(hosts(), PEER, address, SOON_MS);
  expect(await messagesSpared()).toBe(before + 2);
  await expectAllRoutes(address);
  for (const { daemon } of hosts()) {
    expect(daemon.logs.filter(({ event }) => event === 'trouble' || event === 'relist')).toEqual([]);
  }
});

test('each daemon renews its lease', async () => {
  const leases = (await storedLeases(cluster.etcd.first)).filter(
    ({ leaseId }) => BigInt(`0x${leaseId}`) > 0n,
  );
  expect(leases).toHaveLength(3);
  const renewed = async ({ leaseId, key }: StoredLease) => {
    let least = TTL_SECONDS;
    const risen = async () => {
      const answer = await cluster.etcd.ctl('lease', 'timetolive', leaseId);
      const left = Number(/remaining\((-?\d+)s\)/.exec(answer)?.[1]);
      const before = least;
      least = Math.min(least, left);
      return left > before;
    };
    await until(risen, 30_000, `${key} is not renewed`);
  };
  await Promise.all(leases.map(renewed));
});

test('the loss of the leader behind the proxy costs no route, and changes arrive from the others', async () => {
  const leader = await leaderOf(cluster.etcd);
  const other = cluster.etcd.members.find((member) => member !== leader) ?? leader;
  await leader.kill();
  await other.healthy();
  const meanwhile = await movePeer(other);
  await routes.arrived(hosts(), PEER, meanwhile, BACK_MS);
  await leader.start();
  const address = await movePeer();
  await routes.arrived(hosts(), PEER, address, BACK_MS);
  expect(await routes.deletions()).toEqual([]);
  await expectAllRoutes(address);
});

test('a change that was made while the proxy was down arrives once it is back', async () => {
  await proxy.kill();
  await writeElsewhere();
  const meanwhile = await movePeer();
  await proxy.start();
  await routes.arrived(hosts(), PEER, meanwhile, BACK_MS);
  const address = await movePeer();
  await routes.arrived(hosts(), PEER, address, SOON_MS);
  expect(await routes.deletions()).toEqual([]);
  await expectAllRoutes(address);
});

/** Changes and compacts while the proxy cannot reach etcd, so that its watches cannot go on where they were. */
async function compactUnseen(): Promise<string> {
  const { net } = cluster.at(3);
  const rule = 'OUTPUT -p tcp --dport 2379 -j REJECT --reject-with tcp-reset'.split(' ');
  await net.exec('iptables', '-I', ...rule);
  // Their connections end with them, and no new one is made.
  for (const member of cluster.etcd.members) await member.kill();
  for (const member of cluster.etcd.members) member.launch();
  for (const member of cluster.etcd.members) await member.healthy();
  await movePeer();
  const address = await movePeer();
  const status = await cluster.etcd.ctl('get', 'no-such-key', '-w', 'json');
  await cluster.etcd.ctl('compact', String(/"revision":(\d+)/.exec(status)?.[1]));
  await net.exec('iptables', '-D', ...rule);
  return address;
}

test('a change that was made and compacted while the proxy had no etcd arrives, and so do later ones', async () => {
  await routes.arrived(hosts(), PEER, await compactUnseen(), BACK_MS);
  const address = await movePeer();
  await routes.arrived(hosts(), PEER, address, SOON_MS);
  expect(await routes.deletions()).toEqual([]);
  await expectAllRoutes(address);
});

test('a frozen daemon does not keep later changes from the others', async () => {
  const [frozen, ...others] = hosts();
  for (const { daemon } of hosts()) await daemon.restart();
  frozen?.daemon.process.signal('SIGSTOP');
  await routes.arrived(others, PEER, await compactUnseen(), BACK_MS);
  await writeElsewhere();
  await routes.arrived(others, PEER, await movePeer(), SOON_MS);
  frozen?.daemon.process.signal('SIGCONT');
  const address = await movePeer();
  await routes.arrived(hosts(), PEER, address, BACK_MS);
  expect(await routes.deletions()).toEqual([]);
  await expectAllRoutes(address);
});

test('what etcd refuses has the same name behind the proxy, and is known to have had no effect', async () => {
  const leave = enterNamespace(cluster.at(3).net.namespace);
  const registry = new EtcdMember(`http://${PROXY}`, { clock: systemClock });
  const put = (lease: string) => [{ op: 'put', key: '/elsewhere', value: '', lease }] as const;
  try {
    const refused = { kind: 'LEASE_NOT_FOUND', outcomeUnknown: false };
    await expect(registry.txn({ compare: [], success: put('12345') })).rejects.toMatchObject(refused);
    await registry.leaseRevoke('12345');
    await registry.leaseGrant(60, undefined, '12345');
    const taken = { kind: 'PROTOCOL', outcomeUnknown: false };
    await expect(registry.leaseGrant(60, undefined, '12345')).rejects.toMatchObject(taken);
    const past = registry.range({ key: '/elsewhere', revision: 1 });
    await expect(past).rejects.toMatchObject({ kind: 'COMPACTED' });
  } finally {
    registry.close();
    leave();
  }
});

test('no daemon logged an error or lost its lease', () => {
  for (const { daemon, name } of hosts()) {
    const bad = daemon.history().filter(({ level, event }) => level === 'error' || event === 'lease-lost');
    expect(bad, name).toEqual([]);
  }
});
