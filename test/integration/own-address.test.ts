import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { type ClusterHost, PREFIX } from '../testbed/cluster.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { addDocker0 } from './pings.ts';
import { storedLeases, subnetOf } from './route-watch.ts';
import { useCluster } from './use-cluster.ts';

// Which address and which lease are this host's own, on real hosts: three with etcd, and two whose addresses change.

const DEAD_SUBNET = '172.20.77.0/24';
const DEAD = '10.211.55.177';
const VIRTUAL = '10.211.55.253';

const cluster = useCluster({ hosts: 5 });
let peer: ClusterHost;
let host: ClusterHost;
let second: ClusterHost;

beforeAll(async () => {
  [peer, host, second] = [cluster.at(0), cluster.at(3), cluster.at(4)];
  await peer.daemon.start();
});

beforeEach(async () => {
  const id = await cluster.etcd.grant(86_400);
  await cluster.etcd.ctl('put', `--lease=${id}`, leaseKey(DEAD_SUBNET), leaseValue(DEAD));
  await host.daemon.start();
});

afterEach(async () => {
  for (const each of [host, second]) {
    if (each.daemon.running) await each.daemon.stop();
    await each.net.flushAddresses();
    await each.net.setAddresses();
  }
  const peerKey = leaseKey(subnetOf(peer));
  for (const { key } of await storedLeases(cluster.etcd.first)) {
    if (key !== peerKey) await cluster.etcd.ctl('del', key);
  }
});

const addressIn = async (key: string) => {
  const { PublicIP } = JSON.parse(await cluster.etcd.ctl('get', key, '--print-value-only'));
  return String(PublicIP);
};

/** Whether a packet of the peer's arrives, without what its neighbour cache still knows of former addresses. */
async function isReached(address: string): Promise<boolean> {
  for (const each of cluster.hosts) await each.net.ip('neigh flush all');
  return await peer.net.exec('ping', '-c1', '-W2', address).then(
    () => true,
    () => false,
  );
}

test('a host that starts again at the address of a dead host keeps its own subnet, and is reached there', async () => {
  const subnet = subnetOf(host);
  await addDocker0(host);
  await host.daemon.stop();
  await host.net.flushAddresses();
  await host.net.setAddresses([`${DEAD}/24`]);
  await host.daemon.start();
  expect(subnetOf(host)).toBe(subnet);
  expect(await addressIn(leaseKey(subnet))).toBe(DEAD);
  const bridge = subnet.replace('.0/24', '.1');
  await until(() => isReached(bridge), 10_000, `${bridge} is not reached`);
  // And it stays its own when it goes back.
  await host.net.flushAddresses();
  await host.net.setAddresses();
  await until(
    async () => (await addressIn(leaseKey(subnet))) === host.address,
    30_000,
    'the lease did not move',
  );
  await until(() => isReached(bridge), 10_000, `${bridge} is not reached`);
  expect(await addressIn(leaseKey(DEAD_SUBNET))).toBe(DEAD);
  const troubles = host.daemon.logs.filter(({ event }) => event === 'trouble');
  expect(troubles.filter(({ what }) => what === 'address' || what === 'contested')).toEqual([]);
  await host.net.ip('link del docker0');
});

test('a host whose address goes to another while it moves to that of a dead host keeps its subnet alone', async () => {
  const subnet = subnetOf(host);
  await host.net.ip(`addr add ${DEAD}/24 dev eth0`);
  await host.net.ip(`addr del ${host.address}/24 dev eth0`);
  // As it is when the first one goes with all that came after it.
  await host.net.setAddresses([`${DEAD}/24`]).catch(() => '');
  await second.net.flushAddresses();
  await second.net.setAddresses([`${host.address}/24`]);
  second.daemon.launch();
  await until(async () => (await addressIn(leaseKey(subnet))) === DEAD, 30_000, 'the lease did not move');
  await second.daemon.ready(90_000);
  expect(subnetOf(second)).not.toBe(subnet);
  expect(subnetOf(host)).toBe(subnet);
  const leases = await storedLeases(cluster.etcd.first);
  const carried = leases.map(({ key, value }) => `${key.slice(PREFIX.length)} ${JSON.parse(value).PublicIP}`);
  expect(carried).toContain(`/subnets/${subnet.replace('/', '-')} ${DEAD}`);
  expect(carried).toContain(`/subnets/${subnetOf(second).replace('/', '-')} ${host.address}`);
}, 150_000);

test('a leased address from DHCP stays the own one beside a keepalived address, also after a restart and a failover', async () => {
  const subnet = subnetOf(host);
  await host.net.ip(`addr add ${VIRTUAL}/32 dev eth0`);
  await host.net.ip(`addr change ${host.address}/24 dev eth0 valid_lft 1000 preferred_lft 900`);
  await host.daemon.restart();
  expect(await addressIn(leaseKey(subnet))).toBe(host.address);
  // keepalived of another host takes over: first it has the address, and announces it, then this one gives it up.
  await second.daemon.start();
  const routed = async (each: ClusterHost) => {
    const found = (await peer.net.routes()).find(({ dst }) => dst === subnetOf(each));
    return found?.gateway;
  };
  await until(async () => (await routed(second)) === second.address, 10_000, 'no route to the second host');
  await second.net.ip(`addr add ${VIRTUAL}/32 dev eth0`);
  await host.net.ip(`addr del ${VIRTUAL}/32 dev eth0`);
  await until(() => isReached(VIRTUAL), 10_000, 'the virtual address is not reached');
  for (const each of [host, second]) {
    const own = subnetOf(each);
    await each.daemon.restart();
    expect(subnetOf(each)).toBe(own);
    expect(await addressIn(leaseKey(own))).toBe(each.address);
    expect(await routed(each)).toBe(each.address);
  }
  expect(subnetOf(host)).toBe(subnet);
  const troubles = [host, second]
    .flatMap(({ daemon }) => daemon.logs)
    .filter(({ event }) => event === 'trouble');
  expect(troubles.filter(({ what }) => /^address|^contested/.test(String(what)))).toEqual([]);
});

test('of several addresses the one that the lease names stays at a restart', async () => {
  const subnet = subnetOf(host);
  await host.net.ip(`addr add 10.211.56.1/24 dev eth0`);
  await host.net.ip(`addr change ${host.address}/24 dev eth0 valid_lft 1000 preferred_lft 900`);
  await host.daemon.restart();
  expect(subnetOf(host)).toBe(subnet);
  expect(await addressIn(leaseKey(subnet))).toBe(host.address);
});

test('connections to etcd from an address that is gone are made anew at once', async () => {
  await host.net.ip(`addr add 10.211.55.190/24 dev eth0`);
  const connections = async () => {
    const listed = await host.net.exec('ss', '-Htn', 'state', 'established', 'dport', '=', ':2379');
    return listed.split('\n').flatMap((line) => line.trim().split(/\s+/)[2]?.replace(/:\d+$/, '') ?? []);
  };
  await until(async () => (await connections()).includes(host.address), 10_000, 'no connection from eth0');
  await host.net.exec('sh', '-c', 'echo 1 >/proc/sys/net/ipv4/conf/eth0/promote_secondaries');
  await host.net.ip(`addr del ${host.address}/24 dev eth0`);
  await until(
    async () => {
      const from = await connections();
      return from.length > 0 && from.every((address) => address === '10.211.55.190');
    },
    3_000,
    'there is still one from the address that is gone, or none',
  );
});
