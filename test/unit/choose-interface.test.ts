import { beforeAll, describe, expect, it } from 'vitest';
import { choose, makeHost, type Wishes, wishes } from '../../sim/interface-host.ts';
import { type SimKernel } from '../../sim/kernel.ts';
import { chooseInterface } from '../../src/daemon/interface/choose-interface.ts';
import { loadGoRegexp } from '../../src/daemon/interface/go-regexp.ts';
import { readHostNetwork } from '../../src/daemon/interface/host-network.ts';
import { type Family } from '../../src/ip/ip.ts';
import { type LinkAddress } from '../../src/kernel/kernel.ts';

const chosen100 = 'eth0 10.211.55.100 1450';
const chosen200 = 'eth0 10.211.55.200 1450';
const dual200 = 'eth0 10.211.55.200 fd00:55::200 1450';
const eth1 = 'eth1 192.168.7.1 1500';
const dualEth1 = 'eth1 192.168.7.1 fd00:7::1 1500';
const both: readonly Family[] = [4, 6];

/** A row of a table of choices from {@link makeHost}. */
type Row = readonly [what: string, wishes: Wishes, expected: string];

/** What is said when nothing of {@link makeHost} fits in an IPv4 network. */
function none(why: string): string {
  const exist =
    'eth0 (10.211.55.100/24 10.211.55.200/24), eth1 (192.168.7.1/24), eth2 (no IPv4 address, down)';
  return `no usable interface: ${why}. There are: ${exist}`;
}

/** What is said when --public-ip is not the address that `name` was chosen with, and `has` says whose. */
function noNat(given: string, has: string, name = 'eth0', own = '10.211.55.100'): string {
  const what = `--public-ip=${given} is not the address of ${name} (${own}), and host-gw works through no NAT`;
  return `${what}: ${has}, so give --iface=${given}, or --public-ip without any --iface`;
}

function itChooses(rows: readonly Row[]): void {
  it.each(rows)('%s', async (_what, wanted, expected) => {
    expect(await choose(makeHost(), wanted)).toBe(expected);
  });
}

