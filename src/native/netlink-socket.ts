import { closeSync, read, write } from 'node:fs';
import { constants } from 'node:os';
import {
  check,
  libc,
  MSG_DONTWAIT,
  receiveNow,
  SO_RCVBUF,
  SOCK_CLOEXEC,
  SOL_SOCKET,
  SystemCallError,
} from './libc.ts';

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
  /** Wanted size of the receive buffer; without CAP_NET_ADMIN the system's limit (net.core.rmem_max) cuts it. */
  readonly receiveBufferBytes: number;
  /** How long {@link NetlinkSocket.read} waits before it fails with EAGAIN. */
  readonly receiveTimeoutMs: number;
}

/**
 * A NETLINK_ROUTE socket in the network namespace of the calling thread. Written because the netlink package's own
 * sockets throw in C++ on a full receive buffer (ENOBUFS), which ends the process, and know no socket options.
 *
 * `read` and `write` wait in libuv's thread pool (one of its 4 threads each); `receive` and `wake` never wait. The
 * descriptor is closed only after the calls that use it have returned, so that a number given to somebody else meanwhile
 * is never read from.
 */
export class NetlinkSocket {
  /** The receive buffer's real size as the kernel accounts it: twice what was asked for, if that was granted. */
  readonly receiveBufferBytes: number;
  readonly #fd: number;
  #busy = 0;
  #closed = false;

  /** Opens and binds. Throws {@link SystemCallError}. */
  constructor(options: NetlinkSocketOptions) {
    const fd = check('socket', libc().socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
    this.#fd = fd;
    try {
      // Newer than the oldest kernels: without them dumps are filtered and errors explained here, or not at all.
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
   * Waits for one datagram and resolves to its length; what does not fit into `buffer` is lost. Rejects with `code`
   * EAGAIN when the timeout has passed and ENOBUFS when the kernel had to drop something (once; the socket goes on).
   */
  read(buffer: Uint8Array): Promise<number> {
    return this.#use((fd, done) => {
      read(fd, buffer, 0, buffer.length, null, (error, length) => done(error, length));
    });
  }

  /**
   * Takes one datagram that is there and returns its length, undefined when there is none. Throws
   * {@link SystemCallError}, ENOBUFS as in {@link read}. Not to be called while a `read` waits: the order would be lost.
   */
  receive(buffer: Uint8Array): number | undefined {
    this.#throwIfClosed('recv');
    return receiveNow(this.#fd, buffer);
  }

  /**
   * Has the kernel acknowledge an empty request with this sequence number, at once: it is queued behind everything sent
   * so far, and makes a waiting {@link read} return.
   */
  wake(sequence: number): void {
    this.#throwIfClosed('send');
    this.#sendNoop(sequence);
  }

  /**
   * Frees the descriptor; a waiting `read` or `write` is given time to return first. Does its work at once, so that it
   * may be called from an `exit` handler: the thread of a read that waits would hold up the end of the process.
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
    // A full receive buffer loses the acknowledgement; a waiting read then has something to return anyway.
    libc().send(this.#fd, message, message.byteLength, MSG_DONTWAIT);
  }

  #use<T>(call: (fd: number, done: (error: Error | null, value: T) => void) => void): Promise<T> {
    this.#throwIfClosed('read');
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

  #throwIfClosed(syscall: string): void {
    if (this.#closed) throw new SystemCallError(syscall, constants.errno.EBADF);
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
