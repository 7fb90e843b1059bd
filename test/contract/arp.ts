import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type ArpPacket, type ArpSocket, announcementOf, probeFor } from '../../src/arp/arp.ts';

/** One of two hosts on a segment, with one link. */
export interface ArpStation {
  readonly mac: string;
  open(address: string): ArpSocket;
  addAddress(address: string): Promise<void>;
  removeAddress(address: string): Promise<void>;
  setLinkUp(up: boolean): Promise<void>;
}

export interface ArpWorld {
  /** Has {@link ADDRESS} and hears ARP. */
  readonly here: ArpStation;
  readonly there: ArpStation;
  close(): Promise<void>;
}

export const ADDRESS = '10.211.55.100';
export const THERE = '10.211.55.101';
const FREE = '10.211.55.177';

/** The rules of `Arp`, run against Linux and against the simulated segment. */
export function arpContract(name: string, makeWorld: () => Promise<ArpWorld>): void {
  describe(`ARP contract: ${name}`, () => {
    let world: ArpWorld;
    let sockets: ArpSocket[];
    const open = (station: 'here' | 'there', address: string) => {
      const socket = world[station].open(address);
      sockets.push(socket);
      return socket;
    };

    beforeEach(async () => {
      world = await makeWorld();
      sockets = [];
    });
    afterEach(async () => {
      for (const socket of sockets) socket.close();
      await world.close();
    });

    test('a probe is answered by the kernel of the host that has the address', async () => {
      const socket = open('here', THERE);
      socket.send(probeFor(THERE, world.here.mac));
      expect(await heard(socket)).toEqual([
        { operation: 'reply', senderMac: world.there.mac, sender: THERE, target: '0.0.0.0' },
      ]);
    });

    test('a probe for an address that nobody has is not answered', async () => {
      const [free, had] = [open('here', FREE), open('here', THERE)];
      free.send(probeFor(FREE, world.here.mac));
      had.send(probeFor(THERE, world.here.mac));
      await heard(had);
      expect(await waiting(free)).toEqual([]);
      await world.there.addAddress(FREE);
      free.send(probeFor(FREE, world.here.mac));
      expect(await heard(free)).toMatchObject([{ sender: FREE, senderMac: world.there.mac }]);
    });

    test('probes and announcements of another host are heard, own ones are not', async () => {
      const socket = open('here', ADDRESS);
      const other = open('there', ADDRESS);
      socket.send(announcementOf(ADDRESS, world.here.mac));
      const packets = [probeFor(ADDRESS, world.there.mac), announcementOf(ADDRESS, world.there.mac)];
      for (const packet of packets) other.send(packet);
      expect(await heard(socket, 2)).toEqual(packets);
    });

    test('an announcement of another host is not answered, not even by the kernel of the one that has the address', async () => {
      const other = open('there', ADDRESS);
      other.send(announcementOf(ADDRESS, world.there.mac));
      other.send(probeFor(ADDRESS, world.there.mac));
      expect(await heard(other)).toMatchObject([{ operation: 'reply', sender: ADDRESS, target: '0.0.0.0' }]);
    });

    test('what names other addresses is not heard', async () => {
      const socket = open('here', ADDRESS);
      const other = open('there', ADDRESS);
      other.send(announcementOf(THERE, world.there.mac));
      other.send(probeFor(FREE, world.there.mac));
      other.send({ operation: 'request', senderMac: world.there.mac, sender: THERE, target: ADDRESS });
      const last = probeFor(ADDRESS, world.there.mac);
      other.send(last);
      expect(await heard(socket)).toEqual([last]);
    });

    test('a wait that is cut off loses nothing', async () => {
      const socket = open('here', ADDRESS);
      const stop = new AbortController();
      const reason = new Error('stopped');
      const cut = expect(socket.next(stop.signal)).rejects.toBe(reason);
      stop.abort(reason);
      await cut;
      const packet = probeFor(ADDRESS, world.there.mac);
      open('there', ADDRESS).send(packet);
      expect(await heard(socket)).toEqual([packet]);
      await expect(socket.next(stop.signal)).rejects.toBe(reason);
    });

    test('a link that goes down ends a wait; then nothing can be sent until it is up', async () => {
      const socket = open('here', ADDRESS);
      const wait = expect(socket.next(AbortSignal.timeout(10_000))).rejects.toMatchObject({
        code: 'ARP_ENETDOWN',
      });
      await world.here.setLinkUp(false);
      await wait;
      expect(() => socket.send(probeFor(ADDRESS, world.here.mac))).toThrow(
        expect.objectContaining({ errno: 'ENETDOWN' }) as Error,
      );
      await world.here.setLinkUp(true);
      socket.close();
      const again = open('here', THERE);
      again.send(probeFor(THERE, world.here.mac));
      expect(await heard(again)).toMatchObject([{ senderMac: world.there.mac }]);
    });

    test('a closed socket is refused, also to who waits', async () => {
      const socket = open('here', ADDRESS);
      const wait = expect(socket.next(AbortSignal.timeout(10_000))).rejects.toMatchObject({
        code: 'ARP_EBADF',
      });
      socket.close();
      await wait;
      expect(() => socket.send(probeFor(ADDRESS, world.here.mac))).toThrow(
        expect.objectContaining({ errno: 'EBADF' }) as Error,
      );
    });
  });
}

/** Waits for so many packets. */
async function heard(socket: ArpSocket, count = 1): Promise<readonly ArpPacket[]> {
  const packets: ArpPacket[] = [];
  const deadline = AbortSignal.timeout(10_000);
  while (packets.length < count) packets.push(...(await socket.next(deadline)));
  return packets;
}

/** What is there already. */
async function waiting(socket: ArpSocket): Promise<readonly ArpPacket[]> {
  const stop = new AbortController();
  const next = socket.next(stop.signal).catch(() => []);
  stop.abort();
  return await next;
}
