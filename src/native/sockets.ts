import { closeSync, read, write } from 'node:fs';
import { constants } from 'node:os';
import { check, libc, MSG_DONTWAIT, receiveNow, SOCK_CLOEXEC, SOCK_DGRAM, SystemCallError } from './libc.ts';

const SOL_SOCKET = 1;
const SO_RCVBUF = 8;
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SO_RCVTIMEO = 20;
const SO_RCVBUFFORCE = 33;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const NETLINK_GET_STRICT_CHK = 12;
const NLM_F_REQUEST_ACK = 0x1 | 0x4;
const NLMSG_NOOP = 1;

export interface NetlinkSocketOptions {
  /** Multicast groups by number (RTNLGRP_*, 1..32). Default none. */
  readonly groups?: readonly number[];
  /** Wanted size of the receive buffer; net.core.rmem_max limits it without CAP_NET_ADMIN. */
  readonly receiveBufferBytes: number;
  /** After this {@link NetlinkSocket.read} fails with EAGAIN. */
  readonly receiveTimeoutMs: number;
}

/**
 * A NETLINK_ROUTE socket in the calling thread's network namespace. The netlink package's own sockets throw
 * in C++ on a full receive buffer (ENOBUFS), which ends the process, and offer no socket options.
 *
 * `read` and `write` wait in libuv's thread pool (one of its 4 threads each); `receive` and `wake` never
 * wait. The descriptor is closed only after all calls that use it have returned, so that none of them reads
 * from another file that got its number.
 */
export class NetlinkSocket {
  /** The receive buffer's real size as the kernel accounts it: twice the wanted one, if granted. */
  readonly receiveBufferBytes: number;
  readonly #fd: number;
  #busy = 0;
  #closed = false;

