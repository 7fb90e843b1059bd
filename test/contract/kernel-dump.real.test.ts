import { execFileSync } from 'node:child_process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { decodeAddress } from '../../src/kernel/decode.ts';
import { type DumpRequest, DumpSocket, MAX_DUMP_ATTEMPTS } from '../../src/kernel/dump-socket.ts';
import { encodeAddressDump } from '../../src/kernel/encode.ts';
import type { LinkAddress } from '../../src/kernel/kernel.ts';
import { RTM } from '../../src/kernel/rtnetlink.ts';
import { ipBatch } from '../testbed/netns.ts';
import { makeNamespaceWorld, type NamespaceWorld } from './kernel-namespace.ts';

// What goes stands before what stays: each removal between two parts of a dump makes the kernel skip one entry.
const GOES = addressesIn('10.60', 3000);
const STAYS = addressesIn('10.70', 1000);

let world: NamespaceWorld;
let dumps: DumpSocket;

beforeEach(async () => {
  world = await makeNamespaceWorld();
  dumps = new DumpSocket({ deadlineMs: 5_000, receiveBufferBytes: 1 << 20 });
  await ipBatch(
    world.host.namespace,
    [...GOES, ...STAYS].map((address) => `addr add ${address}/32 dev eth0`),
  );
});
afterEach(async () => {
  dumps.close();
  await world.close();
});

function addressesIn(prefix: string, count: number): readonly string[] {
  return Array.from({ length: count }, (_, i) => `${prefix}.${i >> 8}.${i & 255}`);
}

/**
 * Asks for all addresses; between the first part of an attempt and its second, for the first `interruptions` attempts, an
 * address goes. `attempts` counts them.
 */
function interrupted(interruptions: number): DumpRequest<LinkAddress> & { attempts: number } {
  let told = 0;
  const request = {
    attempts: 0,
    what: 'addresses',
    encode: (sequence: number) => {
      request.attempts += 1;
      return encodeAddressDump(4, sequence);
    },
    type: RTM.NEWADDR,
    decode: (payload: Buffer) => {
      if (told < request.attempts && request.attempts <= interruptions) {
        told = request.attempts;
        // It blocks this thread, the dump with it.
        execFileSync('ip', ['addr', 'del', `${GOES[told]}/32`, 'dev', 'eth0']);
      }
      return decodeAddress(payload);
    },
  };
  return request;
}

test.each([0, 1, 3, MAX_DUMP_ATTEMPTS - 1])(
  'a dump during which the table changes is made again, until one is whole: %i times',
  async (interruptions) => {
    const request = interrupted(interruptions);
    const listed = (await dumps.dump(request, undefined)).map(({ address }) => address);
    expect(request.attempts).toBe(interruptions + 1);
    const wanted = [...GOES.slice(0, 1), ...GOES.slice(1 + interruptions), ...STAYS];
    expect(listed.filter((address) => /^10\.[67]0\./.test(address))).toEqual(wanted);
  },
);

test('a dump of which the kernel skips the whole rest is made again', async () => {
  let attempts = 0;
  const request: DumpRequest<LinkAddress> = {
    what: 'addresses',
    encode: (sequence) => {
      attempts++;
      return encodeAddressDump(4, sequence);
    },
    type: RTM.NEWADDR,
    decode: (payload) => {
      const address = decodeAddress(payload);
      // More have been told of by now than stay: where the kernel goes on from there is nothing any more.
      if (attempts === 1 && address?.address === GOES[2_000]) {
        const input = GOES.map((gone) => `addr del ${gone}/32 dev eth0`).join('\n');
        execFileSync('ip', ['-batch', '-'], { input });
      }
      return address;
    },
  };
  const listed = (await dumps.dump(request, undefined)).map(({ address }) => address);
  expect(attempts).toBe(2);
  expect(listed.filter((address) => /^10\.[67]0\./.test(address))).toEqual(STAYS);
});

test('a table that changes during every attempt is an error, and the next dump is whole', async () => {
  const request = interrupted(MAX_DUMP_ATTEMPTS);
  await expect(dumps.dump(request, undefined)).rejects.toMatchObject({ code: 'KERNEL_EINTR' });
  expect(request.attempts).toBe(MAX_DUMP_ATTEMPTS);
  const again = interrupted(0);
  const listed = await dumps.dump(again, undefined);
  expect(listed.length).toBeGreaterThan(GOES.length - MAX_DUMP_ATTEMPTS + STAYS.length);
});

test('no address that stays is ever missed while another program removes others', async () => {
  const kernel = world.open();
  const churning = new AbortController();
  const done = ipBatch(
    world.host.namespace,
    GOES.map((address) => `addr del ${address}/32 dev eth0`),
  ).finally(() => churning.abort());
  let listings = 0;
  for (; !churning.signal.aborted; listings++) {
    const listed = await kernel.addresses().catch((error: unknown) => {
      // A table that never holds still is an error, never a part of it.
      expect(error).toMatchObject({ code: 'KERNEL_EINTR' });
      return undefined;
    });
    if (listed === undefined) continue;
    const found = new Set(listed.map(({ address }) => address));
    expect(STAYS.filter((address) => !found.has(address))).toEqual([]);
  }
  await done;
  expect(listings).toBeGreaterThan(0);
});
