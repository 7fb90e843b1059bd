import { describe, expect, it } from 'vitest';
import type { SimKernel } from '../../sim/kernel.ts';
import { chooseInterface } from '../../src/daemon/interface/choose-interface.ts';
import { readHostNetwork } from '../../src/daemon/interface/host-network.ts';
import type { LinkAddress } from '../../src/kernel/kernel.ts';
import { choose, makeHost, wishes } from './interface-host.ts';

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
    ['IPv4: permanent before dynamic', [['10.1.0.1/24', { permanent: false }], ['10.2.0.1/24']], '10.2.0.1'],
    [
      'IPv4: global and dynamic before link-local and permanent',
      [['169.254.7.7/16'], ['10.1.0.1/24', { permanent: false }]],
      '10.1.0.1',
    ],
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
    [
      'IPv6: never one that only another host has',
      [['fd00:1::1/64', { dadFailed: true, tentative: true }]],
      'none',
    ],
    ['IPv6: never one that is still being checked', [['fd00:1::1/64', { tentative: true }]], 'none'],
    [
      'IPv4: never deprecated',
      [
        ['10.1.0.1/24', { deprecated: true }],
        ['10.2.0.1/24', { permanent: false }],
      ],
      '10.2.0.1',
    ],
    ['IPv4: never only deprecated', [['10.1.0.1/24', { deprecated: true }]], 'none'],
    ['IPv4: never loopback', [['127.1.0.1/24']], 'none'],
    ['IPv4: never multicast', [['224.1.0.1/32']], 'none'],
    ['IPv6: newest added first', [['fd00:1::1/64'], ['fd00:2::1/64']], 'fd00:2::1'],
    [
      'IPv6: permanent before dynamic',
      [['fd00:1::1/64'], ['fd00:2::1/64', { permanent: false }]],
      'fd00:1::1',
    ],
    [
      'IPv6: never link-local beside another',
      [
        ['fd00:1::1/64', { permanent: false }],
        ['fe80::1/64', linkLocal],
      ],
      'fd00:1::1',
    ],
    ['IPv6: never link-local', [['fe80::1/64', linkLocal]], 'none'],
    [
      'IPv6: non-temporary before temporary',
      [
        ['fd00:1::1/64', { permanent: false }],
        ['fd00:1::2/64', { temporary: true, permanent: false }],
      ],
      'fd00:1::1',
    ],
    ['IPv6: never temporary', [['fd00:1::2/64', { temporary: true, permanent: false }]], 'none'],
    [
      'IPv6: never deprecated',
      [
        ['fd00:1::1/64', { permanent: false }],
        ['fd00:2::1/64', { deprecated: true }],
      ],
      'fd00:1::1',
    ],
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
