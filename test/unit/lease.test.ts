import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatAddress } from '../../src/ip/ip.ts';
import { formatLeaseValue, parseLease, parseLeaseValue } from '../../src/subnet/lease/lease.ts';
import type { KeyValue } from '../../src/subnet/registry/registry.ts';

const prefix = '/coreos.com/network/subnets/';
const ipv4 = fc.integer({ min: 1, max: 2 ** 32 - 1 }).map((value) => formatAddress(4, BigInt(value)));
const ipv6 = fc.bigInt({ min: 1n << 64n, max: (1n << 128n) - 1n }).map((value) => formatAddress(6, value));

function keyValue(key: string, value: string): KeyValue {
  return { key, value, createRevision: 7, modRevision: 9, lease: '7587869134593287685' };
}

describe('a lease value', () => {
  it('is written as flanneld writes it, byte for byte', () => {
    expect(
      [{ ipv4: '10.0.0.1' }, { ipv4: '10.0.0.1', ipv6: 'fc00::1' }, { ipv6: 'fc00::1' }].map(
        formatLeaseValue,
      ),
    ).toEqual([
      '{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"host-gw"}',
      '{"PublicIP":"10.0.0.1","PublicIPv6":"fc00::1","BackendType":"host-gw"}',
      '{"PublicIP":"0.0.0.0","PublicIPv6":"fc00::1","BackendType":"host-gw"}',
    ]);
  });

  it('reads back as it was written', () => {
    const value = fc.oneof(fc.record({ ipv4 }), fc.record({ ipv6 }), fc.record({ ipv4, ipv6 }));
    fc.assert(
      fc.property(value, (given) => {
        const { ipv4: publicIP, ipv6: publicIPv6 } = { ipv4: undefined, ipv6: undefined, ...given };
        const expected = { publicIP, publicIPv6, backendType: 'host-gw' };
        expect(parseLeaseValue(formatLeaseValue(given))).toEqual(expected);
      }),
    );
  });

  it.each([
    ['{}', { backendType: '' }],
    ['{"publicip":"10.0.0.1","BACKENDTYPE":"vxlan"}', { publicIP: '10.0.0.1', backendType: 'vxlan' }],
    ['{"bac\u212aendtype":"host-gw"}', { backendType: 'host-gw' }],
    ['{"publicIp":"10.0.0.2","PublicIP":"10.0.0.1"}', { publicIP: '10.0.0.1', backendType: '' }],
    ['{"PublicIP":"10.0.0.1","publicIp":"10.0.0.2"}', { publicIP: '10.0.0.2', backendType: '' }],
    ['{"BackendType":"host-gw","backendtype":null}', { backendType: 'host-gw' }],
    ['{"PublicIPv6":"FC00:0::1"}', { publicIPv6: 'fc00::1', backendType: '' }],
    ['{"BackendData":{"PublicIP":5},"BackendV6Data":[[1]],"x":1e400}', { backendType: '' }],
    [' { "PublicIP" : "10.0.0.1" } ', { publicIP: '10.0.0.1', backendType: '' }],
    ['{"BackendType":"Host-GW"}', { backendType: 'Host-GW' }],
  ])('%s is read as Go reads it', (text, value) => {
    expect(parseLeaseValue(text)).toEqual(value);
  });

  it.each([
    ...['null', '"x"', '"0.0.0.0"', '"010.0.0.1"', '"fc00::1"'].map((literal) => `"PublicIP":${literal}`),
    ...['null', '""', '"::"', '"10.0.0.1"', '"fe80::1%eth0"'].map((literal) => `"PublicIPv6":${literal}`),
  ])('with %s has no such address', (member) => {
    expect(parseLeaseValue(`{${member}}`)).toEqual({ backendType: '' });
  });

  it.each([
    '',
    'null',
    '"10.0.0.1"',
    '[{"PublicIP":"10.0.0.1"}]',
    '{"PublicIP":"10.0.0.1"',
    '{"PublicIP":"10.0.0.1"}x',
    '{"PublicIP":5}',
    '{"PublicIP":["10.0.0.1"]}',
    '{"PublicIPv6":1}',
    '{"BackendType":5}',
    `{"x":${'['.repeat(20_000)}${']'.repeat(20_000)}}`,
    `{"x":${'['.repeat(1_000_000)}`,
  ])('is not %.40j', (text) => {
    expect(parseLeaseValue(text)).toBeUndefined();
  });

  it('may be a megabyte', () => {
    const text = `{"BackendData":"${'\\"{'.repeat(500_000)}","PublicIP":"10.0.0.1"}`;
    expect(parseLeaseValue(text)).toEqual({ publicIP: '10.0.0.1', backendType: '' });
  });

  it('never throws, and never takes an address from elsewhere in the text', () => {
    const texts = fc.oneof(
      fc.string({ unit: 'binary' }),
      fc.json(),
      fc.json().map((json) => `{"BackendData":${json}}`),
    );
    fc.assert(
      fc.property(texts, (text) => {
        const value = parseLeaseValue(text);
        if (value !== undefined) expect(value).toEqual({ backendType: '' });
      }),
      { numRuns: 2000 },
    );
  }, 30_000);
});

describe('a lease', () => {
  it('carries its key, revisions and etcd lease', () => {
    const value = formatLeaseValue({ ipv4: '10.0.0.1' });
    expect(parseLease(prefix, keyValue(`${prefix}10.5.1.0-24`, value))).toEqual({
      lease: {
        key: `${prefix}10.5.1.0-24`,
        subnets: { ipv4: expect.objectContaining({ text: '10.5.1.0/24' }) },
        value: { publicIP: '10.0.0.1', backendType: 'host-gw' },
        rawValue: value,
        createRevision: 7,
        modRevision: 9,
        leaseId: '7587869134593287685',
      },
    });
  });

  it('with a bad key or value is a problem, one short printable line that names the key', () => {
    const problemOf = (name: string, value: string) => parseLease(prefix, keyValue(prefix + name, value));
    const problems = [
      problemOf('junk\u001b[2J', '{}'),
      problemOf('10.5.1.0-24', 'ju\nnk'),
      problemOf('10.5.1.0-24', ''),
    ];
    expect(problems).toEqual([
      { problem: `key ${prefix}junk\\u001b[2J does not name a subnet (a.b.c.d-len): ignored` },
      { problem: `key ${prefix}10.5.1.0-24 holds no lease: its value is ju\\u000ank` },
      { problem: `key ${prefix}10.5.1.0-24 holds no lease: its value is empty` },
    ]);
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary', maxLength: 500 }),
        fc.string({ unit: 'binary', maxLength: 500 }),
        (key, value) => {
          const parsed = parseLease(prefix, keyValue(prefix + key, value));
          if ('lease' in parsed) return;
          expect(parsed.problem).not.toMatch(/[\p{C}\p{Zl}\p{Zp}]/u);
          expect(parsed.problem.length).toBeLessThan(1700);
        },
      ),
    );
  });
});