  /** Opens and binds. Throws {@link SystemCallError}. */
  constructor(options: NetlinkSocketOptions) {
    const fd = check('socket', libc().socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
    this.#fd = fd;
    try {
      // Newer than the oldest kernels. Without them this program filters dumps, and errors lack an
      // explanation.
      for (const name of [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK]) {
        libc().setsockopt(fd, SOL_NETLINK, name, Int32Array.of(1), 4);
      }
      this.receiveBufferBytes = setReceiveBuffer(fd, options.receiveBufferBytes);
      setReceiveTimeout(fd, options.receiveTimeoutMs);
      // Bound last: no notification arrives before the buffer has its size.
      check('bind', libc().bind(fd, netlinkAddress(options.groups ?? []), 12));
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** Sends one datagram of requests; resolves when the kernel has processed them and queued its answers. */
  write(bytes: Uint8Array): Promise<void> {
    return this.#use((fd, done) => {
      write(fd, bytes, 0, bytes.length, null, (error) => done(error, undefined));
    });
  }

  /**
   * Waits for one datagram and resolves to its length; a part that does not fit into `buffer` is lost.
   * Rejects with `code` EAGAIN after the timeout, and once with ENOBUFS when the kernel had to drop
   * something; the socket still works then.
   */
  read(buffer: Uint8Array): Promise<number> {
    return this.#use((fd, done) => {
      read(fd, buffer, 0, buffer.length, null, (error, length) => done(error, length));
    });
  }

  /**
   * Reads one datagram that is there and returns its length; undefined when there is none. Throws {@link
   * SystemCallError}, ENOBUFS as in {@link read}. Do not call it while a `read` waits: that would lose the
   * order.
   */
  receive(buffer: Uint8Array): number | undefined {
    throwIf(this.#closed, 'recv');
    return receiveNow(this.#fd, buffer);
  }

  /**
   * Makes the kernel acknowledge an empty request with this sequence number at once. The answer is queued
   * behind everything sent so far and ends a waiting {@link read}.
   */
  wake(sequence: number): void {
    throwIf(this.#closed, 'send');
    this.#sendNoop(sequence);
  }

  /**
   * Frees the descriptor, after a waiting `read` or `write` has returned. Acts at once, so an `exit` handler
   * may call it: the thread of a waiting read would delay the end of the process.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#busy === 0) closeSync(this.#fd);
    else this.#sendNoop(0);
  }

  #sendNoop(sequence: number): void {
    const message = Uint32Array.of(16, 0, sequence, 0);
    new Uint16Array(message.buffer).set([NLMSG_NOOP, NLM_F_REQUEST_ACK], 2);
    // A full receive buffer loses the acknowledgement, but then a waiting read has something to return.
    libc().send(this.#fd, message, message.byteLength, MSG_DONTWAIT);
  }

  #use<T>(call: (fd: number, done: (error: Error | null, value: T) => void) => void): Promise<T> {
    throwIf(this.#closed, 'read');
    this.#busy++;
    return new Promise((resolve, reject) => {
      call(this.#fd, (error, value) => {
        this.#busy--;
        if (this.#closed && this.#busy === 0) closeSync(this.#fd);
        if (error !== null) reject(error);
        else resolve(value);
      });
    });
  }
}

/** struct sockaddr_nl: family, padding, port id (0: the kernel chooses), groups as a mask. */
function netlinkAddress(groups: readonly number[]): Uint32Array {
  const address = new Uint32Array(3);
  new Uint16Array(address.buffer)[0] = AF_NETLINK;
  address[2] = groups.reduce((mask, group) => mask | (1 << (group - 1)), 0) >>> 0;
  return address;
}

function setReceiveBuffer(fd: number, bytes: number): number {
  const value = Int32Array.of(bytes);
  if (libc().setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, value, 4) < 0) {
    check('setsockopt(SO_RCVBUF)', libc().setsockopt(fd, SOL_SOCKET, SO_RCVBUF, value, 4));
  }
  check('getsockopt(SO_RCVBUF)', libc().getsockopt(fd, SOL_SOCKET, SO_RCVBUF, value, Uint32Array.of(4)));
  return value[0] ?? 0;
}

/** struct timeval of a 64-bit system. */
function setReceiveTimeout(fd: number, ms: number): void {
  const time = BigInt64Array.of(BigInt(Math.floor(ms / 1000)), BigInt((ms % 1000) * 1000));
  check('setsockopt(SO_RCVTIMEO)', libc().setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, time, 16));
}

const AF_PACKET = 17;
const F_SETFL = 4;
const F_SETOWN = 8;
const O_ASYNC = 0o20000;

export interface PacketSocketOptions {
  readonly linkIndex: number;
  /** EtherType of the packets, e.g. 0x0806. */
  readonly protocol: number;
  /**
   * The packets to pass: a classic BPF program of at least one instruction. Offsets count from the frame's
   * payload.
   */
  readonly filter: readonly BpfInstruction[];
  /** Wanted size of the receive buffer; a full one drops packets. */
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
 * Packets of one EtherType on one link, without their link-layer header and without its own. When a packet
 * arrives or the link goes down, the kernel sends this process SIGIO. The caller must handle that signal
 * before it opens a socket, as its default action ends the process. So an idle socket needs neither a thread
 * nor a timer. Needs CAP_NET_RAW.
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
      check('setsockopt(SO_ATTACH_FILTER)', libc().attachFilter(fd, filterBytes(filter), filter.length));
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
    throwIf(this.#closed, 'sendto');
    const to = this.#address;
    check('sendto', libc().sendto(this.#fd, payload, payload.length, MSG_DONTWAIT, to, to.length));
  }

  /**
   * Reads one packet that is there and returns its length; undefined when there is none. Throws {@link
   * SystemCallError}: ENETDOWN once when the link went down; the socket works again when the link is up.
   */
  receive(buffer: Uint8Array): number | undefined {
    throwIf(this.#closed, 'recv');
    return receiveNow(this.#fd, buffer);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#fd);
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

function filterBytes(filter: readonly BpfInstruction[]): Uint8Array {
  const bytes = new Uint8Array(8 * filter.length);
  for (const [index, { code, jt = 0, jf = 0, k }] of filter.entries()) {
    new Uint16Array(bytes.buffer, 8 * index, 1)[0] = code;
    bytes.set([jt, jf], 8 * index + 2);
    new Uint32Array(bytes.buffer, 8 * index + 4, 1)[0] = k;
  }
  return bytes;
}

function throwIf(isClosed: boolean, syscall: string): void {
  if (isClosed) throw new SystemCallError(syscall, constants.errno.EBADF);
}
