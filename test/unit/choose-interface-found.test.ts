import { beforeAll, describe, expect, it } from 'vitest';
import { chooseInterface } from '../../src/daemon/interface/choose-interface.ts';
import { loadGoRegexp } from '../../src/daemon/interface/go-regexp.ts';
import { both, choose, makeHost, noNat, noInterface as none, type Row, wishes } from './interface-host.ts';

const chosen100 = 'eth0 10.211.55.100 1450';

beforeAll(loadGoRegexp);

describe('iface-regex', () => {
  it.each<Row>([
    ['unanchored, by address: the one that matches', { ifaceRegexes: ['55\\.2'] }, 'eth0 10.211.55.200 1450'],
    ['all addresses before all names', { ifaceRegexes: ['eth0|192'] }, 'eth1 192.168.7.1 1500'],
    ['by name', { ifaceRegexes: ['^eth[[:digit:]]\\z'] }, chosen100],
    ['by name, the next when one does not do', { ifaceRegexes: ['(?i)ETH[12]'] }, 'eth1 192.168.7.1 1500'],
    ['in index order', { ifaceRegexes: ['\\.'] }, chosen100],
    ['after iface', { ifaces: ['eth1'], ifaceRegexes: ['eth0'] }, 'eth1 192.168.7.1 1500'],
    [
      'when iface fails',
      { ifaces: ['eth9'], ifaceRegexes: ['eth1'] },
      'eth1 192.168.7.1 1500; there is no interface eth9',
    ],
    [
      'each in turn',
      { ifaceRegexes: ['^ens', 'eth1'] },
      'eth1 192.168.7.1 1500; --iface-regex=^ens matches no address and no name of an interface',
    ],
    [
      'a bad one is skipped',
      { ifaceRegexes: ['eth(?=1)', 'eth1'] },
      'eth1 192.168.7.1 1500; --iface-regex=eth(?=1) cannot be used: invalid or unsupported Perl syntax (Go has no lookahead or lookbehind): (?=',
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
      `eth1 192.168.7.1 1500; ${noNat('192.168.7.1', '10.211.55.100')}: eth1 has it, so give --iface=192.168.7.1, or --public-ip without any --iface`,
    ],
    ['IPv6 by address', { ifaceRegexes: ['::2'], families: [6] }, 'eth0 fd00:55::200 1450'],
    [
      'dual by address matches one of each',
      { ifaceRegexes: ['200$'], families: both },
      'eth0 10.211.55.200 fd00:55::200 1450',
    ],
    [
      'dual by address of one family alone does not match',
      { ifaceRegexes: ['^192\\.168', 'eth1'], families: both },
      'eth1 192.168.7.1 fd00:7::1 1500; --iface-regex=^192\\.168 matches no address (of an address of each family on one interface) and no name of an interface',
    ],
  ])('%s', async (_what, wanted, expected) => {
    expect(await choose(makeHost(), wanted)).toBe(expected);
  });
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
  it.each<Row>([
    ['the route’s interface', { ifaceCanReach: '192.168.7.77' }, 'eth1 192.168.7.1 1500'],
    ['by the default route', { ifaceCanReach: '203.0.113.1' }, chosen100],
    [
      'after iface and iface-regex',
      { ifaces: ['eth9'], ifaceRegexes: ['eth0'], ifaceCanReach: '192.168.7.77' },
      `${chosen100}; there is no interface eth9`,
    ],
    [
      'when these fail',
      { ifaces: ['eth9'], ifaceRegexes: ['(ens'], ifaceCanReach: '192.168.7.77' },
      'eth1 192.168.7.1 1500; there is no interface eth9; --iface-regex=(ens cannot be used: missing closing ): (ens',
    ],
    [
      'one’s own address gives lo: refused',
      { ifaceCanReach: '10.211.55.100' },
      none("10.211.55.100 is this host's own address, which says nothing (--iface-can-reach)"),
    ],
    [
      'loopback is refused',
      { ifaceCanReach: '127.0.0.1' },
      none("127.0.0.1 is this host's own address, which says nothing (--iface-can-reach)"),
    ],
    ['no address', { ifaceCanReach: 'example.com' }, none('--iface-can-reach=example.com is no address')],
    ['IPv6', { ifaceCanReach: 'fd00:7::77', families: [6] }, 'eth1 fd00:7::1 1500'],
    [
      'dual takes the other family from that interface',
      { ifaceCanReach: '192.168.7.77', families: both },
      'eth1 192.168.7.1 fd00:7::1 1500',
    ],
    ['a target of the family that is off', { ifaceCanReach: 'fd00:7::77' }, 'eth1 192.168.7.1 1500'],
  ])('%s', async (_what, wanted, expected) => {
    expect(await choose(makeHost(), wanted)).toBe(expected);
  });

  it('takes the route’s preferred source', async () => {
    const kernel = makeHost();
    const linkIndex = kernel.link('eth0').index;
    kernel.addRoute({ dst: '172.31.0.0/16', gateway: '10.211.55.1', linkIndex, source: '10.211.55.200' });
    expect(await choose(kernel, { ifaceCanReach: '172.31.0.9' })).toBe('eth0 10.211.55.200 1450');
  });

  it('refuses a source that is not the interface’s', async () => {
    const kernel = makeHost();
    const linkIndex = kernel.link('eth0').index;
    kernel.addRoute({ dst: '172.31.0.0/16', gateway: '10.211.55.1', linkIndex, source: '192.168.7.1' });
    expect(await choose(kernel, { ifaceCanReach: '172.31.0.9' })).toContain(
      'packets to 172.31.0.9 (--iface-can-reach) leave eth0 by 192.168.7.1, which is not its own (give --iface)',
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
