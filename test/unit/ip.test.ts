import { isIP } from 'node:net';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { subnet as subnetOf } from '../../sim/leases.ts';
import {
  addressBits,
  bridgeAddress,
  canonicalAddress,
  containsAddress,
  containsSubnet,
  type Family,
  formatAddress,
  overlaps,
  parseAddress,
  parseSubnet,
  subnetAt,
} from '../../src/ip/ip.ts';

const ipv4 = fc.bigInt({ min: 0n, max: (1n << 32n) - 1n });
/** Groups of which many are zero: the compression is where texts go wrong. Not IPv4-mapped. */
const ipv6 = fc
  .array(fc.oneof(fc.constant(0n), fc.bigInt({ min: 0n, max: 0xffffn })), { minLength: 8, maxLength: 8 })
  .map((groups) => groups.reduce((value, group) => (value << 16n) | group, 0n))
  .filter((value) => value >> 32n !== 0xffffn);
const anyText = fc.oneof(fc.string({ unit: 'binary' }), fc.ipV4Extended(), fc.ipV6(), fc.ipV4());
const family = fc.constantFrom<Family>(4, 6);
const numbered = family.chain((of) => fc.tuple(fc.constant(of), of === 4 ? ipv4 : ipv6));
const subnet = numbered.chain(([of, value]) =>
  fc.integer({ min: 0, max: addressBits(of) }).map((length) => subnetAt(of, value, length)),
);

describe('an address', () => {
  it('is the same after formatting and parsing', () => {
    fc.assert(
      fc.property(numbered, ([of, value]) => {
        const text = formatAddress(of, value);
        expect(isIP(text)).toBe(of);
        expect(parseAddress(text)).toEqual({ family: of, value });
        expect(canonicalAddress(text)).toBe(text);
      }),
    );
  });

  it('of IPv6 is written as RFC 5952 says', () => {
    fc.assert(
      fc.property(ipv6, (value) => {
        const groups = Array.from({ length: 8 }, (_, i) =>
          ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16),
        );
        const runs = [...groups.join(':').matchAll(/\b0(?::0)+\b/g)].map(([run]) => run);
        const longest = runs.reduce((best, run) => (run.length > best.length ? run : best), '');
        const plain = groups.join(':');
        const at = longest === '' ? -1 : plain.search(new RegExp(`(?<![0-9a-f])${longest}(?![0-9a-f])`));
        const expected =
          at < 0
            ? plain
            : `${plain.slice(0, at).replace(/:$/, '')}::${plain.slice(at + longest.length).replace(/^:/, '')}`;
        expect(formatAddress(6, value)).toBe(expected);
      }),
      { numRuns: 1000 },
    );
  });

  it.each([
    ['2001:DB8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['::1:2:3:4:5:6:7', '0:1:2:3:4:5:6:7'],
    ['1:2:3:4:5:6:7::', '1:2:3:4:5:6:7:0'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['0:0:0:0:0:0:0:0', '::'],
    ['FC00::0001', 'fc00::1'],
  ])('%s is %s', (text, canonical) => {
    expect(canonicalAddress(text)).toBe(canonical);
  });

  it.each([
    '',
    '10.0.0',
    '10.0.0.256',
    '010.0.0.1',
    '10.0.0.1\n',
    '0x0a000001',
    '10.0.0.1/24',
    '1::2::3',
    'fe80::1%eth0',
    '::ffff:a00:1',
    '64:ff9b::10.0.0.1',
    '[::1]',
  ])('is not %j', (text) => {
    expect(parseAddress(text)).toBeUndefined();
    expect(canonicalAddress(text)).toBeUndefined();
  });

  it('is a number or undefined for any text', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const parsed = parseAddress(text);
        if (parsed !== undefined)
          expect(isIP(formatAddress(parsed.family, parsed.value))).toBe(parsed.family);
      }),
      { numRuns: 1000 },
    );
  }, 30_000);
});

describe('a subnet', () => {
  it('is aligned, as long as its length says, and the same after parsing its text', () => {
    fc.assert(
      fc.property(subnet, (of) => {
        const size = 1n << BigInt(addressBits(of.family) - of.length);
        expect(of.first % size).toBe(0n);
        expect(of.last - of.first + 1n).toBe(size);
        // A block whose first address is IPv4-mapped has no text that is read back.
        if (of.family === 4 || of.first >> 32n !== 0xffffn) expect(parseSubnet(of.text)).toEqual(of);
      }),
    );
  });

  it.each([
    ['10.5.1.7/24', '10.5.1.0/24'],
    ['10.5.1.7/32', '10.5.1.7/32'],
    ['255.255.255.255/0', '0.0.0.0/0'],
    ['FC00:0:0:1::5/64', 'fc00:0:0:1::/64'],
    ['fc00::1/128', 'fc00::1/128'],
  ])('%s is %s', (text, canonical) => {
    expect(parseSubnet(text)?.text).toBe(canonical);
  });

  it.each([
    '/24',
    '10.5.1.0',
    '10.5.1.0/',
    '10.5.1.0/33',
    '10.5.1.0/024',
    '10.5.1.0/-1',
    '10.5.1.0/1e1',
    '10.5.1.0/24/24',
    '10.5.1.0/24\n',
    '10.5.1.0/٣',
    'fc00::/129',
  ])('is not %j', (text) => {
    expect(parseSubnet(text)).toBeUndefined();
  });

  it('overlaps another when one holds an end of the other; containment is overlap', () => {
    fc.assert(
      fc.property(subnet, subnet, fc.nat(128), (a, b, length) => {
        const longer = Math.max(a.length, Math.min(length, addressBits(a.family)));
        const within = subnetAt(a.family, a.last, longer);
        expect(containsSubnet(a, within) && overlaps(a, within) && overlaps(within, a)).toBe(true);
        expect(overlaps(a, b)).toBe(overlaps(b, a));
        // Aligned blocks are nested or apart.
        expect(overlaps(a, b)).toBe(containsSubnet(a, b) || containsSubnet(b, a));
        if (a.family !== b.family) expect(overlaps(a, b)).toBe(false);
      }),
    );
  });

  it('is apart from its neighbours', () => {
    const middle = subnetOf('10.5.1.0/24');
    const apart = ['10.5.0.0/24', '10.5.2.0/24'].map(subnetOf);
    expect([...apart, middle].map((each) => overlaps(each, middle))).toEqual([false, false, true]);
  });

  it('holds the addresses from its first to its last, in any spelling', () => {
    const ipv4Block = subnetOf('10.5.1.0/24');
    const ipv6Block = subnetOf('fc00:0:0:1::/64');
    const held = ['10.5.1.0', '10.5.1.255', '10.5.0.255', '10.5.2.0', 'fc00::', 'x', ''];
    expect(held.filter((address) => containsAddress(ipv4Block, address))).toEqual(['10.5.1.0', '10.5.1.255']);
    expect(containsAddress(ipv6Block, 'FC00:0:0:1:FFFF:ffff:ffff:ffff')).toBe(true);
    expect(containsAddress(ipv6Block, 'fc00:0:0:2::')).toBe(false);
    expect([bridgeAddress(ipv4Block), bridgeAddress(ipv6Block)]).toEqual(['10.5.1.1/24', 'fc00:0:0:1::1/64']);
  });
});
