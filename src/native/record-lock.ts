import { constants } from 'node:os';
import { SystemCallError } from './errors.ts';
import { check, lastErrno, libc } from './libc.ts';

const F_GETLK = 5;
const F_SETLK = 6;
const F_WRLCK = 1;
const F_UNLCK = 2;
/** struct flock of a 64-bit system: l_type, l_whence, padding, l_start, l_len, l_pid. */
const FLOCK_BYTES = 32;
const L_TYPE = 0;
const L_PID = 24;

/**
 * Locks the open file `fd` for this process alone, without waiting; returns whether that was possible. The kernel gives the lock
 * back when the process ends, however it ends, or closes any descriptor of that file. Children do not inherit it: an flock()
 * would live on in a child that was forked and has not run its program yet.
 *
 * The descriptor must be open for writing. Throws {@link SystemCallError}.
 */
export function lockFile(fd: number): boolean {
  if (libc().fcntl(fd, F_SETLK, wholeFile()) >= 0) return true;
  const errno = lastErrno();
  if (errno === constants.errno.EAGAIN || errno === constants.errno.EACCES) return false;
  throw new SystemCallError('fcntl', errno);
}

/**
 * The id of another process that has locked the open file `fd`; 0 for one that this process's namespace has no id for, in a
 * container; undefined when none has. Takes no lock, so that asking is in nobody's way. Throws {@link SystemCallError}.
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
