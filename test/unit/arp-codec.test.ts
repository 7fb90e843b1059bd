import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { announcementOf, probeFor } from '../../src/arp/arp.ts';
import { decodeArp, encodeArp } from '../../src/arp/linux-arp.ts';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const mac = '06:db:db:37:20:0a';

describe('ARP packets', () => {
  it('are RFC 826, byte for byte', () => {
    expect(hex(encodeArp(probeFor('10.9.9.1', mac)))).toBe(
      '000108000604000106dbdb37200a000000000000000000000a090901',
    );
    expect(hex(encodeArp(announcementOf('10.9.9.1', mac)))).toBe(
      '000108000604000106dbdb37200a0a0909010000000000000a090901',
    );
  });

  it('are read as Linux sends them, with padding', () => {
    const request = '000108000604000106dbdb37200a0a0909020000000000000a090901';
    expect(decodeArp(Buffer.from(`${request}${'00'.repeat(18)}`, 'hex'))).toEqual({
      operation: 'request',
      senderMac: mac,
      sender: '10.9.9.2',
      target: '10.9.9.1',
    });
  });

  it('come back from the wire as they were', () => {
    const byte = fc.integer({ min: 0, max: 255 });
    const address = fc.array(byte, { minLength: 4, maxLength: 4 }).map((bytes) => bytes.join('.'));
    const macs = fc
      .array(byte, { minLength: 6, maxLength: 6 })
      .map((bytes) => bytes.map((one) => one.toString(16).padStart(2, '0')).join(':'));
    const operation = fc.constantFrom('request' as const, 'reply' as const);
    const packet = fc.record({ operation, senderMac: macs, sender: address, target: address });
    fc.assert(
      fc.property(packet, (one) => {
        expect(decodeArp(encodeArp(one))).toEqual(one);
      }),
    );
  });

  it.each([
    ['is too short', '000108000604000106dbdb37200a0a0909020000000000000a0909'],
    ['is about no Ethernet', '000608000604000106dbdb37200a0a0909020000000000000a090901'],
    ['is about no IPv4', '000186dd0604000106dbdb37200a0a0909020000000000000a090901'],
    ['asks backwards (RARP)', '000108000604000306dbdb37200a0a0909020000000000000a090901'],
    ['is empty', ''],
  ])('are ignored when what arrived %s', (_, bytes) => {
    expect(decodeArp(Buffer.from(bytes, 'hex'))).toBeUndefined();
  });

  it('of any bytes are read or ignored', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        decodeArp(bytes);
      }),
    );
  });

  it('are not made of what is no address', () => {
    expect(() => encodeArp(probeFor('10.9.9', mac))).toThrow(RangeError);
    expect(() => encodeArp(probeFor('10.9.9.256', mac))).toThrow(RangeError);
    expect(() => encodeArp(probeFor('10.9.9.1', 'fe80::1'))).toThrow(RangeError);
  });
});
