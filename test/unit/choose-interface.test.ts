import { describe, expect, it } from 'vitest';
import { chooseInterface } from '../../src/daemon/interface/choose-interface.ts';
import { both, choose, makeHost, noNat, noInterface as none, type Row, wishes } from './interface-host.ts';

const chosen100 = 'eth0 10.211.55.100 1450';

describe('with no iface, iface-regex, iface-can-reach', () => {
  it.each<Row>([
    ['the default route’s interface', {}, chosen100],
    [
      'the holder of public-ip, and that becomes the address',
      { publicIP: '10.211.55.200' },
      'eth0 10.211.55.200 1450',
    ],
    ['public-ip not on the default route’s', { publicIP: '192.168.7.1' }, 'eth1 192.168.7.1 1500'],
    [
      'public-ip that nobody has',
      { publicIP: '203.0.113.9' },
      none('no interface has the address 203.0.113.9'),
    ],
    ['public-ipv6 alone', { publicIPv6: 'fd00:7::1', families: [6] }, 'eth1 fd00:7::1 1500'],
    ['public-ipv6 in another spelling', { publicIPv6: 'FD00:7:0::1', families: [6] }, 'eth1 fd00:7::1 1500'],
    [
      'public-ip before public-ipv6',
      { publicIP: '10.211.55.200', publicIPv6: 'fd00:55::200', families: both },
      'eth0 10.211.55.200 fd00:55::200 1450',
    ],
    [
      'public-ip before public-ipv6 on another interface, which then does not do',
      { publicIP: '192.168.7.1', publicIPv6: 'fd00:55::200', families: both },
      'no usable interface: --public-ipv6=fd00:55::200 is not the address of eth1 (fd00:7::1), and host-gw works through no NAT: ' +
        'eth0 has it, so give --iface=fd00:55::200, or --public-ipv6 without any --iface. There are: ' +
        'eth0 (10.211.55.100/24 10.211.55.200/24 fd00:55::100/64 fd00:55::200/64), eth1 (192.168.7.1/24 fd00:7::1/64), eth2 (no address, down)',
    ],
    [
      'public-ipv6 alone, both families',
      { publicIPv6: 'fd00:7::1', families: both },
      'eth1 192.168.7.1 fd00:7::1 1500',
    ],
    [
      'public-ip of a family that is off',
      { publicIP: '192.168.7.1', families: [6] },
      'eth0 fd00:55::100 1450',
    ],
    ['public-ipv6 of a family that is off', { publicIPv6: 'fd00:7::1' }, chosen100],
    ['the IPv6 default route’s', { families: [6] }, 'eth0 fd00:55::100 1450'],
    ['the default routes’, when both are on one', { families: both }, 'eth0 10.211.55.100 fd00:55::100 1450'],
  ])('%s', async (_what, wanted, expected) => {
    expect(await choose(makeHost(), wanted)).toBe(expected);
  });

  it('the default route with the lowest metric counts', async () => {
    const kernel = makeHost();
    kernel.addRoute({
      dst: '0.0.0.0/0',
      gateway: '192.168.7.9',
      linkIndex: kernel.link('eth1').index,
      metric: 100,
    });
    expect(await choose(kernel)).toBe(chosen100);
    kernel.deleteRoute({ dst: '0.0.0.0/0', gateway: '10.211.55.1' });
    expect(await choose(kernel)).toBe('eth1 192.168.7.1 1500');
    kernel.deleteRoute({ dst: '0.0.0.0/0' });
    expect(await choose(kernel)).toBe(
      none('there is no IPv4 default route to take the interface from (give --iface)'),
    );
  });

  it('… in whatever order the kernel tells them', () => {
    const kernel = makeHost();
    const linkIndex = kernel.link('eth1').index;
    kernel.addRoute({ dst: '0.0.0.0/0', gateway: '192.168.7.9', linkIndex, metric: 100 });
    const ipv4 = kernel.routes(4).toReversed();
    const host = { links: kernel.links(), addresses: kernel.addresses(), routes: { ipv4 } };
    expect(chooseInterface(host, wishes())).toMatchObject({ chosen: { name: 'eth0' } });
  });

  it('a default route that refuses, or has several ways, gives no interface', async () => {
    const kernel = makeHost();
    kernel.deleteRoute({ dst: '0.0.0.0/0' });
    kernel.addRoute({ dst: '0.0.0.0/0', type: 'other' });
    expect(await choose(kernel)).toContain('there is no IPv4 default route');
    kernel.addRoute({ dst: '0.0.0.0/0', special: true, metric: 5 });
    expect(await choose(kernel)).toContain(
      'the IPv4 default route has several ways and so no interface of its own',
    );
  });

  it('both default routes must be on one interface', async () => {
    const kernel = makeHost();
    kernel.deleteRoute({ dst: '::/0' });
    expect(await choose(kernel, { families: both })).toContain('there is no IPv6 default route');
    kernel.addRoute({ dst: '::/0', gateway: 'fd00:7::9', linkIndex: kernel.link('eth1').index });
    expect(await choose(kernel, { families: both })).toContain(
      'the default route is over eth0 for IPv4, over eth1 for IPv6: one interface has to serve both (give --iface)',
    );
  });
});

