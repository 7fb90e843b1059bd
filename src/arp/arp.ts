import type { Kernel } from '../kernel/kernel.ts';
import type { Clock } from '../runtime/effects.ts';
import { FlannelError, messageOf } from '../runtime/errors.ts';
import { firstOf } from '../runtime/wake.ts';

/**
 * Address resolution on one link (RFC 826), to find out who uses an IPv4 address. The contract tests
 * (test/contract/arp.ts) hold both implementations to the same behaviour.
 */
export interface Arp {
  /** Listens on a link for packets about this address. Throws {@link ArpError}. */
  open(linkIndex: number, address: string): ArpSocket;
}

/** For one consumer. */
export interface ArpSocket {
  /** Sends to all hosts on the link. Throws {@link ArpError}. */
  send(packet: ArpPacket): void;
  /**
   * Waits for packets from a sender that has the address, or that asks for it from 0.0.0.0, in order. Leaves
   * out this socket's own. Rejects with `signal.reason`, losing nothing, or with {@link ArpError} when the
   * link is down.
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

/** Asks who has the address without changing anybody's cache (RFC 5227, 2.1.1). Its holder answers. */
export function probeFor(address: string, senderMac: string): ArpPacket {
  return { operation: 'request', senderMac, sender: '0.0.0.0', target: address };
}

/** Tells all hosts the MAC address of the address (RFC 5227, 2.3). */
export function announcementOf(address: string, senderMac: string): ArpPacket {
  return { operation: 'request', senderMac, sender: address, target: address };
}

export interface StationOptions {
  readonly arp: Arp;
  readonly kernel: Pick<Kernel, 'links'>;
  readonly clock: Clock;
}

/**
 * RFC 5227 lets a host without an address wait for up to seven seconds. This address is in use already, on a
 * link that is up: kernels answer within a millisecond, and three packets get through where one is lost. A start
 * waits for this. An answer that comes later is heard all the same, and counts.
 */
const probes = 3;
const probeIntervalMs = 20;

/** Opens it. Rejects with {@link ArpError} when the link, or this process, cannot use ARP. */
export async function openStation(
  { arp, kernel, clock }: StationOptions,
  { index, name }: { readonly index: number; readonly name: string },
  address: string,
  signal: AbortSignal,
): Promise<Station> {
  const link = (await kernel.links(signal)).find((one) => one.index === index);
  if (link === undefined) throw new ArpError('ENODEV', `interface ${name} is gone`);
  if (link.mac === undefined) throw new ArpError('EOPNOTSUPP', `interface ${name} has no ARP`);
  return new Station({ kernel, clock }, arp.open(index, address), address, link.mac);
}

/** This host on one link while a socket is open. */
export class Station {
  readonly address: string;
  readonly mac: string;
  readonly #options: Omit<StationOptions, 'arp'>;
  readonly #socket: ArpSocket;
  /** When it sent the last probe. */
  probedMs = Number.NEGATIVE_INFINITY;

  constructor(options: Omit<StationOptions, 'arp'>, socket: ArpSocket, address: string, mac: string) {
    this.#options = options;
    this.#socket = socket;
    this.address = address;
    this.mac = mac;
  }

  close(): void {
    this.#socket.close();
  }

  announce(): void {
    this.#socket.send(announcementOf(this.address, this.mac));
  }

  /** The MAC address of another host that answers for the address; undefined when none does. */
  async probe(signal: AbortSignal): Promise<string | undefined> {
    const { clock } = this.#options;
    for (let i = 0; i < probes; i++) {
      this.#socket.send(probeFor(this.address, this.mac));
      this.probedMs = clock.monotonic();
      const untilMs = this.probedMs + probeIntervalMs;
      for (let leftMs = probeIntervalMs; leftMs > 0; leftMs = untilMs - clock.monotonic()) {
        const mac = await this.claimant(await this.listen(leftMs, signal), signal);
        if (mac !== undefined) return mac;
      }
    }
    return undefined;
  }

  /** Packets that come within `ms`. */
  async listen(ms: number, signal: AbortSignal): Promise<readonly ArpPacket[]> {
    const { clock } = this.#options;
    // Not the winner's value: packets that come while the timer ends count, too.
    let heard: readonly ArpPacket[] = [];
    const hear = async (inner: AbortSignal) => {
      heard = await this.#socket.next(inner);
    };
    await firstOf(signal, (inner) => [hear(inner), clock.sleep(ms, inner)]);
    return heard;
  }

  /** The sender that has the address and is not this host, on any of its links. */
  async claimant(heard: readonly ArpPacket[], signal: AbortSignal): Promise<string | undefined> {
    const macs = heard
      .filter(({ sender, senderMac }) => sender === this.address && senderMac !== this.mac)
      .map(({ senderMac }) => senderMac);
    if (macs.length === 0) return undefined;
    const own = new Set((await this.#options.kernel.links(signal)).map(({ mac }) => mac));
    return macs.find((mac) => !own.has(mac));
  }
}

/** Whether ARP fails only because the link is down. */
export function isLinkDown({ errno }: ArpError): boolean {
  return ['ENETDOWN', 'ENODEV', 'ENXIO'].includes(errno);
}

/** Says that another host has this host's address. */
export function conflictText(
  rival: string,
  own: { readonly name: string; readonly address: string | undefined; readonly mac: string | undefined },
): string {
  return (
    `another host (MAC address ${rival}) uses this host's address ${own.address} on ${own.name} (MAC address ${own.mac}): ` +
    'packets for this host and its containers reach that host instead'
  );
}

export const conflictRemedy = 'Give one of the two hosts another address';

/** Says that ARP cannot find out. */
export function unknownText(address: string | undefined, error: ArpError): string {
  return `cannot find out whether another host uses ${address}: ${messageOf(error)}`;
}
