import { closeSync, readSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;

/** The service manager's end of sd_notify: a unix datagram socket, which Node has none of. */
export class NotifySocket {
  readonly path: string;
  readonly #fd: number;
  readonly #messages: string[] = [];

  constructor(path: string) {
    this.path = path;
    const libc = koffi.load('libc.so.6');
    const socket = libc.func('int socket(int, int, int)') as (
      family: number,
      type: number,
      protocol: number,
    ) => number;
    const bind = libc.func('int bind(int, const void *, int)') as (
      fd: number,
      address: Buffer,
      length: number,
    ) => number;
    this.#fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const address = Buffer.concat([Buffer.from(Uint16Array.of(AF_UNIX).buffer), Buffer.from(`${path}\0`)]);
    if (this.#fd < 0 || bind(this.#fd, address, address.length) !== 0) throw new Error(`cannot bind ${path}`);
  }

  /** Everything received so far, one datagram per entry. */
  get messages(): readonly string[] {
    const buffer = Buffer.alloc(4096);
    for (;;) {
      try {
        this.#messages.push(buffer.toString('utf8', 0, readSync(this.#fd, buffer)));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return this.#messages;
        throw error;
      }
    }
  }

  /** Waits until at least `count` datagrams are there. */
  async received(count: number, deadlineMs = 5_000): Promise<readonly string[]> {
    for (const endMs = Date.now() + deadlineMs; this.messages.length < count; await sleep(5)) {
      if (Date.now() > endMs)
        throw new Error(`${count} notifications expected, got: ${this.#messages.join(' | ')}`);
    }
    return this.#messages;
  }

  close(): void {
    closeSync(this.#fd);
    rmSync(this.path, { force: true });
  }
}
