import { macText } from '../kernel/rtnetlink.ts';
import { type BpfInstruction, PacketSocket } from '../native/sockets.ts';
import { codeOf, messageOf } from '../runtime/errors.ts';
import { Wake } from '../runtime/wake.ts';
import { type Arp, ArpError, type ArpPacket, type ArpSocket } from './arp.ts';

const ETH_P_ARP = 0x0806;
/** Room for some twenty packets, which bounds the cost of a storm. */
const receiveBufferBytes = 16_384;
/** More than fit into the buffer. */
const packetsPerTurn = 64;

/**
 * Calls `listener` at each SIGIO of this process; returns a function that ends that. The signal stays
 * handled.
 */
type OnInputSignal = (listener: () => void) => () => void;

/** ARP in the calling thread's network namespace. */
export function linuxArp(onInputSignal: OnInputSignal): Arp {
  return {
    open: (linkIndex, address) => new LinuxArpSocket(linkIndex, address, onInputSignal),
  };
}

class LinuxArpSocket implements ArpSocket {
  readonly #socket: PacketSocket;
  readonly #wake = new Wake();
  readonly #endSignals: () => void;
  readonly #buffer = new Uint8Array(64);

  constructor(linkIndex: number, address: string, onInputSignal: OnInputSignal) {
    this.#endSignals = onInputSignal(() => this.#wake.wake());
    try {
      const filter = filterFor(address);
      this.#socket = new PacketSocket({ linkIndex, protocol: ETH_P_ARP, filter, receiveBufferBytes });
    } catch (error) {
      this.#endSignals();
      throw arpError('open an ARP socket', error);
    }
  }

  send(packet: ArpPacket): void {
    try {
      this.#socket.broadcast(encodeArp(packet));
    } catch (error) {
      throw arpError('send an ARP packet', error);
    }
  }

  async next(signal: AbortSignal): Promise<readonly ArpPacket[]> {
    for (;;) {
      signal.throwIfAborted();
      const packets = this.#receive();
      if (packets.length > 0) return packets;
      await this.#wake.wait(signal);
    }
  }

  close(): void {
    this.#endSignals();
    this.#socket.close();
    this.#wake.wake();
  }

  #receive(): readonly ArpPacket[] {
    const packets: ArpPacket[] = [];
    try {
      for (let i = 0; i < packetsPerTurn; i++) {
        const length = this.#socket.receive(this.#buffer);
        if (length === undefined) break;
        const packet = decodeArp(this.#buffer.subarray(0, length));
        if (packet !== undefined) packets.push(packet);
      }
    } catch (error) {
      throw arpError('read ARP packets', error);
    }
    return packets;
  }
}

function arpError(what: string, error: unknown): ArpError {
  return new ArpError(codeOf(error) ?? 'EIO', `cannot ${what}: ${messageOf(error)}`, { cause: error });
}

/** Passes packets whose sender has the address, or has none and asks for it. The kernel drops all others. */
function filterFor(address: string): readonly BpfInstruction[] {
  const k = address.split('.').reduce((value, byte) => value * 256 + Number(byte), 0);
  const load = 0x20;
  const jumpIfEqual = 0x15;
  const result = 0x06;
  return [
    { code: load, k: 14 },
    { code: jumpIfEqual, jt: 3, jf: 0, k },
    { code: jumpIfEqual, jt: 0, jf: 3, k: 0 },
    { code: load, k: 24 },
    { code: jumpIfEqual, jt: 0, jf: 1, k },
    { code: result, k: 64 },
    { code: result, k: 0 },
  ];
}

/** Ethernet and IPv4; six and four bytes. */
const header = [0x00, 0x01, 0x08, 0x00, 6, 4];
const operations = { request: 1, reply: 2 } as const;
const packetBytes = 28;

/** The payload of an Ethernet frame of type 0x0806. Throws RangeError for what is no address. */
export function encodeArp({ operation, senderMac, sender, target }: ArpPacket): Uint8Array {
  const nobody = [0, 0, 0, 0, 0, 0];
  return Uint8Array.from([
    ...header,
    0,
    operations[operation],
    ...bytesOf(senderMac, ':', 16, 6),
    ...bytesOf(sender, '.', 10, 4),
    ...nobody,
    ...bytesOf(target, '.', 10, 4),
  ]);
}

/** Undefined for anything but ARP for Ethernet and IPv4. Ignores padding. Never throws. */
export function decodeArp(bytes: Uint8Array): ArpPacket | undefined {
  if (bytes.length < packetBytes || header.some((byte, index) => bytes[index] !== byte)) return undefined;
  const code = (bytes[6] ?? 0) * 256 + (bytes[7] ?? 0);
  if (code !== operations.request && code !== operations.reply) return undefined;
  return {
    operation: code === operations.request ? 'request' : 'reply',
    senderMac: macText(bytes.subarray(8, 14)),
    sender: bytes.subarray(14, 18).join('.'),
    target: bytes.subarray(24, 28).join('.'),
  };
}

function bytesOf(text: string, separator: string, radix: number, count: number): readonly number[] {
  const bytes = text.split(separator).map((part) => Number.parseInt(part, radix));
  if (bytes.length !== count || bytes.some((byte) => !(byte >= 0 && byte <= 255)))
    throw new RangeError(`not an address: ${text}`);
  return bytes;
}
