import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import { Socket } from 'node:net';
import type { EtcdAddresses } from '../registry/addresses.ts';

/** SYNs go out after 0, 1 and 3 s; the fourth would come after the deadline of the call that waits. */
const connectTimeoutMs = 4_000;

/**
 * Bounds the time a TCP connection may take to be made. grpc-js has no such limit and gives no access to its sockets: one
 * that runs into a filter would be waited for as long as the kernel tries (two minutes, with up to one between two SYNs, so
 * that a network that is back goes unnoticed), and would keep the process alive after everything is closed.
 *
 * Sockets are told from those of others by the asynchronous context in which they are made.
 */
export class Connecting {
  readonly #endpoint: string;
  readonly #addresses: EtcdAddresses | undefined;
  readonly #sockets = new Set<Socket>();
  #closed = false;

  /** `addresses` is told where connections to the endpoint are tried and made. */
  constructor(endpoint: string, addresses?: EtcdAddresses) {
    this.#endpoint = endpoint;
    this.#addresses = addresses;
  }

  /** Runs what may open a connection. */
  run<T>(open: () => T): T {
    return context.run(this, open);
  }

  /** Gives up the connections that are not made yet, and those that the package still starts while it closes. */
  close(): void {
    this.#closed = true;
    for (const socket of this.#sockets) socket.destroy(new Error('closed'));
  }

  /** Takes charge of a socket until it is connected. */
  adopt(socket: Socket): void {
    const giveUp = () => socket.destroy(new Error(`no connection within ${connectTimeoutMs / 1000} s`));
    const done = () => {
      socket.setTimeout(0, giveUp);
      this.#sockets.delete(socket);
    };
    this.#sockets.add(socket);
    // Announced before it starts to connect, which a socket destroyed here and now would do all the same.
    socket.setTimeout(this.#closed ? 1 : connectTimeoutMs, giveUp);
    socket.once('connect', done);
    socket.once('close', done);
    this.#follow(socket);
  }

  #follow(socket: Socket): void {
    const addresses = this.#addresses;
    if (addresses === undefined) return;
    const endpoint = this.#endpoint;
    socket.on('connectionAttempt', (address) => {
      addresses.tried(endpoint, address);
      socket.once('close', () => addresses.ended(endpoint, address));
    });
    socket.once('connect', () => {
      addresses.made(endpoint, socket.remoteAddress ?? '');
      const local = socket.localAddress ?? '';
      const drop = () => socket.destroy(new Error(`the address ${local} of this host is gone`));
      socket.once('close', addresses.opened(local, drop));
    });
  }
}

const context = new AsyncLocalStorage<Connecting>();

// Node announces every client socket when it is made (diagnostics_channel, built-in channels). Once per process: members
// come and go, and a closed one must still see what it set off.
subscribe('net.client.socket', (message) => {
  const socket =
    typeof message === 'object' && message !== null && 'socket' in message ? message.socket : undefined;
  if (socket instanceof Socket) context.getStore()?.adopt(socket);
});
