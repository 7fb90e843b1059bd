import { constants } from 'node:os';
import koffi from 'koffi';
import { SystemCallError } from './errors.ts';

// The same on x86-64 and arm64.
export const SOCK_DGRAM = 2;
export const SOCK_CLOEXEC = 0o2000000;
export const MSG_DONTWAIT = 0x40;
export const SOL_SOCKET = 1;
export const SO_RCVBUF = 8;

/** The few calls of the C library that Node has no counterpart for. Pointers are typed arrays, passed without a copy. */
interface Libc {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: ArrayBufferView, length: number): number;
  setsockopt(fd: number, level: number, name: number, value: ArrayBufferView, length: number): number;
  getsockopt(
    fd: number,
    level: number,
    name: number,
    value: ArrayBufferView,
    length: ArrayBufferView,
  ): number;
  /** setsockopt(SO_ATTACH_FILTER) with so many instructions of a classic BPF program. */
  attachFilter(fd: number, instructions: ArrayBufferView, count: number): number;
  getpid(): number;
  recv(fd: number, buffer: ArrayBufferView, length: number, flags: number): number;
  send(fd: number, buffer: ArrayBufferView, length: number, flags: number): number;
  sendto(
    fd: number,
    buffer: ArrayBufferView,
    length: number,
    flags: number,
    address: ArrayBufferView,
    addressLength: number,
  ): number;
  fcntl(fd: number, command: number, lock: ArrayBufferView): number;
  /** fcntl with a number for its argument. */
  setFlag(fd: number, command: number, value: number): number;
  _exit(status: number): void;
}

let loaded: Libc | undefined;

/** Resolved on first use: a command that opens no socket does not pay for it (12 ms). */
export function libc(): Libc {
  loaded ??= load();
  return loaded;
}

/** Throws {@link SystemCallError} when `result` is negative; must be called right after the system call it belongs to. */
export function check(syscall: string, result: number): number {
  if (result < 0) throw new SystemCallError(syscall, koffi.errno());
  return result;
}

/** errno of the call just made. */
export function lastErrno(): number {
  return koffi.errno();
}

/** Takes one message that is there and returns its length, undefined when there is none. Throws {@link SystemCallError}. */
export function receiveNow(fd: number, buffer: Uint8Array): number | undefined {
  const length = libc().recv(fd, buffer, buffer.length, MSG_DONTWAIT);
  if (length >= 0) return length;
  const errno = lastErrno();
  if (errno === constants.errno.EAGAIN) return undefined;
  throw new SystemCallError('recv', errno);
}

/**
 * Ends the process at once, without exit handlers. `process.exit` waits for libuv's threads, so that one call on a file
 * system that hangs would hold up the end for ever.
 */
export function exitNow(exitCode: number): void {
  libc()._exit(exitCode);
}

function load(): Libc {
  // No file name: the symbols of the C library this Node already runs on, be it glibc or musl.
  const self = koffi.load(null);
  const program = koffi.struct({ len: 'uint16_t', filter: 'const void *' });
  const attach = self.func('setsockopt', 'int', ['int', 'int', 'int', koffi.pointer(program), 'int']);
  return {
    attachFilter: (fd, filter, len) => attach(fd, 1, 26, { len, filter }, koffi.sizeof(program)) as number,
    getpid: self.func('int getpid()'),
    socket: self.func('int socket(int, int, int)'),
    bind: self.func('int bind(int, const void *, int)'),
    setsockopt: self.func('int setsockopt(int, int, int, const void *, int)'),
    getsockopt: self.func('int getsockopt(int, int, int, void *, void *)'),
    recv: self.func('intptr_t recv(int, void *, size_t, int)'),
    send: self.func('intptr_t send(int, const void *, size_t, int)'),
    sendto: self.func('intptr_t sendto(int, const void *, size_t, int, const void *, int)'),
    // Variadic in C; with one more argument, a pointer or an int, the call is the same on Linux.
    fcntl: self.func('int fcntl(int, int, void *)'),
    setFlag: self.func('fcntl', 'int', ['int', 'int', 'int']),
    _exit: self.func('void _exit(int)'),
  };
}
