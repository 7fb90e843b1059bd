import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import { isIP, Socket } from 'node:net';
import { connect, type PeerCertificate, type SecureContext, type TLSSocket } from 'node:tls';
import { CallCredentials, ChannelCredentials, type experimental } from '@grpc/grpc-js';
import type { EtcdAddresses } from '../registry/addresses.ts';

/** SYNs go out after 0, 1 and 3 s; the fourth would come after the deadline of the call that waits. */
const connectTimeoutMs = 4_000;
/** A peer that accepts and stays silent would be waited for without end. */
const handshakeTimeoutMs = 4_000;

/** What a socket fails with, and what Node adds to it. */
type SocketError = Error & {
  /** The system's, Node's or OpenSSL's name for it. */
  readonly code?: string;
  /** The address that was tried. */
  readonly address?: string;
  /** OpenSSL's words. */
  readonly reason?: string;
  /** A certificate that is for another name. */
  readonly cert?: Partial<PeerCertificate>;
};

/** What a connection failed with. */
export interface ConnectionFailure {
  readonly error: SocketError;
  /** Whether TLS failed: the handshake, or what the server says about it later, in an alert. */
  readonly ofTls: boolean;
}

/**
 * The connections to one endpoint while they are made, and what the last one failed with. grpc-js has no limit to
 * the time that a TCP connection may take and gives no access to its sockets: one that runs into a filter would be
 * waited for as long as the kernel tries (two minutes, with up to one between two SYNs, so that a network that is
 * back goes unnoticed), and would keep the process alive after everything is closed.
 *
 * Sockets are told from those of others by the asynchronous context in which they are made.
 */
export class Connecting {
  readonly endpoint: string;
  readonly #addresses: EtcdAddresses | undefined;
  readonly #sockets = new Set<Socket>();
  #closed = false;
  /** What a connection failed with last, also when a next one has begun; undefined when none ever did. */
  failure: ConnectionFailure | undefined;

  /** `addresses` is told where connections to the endpoint are tried and made. */
  constructor(endpoint: string, addresses?: EtcdAddresses) {
    this.endpoint = endpoint;
    this.#addresses = addresses;
  }

  /** Runs what may open a connection. */
  run<T>(open: () => T): T {
    return openingContext().run(this, open);
  }

  /** Gives up the connections that are not made yet, and those that the package still starts while it closes. */
  close(): void {
    this.#closed = true;
    for (const socket of this.#sockets) socket.destroy(new Error('closed'));
  }

  /** Takes charge of a socket until it is connected. */
  adopt(socket: Socket): void {
    const giveUp = () => {
      const text = `no connection within ${connectTimeoutMs / 1000} s`;
      socket.destroy(Object.assign(new Error(text), { code: 'ETIMEDOUT' }));
    };
    const onError = (error: Error) => void (this.failure = { error, ofTls: false });
    const done = () => {
      socket.setTimeout(0, giveUp);
      socket.off('error', onError);
      this.#sockets.delete(socket);
    };
    this.#sockets.add(socket);
    // Announced before it starts to connect, which a socket destroyed here and now would do all the same.
    socket.setTimeout(this.#closed ? 1 : connectTimeoutMs, giveUp);
    socket.on('error', onError);
    socket.once('connect', done);
    socket.once('close', done);
    this.#follow(socket);
  }

  #follow(socket: Socket): void {
    const addresses = this.#addresses;
    if (addresses === undefined) return;
    const { endpoint } = this;
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

let context: AsyncLocalStorage<Connecting> | undefined;

/**
 * Node announces every client socket when it is made (diagnostics_channel, built-in channels). Subscribed to once per process:
 * members come and go, and a closed one must still see what it set off. Not while this file is loaded: that may be for a start-up
 * snapshot, which holds no subscription.
 */
function openingContext(): AsyncLocalStorage<Connecting> {
  if (context !== undefined) return context;
  const opening = new AsyncLocalStorage<Connecting>();
  subscribe('net.client.socket', (message) => {
    const socket =
      typeof message === 'object' && message !== null && 'socket' in message ? message.socket : undefined;
    if (socket instanceof Socket) opening.getStore()?.adopt(socket);
  });
  context = opening;
  return context;
}

/**
 * What gRPC does between TCP and HTTP/2: TLS, or nothing. The clients of a member share one, and with it one
 * connection. Members share none, so that each knows what its own connections fail with.
 */
export class MemberCredentials extends ChannelCredentials {
  readonly #connecting: Connecting;
  readonly #readContext: () => Promise<SecureContext>;

  /** `readContext` reads the certificate files for each connection; grpc-js's own credentials read them once. */
  constructor(connecting: Connecting, readContext: () => Promise<SecureContext>) {
    super();
    this.#connecting = connecting;
    this.#readContext = readContext;
  }

  override _isSecure(): boolean {
    return isTls(this.#connecting.endpoint);
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(): experimental.SecureConnector {
    const closing = new AbortController();
    return {
      waitForReady: () => Promise.resolve(),
      connect: async (socket) => {
        // While the files are read nobody else listens, and an error without a listener ends the process.
        let lost: Error | undefined;
        socket.on('error', (error: SocketError) => {
          lost ??= error;
          // Without a code it is an error of ours (see Connecting).
          this.#connecting.failure = { error, ofTls: this._isSecure() && error.code !== undefined };
        });
        if (!this._isSecure()) return { socket, secure: false };
        const secureContext = await this.#readContext();
        if (lost !== undefined) throw lost;
        return { socket: await this.#handshake(socket, secureContext, closing.signal), secure: true };
      },
      getCallCredentials: () => CallCredentials.createEmpty(),
      destroy: () => closing.abort(),
    };
  }

  #handshake(socket: Socket, secureContext: SecureContext, closing: AbortSignal): Promise<TLSSocket> {
    const host = hostOf(this.#connecting.endpoint);
    return new Promise((resolve, reject) => {
      const secured = connect({
        socket,
        host,
        secureContext,
        ALPNProtocols: ['h2'],
        // No name is sent for an address (RFC 6066, section 3); Node checks the certificate against `host` then.
        ...(isIP(host) === 0 ? { servername: host } : {}),
      });
      let isOver = false;
      const giveUp = (why: string) => secured.destroy(new Error(why));
      const onClosing = () => giveUp('closed');
      closing.addEventListener('abort', onClosing, { once: true });
      secured.setTimeout(handshakeTimeoutMs, () =>
        giveUp(`no TLS handshake within ${handshakeTimeoutMs / 1000} s`),
      );
      secured.once('close', () => closing.removeEventListener('abort', onClosing));
      // Stays: in TLS 1.3 a server refuses the client's certificate after the client's end of the handshake, and
      // nobody else would take an error until gRPC listens.
      secured.on('error', (error: SocketError) => {
        const ofTls = !isOver || error.code?.startsWith('ERR_SSL_') === true;
        this.#connecting.failure = { error, ofTls };
        reject(error);
      });
      if (closing.aborted) onClosing();
      secured.once('secureConnect', () => {
        isOver = true;
        secured.setTimeout(0);
        closing.removeEventListener('abort', onClosing);
        resolve(secured);
      });
    });
  }
}

/** Whether connections to `endpoint`, a normalised URL, are encrypted. */
export function isTls(endpoint: string): boolean {
  return endpoint.startsWith('https:');
}

/** The name or the address in `endpoint`, an IPv6 address without its brackets. */
export function hostOf(endpoint: string): string {
  return new URL(endpoint).hostname.replace(/^\[(.*)\]$/, '$1');
}
