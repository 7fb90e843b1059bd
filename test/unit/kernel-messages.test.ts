import fc from 'fast-check';
import { formatRouteMessage } from 'netlink/dist/rt/structs.js';
import { AttrStream, formatMessage, type NetlinkMessage, parseMessages } from 'netlink/dist/structs.js';
import { describe, expect, test } from 'vitest';
import { canonicalAddress, type Family, formatAddress, parseAddress } from '../../src/ip/ip.ts';
import { decodeEvent, decodeRoute } from '../../src/kernel/decode.ts';
import { encodeChange } from '../../src/kernel/encode.ts';
import type { RouteChange, RouteSpec } from '../../src/kernel/kernel.ts';
import {
  addressBytes,
  addressFamily,
  addressText,
  decodeAnswer,
  decodeDone,
  LOOPBACK_IFINDEX,
  NLM_F,
  NLMSG,
  RT_TABLE_MAIN,
  RTM,
  RTN,
} from '../../src/kernel/rtnetlink.ts';

const SPEC = {
  family: 4,
  dst: '172.20.1.0/24',
  metric: 0,
  protocol: 102,
  gateway: '10.211.55.101',
  linkIndex: 2,
} as const;

/** The message of a request, as the kernel would send it in a notification. */
function notification(over: Partial<{ dst: string; metric: number; op: 'add' | 'remove' }> = {}) {
  const { op = 'add', ...route } = over;
  const [message] = parseMessages(encodeChange({ op, route: { ...SPEC, ...route } }, 7) ?? Buffer.alloc(0));
  if (message === undefined) throw new Error('no message');
  return message;
}

function attribute(type: number, data: Buffer): Buffer {
  const header = Buffer.from(Uint16Array.of(4 + data.length, type).buffer);
  return Buffer.concat([header, data, Buffer.alloc(-data.length & 3)]);
}

function answer(flags: number, data: Buffer): NetlinkMessage {
  return { type: NLMSG.ERROR, flags, seq: 1, port: 0, data };
}

function error(errno: number): Buffer {
  return Buffer.from(Int32Array.of(errno).buffer);
}

describe('addresses', () => {
  test('of IPv6 are written as the rest of the program writes them', () => {
    const group = fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 0xffff }));
    fc.assert(
      fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (parts) => {
        const text = parts.map((part) => part.toString(16)).join(':');
        const canonical = canonicalAddress(text);
        // IPv4-mapped addresses have no canonical text there.
        if (canonical === undefined) return;
        const bytes = addressBytes(6, text);
        expect(bytes && addressText(bytes)).toBe(canonical);
      }),
    );
  });

  test('of IPv4 are written as the rest of the program writes them', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffffffff }), (value) => {
        const text = formatAddress(4, BigInt(value));
        const bytes = addressBytes(4, text);
        expect(bytes && addressText(bytes)).toBe(text);
        expect(parseAddress(text)?.value).toBe(BigInt(value));
      }),
    );
  });

  test('of another family or length are none', () => {
    expect(addressBytes(4, 'fd00::1')).toBeUndefined();
    expect(addressBytes(6, '10.0.0.1')).toBeUndefined();
    expect(addressText(Buffer.alloc(8))).toBeUndefined();
  });
});

/** The same request as the netlink package writes it. */
function byThePackage({ op, route }: RouteChange, seq: number): Buffer {
  const family = addressFamily(route.family);
  const [address = '', length] = route.dst.split('/');
  const isBlackhole = route.type === 'blackhole';
  const type = isBlackhole ? RTN.BLACKHOLE : RTN.UNICAST;
  const body = new AttrStream();
  const oif = isBlackhole ? (route.family === 6 ? LOOPBACK_IFINDEX : undefined) : route.linkIndex;
  const gateway = isBlackhole ? undefined : addressBytes(route.family, route.gateway);
  formatRouteMessage(
    {
      kind: 'route',
      data: { family, dstLen: Number(length), table: RT_TABLE_MAIN, protocol: route.protocol, type },
      attrs: {
        dst: addressBytes(route.family, address) ?? Buffer.alloc(0),
        ...(oif !== undefined && { oif }),
        ...(gateway && { gateway }),
        priority: route.metric,
      },
    },
    body,
  );
  const flags = { add: 0x600, prepend: 0x400, replace: 0x500, remove: 0 }[op] | NLM_F.REQUEST | NLM_F.ACK;
  const message = {
    type: op === 'remove' ? RTM.DELROUTE : RTM.NEWROUTE,
    flags,
    seq,
    port: 0,
    data: body.bufs,
  };
  return Buffer.concat(formatMessage(message));
}

