import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { subnet } from '../../sim/leases.ts';
import { type Family, type Subnet, subnetAt } from '../../src/ip/ip.ts';
import {
  configKey,
  formatSubnetKey,
  joinKey,
  keysOf,
  occupiedSubnets,
  parseSubnetKey,
  subnetsPrefix,
} from '../../src/subnet/keys.ts';

const prefix = '/coreos.com/network/subnets/';

function subnets(family: Family, bits: number): fc.Arbitrary<Subnet> {
  const value = fc.bigInt({ min: 0n, max: (1n << BigInt(bits)) - 1n });
  return fc
    .tuple(value, fc.integer({ min: 1, max: bits }))
    .map(([first, length]) => subnetAt(family, first, length));
}

describe('joinKey', () => {
  // Each line was printed by Go's path.Join.
  it.each([
    [['/coreos.com/network', 'config'], '/coreos.com/network/config'],
    [['x', 'config'], 'x/config'],
    [['/x', 'config'], '/x/config'],
    [['//x//y//', 'config'], '/x/y/config'],
    [['/', 'config'], '/config'],
    [['.', 'config'], 'config'],
    [['./x', 'config'], 'x/config'],
    [['../x', 'config'], '../x/config'],
    [['/../x', 'config'], '/x/config'],
    [['a/../..', 'config'], '../config'],
    [['a/b/../c', 'config'], 'a/c/config'],
    [['a/...', 'config'], 'a/.../config'],
    [['/x', '..'], '/'],
    [['x', '..'], '.'],
    [['', ''], ''],
    [[], ''],
    [['a/'], 'a'],
    [['/'], '/'],
    [['a b', 'ü'], 'a b/ü'],
  ])('joins %j as %j', (parts, joined) => {
    expect(joinKey(...parts)).toBe(joined);
  });

  it('cleans what is clean to itself', () => {
    const part = fc.oneof(
      fc.constantFrom('', '/', '.', '..', 'a', 'a/', '/a', '//', '...'),
      fc.string({ maxLength: 3 }),
    );
    fc.assert(
      fc.property(fc.array(part), (parts) => {
        const joined = joinKey(...parts);
        expect(joinKey(joined)).toBe(joined);
        expect(joined).not.toMatch(/\/\/|.\/$|\/\.\/|\/\.$/);
      }),
    );
  });

  it('makes the keys of the configuration and of the leases', () => {
    expect(configKey('/coreos.com/network/')).toBe('/coreos.com/network/config');
    expect(configKey('x')).toBe('x/config');
    expect(subnetsPrefix('/coreos.com/network')).toBe(prefix);
    expect(subnetsPrefix('')).toBe('subnets/');
  });
});

