import { setImmediate as turn } from 'node:timers/promises';
import { NetlinkSocket } from '../native/sockets.ts';
import { codeOf, messageOf } from '../runtime/errors.ts';
import { unlessAborted } from '../runtime/wake.ts';
import { decodeEvent } from './decode.ts';
import { KernelError, type KernelEvent, type KernelEvents } from './kernel.ts';
import { messagesOf, NLMSG, READ_BUFFER_BYTES, RTNLGRP } from './rtnetlink.ts';

/** Events read before other work gets its turn: about 20 ms. */
const DATAGRAMS_PER_TURN = 4096;
/** Bounds how long a process that forgot close() takes to end. Otherwise a wake-up ends the wait. */
const IDLE_READ_MS = 60_000;

/**
 * The kernel's notifications. Facts that complicate it:
 * - The netlink package's sockets abort the process when a receive buffer overflows, so this is a socket of
 *   our own.
 * - The kernel queues a notification while it makes the change. After a change has been answered, its events
 *   are there, and a barrier (an empty request, acknowledged) marks their end.
 * - A storm of events must pile up somewhere. It does so in the kernel's buffer, whose size is known: the
 *   socket is read only while somebody waits. libuv's pool waits for the first datagram; the rest of a burst
 *   is read without waiting.
 * - After an overflow the kernel drops everything until the buffer has been empty once, and says nothing
 *   about it. A dump made before that may be outdated without notice.
 * - A read in the pool cannot be cancelled. It may hold an older datagram than one read meanwhile, so there
 *   is never another read beside it.
 */
export class EventSocket implements KernelEvents {
  readonly #socket: NetlinkSocket;
  readonly #onClose: () => void;
  readonly #buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
  #received: KernelEvent[] = [];
  /** The read under way. It may outlive its caller, and its events are kept. Never rejects. */
  #reading: Promise<void> | undefined;
  #lost = false;
  #failure: KernelError | undefined;
  /** Sequence numbers of the last barrier sent and of the last one returned. */
  #barrier = 0;
  #barrierSeen = 0;
  #closed = false;

  constructor(options: { receiveBufferBytes: number; onClose: () => void }) {
    const { receiveBufferBytes, onClose } = options;
    const groups = Object.values(RTNLGRP);
    this.#socket = new NetlinkSocket({ groups, receiveBufferBytes, receiveTimeoutMs: IDLE_READ_MS });
    this.#onClose = onClose;
  }

  async next(signal: AbortSignal): Promise<readonly KernelEvent[]> {
    signal.throwIfAborted();
    for (;;) {
      this.#receiveWaiting(() => false);
      const events = await this.#take();
      if (events.length > 0) return events;
      await unlessAborted(this.#readOne(), signal);
    }
  }

  async drain(signal?: AbortSignal): Promise<readonly KernelEvent[]> {
    signal?.throwIfAborted();
    this.#throwIfUnusable();
    // The barrier also ends a read that an aborted next() has left behind.
    const barrier = ++this.#barrier;
    this.#socket.wake(barrier);
    if (this.#reading !== undefined) await unlessAborted(this.#reading, signal);
    while (!this.#receiveWaiting(() => this.#barrierSeen === barrier)) await turn();
    return await this.#take();
  }

  close(): void {
    this.#closed = true;
    this.#socket.close();
    this.#onClose();
  }

  async #take(): Promise<readonly KernelEvent[]> {
    this.#throwIfUnusable();
    if (this.#lost) {
      // Empty the buffer first. All events so far are older than the dump that follows.
      while (!this.#receiveWaiting(() => false)) await turn();
      this.#lost = false;
      this.#received = [];
      return [{ type: 'overflow' }];
    }
    const events = this.#received;
    this.#received = [];
    return events;
  }

  /** Reads what is there until `enough`; returns false when it stopped to give others a turn. */
  #receiveWaiting(enough: () => boolean): boolean {
    if (this.#reading !== undefined) return true;
    for (let i = 0; i < DATAGRAMS_PER_TURN; i++) {
      if (enough() || this.#failure !== undefined || this.#closed) return true;
      try {
        const length = this.#socket.receive(this.#buffer);
        if (length === undefined) return true;
        this.#handle(length);
      } catch (error) {
        this.#handleError(error);
      }
    }
    return false;
  }

  #readOne(): Promise<void> {
    this.#throwIfUnusable();
    this.#reading ??= this.#socket
      .read(this.#buffer)
      .then(
        (length) => this.#handle(length),
        (error: unknown) => this.#handleError(error),
      )
      .finally(() => {
        this.#reading = undefined;
      });
    return this.#reading;
  }

  #handle(length: number): void {
    for (const message of messagesOf(this.#buffer.subarray(0, length))) {
      if (message.type === NLMSG.ERROR) {
        if (message.seq !== 0) this.#barrierSeen = message.seq;
        continue;
      }
      const event = decodeEvent(message);
      if (event !== undefined) this.#received.push(event);
    }
  }

  #handleError(error: unknown): void {
    const code = codeOf(error);
    if (code === 'ENOBUFS') this.#lost = true;
    else if (code !== 'EAGAIN' && code !== 'EINTR') {
      const text = `cannot read the kernel's notifications: ${messageOf(error)}`;
      this.#failure = new KernelError(code ?? 'EIO', text, { cause: error });
    }
  }

  #throwIfUnusable(): void {
    if (this.#closed) throw new KernelError('CLOSED', 'the event stream is closed');
    if (this.#failure !== undefined) throw this.#failure;
  }
}