test('requests for changes are those that the netlink package writes', () => {
  const number = fc.integer({ min: 0, max: 0xffffffff });
  const address = (family: Family) =>
    family === 4
      ? number.map((value) => formatAddress(4, BigInt(value)))
      : fc.bigInt(1n << 120n, (1n << 128n) - 1n).map((value) => formatAddress(6, value));
  const change = fc.constantFrom<Family[]>(4, 6).chain((family) =>
    fc.record({
      op: fc.constantFrom('add' as const, 'prepend' as const, 'replace' as const, 'remove' as const),
      route: fc
        .record({
          at: address(family),
          length: fc.integer({ min: 0, max: family === 4 ? 32 : 128 }),
          metric: number,
          protocol: fc.integer({ min: 0, max: 255 }),
          linkIndex: fc.integer({ min: 1, max: 0x7fffffff }),
          gateway: fc.option(address(family)),
        })
        .map(({ at, length, gateway, linkIndex, ...rest }): RouteSpec => {
          const key = { family, dst: `${at}/${length}`, ...rest };
          return gateway === null ? { ...key, type: 'blackhole' } : { ...key, gateway, linkIndex };
        }),
    }),
  );
  fc.assert(
    fc.property(change, number, (given, sequence) => {
      expect(encodeChange(given, sequence)).toEqual(byThePackage(given, sequence));
    }),
  );
});

describe('route messages', () => {
  test('come back as the route they were made from', () => {
    const usual = { tos: 0, type: 'unicast', scope: 0, special: false };
    expect(decodeRoute(notification().data)).toEqual({ ...SPEC, ...usual });
    const byDefault = { dst: '0.0.0.0/0', metric: 5 };
    expect(decodeRoute(notification(byDefault).data)).toMatchObject(byDefault);
  });

  test('whose flags say what happened', () => {
    const message = notification();
    const event = (flags: number, type: number = RTM.NEWROUTE) => decodeEvent({ ...message, flags, type });
    expect(event(NLM_F.CREATE)).toMatchObject({ replaced: false, appended: false });
    expect(event(NLM_F.REPLACE)).toMatchObject({ replaced: true, appended: false });
    expect(event(NLM_F.CREATE | NLM_F.APPEND)).toMatchObject({ replaced: false, appended: true });
    expect(event(0, RTM.DELROUTE)).toMatchObject({ type: 'route-removed' });
  });

  test('with an attribute nobody knows are special, and other tables are no routes of ours', () => {
    const { data } = notification();
    expect(decodeRoute(Buffer.concat([data, attribute(77, Buffer.alloc(3))]))).toMatchObject({
      dst: SPEC.dst,
      gateway: SPEC.gateway,
      special: true,
    });
    const inTable1000 = Buffer.concat([data, attribute(15, Buffer.from(Uint32Array.of(1000).buffer))]);
    expect(decodeRoute(inTable1000)).toBeUndefined();
  });

  test('cut off in the middle of an attribute are special', () => {
    const { data } = notification();
    expect(decodeRoute(data.subarray(0, data.length - 2))).toMatchObject({ dst: SPEC.dst, special: true });
  });
});

describe('answers', () => {
  const header = Buffer.alloc(16);
  const words = attribute(1, Buffer.from('Nexthop has invalid gateway\0'));

  test('carry the errno by name and the explanation, with or without a copy of the request', () => {
    expect(decodeAnswer(answer(0, Buffer.concat([error(0), header])))).toEqual({
      errno: undefined,
      message: undefined,
    });
    const capped = answer(NLM_F.CAPPED | NLM_F.ACK_TLVS, Buffer.concat([error(-101), header, words]));
    expect(decodeAnswer(capped)).toEqual({ errno: 'ENETUNREACH', message: 'Nexthop has invalid gateway' });
    const request = encodeChange({ op: 'add', route: SPEC }, 1) ?? header;
    const whole = answer(NLM_F.ACK_TLVS, Buffer.concat([error(-17), request, words]));
    expect(decodeAnswer(whole)).toEqual({ errno: 'EEXIST', message: 'Nexthop has invalid gateway' });
  });

  test('at the end of a dump may be errors too', () => {
    expect(decodeDone(answer(0, error(0))).errno).toBeUndefined();
    expect(decodeDone(answer(0, error(-12))).errno).toBe('ENOMEM');
  });
});
