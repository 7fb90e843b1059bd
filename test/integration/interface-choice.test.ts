import { beforeAll, expect, test } from 'vitest';
import { leaseValue } from '../testbed/lease-keys.ts';
import { useBench } from './bench.ts';
import { storedLeases } from './route-watch.ts';

const bench = useBench();

beforeAll(async () => {
  await bench.host.ip('link add eth1 type bridge');
  await bench.host.ip('link set eth1 up mtu 1400');
  await bench.host.ip('addr add 192.168.7.1/24 dev eth1');
});

test('the daemon names what it tried and what exists, and starts once the address can be reached', async () => {
  const flags = ['--iface=eth7', '--iface-regex=^ens', '--iface-can-reach=198.51.100.1'];
  const daemon = bench.makeDaemon('choice', { flags });
  daemon.launch();
  const { msg } = await daemon.waitForLog('trouble');
  const there = 'eth0 (10.211.55.100/24), eth1 (192.168.7.1/24)';
  for (const text of ['no interface eth7', '^ens', 'there is no route to 198.51.100.1', there])
    expect(msg).toContain(text);
  await bench.host.ip('route add 198.51.100.0/24 via 192.168.7.9 dev eth1');
  await daemon.ready(5_000);
  const [lease] = await storedLeases(bench.etcd.first);
  expect(lease?.value).toBe(leaseValue('192.168.7.1'));
  expect(daemon.subnetEnv()['FLANNEL_MTU']).toBe('1400');
});