describe('with no iface, iface-regex, iface-can-reach', () => {
  itChooses([
    ['the default route’s interface', {}, chosen100],
    ['the holder of public-ip, and that becomes the address', { publicIP: '10.211.55.200' }, chosen200],
    ['public-ip not on the default route’s', { publicIP: '192.168.7.1' }, eth1],
    [
      'public-ip that nobody has',
      { publicIP: '203.0.113.9' },
      none('no interface has the address 203.0.113.9'),
    ],
    ['public-ipv6 in any spelling', { publicIPv6: 'FD00:7:0::1', families: [6] }, 'eth1 fd00:7::1 1500'],
    [
      'public-ip before public-ipv6',
      { publicIP: '10.211.55.200', publicIPv6: 'fd00:55::200', families: both },
      dual200,
    ],
    [
      'public-ip before public-ipv6 on another interface, which then does not do',
      { publicIP: '192.168.7.1', publicIPv6: 'fd00:55::200', families: both },
      'no usable interface: --public-ipv6=fd00:55::200 is not the address of eth1 (fd00:7::1), and host-gw works through no NAT: ' +
        'eth0 has it, so give --iface=fd00:55::200, or --public-ipv6 without any --iface. There are: ' +
        'eth0 (10.211.55.100/24 10.211.55.200/24 fd00:55::100/64 fd00:55::200/64), eth1 (192.168.7.1/24 fd00:7::1/64), eth2 (no address, down)',
    ],
    ['public-ipv6 alone, both families', { publicIPv6: 'fd00:7::1', families: both }, dualEth1],
    [
      'public-ip of a family that is off',
      { publicIP: '192.168.7.1', families: [6] },
      'eth0 fd00:55::100 1450',
    ],
    ['public-ipv6 of a family that is off', { publicIPv6: 'fd00:7::1' }, chosen100],
    ['the IPv6 default route’s', { families: [6] }, 'eth0 fd00:55::100 1450'],
    ['the default routes’, when both are on one', { families: both }, 'eth0 10.211.55.100 fd00:55::100 1450'],
  ]);

  it('the default route with the lowest metric counts', async () => {
    const kernel = makeHost();
    const linkIndex = kernel.link('eth1').index;
    kernel.addRoute({ dst: '0.0.0.0/0', gateway: '192.168.7.9', linkIndex, metric: 100 });
    expect(await choose(kernel)).toBe(chosen100);
    // The kernel may tell them in any order.
    const ipv4 = kernel.routes(4).toReversed();
    const host = { links: kernel.links(), addresses: kernel.addresses(), routes: { ipv4 } };
    expect(chooseInterface(host, wishes())).toMatchObject({ chosen: { name: 'eth0' } });
    kernel.deleteRoute({ dst: '0.0.0.0/0', gateway: '10.211.55.1' });
    expect(await choose(kernel)).toBe(eth1);
    kernel.deleteRoute({ dst: '0.0.0.0/0' });
    expect(await choose(kernel)).toBe(
      none('there is no IPv4 default route to take the interface from (give --iface)'),
    );
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
  const isLoopback = 'lo is the loopback interface, which no peer can reach';
  itChooses([
    ['a name, with its first address', { ifaces: ['eth1'] }, eth1],
    ['an address takes that very address', { ifaces: ['10.211.55.200'] }, chosen200],
    ['empty: the default route’s interface', { ifaces: [''] }, chosen100],
    ['empty, public-ip does not lead elsewhere', { ifaces: [''], publicIP: '10.211.55.100' }, chosen100],
    ['each in turn', { ifaces: ['eth9', 'eth1', 'eth0'] }, `${eth1}; there is no interface eth9`],
    [
      'one without an address is skipped',
      { ifaces: ['eth2', 'eth1'] },
      `${eth1}; interface eth2 has no usable IPv4 address`,
    ],
    [
      'all that were tried are told',
      { ifaces: ['eth9', '10.1.1.1'] },
      none('there is no interface eth9; no interface has the address 10.1.1.1'),
    ],
    ['never loopback', { ifaces: ['lo'] }, none(isLoopback)],
    ['never a loopback address', { ifaces: ['127.0.0.1'] }, none(isLoopback)],
    [
      'no IPv4 address in an IPv6 network',
      { ifaces: ['10.211.55.100', 'eth1'], families: [6] },
      'eth1 fd00:7::1 1500; 10.211.55.100 is of IPv4, which the network configuration has off',
    ],
    ['an IPv6 address', { ifaces: ['fd00:55::200'], families: [6] }, 'eth0 fd00:55::200 1450'],
    ['dual by name', { ifaces: ['eth1'], families: both }, dualEth1],
    [
      'dual by an IPv4 address takes the first IPv6 one',
      { ifaces: ['10.211.55.200'], families: both },
      'eth0 10.211.55.200 fd00:55::100 1450',
    ],
    [
      'dual by an IPv6 address takes the first IPv4 one',
      { ifaces: ['fd00:55::200'], families: both },
      'eth0 10.211.55.100 fd00:55::200 1450',
    ],
    [
      'dual by an IPv6 address, with the IPv4 one that public-ip names',
      { ifaces: ['fd00:55::200'], publicIP: '10.211.55.200', families: both },
      dual200,
    ],
  ]);

  it('another name of an interface is as good, a label of an address is told', async () => {
    const kernel = makeHost();
    kernel.createLink('eth3', { altNames: ['uplink', 'eth1'] });
    kernel.addAddress('eth3', '10.3.0.1/24', { label: 'eth3:7' });
    expect(await choose(kernel, { ifaces: ['uplink'] })).toBe('eth3 10.3.0.1 1500');
    expect(await choose(kernel, { ifaces: ['eth1'] })).toBe(eth1);
    expect(await choose(kernel, { ifaces: ['eth3:7'] })).toContain(
      'eth3:7 is the label of the address 10.3.0.1 of eth3, not an interface: use --iface=10.3.0.1 or --iface=eth3',
    );
  });
});

describe('host-gw needs public-ip to be the interface’s address', () => {
  itChooses([
    ['as it is', { ifaces: ['eth0'], publicIP: '10.211.55.100' }, chosen100],
    ['the same by address', { ifaces: ['10.211.55.200'], publicIP: '10.211.55.200' }, chosen200],
    [
      'another address of it',
      { ifaces: ['eth0'], publicIP: '10.211.55.200' },
      none(noNat('10.211.55.200', 'eth0 has it as another address')),
    ],
    [
      'an address of another interface',
      { ifaces: ['eth0'], publicIP: '192.168.7.1' },
      none(noNat('192.168.7.1', 'eth1 has it')),
    ],
    [
      'an address behind a real NAT',
      { ifaces: ['eth0'], publicIP: '203.0.113.9' },
      none(
        '--public-ip=203.0.113.9 is not the address of eth0 (10.211.55.100), and host-gw works through no NAT: no interface has it, so leave --public-ip out',
      ),
    ],
    [
      'another iface may have it',
      { ifaces: ['eth1', 'eth0'], publicIP: '10.211.55.100' },
      `${chosen100}; ${noNat('10.211.55.100', 'eth0 has it', 'eth1', '192.168.7.1')}`,
    ],
  ]);

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

beforeAll(loadGoRegexp);

describe('iface-regex', () => {
  itChooses([
    ['unanchored, by address: the one that matches', { ifaceRegexes: ['55\\.2'] }, chosen200],
    ['all addresses before all names', { ifaceRegexes: ['eth0|192'] }, eth1],
    ['by name', { ifaceRegexes: ['^eth[[:digit:]]\\z'] }, chosen100],
    ['by name, the next when one does not do', { ifaceRegexes: ['(?i)ETH[12]'] }, eth1],
    ['after iface', { ifaces: ['eth1'], ifaceRegexes: ['eth0'] }, eth1],
    ['when iface fails', { ifaces: ['eth9'], ifaceRegexes: ['eth1'] }, `${eth1}; there is no interface eth9`],
    [
      'each in turn',
      { ifaceRegexes: ['^ens', 'eth1'] },
      `${eth1}; --iface-regex=^ens matches no address and no name of an interface`,
    ],
    ['empty: the default route’s interface', { ifaceRegexes: [''] }, chosen100],
    [
      'never loopback',
      { ifaceRegexes: ['^lo$|^127'] },
      none('--iface-regex=^lo$|^127 matches no address and no name of an interface'),
    ],
    [
      'public-ip picks among the matches',
      { ifaceRegexes: ['eth'], publicIP: '192.168.7.1' },
      `eth1 192.168.7.1 1500; ${noNat('192.168.7.1', 'eth1 has it')}`,
    ],
    ['IPv6 by address', { ifaceRegexes: ['::2'], families: [6] }, 'eth0 fd00:55::200 1450'],
    ['dual by address matches one of each', { ifaceRegexes: ['200$'], families: both }, dual200],
    [
      'dual by address of one family alone does not match',
      { ifaceRegexes: ['^192\\.168', 'eth1'], families: both },
      'eth1 192.168.7.1 fd00:7::1 1500; --iface-regex=^192\\.168 matches no address (of an address of each family on one interface) and no name of an interface',
    ],
  ]);
});

it('iface-regex goes through the interfaces in index order, in whatever order the kernel tells them', () => {
  const kernel = makeHost();
  const host = { links: kernel.links().toReversed(), addresses: kernel.addresses(), routes: {} };
  for (const pattern of ['\\.', '^eth']) {
    const choice = chooseInterface(host, wishes({ ifaceRegexes: [pattern] }));
    expect(choice).toMatchObject({ chosen: { name: 'eth0', addresses: { ipv4: '10.211.55.100' } } });
  }
});

describe('iface-can-reach', () => {
  itChooses([
    ['the route’s interface', { ifaceCanReach: '192.168.7.77' }, eth1],
    ['by the default route', { ifaceCanReach: '203.0.113.1' }, chosen100],
    ['after iface-regex', { ifaceRegexes: ['eth0'], ifaceCanReach: '192.168.7.77' }, chosen100],
    [
      'when these fail',
      { ifaces: ['eth9'], ifaceRegexes: ['^ens'], ifaceCanReach: '192.168.7.77' },
      `${eth1}; there is no interface eth9; --iface-regex=^ens matches no address and no name of an interface`,
    ],
    [
      'one’s own address gives lo: refused',
      { ifaceCanReach: '10.211.55.100' },
      none("10.211.55.100 is this host's own address, which says nothing (--iface-can-reach)"),
    ],
    ['no address', { ifaceCanReach: 'example.com' }, none('--iface-can-reach=example.com is no address')],
    [
      'dual takes the other family from that interface',
      { ifaceCanReach: '192.168.7.77', families: both },
      dualEth1,
    ],
    ['a target of the family that is off', { ifaceCanReach: 'fd00:7::77' }, eth1],
  ]);

  it('takes the source that the route prefers, if it is the interface’s', async () => {
    const kernel = makeHost();
    const route = { gateway: '10.211.55.1', linkIndex: kernel.link('eth0').index };
    kernel.addRoute({ dst: '172.31.0.0/16', ...route, source: '10.211.55.200' });
    expect(await choose(kernel, { ifaceCanReach: '172.31.0.9' })).toBe(chosen200);
    kernel.addRoute({ dst: '172.31.8.0/24', ...route, source: '192.168.7.1' });
    expect(await choose(kernel, { ifaceCanReach: '172.31.8.9' })).toContain(
      'packets to 172.31.8.9 (--iface-can-reach) leave eth0 by 192.168.7.1, which is not its own (give --iface)',
    );
  });

  it('needs a route', async () => {
    const kernel = makeHost();
    kernel.deleteRoute({ dst: '0.0.0.0/0' });
    expect(await choose(kernel, { ifaceCanReach: '203.0.113.1' })).toBe(
      none('there is no route to 203.0.113.1 (--iface-can-reach)'),
    );
  });

  it('does not take the temporary address that IPv6 leaves by', async () => {
    const kernel = makeHost();
    kernel.addAddress('eth1', 'fd00:7::abcd/64', { temporary: true, permanent: false });
    const linkIndex = kernel.link('eth1').index;
    kernel.addRoute({ dst: 'fd00:99::/64', gateway: 'fd00:7::9', linkIndex, source: 'fd00:7::abcd' });
    const wanted = { ifaceCanReach: 'fd00:99::77', families: [6] } as const;
    expect(await choose(kernel, wanted)).toBe('eth1 fd00:7::1 1500');
  });
});

describe('the address of an interface', () => {
  type Held = readonly [cidr: string, flags?: Partial<LinkAddress>];

  function withAddresses(...held: readonly Held[]): SimKernel {
    const kernel = makeHost();
    kernel.setLinkUp('eth2', true);
    for (const [cidr, flags] of held) kernel.addAddress('eth2', cidr, flags);
    return kernel;
  }

  const linkLocal = { scope: 'link' } as const;
  const leasedFlags = { permanent: false } as const;

  it.each<readonly [string, readonly Held[], string]>([
    ['IPv4: the oldest first', [['10.1.0.1/24'], ['10.2.0.1/24']], '10.1.0.1'],
    ['IPv4: global before link-local', [['169.254.7.7/16', linkLocal], ['10.2.0.1/24']], '10.2.0.1'],
    ['IPv4: 169.254 is link-local whatever its scope', [['169.254.7.7/16'], ['10.2.0.1/24']], '10.2.0.1'],
    ['IPv4: link-local when there is no other', [['169.254.7.7/16', linkLocal]], '169.254.7.7'],
    ['IPv4: permanent before leased', [['10.1.0.1/24', leasedFlags], ['10.2.0.1/24']], '10.2.0.1'],
    ['IPv4: leased before link-local', [['169.254.7.7/16'], ['10.1.0.1/24', leasedFlags]], '10.1.0.1'],
    ['IPv4: a network before a host address', [['10.2.0.9/32'], ['10.1.0.1/24', leasedFlags]], '10.1.0.1'],
    ['IPv4: a host address when there is no other', [['10.2.0.9/32']], '10.2.0.9'],
    ['IPv4: a host address before a link-local network', [['169.254.7.7/16'], ['10.2.0.9/32']], '10.2.0.9'],
    [
      'IPv4: one that was added to the network of a leased one after that',
      [['10.1.0.1/24', leasedFlags], ['10.1.0.9/24']],
      '10.1.0.1',
    ],
    [
      'IPv6: a network before a host address',
      [['fd00:1::1/64', leasedFlags], ['fd00:2::9/128']],
      'fd00:1::1',
    ],
    ['IPv6: a host address when there is no other (DHCPv6)', [['fd00:2::9/128', leasedFlags]], 'fd00:2::9'],
    [
      'IPv6: never one that another host has',
      [['fd00:1::1/64'], ['fd00:2::1/64', { dadFailed: true, tentative: true }]],
      'fd00:1::1',
    ],
    ['IPv4: never deprecated', [['10.1.0.1/24', { deprecated: true }]], 'none'],
    ['IPv4: never loopback', [['127.1.0.1/24']], 'none'],
    ['IPv4: never multicast', [['224.1.0.1/32']], 'none'],
    ['IPv6: newest added first', [['fd00:1::1/64'], ['fd00:2::1/64']], 'fd00:2::1'],
    ['IPv6: permanent before dynamic', [['fd00:1::1/64'], ['fd00:2::1/64', leasedFlags]], 'fd00:1::1'],
    ['IPv6: never link-local', [['fe80::1/64', linkLocal]], 'none'],
    ['IPv6: never temporary', [['fd00:1::2/64', { temporary: true, permanent: false }]], 'none'],
    ['IPv6: never multicast', [['ff05::2/128']], 'none'],
  ])('%s', async (what, held, expected) => {
    const families = what.startsWith('IPv6') ? ([6] as const) : ([4] as const);
    const choice = await choose(withAddresses(...held), { ifaces: ['eth2'], families });
    if (expected === 'none')
      expect(choice).toContain(`interface eth2 has no usable IPv${families[0]} address`);
    else expect(choice).toBe(`eth2 ${expected} 1500`);
  });

  it('that the lease of this host names comes before all others, while it can be used', async () => {
    const kernel = withAddresses(['10.1.0.1/24'], ['10.2.0.9/32', leasedFlags]);
    const connection = kernel.open();
    const wanted = wishes({ ifaces: ['eth2'] });
    const host = await readHostNetwork(connection, wanted, new AbortController().signal);
    const chosen = (leased: string, addresses = host.addresses) =>
      chooseInterface({ ...host, addresses, leased: { ipv4: leased } }, wanted);
    expect(chosen('10.2.0.9')).toMatchObject({ chosen: { addresses: { ipv4: '10.2.0.9' } } });
    expect(chosen('10.2.0.8')).toMatchObject({ chosen: { addresses: { ipv4: '10.1.0.1' } } });
    const deprecated = host.addresses.map((held) => ({ ...held, deprecated: held.address === '10.2.0.9' }));
    expect(chosen('10.2.0.9', deprecated)).toMatchObject({ chosen: { addresses: { ipv4: '10.1.0.1' } } });
  });

  it.each([
    [{ dadFailed: true, tentative: true }, 'in use by another host: duplicate address detection failed'],
    [{ tentative: true }, 'still being checked for duplicates'],
  ])(
    'that the kernel does not use is not taken when it is asked for by itself, either: %j',
    async (flags, why) => {
      const kernel = withAddresses(['fd00:1::1/64', flags]);
      const publicIPv6 = 'fd00:1::1';
      for (const wanted of [{ ifaces: ['fd00:1::1'] }, { publicIPv6 }, { ifaces: ['eth2'], publicIPv6 }])
        expect(await choose(kernel, { ...wanted, families: [6] })).toContain(`fd00:1::1 of eth2 is ${why}`);
      expect(await choose(kernel, { ifaces: ['eth2'], families: [6] })).toContain(
        `interface eth2 has no usable IPv6 address (fd00:1::1 is ${why})`,
      );
    },
  );

  it('that is asked for by itself may be temporary or deprecated, but not link-local', async () => {
    const kernel = withAddresses(
      ['fd00:1::2/64', { temporary: true }],
      ['10.1.0.1/24', { deprecated: true }],
      ['fe80::1/64', linkLocal],
    );
    expect(await choose(kernel, { ifaces: ['10.1.0.1'] })).toBe('eth2 10.1.0.1 1500');
    expect(await choose(kernel, { ifaces: ['fd00:1::2'], families: [6] })).toBe('eth2 fd00:1::2 1500');
    expect(await choose(kernel, { ifaces: ['fe80::1'], families: [6] })).toContain(
      'fe80::1 is link-local, so it does not say which host it is: take a global address',
    );
  });
});