describe('iface', () => {
  it.each<Row>([
    ['a name, with its first address', { ifaces: ['eth1'] }, 'eth1 192.168.7.1 1500'],
    ['an address takes that very address', { ifaces: ['10.211.55.200'] }, 'eth0 10.211.55.200 1450'],
    ['empty: the default route’s interface', { ifaces: [''] }, chosen100],
    ['empty, public-ip does not lead elsewhere', { ifaces: [''], publicIP: '10.211.55.100' }, chosen100],
    [
      'each in turn',
      { ifaces: ['eth9', 'eth1', 'eth0'] },
      'eth1 192.168.7.1 1500; there is no interface eth9',
    ],
    [
      'one without an address is skipped',
      { ifaces: ['eth2', 'eth1'] },
      'eth1 192.168.7.1 1500; interface eth2 has no usable IPv4 address',
    ],
    ['none without an address', { ifaces: ['eth2'] }, none('interface eth2 has no usable IPv4 address')],
    [
      'all that were tried are told',
      { ifaces: ['eth9', '10.1.1.1'] },
      none('there is no interface eth9; no interface has the address 10.1.1.1'),
    ],
    ['never loopback', { ifaces: ['lo'] }, none('lo is the loopback interface, which no peer can reach')],
    [
      'never a loopback address',
      { ifaces: ['127.0.0.1'] },
      none('lo is the loopback interface, which no peer can reach'),
    ],
    [
      'no IPv6 address in an IPv4 network',
      { ifaces: ['fd00:7::1'] },
      none('fd00:7::1 is of IPv6, which the network configuration has off'),
    ],
    [
      'no IPv4 address in an IPv6 network',
      { ifaces: ['10.211.55.100', 'eth1'], families: [6] },
      'eth1 fd00:7::1 1500; 10.211.55.100 is of IPv4, which the network configuration has off',
    ],
    ['an IPv6 address', { ifaces: ['fd00:55::200'], families: [6] }, 'eth0 fd00:55::200 1450'],
    ['dual by name', { ifaces: ['eth1'], families: both }, 'eth1 192.168.7.1 fd00:7::1 1500'],
    [
      'dual by an IPv4 address takes the first IPv6 one',
      { ifaces: ['10.211.55.200'], families: both },
      'eth0 10.211.55.200 fd00:55::100 1450',
    ],
    [
      '… unless public-ipv6 names another on the same one',
      { ifaces: ['10.211.55.200'], publicIPv6: 'fd00:55::200', families: both },
      'eth0 10.211.55.200 fd00:55::200 1450',
    ],
    [
      'dual by an IPv6 address takes the first IPv4 one',
      { ifaces: ['fd00:55::200'], families: both },
      'eth0 10.211.55.100 fd00:55::200 1450',
    ],
    [
      '… unless public-ip names another on the same one',
      { ifaces: ['fd00:55::200'], publicIP: '10.211.55.200', families: both },
      'eth0 10.211.55.200 fd00:55::200 1450',
    ],
  ])('%s', async (_what, wanted, expected) => {
    expect(await choose(makeHost(), wanted)).toBe(expected);
  });

  it('another name of an interface is as good, a label of an address is told', async () => {
    const kernel = makeHost();
    kernel.createLink('eth3', { altNames: ['uplink', 'eth1'] });
    kernel.addAddress('eth3', '10.3.0.1/24', { label: 'eth3:7' });
    expect(await choose(kernel, { ifaces: ['uplink'] })).toBe('eth3 10.3.0.1 1500');
    expect(await choose(kernel, { ifaces: ['eth1'] })).toBe('eth1 192.168.7.1 1500');
    expect(await choose(kernel, { ifaces: ['eth3:7'] })).toContain(
      'eth3:7 is the label of the address 10.3.0.1 of eth3, not an interface: use --iface=10.3.0.1 or --iface=eth3',
    );
  });

  it('without an address of each family it does not do for both', async () => {
    const kernel = makeHost();
    kernel.removeAddress('eth1', 'fd00:7::1/64');
    expect(await choose(kernel, { ifaces: ['eth1'], families: both })).toBe(
      'no usable interface: interface eth1 has no usable IPv6 address. There are: ' +
        'eth0 (10.211.55.100/24 10.211.55.200/24 fd00:55::100/64 fd00:55::200/64), eth1 (192.168.7.1/24), eth2 (no address, down)',
    );
  });
});

