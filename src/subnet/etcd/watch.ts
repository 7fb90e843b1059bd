import { Duplex } from 'node:stream';
import type { IDuplexStream, IWatchRequest, IWatchResponse } from 'etcd3';
import type { Clock } from '../../runtime/effects.ts';
import { unlessAborted } from '../../runtime/wake.ts';
import { RegistryError, type WatchBatch } from '../registry/registry.ts';
import { fromWatchResponse } from './convert.ts';
import { registryError, watchCanceled } from './failure.ts';
import type { CallContext } from './verdict.ts';

/** The server confirms a watch at once; without this a peer that accepts connections and stays silent would hold us. */
const createdDeadlineMs = 10_000;

export interface WatchContext extends CallContext {
  readonly clock: Clock;
  /** Opens the stream and sends the create request. */
  readonly open: () => Promise<IDuplexStream<IWatchRequest, IWatchResponse>>;
  /** Aborts when the member's connections are closed. */
  readonly closing: AbortSignal;
}

/**
 * etcd tells of its progress after at most 22 quiet minutes (two of its intervals of ten, and a tenth). A stream that is silent for
 * longer is one that a proxy keeps open without a watch at etcd behind it.
 */
const silentTooLongMs = 1_500_000;

/** One watch stream, as {@link Registry.watch} describes it. A dead peer is found by HTTP/2 keepalive. */
export async function* watchMember(context: WatchContext, signal: AbortSignal): AsyncGenerator<WatchBatch> {
  const { closing } = context;
  signal.throwIfAborted();
  closing.throwIfAborted();
  let answers: Answers<IWatchRequest, IWatchResponse> | undefined;
  const stop = () => answers?.fail((signal.aborted ? signal : closing).reason);
  signal.addEventListener('abort', stop, { once: true });
  closing.addEventListener('abort', stop, { once: true });
  try {
    answers = new Answers(await openUnlessStopped(context, signal));
    signal.throwIfAborted();
    closing.throwIfAborted();
    const confirmed = `no answer to a watch within ${createdDeadlineMs / 1000} s`;
    yield batchOf(context, await nextWithin(createdDeadlineMs, confirmed, context, answers));
    const silent = `no word of its watch for ${silentTooLongMs / 60_000} minutes`;
    for (;;) {
      signal.throwIfAborted();
      yield batchOf(context, await nextWithin(silentTooLongMs, silent, context, answers));
    }
  } catch (error) {
    signal.throwIfAborted();
    closing.throwIfAborted();
    throw registryError({ ...context, write: false, sent: true, error });
  } finally {
    signal.removeEventListener('abort', stop);
    closing.removeEventListener('abort', stop);
    answers?.close();
  }
}

/** Opening may take a while: a token has to be fetched. A stream that opens too late is ended unused. */
async function openUnlessStopped(
  { open, closing }: WatchContext,
  signal: AbortSignal,
): Promise<IDuplexStream<IWatchRequest, IWatchResponse>> {
  const opening = open();
  try {
    return await unlessAborted(unlessAborted(opening, signal), closing);
  } catch (error) {
    void opening.then(
      (stream) => new Answers(stream).close(),
      () => undefined,
    );
    throw error;
  }
}

function batchOf(context: CallContext, response: IWatchResponse): WatchBatch {
  if (response.canceled) {
    throw watchCanceled(context, response.cancel_reason, Number(response.compact_revision));
  }
  return fromWatchResponse(response);
}

/** An error of its own for each answer would cost more than the timer. */
const answered = new Error('the answer has come');

/** The next answer; when none comes within `limitMs` the stream fails, for this `reason`. */
async function nextWithin(
  limitMs: number,
  reason: string,
  { way, clock }: WatchContext,
  answers: Answers<IWatchRequest, IWatchResponse>,
): Promise<IWatchResponse> {
  const timer = new AbortController();
  const late = () => new RegistryError('UNAVAILABLE', way.endpoint, `etcd at ${way.endpoint}: ${reason}`);
  const timeout = clock.sleep(limitMs, timer.signal).then(
    () => answers.fail(late()),
    () => undefined,
  );
  try {
    return await answers.next();
  } finally {
    timer.abort(answered);
    await timeout;
  }
}

/** How many messages may wait for the consumer. Then the stream stops reading, and HTTP/2 flow control stops the server. */
const highWater = 16;

/**
 * The answers of one gRPC stream, in order, one consumer. Events are pushed by the stream whenever they arrive, so they
 * are queued here; nothing is dropped.
 */
export class Answers<Request, Answer> {
  readonly #stream: IDuplexStream<Request, Answer>;
  readonly #queue: Answer[] = [];
  #failure: { readonly error: unknown } | undefined;
  #waiting: (() => void) | undefined;

  constructor(stream: IDuplexStream<Request, Answer>) {
    this.#stream = stream;
    stream.on('data', (answer) => {
      this.#queue.push(answer);
      if (this.#queue.length >= highWater && stream instanceof Duplex) stream.pause();
      this.#waiting?.();
    });
    // Stays attached after `close`: a stream that is cancelled always emits one more error.
    stream.on('error', (error) => this.fail(error));
    stream.on('end', () => this.fail(new Error('the server ended the stream')));
  }

  /** The next answer; rejects once the stream has failed and everything that came before is consumed. */
  async next(): Promise<Answer> {
    for (;;) {
      const answer = this.#queue.shift();
      if (answer !== undefined) {
        if (this.#queue.length < highWater && this.#stream instanceof Duplex) this.#stream.resume();
        return answer;
      }
      if (this.#failure !== undefined) throw this.#failure.error;
      await new Promise<void>((resolve) => {
        this.#waiting = resolve;
      });
    }
  }

  /** Lets `next` reject with `error`, unless the stream failed before. */
  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#waiting?.();
  }

  /** Ends the stream: half-closed first, so that the server does not see it break. The error that follows is expected. */
  close(): void {
    this.#queue.length = 0;
    this.fail(new Error('the stream is closed'));
    this.#stream.end();
    this.#stream.cancel();
  }
}

/** Sends one request on a fresh stream, resolves to the first answer and closes the stream. */
export async function firstAnswer<Request, Answer>(
  stream: IDuplexStream<Request, Answer>,
  request: Request,
): Promise<Answer> {
  const answers = new Answers(stream);
  try {
    stream.write(request);
    return await answers.next();
  } finally {
    answers.close();
  }
}
