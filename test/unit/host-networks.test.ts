import { afterEach, describe, expect, it } from 'vitest';
import { dualLease, lease } from '../../sim/leases.ts';
import { inFamily, ReconcilerHost } from '../../sim/route-hosts.ts';
import { connectedNetworks, HostNetworks } from '../../src/backend/hostgw/host-networks.ts';

const link = (index: number, name: string) => ({
  index,
  name,
  mtu: 1500,
  up: true,
  carrier: true,
  loopback: false,
});
const address = (family: 4 | 6, text: string, prefixLength: number, over: object = {}) => ({
  family,
  linkIndex: 2,
  address: text,
  prefixLength,
  scope: 'global' as const,
  deprecated: false,
  temporary: false,
  permanent: true,
  tentative: false,
  dadFailed: false,
  ...over,
});

describe('a route that would take a part of the host’s own', () => {
  const networks = new HostNetworks({
    connected: connectedNetworks(
      4,
      [link(2, 'eth0'), link(3, 'br9')],
      [
        address(4, '10.211.55.100', 24),
        address(4, '10.9.9.9', 32),
        address(4, '127.0.0.1', 8, { scope: 'host' }),
        address(6, 'fd00::1', 64),
        address(4, '172.20.9.9', 24, { linkIndex: 3 }),
      ],
    ),
    gateways: ['10.99.0.1'],
    etcdAddresses: ['10.77.0.5', 'fd77::5'],
    isLeasable: ({ text }) => ['172.20.9.0/24', '10.211.55.0/24'].includes(text),
    linkIndex: 2,
  });

  const connected = 'it overlaps 10.211.55.0/24, the network eth0 is connected to';
  const held = 'eth0 of this host has an address in it (10.211.55.100/24)';
  it.each<[string, string, string | undefined]>([
    ['a half of a connected network', '10.211.55.0/25', held],
    ['the other half', '10.211.55.128/25', connected],
    ['one host of it', '10.211.55.7/32', connected],
    ['the network itself', '10.211.55.0/24', held],
    ['what is around it', '10.211.0.0/16', held],
    ['its neighbour', '10.211.56.0/24', undefined],
    ['a single address', '10.9.9.9/32', 'eth0 of this host has an address in it (10.9.9.9/32)'],
    ['what is around a single address, which the kernel keeps for itself', '10.9.9.0/24', undefined],
    [
      'the gateway of the default route',
      '10.99.0.0/30',
      'it contains 10.99.0.1, the gateway of the default route',
    ],
    ['an etcd endpoint', '10.77.0.0/24', 'it contains 10.77.0.5, the address of an etcd endpoint'],
    ['a peer’s subnet', '172.20.1.0/24', undefined],
    ['the IPv6 endpoint', 'fd77::/64', 'it contains fd77::5, the address of an etcd endpoint'],
  ])('is refused, with a reason: %s', (_what, dst, reason) => {
    expect(networks.refusal(dst)?.text).toBe(reason);
    expect(networks.refusal(dst)?.text).toBe(reason);
  });

  it('is this host’s fault where hosts may lease that subnet, and else that of the lease', () => {
    expect(networks.refusal('172.20.9.0/24')?.fault).toBe('own');
    expect(networks.refusal('172.20.9.0/25')?.fault).toBe('peer');
    expect(networks.refusal('10.211.55.0/24')?.fault).toBe('peer');
    expect(networks.refusal('10.77.0.0/24')?.fault).toBe('peer');
  });
});

describe.each([4, 6] as const)('leases that ask for the host’s own networks, IPv%i', (family) => {
  let host: ReconcilerHost;
  afterEach(() => host.stop());

  const own = (text: string) => inFamily(family, text);
  const ours = () => host.own.map((text) => text.split(' ')[0] ?? '');
  const leaseOf = (dst: string, gateway: string, key: string) => ({
    ...(family === 4 ? lease(dst, gateway) : dualLease('0.0.0.0/0', dst, '0.0.0.0', gateway)),
    key,
  });

  it('are not routed as long as these are there, and nothing else suffers', async () => {
    host = new ReconcilerHost({ family });
    const { kernel, clock } = host;
    const peer = own('10.211.55.101');
    const good = own('172.20.1.0/24');
    const other = own('10.44.0.1/24');
    const otherNetwork = family === 4 ? '10.44.0.0/24' : 'fd44::/64';
    const half = family === 4 ? '10.44.0.128/25' : 'fd44::8000:0:0:0/65';
    kernel.createLink('eth1');
    kernel.addAddress('eth1', other);
    const leases = [
      leaseOf(good, peer, 'good'),
      leaseOf(half, peer, 'half'),
      leaseOf(family === 4 ? '10.211.55.0/26' : 'fd00:55:0:0:8000::/65', own('10.44.0.9'), 'eth0'),
    ];
    host.start();
    host.reconciler.update({ type: 'snapshot', leases, revision: 1 });
    await clock.advance(1_000);
    expect(ours()).toEqual([good]);
    const reasons = host.reconciler
      .status()
      .peers.flatMap(({ state, reason }) => (reason ? [`${state}: ${reason.text}`] : []));
    expect(reasons).toHaveLength(2);
    expect(reasons.join()).toContain(
      `conflict: it overlaps ${otherNetwork}, the network eth1 is connected to`,
    );

    kernel.setLinkUp('eth1', false);
    await clock.advance(300);
    expect(ours()).toEqual([good, half].toSorted());
    kernel.setLinkUp('eth1', true);
    // Taken down, a link loses its IPv6 addresses.
    if (family === 6) kernel.addAddress('eth1', other);
    await clock.advance(300);
    expect(ours()).toEqual([good]);
    kernel.removeAddress('eth1', other);
    await clock.advance(300);
    expect(ours()).toEqual([good, half].toSorted());
    kernel.addAddress('eth1', other);
    await clock.advance(300);
    expect(ours()).toEqual([good]);
  });

  it('are not routed over an address of etcd, as soon as that is known and as long as it is one', async () => {
    host = new ReconcilerHost({ family });
    const { clock, reconciler } = host;
    const [etcd, around] = family === 4 ? ['10.77.0.5', '10.77.0.0/24'] : ['fd77::5', 'fd77::/64'];
    host.start();
    const leases = [leaseOf(around, own('10.211.55.101'), 'around')];
    reconciler.update({ type: 'snapshot', leases, revision: 1 });
    await clock.advance(1_000);
    expect(ours()).toEqual([around]);
    reconciler.protect([etcd]);
    await clock.advance(100);
    expect(ours()).toEqual([]);
    expect(host.state(around)).toContain(`it contains ${etcd}, the address of an etcd endpoint`);
    reconciler.protect([]);
    await clock.advance(100);
    expect(ours()).toEqual([around]);
  });

  it('are not routed over the gateway of the default route, also when that comes later', async () => {
    host = new ReconcilerHost({ family });
    const { kernel, clock } = host;
    const gateway = family === 4 ? '10.99.0.1' : 'fd99::1';
    const around = family === 4 ? '10.99.0.0/24' : 'fd99::/64';
    host.start();
    const leases = [leaseOf(around, own('10.211.55.101'), 'around')];
    host.reconciler.update({ type: 'snapshot', leases, revision: 1 });
    await clock.advance(1_000);
    expect(ours()).toEqual([around]);
    const onlink = { gateway, linkIndex: host.eth0, special: true };
    kernel.addRoute({ dst: own('0.0.0.0/0'), metric: 50, ...onlink });
    await clock.advance(300);
    expect(ours()).toEqual([]);
  });
});
