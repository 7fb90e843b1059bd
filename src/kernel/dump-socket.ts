import { createHash } from 'node:crypto';
import type { NetlinkMessage } from 'netlink/dist/structs.js';
import { NetlinkSocket } from '../native/sockets.ts';
import { codeOf, messageOf } from '../runtime/errors.ts';
import { Queue } from './command-socket.ts';
import { KernelError } from './kernel.ts';
import {
  blankTransient,
  decodeAnswer,
  decodeDone,
  messagesOf,
  NLM_F,
  NLMSG,
  READ_BUFFER_BYTES,
} from './rtnetlink.ts';

/** A table that changes during so many dumps is unlikely to hold still for the next. */
export const MAX_DUMP_ATTEMPTS = 10;

/** So many parts are read in one turn, some 5 ms: the kernel has the next one ready. Each wait for the pool costs a turn of its own. */
const partsPerTurn = 8;

export interface DumpRequest<T> {
  /** The name of the table in error messages. */
  readonly what: string;
  encode(sequence: number): Buffer;
  /** Type of the messages with entries. */
  readonly type: number;
  decode(payload: Buffer): T | undefined;
}

/** Dumps whole tables, one after another. */
export class DumpSocket {
  readonly #options: { readonly deadlineMs: number; readonly receiveBufferBytes: number };
  readonly #buffer = Buffer.allocUnsafeSlow(READ_BUFFER_BYTES);
  readonly #queue = new Queue();
  #socket: NetlinkSocket | undefined;
  #sequence = 0;
  #parts = 0;
  #closed = false;

  /** `deadlineMs`: the longest wait for each part. */
  constructor(options: { deadlineMs: number; receiveBufferBytes: number }) {
    this.#options = options;
  }

  /**
   * All entries of a consistent dump, in the kernel's order. Rejects with {@link KernelError} or
   * `signal.reason`.
   */
  dump<T>(request: DumpRequest<T>, signal: AbortSignal | undefined): Promise<readonly T[]> {
    return this.#queue.run(
      () => this.#try(request.what, signal, () => this.#attempt(request, signal)),
      signal,
    );
  }

  /**
   * The hash of all that a dump of routes would be read from. Rejects as {@link dump}. What changes from dump to dump of
   * one table does not count.
   */
  digest(
    request: Pick<DumpRequest<unknown>, 'what' | 'encode'>,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    return this.#queue.run(() => this.#try(request.what, signal, () => this.#hash(request, signal)), signal);
  }

  close(): void {
    this.#closed = true;
    this.#reset();
  }

  /** The first result of `attempt` that no change of the table has spoilt. */
  async #try<T>(
    what: string,
    signal: AbortSignal | undefined,
    attempt: () => Promise<T | undefined>,
  ): Promise<T> {
    try {
      for (let attempts = 0; attempts < MAX_DUMP_ATTEMPTS; attempts++) {
        const result = await attempt();
        if (result !== undefined) return result;
      }
      throw new KernelError('EINTR', `${what} changed during each of ${MAX_DUMP_ATTEMPTS} dumps`);
    } catch (error) {
      // The rest of an unfinished dump would block the next one on this socket (EBUSY).
      this.#reset();
      if (error instanceof KernelError || signal?.aborted) throw error;
      if (this.#closed) throw new KernelError('CLOSED', 'the kernel connection is closed', { cause: error });
      const code = codeOf(error);
      const errno = code === 'EAGAIN' ? 'TIMEOUT' : (code ?? 'EIO');
      throw new KernelError(errno, `cannot read the kernel's ${what}: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** Undefined when the table changed meanwhile and entries may be missing. */
  async #attempt<T>(request: DumpRequest<T>, signal: AbortSignal | undefined): Promise<T[] | undefined> {
    signal?.throwIfAborted();
    const socket = this.#open();
    const sequence = ++this.#sequence;
    const entries: T[] = [];
    let interrupted = false;
    await socket.write(request.encode(sequence));
    for (;;) {
      const length = await this.#read(socket);
      signal?.throwIfAborted();
      for (const message of messagesOf(this.#buffer.subarray(0, length))) {
        if (message.seq !== sequence) continue;
        interrupted ||= (message.flags & NLM_F.DUMP_INTR) !== 0;
        if (isLast(message, request.what)) return interrupted ? undefined : entries;
        if (message.type !== request.type) continue;
        const entry = request.decode(message.data);
        if (entry !== undefined) entries.push(entry);
      }
    }
  }

  /** As {@link #attempt}. Makes no object for a message: a table of 10,000 routes takes some 2 ms. */
  async #hash(
    { what, encode }: Pick<DumpRequest<unknown>, 'what' | 'encode'>,
    signal: AbortSignal | undefined,
  ): Promise<string | undefined> {
    signal?.throwIfAborted();
    const socket = this.#open();
    const hash = createHash('sha256');
    let interrupted = false;
    await socket.write(encode(++this.#sequence));
    for (;;) {
      const datagram = this.#buffer.subarray(0, await this.#read(socket));
      signal?.throwIfAborted();
      const { flags, end } = blankTransient(datagram);
      interrupted ||= (flags & NLM_F.DUMP_INTR) !== 0;
      hash.update(datagram.subarray(0, end));
      const [last] = end === undefined ? [] : messagesOf(datagram.subarray(end));
      if (last !== undefined && isLast(last, what)) return interrupted ? undefined : hash.digest('base64');
    }
  }

  /** Waits for the next part; gives others their turn now and then. */
  async #read(socket: NetlinkSocket): Promise<number> {
    this.#parts += 1;
    const there = this.#parts % partsPerTurn === 0 ? undefined : socket.receive(this.#buffer);
    return there ?? (await socket.read(this.#buffer));
  }

  #open(): NetlinkSocket {
    if (this.#closed) throw new KernelError('CLOSED', 'the kernel connection is closed');
    const { deadlineMs: receiveTimeoutMs, receiveBufferBytes } = this.#options;
    this.#socket ??= new NetlinkSocket({ receiveBufferBytes, receiveTimeoutMs });
    return this.#socket;
  }

  #reset(): void {
    this.#socket?.close();
    this.#socket = undefined;
  }
}

/** Whether the dump is complete. Throws {@link KernelError} when it failed. */
function isLast(message: NetlinkMessage, what: string): boolean {
  if (message.type !== NLMSG.DONE && message.type !== NLMSG.ERROR) return false;
  const { errno, message: text } = message.type === NLMSG.DONE ? decodeDone(message) : decodeAnswer(message);
  // A table that never had a route does not exist.
  if (errno === undefined || errno === 'ENOENT') return true;
  throw new KernelError(errno, `cannot read the kernel's ${what}: ${text ?? errno}`);
}
