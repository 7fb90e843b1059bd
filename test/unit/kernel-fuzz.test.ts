import fc from 'fast-check';
import { type NetlinkMessage, parseAttributes, parseMessages } from 'netlink/dist/structs.js';
import { describe, expect, test } from 'vitest';
import { parseAddress, parseSubnet } from '../../src/ip/ip.ts';
import { decodeEvent } from '../../src/kernel/decode.ts';
import { encodeChange } from '../../src/kernel/encode.ts';
import type { KernelEvent, Route } from '../../src/kernel/kernel.ts';
import {
  decodeAnswer,
  decodeDone,
  messagesOf,
  NLM_F,
  NLMSG,
  RTM,
  readAttributes,
} from '../../src/kernel/rtnetlink.ts';
import { cpuMs } from '../testbed/cpu-time.ts';

const ATTRIBUTE_HEADER_BYTES = 4;

function attribute(type: number, ...data: readonly number[]): Buffer {
  const header = Buffer.from(Uint16Array.of(ATTRIBUTE_HEADER_BYTES + data.length, type).buffer);
  return Buffer.concat([header, Buffer.from(data), Buffer.alloc(-data.length & 3)]);
}

function message(type: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header.set(new Uint8Array(Uint32Array.of(16 + payload.length).buffer), 0);
  header.set(new Uint8Array(Uint16Array.of(type, 0).buffer), 4);
  return Buffer.concat([header, payload]);
}

function route(family: 4 | 6, dst: string, gateway: string, op: 'add' | 'remove' = 'add'): Buffer {
  const given = { family, dst, gateway, metric: 1024, protocol: 102, linkIndex: 2 } as const;
  const encoded = encodeChange({ op, route: given }, 7);
  if (encoded === undefined) throw new Error(`not a route: ${dst}`);
  return encoded;
}

/** Messages such as the kernel sends, whole. */
const genuine = [
  route(4, '172.20.1.0/24', '10.211.55.101'),
  route(6, 'fc00:0:1::/64', 'fd00:55::101'),
  route(4, '172.20.2.0/24', '10.211.55.102', 'remove'),
  // eth0 with an MTU, and an address on it.
  message(
    RTM.NEWLINK,
    Buffer.concat([Buffer.alloc(16), attribute(3, 0x65, 0x74, 0x68, 0x30, 0), attribute(4, 0xdc, 5, 0, 0)]),
  ),
  message(RTM.NEWADDR, Buffer.concat([Buffer.from([2, 24, 0x80, 0, 2, 0, 0, 0]), attribute(2, 10, 0, 0, 1)])),
];
const datagram = fc
  .array(fc.constantFrom(...genuine), { minLength: 1, maxLength: 6 })
  .map((parts) => Buffer.concat(parts));

/** Damage: bytes set, lengths among them, at places of the message. */
const damage = fc.array(
  fc.tuple(fc.nat(), fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 3, 4, 255))),
  { maxLength: 8 }, // prettier
);

function damaged(bytes: Buffer, changes: readonly (readonly [number, number])[]): Buffer {
  const copy = Buffer.from(bytes);
  for (const [at, value] of changes) copy[at % copy.length] = value;
  return copy;
}

function eventsOf(bytes: Buffer): readonly KernelEvent[] {
  return messagesOf(bytes).flatMap((one) => decodeEvent(one) ?? []);
}

/** A route that the planner may take for one it can compare and change must be one that the kernel can have. */
function expectPossible({ family, dst, gateway, source, special }: Route): void {
  if (special) return;
  const subnet = parseSubnet(dst);
  expect(subnet?.family, dst).toBe(family);
  for (const address of [gateway, source]) {
    if (address !== undefined) expect(parseAddress(address)?.family, address).toBe(family);
  }
}

