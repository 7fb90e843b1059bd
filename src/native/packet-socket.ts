import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import {
  check,
  libc,
  MSG_DONTWAIT,
  receiveNow,
  SO_RCVBUF,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_SOCKET,
  SystemCallError,
} from './libc.ts';

const AF_PACKET = 17;
const F_SETFL = 4;
const F_SETOWN = 8;
const O_ASYNC = 0o20000;

export interface PacketSocketOptions {
  readonly linkIndex: number;
  /** EtherType of the packets, e.g. 0x0806. */
  readonly protocol: number;
  /** What is let through: a classic BPF program of at least one instruction. Offsets count from the payload of the frame. */
  readonly filter: readonly BpfInstruction[];
  /** Wanted size of the receive buffer; what comes when it is full is dropped. */
  readonly receiveBufferBytes: number;
}

/** struct sock_filter. */
export interface BpfInstruction {
  readonly code: number;
  readonly jt?: number;
  readonly jf?: number;
  readonly k: number;
}

/**
 * Packets of one EtherType on one link, without their link-layer header. Own packets are not received. Whenever one arrives, or
 * the link goes down, the kernel sends this process SIGIO: the caller must handle that signal before it opens a socket, as its
 * default action ends the process. So an idle socket needs neither a thread nor a timer. Needs CAP_NET_RAW.
 */
export class PacketSocket {
  readonly #fd: number;
  readonly #address: Buffer;
  #closed = false;

  /** Opens and binds. Throws {@link SystemCallError}: EPERM without the capability, EAFNOSUPPORT or EACCES when forbidden. */
  constructor({ linkIndex, protocol, filter, receiveBufferBytes }: PacketSocketOptions) {
    // Protocol 0 receives nothing: no packet arrives before the filter is there.
    const fd = check('socket', libc().socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    this.#fd = fd;
    this.#address = linkAddress(linkIndex, protocol);
    try {
      check('setsockopt(SO_ATTACH_FILTER)', libc().attachFilter(fd, bytesOf(filter), filter.length));
      const size = Int32Array.of(receiveBufferBytes);
      check('setsockopt(SO_RCVBUF)', libc().setsockopt(fd, SOL_SOCKET, SO_RCVBUF, size, 4));
      check('fcntl(F_SETOWN)', libc().setFlag(fd, F_SETOWN, libc().getpid()));
      check('fcntl(F_SETFL)', libc().setFlag(fd, F_SETFL, O_ASYNC));
      check('bind', libc().bind(fd, this.#address, this.#address.length));
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Sends to all stations of the link. Never waits. Throws {@link SystemCallError}, e.g. ENETDOWN. */
  broadcast(payload: Uint8Array): void {
    this.#throwIfClosed('sendto');
    const to = this.#address;
    check('sendto', libc().sendto(this.#fd, payload, payload.length, MSG_DONTWAIT, to, to.length));
  }

  /**
   * Takes one packet that is there and returns its length, undefined when there is none. Throws {@link SystemCallError}:
   * ENETDOWN once when the link went down; the socket works again when that is up.
   */
  receive(buffer: Uint8Array): number | undefined {
    this.#throwIfClosed('recv');
    return receiveNow(this.#fd, buffer);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
  }

  #throwIfClosed(syscall: string): void {
    if (this.#closed) throw new SystemCallError(syscall, constants.errno.EBADF);
  }
}

/** struct sockaddr_ll with the broadcast address, which bind ignores. */
function linkAddress(linkIndex: number, protocol: number): Buffer {
  const address = Buffer.alloc(20);
  new Uint16Array(address.buffer, address.byteOffset, 1)[0] = AF_PACKET;
  address.writeUInt16BE(protocol, 2);
  new Int32Array(address.buffer, address.byteOffset + 4, 1)[0] = linkIndex;
  address[11] = 6;
  address.fill(0xff, 12, 18);
  return address;
}

function bytesOf(filter: readonly BpfInstruction[]): Uint8Array {
  const bytes = new Uint8Array(8 * filter.length);
  for (const [index, { code, jt = 0, jf = 0, k }] of filter.entries()) {
    new Uint16Array(bytes.buffer, 8 * index, 1)[0] = code;
    bytes.set([jt, jf], 8 * index + 2);
    new Uint32Array(bytes.buffer, 8 * index + 4, 1)[0] = k;
  }
  return bytes;
}
