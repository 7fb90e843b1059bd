import { Duplex } from 'node:stream';
import type { IDuplexStream } from 'etcd3';

/** Messages that wait for the consumer before the stream is held up; HTTP/2 flow control then holds up the server. */
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
