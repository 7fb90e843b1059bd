import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import koffi from 'koffi';

// The same on x86-64 and arm64.
export const SOCK_DGRAM = 2;
export const SOCK_CLOEXEC = 0o2000000;
export const MSG_DONTWAIT = 0x40;

/** A system call that failed. `code`: the errno's name as in Node's own errors, e.g. `ENOBUFS`. */
export class SystemCallError extends Error {
  readonly code: string;

  constructor(syscall: string, errno: number) {
    const code = errnoName(errno);
    super(`${syscall}: ${code}`);
    this.name = 'SystemCallError';
    this.code = code;
  }
}

/** Where two names share a number, the first one wins: EAGAIN, and EOPNOTSUPP as the kernel says it. */
const names = new Map<number, string>([
  [constants.errno.EAGAIN, 'EAGAIN'],
  [constants.errno.EOPNOTSUPP, 'EOPNOTSUPP'],
]);
for (const [name, number] of Object.entries(constants.errno)) if (!names.has(number)) names.set(number, name);

/** The name of a positive errno, e.g. 101 → `ENETUNREACH`; `E<number>` when this system has none for it. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `E${errno}`;
}

/** Passed without a copy. */
type Pointer = ArrayBufferView;

/** Calls of the C library that Node does not offer. */
interface Libc {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Pointer, length: number): number;
  setsockopt(fd: number, level: number, name: number, value: Pointer, length: number): number;
  getsockopt(fd: number, level: number, name: number, value: Pointer, length: Pointer): number;
  /** setsockopt(SO_ATTACH_FILTER) with this many instructions of a classic BPF program. */
  attachFilter(fd: number, instructions: Pointer, count: number): number;
  getpid(): number;
  recv(fd: number, buffer: Pointer, length: number, flags: number): number;
  send(fd: number, buffer: Pointer, length: number, flags: number): number;
  sendto(fd: number, buffer: Pointer, length: number, flags: number, to: Pointer, toLength: number): number;
  fcntl(fd: number, command: number, lock: Pointer): number;
  /** fcntl with a number as its argument. */
  setFlag(fd: number, command: number, value: number): number;
  _exit(status: number): void;
}

let loaded: Libc | undefined;

/** Loaded on first use, so that a command without sockets does not wait for it (12 ms). */
export function libc(): Libc {
  loaded ??= load();
  return loaded;
}

/** Throws {@link SystemCallError} when `result` is negative. Call it right after the system call. */
export function check(syscall: string, result: number): number {
  if (result < 0) throw new SystemCallError(syscall, koffi.errno());
  return result;
}

/**
 * Reads one message that is there and returns its length; undefined when there is none. Throws {@link
 * SystemCallError}.
 */
export function receiveNow(fd: number, buffer: Uint8Array): number | undefined {
  const length = libc().recv(fd, buffer, buffer.length, MSG_DONTWAIT);
  return length < 0 && koffi.errno() === constants.errno.EAGAIN ? undefined : check('recv', length);
}

/**
 * Ends the process at once, without exit handlers. `process.exit` waits for libuv's threads, so one call on a
 * file system that hangs would delay the end without limit.
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
    // Variadic in C. On Linux the call is the same with one more argument, a pointer or an int.
    fcntl: self.func('int fcntl(int, int, void *)'),
    setFlag: self.func('fcntl', 'int', ['int', 'int', 'int']),
    _exit: self.func('void _exit(int)'),
  };
}

const AF_UNIX = 1;
const MSG_NOSIGNAL = 0x4000;
/** sizeof(sun_path) in struct sockaddr_un. */
const PATH_BYTES = 108;

/**
 * Sends `text` as one datagram to the unix socket at `path`; a leading `@` names an abstract socket. Never
 * waits. The daemon tells systemd its state this way: NotifyAccess=main refuses a `systemd-notify` child.
 *
 * Throws {@link SystemCallError} with Node's errno names: ENOENT or ECONNREFUSED when nobody listens, EAGAIN
 * when the listener's queue is full, ENAMETOOLONG for a path over 107 bytes (abstract: 108 with the `@`),
 * EINVAL for an empty one.
 */
export function sendDatagram(path: string, text: string): void {
  const address = unixAddress(path);
  const bytes = Buffer.from(text);
  const fd = check('socket', libc().socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  try {
    const flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    check('sendto', libc().sendto(fd, bytes, bytes.length, flags, address, address.length));
  } finally {
    closeSync(fd);
  }
}

/** struct sockaddr_un: an abstract name starts with NUL and its length is exact; a path ends with NUL. */
function unixAddress(path: string): Buffer {
  const abstract = path.startsWith('@');
  const name = Buffer.from(abstract ? `\0${path.slice(1)}` : `${path}\0`);
  if (path === '') throw new SystemCallError('sendto', constants.errno.EINVAL);
  if (name.length > PATH_BYTES) throw new SystemCallError('sendto', constants.errno.ENAMETOOLONG);
  const family = Buffer.from(Uint16Array.of(AF_UNIX).buffer);
  return Buffer.concat([family, name]);
}

const F_GETLK = 5;
const F_SETLK = 6;
const F_WRLCK = 1;
const F_UNLCK = 2;
/** struct flock of a 64-bit system: l_type, l_whence, padding, l_start, l_len, l_pid. */
const FLOCK_BYTES = 32;
const L_TYPE = 0;
const L_PID = 24;

/**
 * Locks the open file `fd` for this process, without waiting; returns whether it could. The kernel releases
 * the lock when the process ends in any way, or closes any descriptor of the file. Children do not inherit
 * it; an flock() would live on in a forked child that has not run its program yet.
 *
 * The descriptor must be open for writing. Throws {@link SystemCallError}.
 */
export function lockFile(fd: number): boolean {
  const result = libc().fcntl(fd, F_SETLK, wholeFile());
  const { EAGAIN, EACCES } = constants.errno;
  if (result < 0 && [EAGAIN, EACCES].includes(koffi.errno())) return false;
  return check('fcntl', result) >= 0;
}

/**
 * The id of another process that has locked the open file `fd`: 0 for one in another container, without an id
 * in this process's namespace; undefined when there is none. Takes no lock, so asking disturbs nobody. Throws
 * {@link SystemCallError}.
 */
export function lockHolder(fd: number): number | undefined {
  const lock = wholeFile();
  check('fcntl', libc().fcntl(fd, F_GETLK, lock));
  return lock.readInt16LE(L_TYPE) === F_UNLCK ? undefined : Math.max(0, lock.readInt32LE(L_PID));
}

/** SEEK_SET, from 0, without an end. */
function wholeFile(): Buffer {
  const lock = Buffer.alloc(FLOCK_BYTES);
  lock.writeInt16LE(F_WRLCK, L_TYPE);
  return lock;
}
