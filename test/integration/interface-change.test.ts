import { readFileSync } from 'node:fs';
import { beforeAll, expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { until } from '../testbed/netns.ts';
import { HEALTH, useBench } from './bench.ts';

const PEERS = ['172.20.1.0/24 via 10.211.55.101', '172.20.2.0/24 via 10.211.55.102'];

const bench = useBench({ flags: ['--iface=eth0', ...HEALTH] });

beforeAll(async () => {
  await bench.putRoutes(PEERS);
  await bench.daemon.start();
});

interface Own {
  readonly key: string;
  readonly publicIP: string;
}

/** The daemon's own lease: the one whose key names the subnet in subnet.env. */
async function ownLease(): Promise<Own> {
  const subnet = bench.daemon.subnetEnv()['FLANNEL_SUBNET'] ?? '';
  const key = `${PREFIX}/subnets/${subnet.replace(/\.1\/24$/, '.0-24')}`;
  const value: { PublicIP: string } = JSON.parse(await bench.etcd.ctl('get', key, '--print-value-only'));
  return { key, publicIP: value.PublicIP };
}

const changes = () => bench.daemon.logs.filter(({ event }) => event === 'interface-changed');

test('another MTU is noticed, logged and written, and changes nothing else', async () => {
  const before = await ownLease();
  await bench.host.ip('link set eth0 mtu 1400');
  const { msg } = await bench.daemon.waitForLog('interface-changed');
  expect(msg).toContain('MTU 1400 instead of 1500');
  await until(
    async () => bench.daemon.subnetEnv()['FLANNEL_MTU'] === '1400',
    5_000,
    'subnet.env has the old MTU',
  );
  const options = () => readFileSync(bench.daemon.dockerOptsFile, 'utf8');
  await until(async () => options().includes('--mtu=1400'), 5_000, 'docker_opts.env has the old MTU');
  expect(await ownLease()).toEqual(before);
  await bench.haveRoutes(PEERS);
  await bench.untilReadyz(200, '', 5_000);
});

test('another address: the lease moves to it, the subnet stays; one that comes back is no change', async () => {
  const before = await ownLease();
  await bench.host.flushAddresses();
  await bench.host.setAddresses(['10.211.55.100/24']);
  await bench.haveRoutes(PEERS);
  await bench.host.flushAddresses();
  await bench.host.setAddresses(['10.211.55.150/24']);
  await until(async () => (await ownLease()).publicIP === '10.211.55.150', 20_000, 'the lease did not move');
  expect((await ownLease()).key).toBe(before.key);
  expect(changes().map(({ msg }) => msg)).toEqual([
    expect.stringContaining('MTU'),
    expect.stringContaining('IPv4 address 10.211.55.150 instead of 10.211.55.100'),
  ]);
  await bench.haveRoutes(PEERS);
  await bench.untilReadyz(200, '', 10_000);
  expect((await bench.daemon.stop()).code).toBe(0);
});
