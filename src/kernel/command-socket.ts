import { NetlinkSocket } from '../native/sockets.ts';
import type { Clock } from '../runtime/effects.ts';
import { codeOf } from '../runtime/errors.ts';
import { unlessAborted } from '../runtime/wake.ts';
import { encodeChange } from './encode.ts';
import { type ChangeResult, KernelError, type RouteChange } from './kernel.ts';
import { decodeAnswer, messagesOf, NLMSG, READ_BUFFER_BYTES } from './rtnetlink.ts';

/**
 * Some 15 ms of the kernel's time. Without preemption it works through a write without a pause, and whatever else wants
 * that processor waits: this process's main thread, or what collects its garbage. One change takes 0.2 to 0.6 ms beside
 * 10,000 routes by as many gateways, because fib_find_info() compares it with each of them (measured on 6.18).
 */
const MAX_MESSAGES_PER_WRITE = 64;
/** An error of its own for each timer would cost more than the timer. */
const writeEnded = new Error('the write has ended');
/** Memory that the kernel charges the receive buffer for an answer with a text. */
const ANSWER_BYTES = 1280;

const UNKNOWN: ChangeResult = { outcome: 'unknown' };
const DONE: ChangeResult = { outcome: 'done' };

/** Some of the changes as one datagram, and the place of the first change behind them. */
interface Write {
  readonly bytes: Buffer;
  readonly end: number;
}

/** A call of `apply` at work. */
interface Batch {
  readonly changes: readonly RouteChange[];
  readonly results: ChangeResult[];
  /** The change of each message, by sequence number. */
  readonly changeOf: Map<number, number>;
}

/**
 * Sends route changes. The kernel processes a write before it returns and queues all answers meanwhile, so
 * they can be read without waiting. An answer that is not there was lost to a full buffer. While the kernel, in
 * a thread of the pool, works on one write, the next one is encoded and the answers to the last one are read.
 */
export class CommandSocket {
  readonly #socket: NetlinkSocket;
  readonly #clock: Clock;
  readonly #deadlineMs: number;
  readonly #messagesPerWrite: number;
  readonly #buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
  readonly #queue = new Queue();
  #sequence = 0;
  #closed = false;
  /** The write under way, also after its deadline: the next one has to wait for it. */
  #writing: Promise<unknown> = Promise.resolve();

  constructor(options: { clock: Clock; deadlineMs: number; receiveBufferBytes: number }) {
    const { receiveBufferBytes, deadlineMs: receiveTimeoutMs } = options;
    this.#socket = new NetlinkSocket({ receiveBufferBytes, receiveTimeoutMs });
    this.#clock = options.clock;
    this.#deadlineMs = options.deadlineMs;
    // The answers to two writes may lie there.
    const answers = Math.floor(this.#socket.receiveBufferBytes / ANSWER_BYTES / 2);
    this.#messagesPerWrite = Math.max(1, Math.min(MAX_MESSAGES_PER_WRITE, answers));
  }

  /** See Kernel.apply. */
  apply(changes: readonly RouteChange[], signal: AbortSignal | undefined): Promise<readonly ChangeResult[]> {
    return this.#queue.run(() => this.#apply(changes, signal), signal);
  }

  close(): void {
    this.#closed = true;
    this.#socket.close();
  }

  async #apply(changes: readonly RouteChange[], signal: AbortSignal | undefined): Promise<ChangeResult[]> {
    const results: ChangeResult[] = changes.map(() => UNKNOWN);
    const batch = { changes, results, changeOf: new Map<number, number>() };
    let sent: Promise<boolean> | undefined;
    for (let next = 0; next < changes.length; ) {
      signal?.throwIfAborted();
      if (this.#closed) throw new KernelError('CLOSED', 'the kernel connection is closed');
      const write = this.#encode(batch, next);
      const first = next;
      next = write.end;
      if (write.bytes.length === 0) continue;
      if (!(await (sent ?? this.#withinDeadline(this.#writing)))) return results;
      sent = this.#send(batch, first, write);
      this.#receiveAnswers(batch);
    }
    if (await sent) this.#receiveAnswers(batch);
    return results;
  }

  /**
   * Encodes as many messages as fit into one write, from change `first` on. A change that cannot be encoded
   * fails at once.
   */
  #encode({ changes, results, changeOf }: Batch, first: number): Write {
    const messages: Buffer[] = [];
    let end = first;
    for (; end < changes.length && messages.length < this.#messagesPerWrite; end++) {
      const change = changes[end];
      if (change === undefined) break;
      const message = encodeChange(change, this.#nextSequence());
      if (message === undefined) {
        results[end] = { outcome: 'failed', errno: 'EINVAL', message: 'not an address of that family' };
        continue;
      }
      changeOf.set(this.#sequence, end);
      messages.push(message);
    }
    return { bytes: Buffer.concat(messages), end };
  }

  /** Begins at once. Returns false when the deadline has passed: all changes without an answer stay unknown. */
  async #send({ results }: Batch, first: number, { bytes, end }: Write): Promise<boolean> {
    const written = this.#socket.write(bytes);
    this.#writing = written.catch(() => undefined);
    try {
      return await this.#withinDeadline(written);
    } catch (error) {
      // The kernel took nothing of the datagram.
      const errno = codeOf(error) ?? 'EIO';
      for (let at = first; at < end; at++)
        if (results[at]?.outcome === 'unknown') results[at] = { outcome: 'failed', errno };
      return true;
    }
  }

  #receiveAnswers({ results, changeOf }: Batch): void {
    for (;;) {
      let length: number | undefined;
      try {
        length = this.#socket.receive(this.#buffer);
      } catch (error) {
        // The kernel dropped answers; earlier ones are still there.
        if (codeOf(error) === 'ENOBUFS') continue;
        return;
      }
      if (length === undefined) return;
      for (const message of messagesOf(this.#buffer.subarray(0, length))) {
        const change = changeOf.get(message.seq);
        // Others belong to a write that missed its deadline.
        if (change === undefined || message.type !== NLMSG.ERROR) continue;
        const { errno, ...text } = decodeAnswer(message);
        results[change] = errno === undefined ? DONE : { outcome: 'failed', errno, ...text };
      }
    }
  }

  async #withinDeadline(work: Promise<unknown>): Promise<boolean> {
    const timer = new AbortController();
    const deadline = this.#clock.sleep(this.#deadlineMs, timer.signal).then(
      () => false,
      () => false,
    );
    try {
      return await Promise.race([work.then(() => true), deadline]);
    } finally {
      timer.abort(writeEnded);
    }
  }

  /** Wake-ups use 0. */
  #nextSequence(): number {
    this.#sequence = this.#sequence >= 0xffffffff ? 1 : this.#sequence + 1;
    return this.#sequence;
  }
}

/** Runs tasks one after another, in the order of the calls. A task that fails does not stop the next. */
export class Queue {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const result = this.#last.then(task);
    this.#last = result.catch(() => undefined);
    return unlessAborted(result, signal);
  }
}
