import { constants } from 'node:os';

/** A system call that failed. `code` is the errno's name as in Node's own errors, e.g. `ENOBUFS`. */
export class SystemCallError extends Error {
  readonly code: string;
  readonly syscall: string;

  constructor(syscall: string, errno: number) {
    const code = errnoName(errno);
    super(`${syscall}: ${code}`);
    this.name = 'SystemCallError';
    this.code = code;
    this.syscall = syscall;
  }
}

/** Where two names share a number, the first one met wins: EAGAIN before EWOULDBLOCK, EOPNOTSUPP as the kernel says it. */
const names = new Map<number, string>([
  [constants.errno.EAGAIN, 'EAGAIN'],
  [constants.errno.EOPNOTSUPP, 'EOPNOTSUPP'],
]);
for (const [name, number] of Object.entries(constants.errno)) if (!names.has(number)) names.set(number, name);

/** The name of a positive errno, e.g. 101 → `ENETUNREACH`; `E<number>` when this system has none for it. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `E${errno}`;
}
