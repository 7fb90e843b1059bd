import type { Clock } from '../../runtime/effects.ts';
import { excerpt } from '../../runtime/texts.ts';
import { eventOf, isHistoryGone, type Whole } from './answers.ts';
import type { V2Member } from './member.ts';
import { asV2Error, type Call, errorFor, type V2Requests } from './requests.ts';
import { type V2Again, V2Error, type V2Event, type V2Position } from './store.ts';

/** A poll that lasted so long was no failure of its member. */
const soundMs = 1_000;
/** A process that was stopped finds the end of its wait before the answer that has come meanwhile: it looks once more. */
const lastLookMs = 100;
/** Before the next poll when one ended with nothing: whoever does that at once would be asked in a tight loop. */
const pauseMs = 1_000;

export interface Watching {
  readonly requests: V2Requests;
  readonly clock: Clock;
  /** A poll is silent until something happens, and when its member has lost the cluster: it is made anew this often. */
  readonly pollMs: number;
}

/** How a poll has ended. */
type Ended =
  | { readonly how: 'told'; readonly event: V2Event | undefined; readonly index: number }
  | { readonly how: 'again'; readonly why: V2Again }
  /** Nothing has happened up to `index`. */
  | { readonly how: 'silent'; readonly index: number }
  | { readonly how: 'empty' }
  | { readonly how: 'lost'; readonly error: V2Error; readonly member: V2Member };

/**
 * V2Store.watch: long polls, one after another, each for the first event after the cursor. The cursor is the index of the last
 * event told, or the one at which a silent poll began: etcd looks through its history before it waits, so that up to there nothing
 * has happened. The header of an answer is no cursor: it tells the index at which the poll began, not that of the event.
 */
export async function* watchDirectory(
  watching: Watching,
  dir: string,
  after: V2Position,
  signal: AbortSignal,
): AsyncGenerator<V2Event> {
  const { requests, clock } = watching;
  let { index } = after;
  let failures = 0;
  for (;;) {
    const sinceMs = clock.monotonic();
    const ended = await poll(watching, dir, { ...after, index }, signal);
    if (ended.how !== 'lost' || clock.monotonic() - sinceMs >= soundMs) failures = 0;
    switch (ended.how) {
      case 'told':
        index = ended.index;
        if (ended.event !== undefined) yield ended.event;
        if (ended.event?.type === 'again') return;
        break;
      case 'again':
        yield { type: 'again', why: ended.why };
        return;
      case 'silent':
        index = Math.max(index, ended.index);
        break;
      case 'empty':
        await clock.sleep(pauseMs, signal);
        break;
      case 'lost':
        failures += 1;
        if (failures > requests.memberCount) throw ended.error;
        requests.leave(ended.member);
        break;
    }
  }
}

async function poll(
  { requests, clock, pollMs }: Watching,
  dir: string,
  cursor: V2Position,
  signal: AbortSignal,
): Promise<Ended> {
  signal.throwIfAborted();
  const polling = new AbortController();
  const stop = () => polling.abort(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  // Not with quorum=true: that makes it a read, which answers at once. Not with stream=true: it loses events.
  const query = { wait: 'true', recursive: 'true', waitIndex: String(cursor.index + 1) };
  const silence = async (): Promise<undefined> => {
    await clock.sleep(pollMs, polling.signal);
    await clock.sleep(lastLookMs, polling.signal);
  };
  const call: Call = { method: 'GET', key: dir, query };
  try {
    const { answer, member } = await requests.poll(call, polling.signal);
    const { status, index = 0, clusterId } = answer;
    if (clusterId !== cursor.clusterId) return { how: 'again', why: 'cluster' };
    if (status === 200 && index < cursor.index) {
      // A member that lags says the same as one that was restored. The list is of all members' making.
      requests.leave(member);
      return { how: 'again', why: 'index' };
    }
    const text = await Promise.race([answer.body(), silence()]).catch((error: unknown) => {
      signal.throwIfAborted();
      return asV2Error(error, call, member);
    });
    if (text === undefined) return { how: 'silent', index };
    if (text instanceof V2Error) return { how: 'lost', error: text, member };
    return text === '' ? { how: 'empty' } : judge({ status, index, clusterId, text }, call, member);
  } finally {
    signal.removeEventListener('abort', stop);
    polling.abort(new Error('the poll is over'));
  }
}

/** What a complete answer says. */
function judge(answer: Whole, call: Call, member: V2Member): Ended {
  if (isHistoryGone(answer)) return { how: 'again', why: 'history' };
  if (answer.status !== 200) throw errorFor(answer, call, member);
  const told = eventOf(answer, call.key);
  if (told !== undefined) return { how: 'told', event: told.event, index: told.modifiedIndex };
  const reason = `an event below ${excerpt(call.key)} that cannot be read: ${excerpt(answer.text)}`;
  throw new V2Error(member.endpoint, { kind: 'UNEXPECTED', reason });
}