describe('the kernel’s datagrams', () => {
  test('cut off anywhere say what the whole ones say up to there, or nothing', () => {
    fc.assert(
      fc.property(datagram, fc.nat(), (bytes, cut) => {
        const whole = eventsOf(bytes);
        const part = eventsOf(bytes.subarray(0, cut % bytes.length));
        expect(part).toEqual(whole.slice(0, part.length));
      }),
      { numRuns: 1_000 },
    );
  });

  test('with any bytes in them changed end the reading, throw nothing, and make no route that cannot be', () => {
    fc.assert(
      fc.property(datagram, damage, (bytes, changes) => {
        const harmed = damaged(bytes, changes);
        const messages = messagesOf(harmed);
        // Each takes at least its header, so that the reading comes to an end.
        expect(messages.length).toBeLessThanOrEqual(harmed.length / 16);
        for (const one of messages) {
          const event = decodeEvent(one);
          if (event !== undefined && 'route' in event) expectPossible(event.route);
          for (const flags of [one.flags, one.flags | NLM_F.ACK_TLVS]) {
            expect(decodeAnswer({ ...one, flags })).toBeInstanceOf(Object);
            expect(decodeDone({ ...one, flags })).toBeInstanceOf(Object);
          }
        }
      }),
      { numRuns: 5_000 },
    );
  });

  test('are read as the netlink package reads them, whole and damaged', () => {
    const attributesOf = (read: (visit: (type: number, data: Buffer) => void) => void) => {
      const attributes: (readonly [type: number, data: Buffer])[] = [];
      read((type, data) => attributes.push([type, data]));
      return attributes;
    };
    const orNone = <T>(read: () => T, none: T): T => {
      try {
        return read();
      } catch {
        return none;
      }
    };
    fc.assert(
      fc.property(datagram, damage, (bytes, changes) => {
        const harmed = damaged(bytes, changes);
        const messages = messagesOf(harmed);
        expect(messages).toEqual(orNone<readonly NetlinkMessage[]>(() => parseMessages(harmed), []));
        for (const { data } of messages) {
          const attributes = data.subarray(12);
          const theirs = attributesOf((visit) =>
            orNone(() => parseAttributes(attributes, (one) => visit(one.type, one.data)), undefined),
          );
          expect(attributesOf((visit) => readAttributes(attributes, visit))).toEqual(theirs);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test('of random bytes are not messages, and what happens to look like one makes no route that cannot be', () => {
    const bytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
    const types = fc.constantFrom(RTM.NEWROUTE, RTM.DELROUTE, RTM.NEWLINK, RTM.DELLINK, RTM.NEWADDR);
    fc.assert(
      fc.property(types, fc.constantFrom(2, 10, 0, 7), bytes, (type, family, rest) => {
        for (const random of [rest, message(type, rest), message(type, Buffer.alloc(0))]) eventsOf(random);
        const answer = { type: NLMSG.ERROR, flags: NLM_F.ACK_TLVS, seq: 1, port: 0, data: rest };
        for (const decode of [decodeAnswer, decodeDone]) expect(decode(answer)).toBeInstanceOf(Object);
        for (const event of eventsOf(message(type, Buffer.concat([Buffer.from([family]), rest])))) {
          if ('route' in event) expectPossible(event.route);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test.each([
    ['a message of no length', Buffer.alloc(16)],
    ['a message that says it is 4 GB long', Buffer.alloc(64, 0xff)],
    [
      'attributes of no length',
      message(RTM.NEWROUTE, Buffer.concat([Buffer.from([2, 24]), Buffer.alloc(2_000)])),
    ],
  ])('%s is come to an end with', (_what, bytes) => {
    for (const event of eventsOf(bytes)) if ('route' in event) expectPossible(event.route);
  });

  test('a quarter of a megabyte of the smallest attributes is read in no time', () => {
    const many = Buffer.alloc(250_000);
    for (let at = 0; at < many.length; at += ATTRIBUTE_HEADER_BYTES) many[at] = ATTRIBUTE_HEADER_BYTES;
    const startedMs = cpuMs();
    const bytes = message(RTM.NEWROUTE, Buffer.concat([Buffer.from([2, 24, ...Array(10).fill(0)]), many]));
    expect(eventsOf(bytes)).toEqual([]);
    expect(cpuMs() - startedMs).toBeLessThan(2_000);
  });
});
