import type { IDuplexStream, IWatchRequest, IWatchResponse } from 'etcd3';
import type { Clock } from '../../runtime/clock.ts';
import { RegistryError, type WatchBatch } from '../registry.ts';
import { CallRejected } from './client.ts';
import { fromWatchResponse } from './convert.ts';
import { registryError, watchCanceled } from './failure.ts';
import { Answers } from './stream.ts';

/** The server confirms a watch at once; without this a peer that accepts connections and stays silent would hold us. */
const createdDeadlineMs = 10_000;

export interface WatchContext {
  readonly endpoint: string;
  readonly clock: Clock;
  /** Opens the stream and sends the create request. */
  readonly open: () => Promise<IDuplexStream<IWatchRequest, IWatchResponse>>;
  /** Aborts when the member's connections are closed. */
  readonly closing: AbortSignal;
}

/** One watch stream, as {@link Registry.watch} describes it. A silent peer is found by HTTP/2 keepalive. */
export async function* watchMember(context: WatchContext, signal: AbortSignal): AsyncGenerator<WatchBatch> {
  const { endpoint, closing } = context;
  signal.throwIfAborted();
  closing.throwIfAborted();
  let answers: Answers<IWatchRequest, IWatchResponse> | undefined;
  const stop = () => answers?.fail((signal.aborted ? signal : closing).reason);
  signal.addEventListener('abort', stop, { once: true });
  closing.addEventListener('abort', stop, { once: true });
  try {
    answers = new Answers(await context.open());
    signal.throwIfAborted();
    closing.throwIfAborted();
    yield batchOf(endpoint, await created(context, answers));
    for (;;) {
      signal.throwIfAborted();
      yield batchOf(endpoint, await answers.next());
    }
  } catch (error) {
    signal.throwIfAborted();
    closing.throwIfAborted();
    const cause = error instanceof CallRejected ? error.cause : error;
    throw registryError({ endpoint, write: false, sent: true, error: cause });
  } finally {
    signal.removeEventListener('abort', stop);
    closing.removeEventListener('abort', stop);
    answers?.close();
  }
}

function batchOf(endpoint: string, response: IWatchResponse): WatchBatch {
  if (response.canceled) {
    throw watchCanceled(endpoint, response.cancel_reason, Number(response.compact_revision));
  }
  return fromWatchResponse(response);
}

async function created(
  { endpoint, clock }: WatchContext,
  answers: Answers<IWatchRequest, IWatchResponse>,
): Promise<IWatchResponse> {
  const timer = new AbortController();
  const late = new RegistryError(
    'UNAVAILABLE',
    endpoint,
    `etcd at ${endpoint}: no answer to a watch within ${createdDeadlineMs / 1000} s`,
  );
  const timeout = clock.sleep(createdDeadlineMs, timer.signal).then(
    () => answers.fail(late),
    () => undefined,
  );
  try {
    return await answers.next();
  } finally {
    timer.abort();
    await timeout;
  }
}
