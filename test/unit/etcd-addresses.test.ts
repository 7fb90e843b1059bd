import { beforeEach, describe, expect, it } from 'vitest';
import { EtcdAddresses } from '../../src/subnet/registry/addresses.ts';

const a = 'http://a.example:2379';
const b = 'http://b.example:2379';

let addresses: EtcdAddresses;

function connect(endpoint: string, address: string): void {
  addresses.tried(endpoint, address);
  addresses.made(endpoint, address);
}

/** Waits for a change that is there already; rejects when there is none. */
const changed = () => {
  const controller = new AbortController();
  const waiting = addresses.changed(controller.signal);
  controller.abort(new Error('no change'));
  return waiting;
};

beforeEach(() => {
  addresses = new EtcdAddresses(['a.example', 'b.example']);
});

describe('the addresses of etcd', () => {
  it.each([
    ['an IPv4 address', '10.77.0.5', ['10.77.0.5']],
    ['an IPv6 address', 'FD77:0::5', ['fd77::5']],
    ['an IPv4-mapped IPv6 address', '::ffff:10.77.0.5', ['10.77.0.5']],
    ['an IPv4-mapped IPv6 address in hex', '::FFFF:a4d:5', ['10.77.0.5']],
    ['an IPv6 address with a dotted tail', '64:ff9b::10.77.0.5', ['64:ff9b::a4d:5']],
    ['an address with a zone', 'fe80::1%eth0', ['fe80::1']],
    ['a name', 'etcd.example', []],
    ['a number', '10.77', []],
    ['a leading zero', '010.77.0.5', []],
  ])('are those that endpoints and connections name: %s', (_, text, expected) => {
    expect(new EtcdAddresses([text]).current).toEqual(expected);
    addresses.tried(a, text);
    expect(addresses.current).toEqual(expected);
  });

  it('are those of the endpoints themselves, whether reached or not', () => {
    addresses = new EtcdAddresses(['10.0.0.1', 'a.example']);
    connect(a, '10.0.0.2');
    expect(addresses.current).toEqual(['10.0.0.1', '10.0.0.2']);
  });

  it('are known from the attempt on: a route there may be why it fails', async () => {
    addresses.tried(a, '10.0.0.1');
    expect(addresses.current).toEqual(['10.0.0.1']);
    await changed();
    addresses.ended(a, '10.0.0.1');
    expect(addresses.current).toEqual(['10.0.0.1']);
    await expect(changed()).rejects.toThrow('no change');
  });

  it('stay while nothing is connected, and until a connection is made elsewhere', async () => {
    connect(a, '10.0.0.1');
    addresses.ended(a, '10.0.0.1');
    expect(addresses.current).toEqual(['10.0.0.1']);
    addresses.tried(a, '10.0.0.2');
    expect(addresses.current).toEqual(['10.0.0.1', '10.0.0.2']);
    await changed();
    addresses.made(a, '10.0.0.2');
    expect(addresses.current).toEqual(['10.0.0.2']);
    await changed();
  });

  it('stay while an older connection is open there, a watch for instance', () => {
    connect(a, '10.0.0.1');
    connect(a, '10.0.0.2');
    expect(addresses.current).toEqual(['10.0.0.1', '10.0.0.2']);
    addresses.ended(a, '10.0.0.1');
    expect(addresses.current).toEqual(['10.0.0.2']);
  });

  it('are not those of attempts that were lost to another one', () => {
    addresses.tried(a, '10.0.0.1');
    connect(a, '10.0.0.2');
    addresses.ended(a, '10.0.0.1');
    expect(addresses.current).toEqual(['10.0.0.2']);
  });

  it('are those of every endpoint', () => {
    connect(a, '10.0.0.1');
    connect(b, '::ffff:10.0.0.2');
    expect(addresses.current).toEqual(['10.0.0.1', '10.0.0.2']);
    // One that two endpoints share stays with the other one.
    connect(b, '10.0.0.1');
    addresses.ended(b, '10.0.0.2');
    connect(a, '10.0.0.3');
    addresses.ended(a, '10.0.0.1');
    expect(addresses.current.toSorted()).toEqual(['10.0.0.1', '10.0.0.3']);
  });

  it('are no change when a connection is made anew at the same one', async () => {
    connect(a, '10.0.0.1');
    await changed();
    const before = addresses.current;
    addresses.ended(a, '10.0.0.1');
    connect(a, '10.0.0.1');
    expect(addresses.current).toBe(before);
    await expect(changed()).rejects.toThrow('no change');
  });

  it('are the latest, not all, of a name that is another address each time', () => {
    for (let i = 1; i <= 200; i++) {
      addresses.tried(a, `10.0.0.${i}`);
      addresses.ended(a, `10.0.0.${i}`);
    }
    expect(addresses.current).toHaveLength(16);
    expect(addresses.current).toContain('10.0.0.200');
  });
});

it('connections from an address that this host has lost are dropped, and no others', () => {
  const dropped: string[] = [];
  const open = (local: string) => addresses.opened(local, () => void dropped.push(local));
  for (const local of ['10.0.0.5', 'fd00::5', 'fe80::5%eth0', '::1']) open(local);
  open('10.0.0.6')();
  addresses.keepFrom(['10.0.0.5', 'fd00::5', 'fe80::5', '::1', '10.0.0.9']);
  expect(dropped).toEqual([]);
  addresses.keepFrom(['10.0.0.9', 'fe80::5', '::1']);
  expect(dropped).toEqual(['10.0.0.5', 'fd00::5']);
});
