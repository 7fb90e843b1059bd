import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { subnet } from '../../sim/leases.ts';
import { DesiredRoutes } from '../../src/backend/hostgw/desired.ts';
import { containsAddress, overlaps, parseSubnet } from '../../src/ip/ip.ts';
import { NetworkConfigError, parseNetworkConfig } from '../../src/subnet/config/config.ts';
import { type Lease, parseLease, parseLeaseValue } from '../../src/subnet/lease/lease.ts';
import { cpuMs } from '../testbed/cpu-time.ts';
import { failure, ipv4Pool, withBackend } from './config-helpers.ts';

const prefix = '/net/subnets/';
const keyValue = (key: string, value: string) => ({
  key: prefix + key,
  value,
  createRevision: 1,
  modRevision: 1,
  lease: '0',
});

/** Keys that mean something to JavaScript's objects, beside those that mean something to us. */
const ofObjects = ['__proto__', 'constructor', 'prototype', 'toString', 'toJSON', 'then', 'length'];
const ofLeases = ['PublicIP', 'PublicIPv6', 'BackendType', 'BackendData'];
const ofConfigs = ['Network', 'SubnetLen', 'SubnetMin', 'Backend', 'Type'];
const keys = fc.constantFrom(...ofObjects, ...ofLeases, ...ofConfigs);
const numbers = fc.constantFrom(
  '1e400',
  '24.0',
  '2.4e1',
  '-0',
  '1e-400',
  '9007199254740993',
  '9'.repeat(400),
);
const scalar = fc.oneof(
  numbers,
  fc.constantFrom('null', 'true', '"host-gw"', '"10.0.0.1"', '"10.5.0.0/16"', '"\\u0000"', '"\\ud800"'),
);
/** JSON text, because JSON.stringify writes neither such numbers nor a key twice. */
const { value: json } = fc.letrec<{ value: string }>((tie) => {
  const member = fc.tuple(keys, tie('value')).map(([key, value]) => `${JSON.stringify(key)}:${value}`);
  const object = fc.array(member, { maxLength: 5 }).map((members) => `{${members.join(',')}}`);
  const array = fc.array(tie('value'), { maxLength: 3 }).map((values) => `[${values.join(',')}]`);
  return { value: fc.oneof({ depthSize: 'small', withCrossShrink: true }, scalar, object, array) };
});

const builtIn = [Object.prototype, Array.prototype, Function.prototype, String.prototype] as const;
const untouched = builtIn.map((prototype) => Reflect.ownKeys(prototype));

afterEach(() => {
  expect(builtIn.map((prototype) => Reflect.ownKeys(prototype))).toEqual(untouched);
});

