import { FlannelError } from '../runtime/errors.ts';

/**
 * Address resolution on one link (RFC 826), as far as it tells who uses an IPv4 address. The rules of behaviour that both
 * implementations keep are in the contract tests (test/contract/arp.ts).
 */
export interface Arp {
  /** Listens on a link for what concerns this address. Throws {@link ArpError}. */
  open(linkIndex: number, address: string): ArpSocket;
}

/** One consumer. */
export interface ArpSocket {
  /** Sends to all hosts on the link. Throws {@link ArpError}. */
  send(packet: ArpPacket): void;
  /**
   * Waits for packets whose sender has the address, or asks whether somebody has it (its own address is 0.0.0.0), in order.
   * Own ones are not among them. Rejects with `signal.reason` (nothing is lost then) or {@link ArpError}, when the link is down.
   */
  next(signal: AbortSignal): Promise<readonly ArpPacket[]>;
  close(): void;
}

/** Addresses in canonical text; a MAC address as `02:00:00:00:00:01`. */
export interface ArpPacket {
  readonly operation: 'request' | 'reply';
  readonly senderMac: string;
  readonly sender: string;
  readonly target: string;
}

/** `errno` by name, e.g. `EPERM`. */
export class ArpError extends FlannelError {
  readonly errno: string;

  constructor(errno: string, message: string, options?: { readonly cause?: unknown }) {
    super(`ARP_${errno}`, message, options);
    this.errno = errno;
  }
}

/** Asks whether somebody has the address, and changes nobody's cache (RFC 5227, 2.1.1): who has it answers. */
export function probeFor(address: string, senderMac: string): ArpPacket {
  return { operation: 'request', senderMac, sender: '0.0.0.0', target: address };
}

/** Tells everybody at which MAC address the address is (RFC 5227, 2.3). */
export function announcementOf(address: string, senderMac: string): ArpPacket {
  return { operation: 'request', senderMac, sender: address, target: address };
}
