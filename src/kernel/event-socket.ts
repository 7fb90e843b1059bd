import { setImmediate as turn } from 'node:timers/promises';
import { NetlinkSocket } from '../native/sockets.ts';
import { codeOf, messageOf } from '../runtime/errors.ts';
import { unlessAborted } from '../runtime/wake.ts';
import { decodeEvent } from './decode.ts';
import { KernelError, type KernelEvent, type KernelEvents } from './kernel.ts';
import { messagesOf, NLMSG, READ_BUFFER_BYTES, RTNLGRP } from './rtnetlink.ts';

/** How much is taken in one go before other work gets its turn: about 20 ms. */
const DATAGRAMS_PER_TURN = 4096;
/** Only bounds how long a process that forgot close() takes to end; otherwise a wake-up ends the wait. */
const IDLE_READ_MS = 60_000;

/**
 * The kernel's notifications, on a socket of our own: the netlink package's sockets abort the process when a receive buffer overflows. Read only while somebody waits for them, so that a storm piles up in the kernel's buffer,
 * whose size is known, and not in this process. The first datagram is waited for in libuv's pool, the rest of a burst is
 * taken without waiting.
 */
export class EventSocket implements KernelEvents {
  readonly #socket: NetlinkSocket;
  readonly #onClose: () => void;
  readonly #buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
  #received: KernelEvent[] = [];
  /** The read under way; it may outlive the call that started it, and what it brings is kept. Never rejects. */
  #reading: Promise<void> | undefined;
  #lost = false;
  #failure: KernelError | undefined;
  /** Sequence number of the last barrier sent, and of the last one that came back. */
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
    // The kernel queues notifications while the change that causes them is made, so all of them are there already. The
    // barrier marks the end of what was there, and makes a read return that an aborted next() has left behind.
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
      // After an overflow the kernel drops everything until the buffer has been empty once, and does not say so again:
      // a dump made before that could be outdated without notice. What was received is older than any later dump.
      while (!this.#receiveWaiting(() => false)) await turn();
      this.#lost = false;
      this.#received = [];
      return [{ type: 'overflow' }];
    }
    const events = this.#received;
    this.#received = [];
    return events;
  }

  /** Takes what is there, until `enough`; returns false when it stopped only to give others a turn. */
  #receiveWaiting(enough: () => boolean): boolean {
    // The read in the pool may hold an older datagram than what would be taken here.
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
