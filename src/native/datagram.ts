import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { SystemCallError } from './errors.ts';
import { check, libc, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_DGRAM } from './libc.ts';

const AF_UNIX = 1;
const MSG_NOSIGNAL = 0x4000;
/** sizeof(sun_path) in struct sockaddr_un. */
const PATH_BYTES = 108;

/**
 * Sends `text` as one datagram to the unix socket at `path`; a leading `@` names an abstract socket. Never waits. This is
 * how a service tells systemd about itself: a `systemd-notify` child would be refused under NotifyAccess=main.
 *
 * Throws {@link SystemCallError} with Node's errno names: ENOENT or ECONNREFUSED when nobody listens, EAGAIN when the
 * listener's queue is full, ENAMETOOLONG for a path over 107 bytes (abstract: 108 with the `@`), EINVAL for an empty one.
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