describe('a lease key', () => {
  it('names an IPv4 subnet, or one of each family, or IPv6 alone', () => {
    expect(parseSubnetKey(prefix, `${prefix}10.5.1.0-24`)).toEqual({ ipv4: subnet('10.5.1.0/24') });
    expect(parseSubnetKey(prefix, `${prefix}10.5.1.0-24&fc00:1::-64`)).toEqual({
      ipv4: subnet('10.5.1.0/24'),
      ipv6: subnet('fc00:1::/64'),
    });
    expect(parseSubnetKey(prefix, `${prefix}0.0.0.0-0&fc00:1::-64`)).toEqual({ ipv6: subnet('fc00:1::/64') });
  });

  it.each([
    '/coreos.com/network/subnets-old/10.5.1.0-24',
    '/coreos.com/network/subnets/x/10.5.1.0-24',
    '/coreos.com/another/subnets/10.5.1.0-24',
    ...[
      '',
      '10.5.1.0',
      '-24',
      '10.5.1.0/24',
      '10.5.1.0-24/x',
      '10.5.1.0-24x',
      ' 10.5.1.0-24',
      '10.5.1.7-24',
      '010.5.1.0-24',
      '10.5.1.0-024',
      '10.5.1.0-33',
      '0.0.0.0-0',
      '10.5.1.0-24&',
      '&fc00:1::-64',
      '10.5.1.0-24&fc00:1::-64&fc00:2::-64',
      '10.5.1.0-24&10.5.2.0-24',
      'fc00:1::-64',
      '10.5.1.0-24&FC00:1::-64',
      '10.5.1.0-24&fc00:1::1-64',
      '10.5.1.0-24&fc00:1::-129',
      '10.5.1.0-24&::-0',
      '10.5.1.0-24&::ffff:1.2.3.4-128',
      '10.5.1.0-24&fe80::%eth0-64',
      '10.5.1.0-24\u0000',
    ].map((rest) => prefix + rest),
  ])('is not %j', (key) => {
    expect(parseSubnetKey(prefix, key)).toBeUndefined();
  });

  it('reads back what was formatted, and formats what it read', () => {
    const lease = fc.oneof(
      fc.record({ ipv4: subnets(4, 32) }),
      fc.record({ ipv6: subnets(6, 128) }),
      fc.record({ ipv4: subnets(4, 32), ipv6: subnets(6, 128) }),
    );
    fc.assert(
      fc.property(lease, (given) => {
        const key = formatSubnetKey(prefix, given);
        expect(key).toMatch(/^\/coreos\.com\/network\/subnets\/[\d.]+-\d+(&[\da-f:]+-\d+)?$/);
        expect(parseSubnetKey(prefix, key)).toEqual(given);
      }),
    );
    expect(() => formatSubnetKey(prefix, {})).toThrow(RangeError);
  });

  it('is canonical: any text either fails or formats to itself', () => {
    const piece = fc.constantFrom('10.5.1.0', '0.0.0.0', '-', '24', '0', '&', 'fc00:1::', '::', '64', '/');
    const texts = fc.oneof(
      fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.join('')),
      fc.string(),
    );
    fc.assert(
      fc.property(texts, (text) => {
        const parsed = parseSubnetKey(prefix, prefix + text);
        if (parsed !== undefined) expect(formatSubnetKey(prefix, parsed)).toBe(prefix + text);
      }),
      { numRuns: 2000 },
    );
  });
});

describe('the keys of a subnet', () => {
  const holds = (ipv4: Subnet, candidate: string): boolean =>
    keysOf(prefix, { ipv4 }).some(({ key, rangeEnd }) =>
      rangeEnd === undefined ? candidate === key : key <= candidate && candidate < rangeEnd,
    );

  it('are the one without and those with an IPv6 half, and none that only begins alike', () => {
    const ipv4 = subnet('172.20.9.0/24');
    const ours = ['24', '24&fc00:1::-64', '24&junk'];
    for (const end of [...ours, '240', '24x', '24 ', '25', '2'])
      expect(holds(ipv4, `${prefix}172.20.9.0-${end}`), end).toBe(ours.includes(end));
  });

  it('are those with any IPv6 half, and of no other subnet of its length', () => {
    fc.assert(
      fc.property(subnets(4, 32), subnets(4, 32), subnets(6, 128), (ipv4, other, ipv6) => {
        expect(holds(ipv4, formatSubnetKey(prefix, { ipv4 }))).toBe(true);
        expect(holds(ipv4, formatSubnetKey(prefix, { ipv4, ipv6 }))).toBe(true);
        const neighbour = subnetAt(4, other.first, ipv4.length);
        expect(holds(ipv4, formatSubnetKey(prefix, { ipv4: neighbour }))).toBe(neighbour.text === ipv4.text);
      }),
    );
  });
});

describe('what a key takes out of the pool', () => {
  const taken = (name: string) =>
    occupiedSubnets('/p/subnets/', `/p/subnets/${name}`).map(({ text }) => text);

  it.each([
    ['172.20.9.0-24', ['172.20.9.0/24']],
    ['172.20.9.5-24', ['172.20.9.0/24']],
    ['172.20.9.0-24&fc00:1::-64', ['172.20.9.0/24', 'fc00:1::/64']],
    ['172.20.9.0-24&FC00:1::7-64', ['172.20.9.0/24', 'fc00:1::/64']],
    ['172.20.9.0-24&junk', ['172.20.9.0/24']],
    ['0.0.0.0-0&fc00:1::-64', ['fc00:1::/64']],
    ['0.0.0.0-0', []],
    ['junk', []],
    ['172.20.9.0', []],
    ['172.20.9.0-33', []],
  ])('%s: %j', (name, expected) => {
    expect(taken(name)).toEqual(expected);
    expect(occupiedSubnets('/p/subnets/', `/p/subnets-old/${name}`)).toEqual([]);
  });
});