describe('JSON made to harm', () => {
  it('gives a lease’s own fields or none, and never any from a prototype', () => {
    fc.assert(
      fc.property(json, (text) => {
        const value = parseLeaseValue(text);
        if (value === undefined) return;
        expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
        expect(['publicIP', 'publicIPv6', 'backendType']).toEqual(expect.arrayContaining(Object.keys(value)));
      }),
      { numRuns: 1_000 },
    );
    const inherited = '{"__proto__":{"PublicIP":"10.0.0.1","BackendType":"host-gw"}}';
    expect(parseLeaseValue(inherited)).toEqual({ backendType: '' });
  });

  it('gives a network configuration or a NetworkConfigError', () => {
    const any = fc.oneof(json, fc.json(), fc.string({ unit: 'binary' }));
    fc.assert(
      fc.property(any, any, (text, network) => {
        for (const given of [text, withBackend(`"Network":${network}`), withBackend(`"__proto__":${text}`)]) {
          try {
            expect(parseNetworkConfig(given).ipv4?.network.family).toBe(4);
          } catch (error) {
            expect(error).toBeInstanceOf(NetworkConfigError);
          }
        }
      }),
      { numRuns: 2_000 },
    );
    const inherited = '{"__proto__":{"SubnetLen":26}}';
    expect(ipv4Pool(`"Network":"10.5.0.0/16","x":${inherited}`)).toContain(': /24 from');
  });

  it.each(['1e400', '9007199254740993', '9'.repeat(1_000_000)])(
    'with %.20j for a length is refused in a short line',
    (number) => {
      const { message } = failure(withBackend(`"Network":"10.5.0.0/16","SubnetLen":${number}`));
      expect(message.length).toBeLessThan(500);
    },
  );

  it('of a megabyte, or many thousand levels deep, is done with at once', () => {
    const startedMs = cpuMs();
    const texts = [
      `{"PublicIP":"10.0.0.1","x":${'{"__proto__":'.repeat(300_000)}1${'}'.repeat(300_000)}}`,
      `{${'"PublicIP":"10.0.0.1",'.repeat(50_000)}"BackendType":"host-gw"}`,
      `{"PublicIP":"${'1'.repeat(1_000_000)}"}`,
      `{"${'\\u0041'.repeat(200_000)}":1}`,
      `{"PublicIP"${' '.repeat(1_000_000)}:"10.0.0.1"`,
    ];
    for (const text of texts) {
      parseLeaseValue(text);
      expect(() => parseNetworkConfig(text)).toThrow(NetworkConfigError);
    }
    const parsed = parseLease(prefix, keyValue(`${'1'.repeat(1_000_000)}-24`, '{}'));
    expect('problem' in parsed && parsed.problem.length).toBeLessThan(1_000);
    expect(cpuMs() - startedMs).toBeLessThan(5_000);
  });
});

describe('whatever leases there are', () => {
  const self = { subnet: subnet('172.20.100.0/24'), address: '10.211.55.100' };
  const noHosts = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/4', '240.0.0.0/4'].map((text) => subnet(text));
  const byte = fc.oneof(fc.nat(255), fc.constantFrom(0, 10, 20, 55, 100, 127, 169, 172, 211, 224, 255));
  const address = fc.tuple(byte, byte, byte, byte).map((bytes) => bytes.join('.'));
  const near = fc.constantFrom('172.20.100.0', '172.20.96.0', '10.211.55.0', '127.0.0.0', '0.0.0.0');
  const key = fc
    .tuple(fc.oneof(address, near), fc.nat(33))
    .map(([at, length]) => parseSubnet(`${at}/${length}`)?.text.replace('/', '-') ?? `${at}-${length}`);
  const gateway = fc.oneof(address, near, fc.constantFrom(self.address, '10.211.55.101', '::1', ''));

  it('no route leads to this host’s own subnet or address, loopback, multicast or everywhere, and none over them', () => {
    let routed = 0;
    fc.assert(
      fc.property(fc.array(fc.tuple(key, gateway), { maxLength: 20 }), (given) => {
        const leases = given.flatMap(([name, publicIP]): Lease[] => {
          const value = JSON.stringify({ PublicIP: publicIP, BackendType: 'host-gw' });
          const parsed = parseLease(prefix, keyValue(name, value));
          return 'lease' in parsed ? [parsed.lease] : [];
        });
        const desired = new DesiredRoutes(self);
        desired.replaceAll(leases);
        for (const dst of desired.dsts) {
          const target = subnet(dst);
          const via = desired.get(dst)?.gateway ?? '';
          expect(target.length).toBeGreaterThan(0);
          const wrong = noHosts.filter((one) => overlaps(one, target) || containsAddress(one, via));
          expect(wrong, `${dst} ${via}`).toEqual([]);
          expect(overlaps(target, self.subnet)).toBe(false);
          expect(containsAddress(target, self.address) || containsAddress(target, via)).toBe(false);
          expect(via).not.toBe(self.address);
          routed++;
        }
      }),
      { numRuns: 1_000 },
    );
    expect(routed).toBeGreaterThan(100);
  });
});
