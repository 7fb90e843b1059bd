import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { type ClusterHost, CONFIG, PREFIX } from '../testbed/cluster.ts';
import { DaemonProcess } from '../testbed/daemon.ts';
import { runFolder } from '../testbed/host.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import {
  etcdLeaseIds,
  ownRoutes,
  type StoredLease,
  storedLeases,
  subnetOf,
  untilOwnRoutes,
} from './route-watch.ts';
import { useCluster } from './use-cluster.ts';

/** The address that VirtualBox gives every machine behind its NAT. */
const SHARED = '10.0.2.15';
const SECOND_PREFIX = '/second/network';
/** On the segment, with nobody there. */
const OTHER = '10.211.55.199';

const cluster = useCluster({ hosts: 2 });
let first: ClusterHost;
let second: ClusterHost;

beforeAll(async () => {
  [first, second] = [cluster.at(0), cluster.at(1)];
  for (const host of cluster.hosts) {
    await host.net.ip('link add nat0 type veth peer name nat1');
    await host.net.ip('link set nat1 up');
    await host.net.ip('link set nat0 up');
    await host.net.ip(`addr add ${SHARED}/24 dev nat0`);
  }
});

const daemons: DaemonProcess[] = [];

afterEach(async () => {
  for (const daemon of daemons.splice(0)) if (daemon.running) await daemon.stop();
  await cluster.etcd.ctl('del', '--prefix', `${PREFIX}/subnets/`);
});

function daemonOn(host: ClusterHost, ...flags: readonly string[]): DaemonProcess {
  const daemon = new DaemonProcess({ ...host.daemon.options, flags });
  daemons.push(daemon);
  return daemon;
}

const leases = (): Promise<readonly StoredLease[]> => storedLeases(cluster.etcd.first);

test('L9: of two live hosts with one address the second refuses the lease of the first, and has it when that one stops', async () => {
  const holder = daemonOn(first, '--iface=nat0');
  await holder.start();
  const [before] = await leases();
  expect(before?.value).toBe(leaseValue(SHARED));

  const refused = daemonOn(second, '--iface=nat0');
  refused.launch();
  const line = await refused.waitForLog(({ event, what }) => event === 'trouble' && what === 'lease');
  for (const part of [SHARED, before?.key ?? '', '--iface', '--public-ip']) expect(line.msg).toContain(part);
  expect(await holder.waitForLog('probe-answered')).toMatchObject({ key: before?.key });
  const after = await leases();
  expect(after).toMatchObject([{ key: before?.key, value: before?.value, leaseId: before?.leaseId }]);
  expect(existsSync(second.daemon.subnetFile)).toBe(false);

  await holder.stop();
  await refused.stop();
  const startMs = performance.now();
  await refused.start();
  expect(performance.now() - startMs).toBeGreaterThan(2_000);
  expect(subnetOf(second)).toBe(subnetOf(first));
  expect(await leases()).toMatchObject([{ key: before?.key, leaseId: before?.leaseId }]);
  // From now on it knows the lease for its own by subnet.env, and asks nobody.
  await refused.restart();
  expect(refused.logs.filter(({ event }) => event === 'lease-probed')).toEqual([]);
});

test('two daemons with two prefixes share a host and its address without disturbing one another', async () => {
  const network = { ...CONFIG, Network: '172.21.0.0/16', SubnetMin: '172.21.10.0', SubnetMax: undefined };
  await cluster.etcd.ctl('put', `${SECOND_PREFIX}/config`, JSON.stringify(network));
  const idle = await etcdLeaseIds(cluster.etcd.first);
  const one = daemonOn(first, '--iface=eth0');
  const two = daemonOn(
    first,
    '--iface=eth0',
    `--etcd-prefix=${SECOND_PREFIX}`,
    '--subnet-file=/run/second/subnet.env',
    '--docker-opts-file=/run/second/docker_opts.env',
    '--subnet-lease-ttl=40',
  );
  const secondFile = join(runFolder(first), 'second/subnet.env');
  await Promise.all([one.start(), two.start()]);
  const firstSubnet = one.subnetEnv()['FLANNEL_SUBNET'];
  const secondSubnet = /FLANNEL_SUBNET=(\S+)/.exec(readFileSync(secondFile, 'utf8'))?.[1] ?? '';
  expect(firstSubnet).toMatch(/^172\.20\./);
  expect(secondSubnet).toMatch(/^172\.21\./);

  const secondKey = `${SECOND_PREFIX}/subnets/172.21.9.0-24`;
  await cluster.etcd.ctl('put', leaseKey('172.20.9.0/24'), leaseValue(OTHER));
  await cluster.etcd.ctl('put', secondKey, leaseValue(OTHER));
  const both = [`172.20.9.0/24 via ${OTHER} dev eth0`, `172.21.9.0/24 via ${OTHER} dev eth0`];
  await untilOwnRoutes(first, both);

  const leaseIds = await etcdLeaseIds(cluster.etcd.first);
  expect(leaseIds).toHaveLength(idle.length + 2);
  const stored = await leases();
  for (const daemon of [one, two]) {
    await daemon.restart();
    expect(await ownRoutes(first)).toEqual(both);
  }
  await one.stop();
  await cluster.etcd.ctl('del', secondKey);
  await untilOwnRoutes(first, both.slice(0, 1));
  expect(await etcdLeaseIds(cluster.etcd.first)).toEqual(leaseIds);
  expect(await leases()).toEqual(stored);
  expect(one.subnetEnv()['FLANNEL_SUBNET']).toBe(firstSubnet);
  expect(readFileSync(secondFile, 'utf8')).toContain(secondSubnet);
});

test('L7: --subnet-lease-ttl is what the lease is granted for, and what it is changed to at the next start', async () => {
  const granted = async () => {
    const [lease] = await leases();
    return await cluster.etcd.ctl('lease', 'timetolive', lease?.leaseId ?? '');
  };
  const short = daemonOn(second, '--iface=eth0', '--subnet-lease-ttl=40');
  await short.start();
  const [before] = await leases();
  expect(await granted()).toContain('granted with TTL(40s)');
  await short.stop();
  const long = daemonOn(second, '--iface=eth0', '--subnet-lease-ttl=7200');
  await long.start();
  expect(await granted()).toContain('granted with TTL(7200s)');
  const [after] = await leases();
  expect(after?.key).toBe(before?.key);
  expect(await etcdLeaseIds(cluster.etcd.first)).not.toContain(before?.leaseId);
});
