import { beforeEach, describe, expect, it } from 'vitest';
import { prefix, type SimCluster, type SimHost } from '../../sim/cluster.ts';
import { makeCluster } from './sim-worlds.ts';

let cluster: SimCluster;
let host: SimHost;

/** The pool of the scenario is 172.20.10.0/24 to 172.20.254.0/24. */
beforeEach(() => {
  cluster = makeCluster({ seed: 31, hosts: 2, ipv6: true });
  host = cluster.hosts[0] as SimHost;
});

function link(name: string, address: string): void {
  host.kernel.createLink(name);
  host.kernel.addAddress(name, address);
}

const ready = (within = 60_000) => cluster.clock.until('ready', () => host.readiness.ready, within);

async function expectRefused(reason: string): Promise<void> {
  host.start();
  await cluster.clock.advance(60_000);
  expect(host.readiness.reasons.join()).toContain(reason);
  expect(host.notifier.isReady).toBe(false);
  expect(cluster.etcd.leaseIds).toEqual([]);
  expect(host.ownRoutes).toEqual([]);
  expect(cluster.log.events('trouble').filter(({ fields }) => fields['what'] === 'pool')).toHaveLength(1);
}

describe('R6: a network of the host in the range that subnets are leased from', () => {
  it('keeps it from taking a subnet, naming both, until it is gone', async () => {
    link('eth1', '172.20.77.5/24');
    await expectRefused(
      'waiting: 172.20.77.0/24 of eth1 lies in the range that subnets are leased from, 172.20.10.0/24 to 172.20.254.0/24. Exclude it by SubnetMin',
    );
    host.kernel.removeAddress('eth1', '172.20.77.5/24');
    await ready(1_000);
    expect(host.readiness.reasons).toEqual([]);
  });

  it('keeps it from taking one until the configuration leaves it out', async () => {
    link('eth1', '172.20.77.5/24');
    await expectRefused('172.20.77.0/24 of eth1');
    cluster.etcd.put(
      `${prefix}/config`,
      '{"Network":"172.20.0.0/16","SubnetMin":"172.20.80.0","Backend":{"Type":"host-gw"}}',
    );
    await ready();
  });

  it.each([
    ['the interface’s own network', 'eth0', '172.20.77.5/16'],
    ['a VPN’s, wider than the pool', 'tun0', '172.16.0.9/12'],
    ['a single address', 'lo', '172.20.30.1/32'],
    ['another bridge of containers', 'br-1234', '172.20.50.1/24'],
    ['a CNI bridge with no subnet of the pool', 'cni0', '172.20.50.1/20'],
  ])('is refused: %s', async (_what, name, address) => {
    if (name === 'eth0' || name === 'lo') host.kernel.addAddress(name, address, { scope: 'global' });
    else link(name, address);
    await expectRefused(`of ${name} lies in the range`);
  });

  it('is refused in IPv6 alike', async () => {
    cluster.etcd.put(
      `${prefix}/config`,
      '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00:20::/48","Backend":{"Type":"host-gw"}}',
    );
    link('eth1', 'fc00:20:0:5::1/64');
    await expectRefused('fc00:20:0:5::/64 of eth1');
  });

  it.each([
    ['within Network, but not in the range', 'eth1', '172.20.5.5/24'],
    ['of Docker’s bridge, with an old subnet', 'docker0', '172.20.50.1/24'],
    ['of the CNI plugin’s bridge, with an old subnet', 'cni0', '172.20.50.1/24'],
  ])('is none of it: %s', async (_what, name, address) => {
    link(name, address);
    host.start();
    await ready();
  });

  it.each(['subnet.env', 'etcd'])('is none of it on a bridge with this host’s subnet by %s', async (by) => {
    link('br0', '172.20.60.1/24');
    const text =
      'FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.60.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n';
    const value = `{"PublicIP":"${host.address}","PublicIPv6":null,"BackendType":"host-gw"}`;
    if (by === 'etcd') cluster.etcd.put(`${prefix}/subnets/172.20.60.0-24`, value);
    else await host.files.writeAtomic('/run/flannel/subnet.env', text, 0o644);
    host.start();
    await ready();
    expect((await host.subnet())?.text).toBe('172.20.60.0/24');
  });

  it('is refused on the interface itself, also when a subnet.env names it', async () => {
    host.kernel.addAddress('eth0', '172.20.60.9/24');
    await host.files.writeAtomic('/run/flannel/subnet.env', 'FLANNEL_SUBNET=172.20.60.1/24\n', 0o644);
    await expectRefused('172.20.60.0/24 of eth0');
  });
});

describe('F7: Docker’s bridge with an address of another subnet', () => {
  const notices = () => host.readiness.notices.join();

  it('is noticed, with the command that mends it, until it is mended', async () => {
    link('docker0', '172.20.50.1/24');
    host.start();
    await ready();
    const own = (await host.subnet())?.text ?? '';
    await cluster.clock.until('a notice', () => notices() !== '', 30_000);
    expect(notices()).toBe(
      `docker0 has 172.20.50.1/24, and this host's subnet is ${own}: its containers cannot be reached from other hosts. Run: systemctl restart docker`,
    );
    expect(host.readiness.ready).toBe(true);
    host.kernel.removeAddress('docker0', '172.20.50.1/24');
    host.kernel.addAddress('docker0', own.replace(/0\/24$/, '1/24'));
    await cluster.clock.until('none', () => notices() === '', 1_000);
  });

  it('is noticed when it comes while the daemon runs', async () => {
    host.start();
    await ready();
    await cluster.clock.advance(3_600_000);
    link('docker0', '172.20.50.1/24');
    await cluster.clock.until('a notice', () => notices().includes('172.20.50.1/24'), 30_000);
  });

  it('is not mentioned while Docker is just being started anew, nor when it is outside of the network', async () => {
    host.start();
    await ready();
    link('docker0', '172.20.50.1/24');
    await cluster.clock.advance(4_000);
    host.kernel.removeAddress('docker0', '172.20.50.1/24');
    host.kernel.addAddress('docker0', '172.17.0.1/16');
    await cluster.clock.advance(60_000);
    expect(notices()).toBe('');
    expect(cluster.log.events('trouble')).toEqual([]);
  });
});
