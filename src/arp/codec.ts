import type { ArpPacket } from './arp.ts';

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

/** Undefined for what is no ARP packet of Ethernet and IPv4; padding behind it is ignored. Never throws. */
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

/** `02:00:00:00:00:01`. */
function macText(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

function bytesOf(text: string, separator: string, radix: number, count: number): readonly number[] {
  const bytes = text.split(separator).map((part) => Number.parseInt(part, radix));
  if (bytes.length !== count || bytes.some((byte) => !(byte >= 0 && byte <= 255)))
    throw new RangeError(`not an address: ${text}`);
  return bytes;
}
