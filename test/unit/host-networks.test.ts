import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { dualLease, lease } from '../../sim/leases.ts';
import { inFamily, ReconcilerHost } from '../../sim/route-hosts.ts';
import { connectedNetworks, HostNetworks } from '../../src/backend/hostgw/host-networks.ts';
import { address, eth0, link } from './plan-table.ts';

describe('a route that would take a part of the host’s own', () => {
  const networks = new HostNetworks({
    connected: connectedNetworks(
      4,
      [link(), link({ index: 3, name: 'br9' })],
      [
        address('10.211.55.100'),
        address('10.9.9.9', { prefixLength: 32 }),
        address('127.0.0.1', { prefixLength: 8, scope: 'host' }),
        address('fd00::1', { family: 6, prefixLength: 64 }),
        address('172.20.9.9', { linkIndex: 3 }),
      ],
    ),
    gateways: ['10.99.0.1'],
    etcdAddresses: ['10.77.0.5', 'fd77::5'],
    isLeasable: ({ text }) => ['172.20.9.0/24', '10.211.55.0/24'].includes(text),
    linkIndex: eth0,
  });

  const connected = 'it overlaps 10.211.55.0/24, the network eth0 is connected to';
  const held = 'eth0 of this host has an address in it (10.211.55.100/24)';
  it.each<[string, string, string | undefined]>([
    ['a half of a connected network', '10.211.55.0/25', held],
    ['the other half', '10.211.55.128/25', connected],
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
    // The second time it is remembered.
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
  beforeEach(() => {
    host = new ReconcilerHost({ family });
  });
  afterEach(() => host.stop());

  const own = (text: string) => inFamily(family, text);
  const ours = () => host.own.map((text) => text.split(' ')[0] ?? '');
  /** Starts the host with these leases, and gives it a second. */
  async function start(...leases: (readonly [dst: string, gateway: string])[]): Promise<void> {
    host.start();
    const made = leases.map(([dst, gateway]) => ({
      ...(family === 4 ? lease(dst, gateway) : dualLease('0.0.0.0/0', dst, '0.0.0.0', gateway)),
      key: dst,
    }));
    host.reconciler.update({ type: 'snapshot', leases: made, revision: 1 });
    await host.clock.advance(1_000);
  }

  it('are not routed as long as these are there, and nothing else suffers', async () => {
    const { kernel, clock } = host;
    const peer = own('10.211.55.101');
    const good = own('172.20.1.0/24');
    const other = own('10.44.0.1/24');
    const otherNetwork = family === 4 ? '10.44.0.0/24' : 'fd44::/64';
    const half = family === 4 ? '10.44.0.128/25' : 'fd44::8000:0:0:0/65';
    kernel.createLink('eth1');
    kernel.addAddress('eth1', other);
    const ofEth0 = family === 4 ? '10.211.55.0/26' : 'fd00:55:0:0:8000::/65';
    await start([good, peer], [half, peer], [ofEth0, own('10.44.0.9')]);
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
  });

  it('are not routed over an address of etcd, as soon as that is known and as long as it is one', async () => {
    const { clock, reconciler } = host;
    const [etcd, around] = family === 4 ? ['10.77.0.5', '10.77.0.0/24'] : ['fd77::5', 'fd77::/64'];
    await start([around, own('10.211.55.101')]);
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
    const { kernel, clock } = host;
    const gateway = family === 4 ? '10.99.0.1' : 'fd99::1';
    const around = family === 4 ? '10.99.0.0/24' : 'fd99::/64';
    await start([around, own('10.211.55.101')]);
    expect(ours()).toEqual([around]);
    const onlink = { gateway, linkIndex: host.eth0, special: true };
    kernel.addRoute({ dst: own('0.0.0.0/0'), metric: 50, ...onlink });
    await clock.advance(300);
    expect(ours()).toEqual([]);
  });
});
