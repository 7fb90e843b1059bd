import type { IDuplexStream, IWatchRequest, IWatchResponse } from 'etcd3';
import type { Clock } from '../../runtime/clock.ts';
import { unlessAborted } from '../../runtime/wake.ts';
import { RegistryError, type WatchBatch } from '../registry.ts';
import { fromWatchResponse } from './convert.ts';
import { registryError, watchCanceled } from './failure.ts';
import type { CallContext } from './refusal.ts';
import { Answers } from './stream.ts';

/** The server confirms a watch at once; without this a peer that accepts connections and stays silent would hold us. */
const createdDeadlineMs = 10_000;

export interface WatchContext extends CallContext {
  readonly clock: Clock;
  /** Opens the stream and sends the create request. */
  readonly open: () => Promise<IDuplexStream<IWatchRequest, IWatchResponse>>;
  /** Aborts when the member's connections are closed. */
  readonly closing: AbortSignal;
}

/** One watch stream, as {@link Registry.watch} describes it. A silent peer is found by HTTP/2 keepalive. */
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
    yield batchOf(context, await created(context, answers));
    for (;;) {
      signal.throwIfAborted();
      yield batchOf(context, await answers.next());
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