describe('host-gw needs public-ip to be the interface’s address', () => {
  it.each<Row>([
    ['as it is', { ifaces: ['eth0'], publicIP: '10.211.55.100' }, chosen100],
    [
      'the same by address',
      { ifaces: ['10.211.55.200'], publicIP: '10.211.55.200' },
      'eth0 10.211.55.200 1450',
    ],
    [
      'another address of it',
      { ifaces: ['eth0'], publicIP: '10.211.55.200' },
      none(
        `${noNat('10.211.55.200', '10.211.55.100')}: eth0 has it as another address, so give --iface=10.211.55.200, or --public-ip without any --iface`,
      ),
    ],
    [
      'an address of another interface',
      { ifaces: ['eth0'], publicIP: '192.168.7.1' },
      none(
        `${noNat('192.168.7.1', '10.211.55.100')}: eth1 has it, so give --iface=192.168.7.1, or --public-ip without any --iface`,
      ),
    ],
    [
      'an address behind a real NAT',
      { ifaces: ['eth0'], publicIP: '203.0.113.9' },
      none(`${noNat('203.0.113.9', '10.211.55.100')}: no interface has it, so leave --public-ip out`),
    ],
    [
      'another iface may have it',
      { ifaces: ['eth1', 'eth0'], publicIP: '10.211.55.100' },
      `${chosen100}; --public-ip=10.211.55.100 is not the address of eth1 (192.168.7.1), and host-gw works through no NAT: eth0 has it, so give --iface=10.211.55.100, or --public-ip without any --iface`,
    ],
  ])('%s', async (_what, wanted, expected) => {
    expect(await choose(makeHost(), wanted)).toBe(expected);
  });

  it('public-ipv6 is taken as given when the interface has it, and only then', async () => {
    const wanted = { ifaces: ['eth0'], families: both };
    expect(await choose(makeHost(), { ...wanted, publicIPv6: 'fd00:55::200' })).toBe(
      'eth0 10.211.55.100 fd00:55::200 1450',
    );
    expect(await choose(makeHost(), { ...wanted, publicIPv6: 'fd00:7::1' })).toContain(
      '--public-ipv6=fd00:7::1 is not the address of eth0 (fd00:55::100), and host-gw works through no NAT: eth1 has it',
    );
  });
});
