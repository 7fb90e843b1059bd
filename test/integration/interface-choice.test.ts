import { beforeAll, expect, test } from 'vitest';
import type { DaemonProcess } from '../testbed/daemon.ts';
import { useBench } from './bench.ts';

const bench = useBench({ addresses: ['10.211.55.100/24', '10.211.55.200/24'] });
let count = 0;

// eth0 has two addresses and the default route; eth1 one, and the route to 203.0.113.0/24.
beforeAll(async () => {
  await bench.host.ip('link add eth1 type bridge');
  await bench.host.ip('link set eth1 up mtu 1400');
  await bench.host.ip('addr add 192.168.7.1/24 dev eth1');
  await bench.host.ip('route add default via 10.211.55.1 dev eth0');
  await bench.host.ip('route add 203.0.113.0/24 via 192.168.7.9 dev eth1');
});

/** A daemon with a network of its own. */
async function makeDaemon(flags: readonly string[]): Promise<DaemonProcess> {
  const number = ++count;
  const prefix = `/choice-${number}`;
  const network = { Network: `172.${20 + number}.0.0/16`, Backend: { Type: 'host-gw' } };
  await bench.etcd.ctl('put', `${prefix}/config`, JSON.stringify(network));
  return bench.makeDaemon(`choice-${number}`, { prefix, flags });
}

/** The PublicIP of the one lease under the daemon's prefix. */
async function leasedFor(daemon: DaemonProcess): Promise<unknown> {
  const value = await bench.etcd.ctl(
    'get',
    '--prefix',
    `${daemon.options.prefix}/subnets/`,
    '--print-value-only',
  );
  const lease: { PublicIP: unknown } = JSON.parse(value);
  return lease.PublicIP;
}

test.each([
  ['a missing interface, then one that is there', ['--iface=eth7', '--iface=eth1'], '192.168.7.1', '1400'],
  ['a regex on addresses', ['--iface-regex=\\.200$'], '10.211.55.200', '1500'],
  ['an address to be reached', ['--iface-can-reach=203.0.113.5'], '192.168.7.1', '1400'],
])('%s leads to the interface, its address and its MTU', async (_what, flags, publicIP, mtu) => {
  const daemon = await makeDaemon(flags);
  await daemon.start();
  expect(await leasedFor(daemon)).toBe(publicIP);
  expect(daemon.subnetEnv()['FLANNEL_MTU']).toBe(mtu);
  expect((await daemon.stop()).code).toBe(0);
});

test('what was tried in vain is told, with what exists, and waited out', async () => {
  const daemon = await makeDaemon(['--iface=eth7', '--iface-regex=^ens', '--iface-can-reach=127.0.0.1']);
  daemon.launch();
  const { msg } = await daemon.waitForLog('trouble');
  const there = 'eth0 (10.211.55.100/24 10.211.55.200/24), eth1 (192.168.7.1/24)';
  for (const text of ['no interface eth7', '^ens', '127.0.0.1 is', there]) expect(msg).toContain(text);
  expect(daemon.running).toBe(true);
  expect((await daemon.stop()).code).toBe(0);
});

test('an address that becomes reachable ends the wait', async () => {
  await bench.host.ip('route del default');
  const daemon = await makeDaemon(['--iface-can-reach=198.51.100.1']);
  daemon.launch();
  const { msg } = await daemon.waitForLog('trouble');
  expect(msg).toContain('there is no route to 198.51.100.1');
  await bench.host.ip('route add 198.51.100.0/24 via 192.168.7.9 dev eth1');
  await daemon.ready(5_000);
  expect(await leasedFor(daemon)).toBe('192.168.7.1');
});
