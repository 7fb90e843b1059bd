import type { Clock } from '../../runtime/effects.ts';
import { excerpt } from '../../runtime/texts.ts';
import { isMissing, outcomeUnknown, verdictOn, type Whole } from './answers.ts';
import { NoAnswer, type V2Answer, type V2Member, type V2Request } from './member.ts';
import { V2Error, type V2ErrorKind } from './store.ts';

export interface V2RequestsOptions {
  readonly clock: Clock;
  /** How long an answer may take; of a poll only its head. */
  readonly deadlineMs: number;
}

/** A request to whichever member serves. */
export type Call = Omit<V2Request, 'asUser'>;

/** An answer, and whose it is. */
export interface Answered<T> {
  readonly answer: T;
  readonly member: V2Member;
}

/** Kinds that another member may not have: this one has done nothing. */
const movesOn: ReadonlySet<V2ErrorKind> = new Set([
  'UNAVAILABLE',
  'TLS',
  'CREDENTIALS',
  'NOT_SERVED',
  'UNEXPECTED',
]);

/**
 * Requests to etcd by way of its members: any of them takes reads and writes. The one that served last is asked first. What
 * reached nobody moves on to the next member at once. A read does so after an error or silence, too; a write does not,
 * since it may have taken effect.
 */
export class V2Requests {
  readonly #members: readonly V2Member[];
  readonly #options: V2RequestsOptions;
  #first = 0;

  constructor(members: readonly V2Member[], options: V2RequestsOptions) {
    if (members.length === 0) throw new RangeError('a v2 store needs a member of etcd');
    this.#members = members;
    this.#options = options;
  }

  get memberCount(): number {
    return this.#members.length;
  }

  /** Resolves to a result, or for a read to a 404 that says that there is no such key. Rejects with {@link V2Error}. */
  async ask(call: Call, signal: AbortSignal): Promise<Answered<Whole>> {
    return await this.#firstThatServes(call, signal, false, async (member, inner) => {
      const answer = await wholeOf(await member.ask({ ...call, asUser: true }, inner));
      if (isResult(answer) || (call.method === 'GET' && isMissing(answer))) return { answer, member };
      throw errorFor(answer, call, member);
    });
  }

  /**
   * Starts a poll: resolves when the head of a result is there, or to a refusal with status 400, which is the watch's own
   * affair. Rejects with {@link V2Error}. `signal` ends the poll at any time; it should not outlive it by long.
   */
  async poll(call: Call, signal: AbortSignal): Promise<Answered<V2Answer>> {
    return await this.#firstThatServes(call, signal, true, async (member, inner) => {
      const answer = await member.ask({ ...call, asUser: true }, inner);
      if (isResult(answer)) return { answer, member };
      const whole = await wholeOf(answer);
      if (whole.status !== 400 || whole.clusterId === undefined) throw errorFor(whole, call, member);
      return { answer: { ...answer, body: () => Promise.resolve(whole.text) }, member };
    });
  }

  /** Has the next request begin with another member. */
  leave(member: V2Member): void {
    if (this.#members[this.#first] === member) this.#first = (this.#first + 1) % this.#members.length;
  }

  async #firstThatServes<T>(
    call: Call,
    signal: AbortSignal,
    isPoll: boolean,
    attempt: (member: V2Member, inner: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const failures: V2Error[] = [];
    const inTurn = [...this.#members.slice(this.#first), ...this.#members.slice(0, this.#first)];
    for (const member of inTurn) {
      try {
        const served = await this.#inTime(signal, isPoll, (inner) => attempt(member, inner));
        this.#first = this.#members.indexOf(member);
        return served;
      } catch (error) {
        signal.throwIfAborted();
        const failure = asV2Error(error, call, member);
        // The read that follows need not wait for the same silence.
        if (failure.kind === 'OUTCOME_UNKNOWN') this.leave(member);
        if (!movesOn.has(failure.kind)) throw failure;
        failures.push(failure);
      }
    }
    throw summaryOf(failures);
  }

  /** Runs under a signal that aborts at the deadline, and when `signal` does: with a poll also after `run` has ended. */
  async #inTime<T>(
    signal: AbortSignal,
    isPoll: boolean,
    run: (inner: AbortSignal) => Promise<T>,
  ): Promise<T> {
    signal.throwIfAborted();
    const { clock, deadlineMs } = this.#options;
    const [inner, done] = [new AbortController(), new AbortController()];
    signal.addEventListener('abort', () => inner.abort(signal.reason), { once: true, signal: inner.signal });
    const late = new NoAnswer('UNAVAILABLE', `no answer within ${deadlineMs / 1000} s`, { isSent: true });
    clock.sleep(deadlineMs, done.signal).then(
      () => inner.abort(late),
      () => undefined,
    );
    const over = new Error('the request is over');
    let isOpen = false;
    try {
      const result = await run(inner.signal);
      isOpen = isPoll;
      return result;
    } finally {
      done.abort(over);
      // Takes the listener from `signal`, which may live long.
      if (!isOpen) inner.abort(over);
    }
  }
}

async function wholeOf(answer: V2Answer): Promise<Whole> {
  const { status, index, clusterId } = answer;
  return { status, index, clusterId, text: await answer.body() };
}

function isResult({ status, index, clusterId }: Omit<Whole, 'text'>): boolean {
  return (status === 200 || status === 201) && index !== undefined && clusterId !== undefined;
}

/** What an answer means that is no result. */
export function errorFor(answer: Whole, { key, method }: Call, member: V2Member): V2Error {
  const { endpoint, username } = member;
  return new V2Error(endpoint, verdictOn(answer, { key, username }, method === 'PUT'));
}

/** What a request failed with, as the error the rest of the program knows. Throws what is a bug. */
export function asV2Error(error: unknown, { key, method }: Call, { endpoint }: V2Member): V2Error {
  if (error instanceof V2Error) return error;
  if (!(error instanceof NoAnswer)) throw error;
  const { kind, message, remedy, isSent } = error;
  if (method === 'GET' || !isSent) return new V2Error(endpoint, { kind, reason: message, remedy }, error);
  return new V2Error(endpoint, outcomeUnknown(`${message}; ${excerpt(key)} may be written or not`), error);
}

/**
 * One error for all members. Only when every one of them answers that it does not serve v2 is that the error: one that is out of
 * reach may serve it.
 */
function summaryOf(failures: readonly V2Error[]): V2Error {
  const main = failures.find(({ kind }) => kind !== 'NOT_SERVED') ?? failures[0];
  if (main === undefined) throw new RangeError('no member was asked');
  const others = failures.filter((failure) => failure !== main).map(({ message }) => message);
  if (others.length === 0 || main.kind === 'NOT_SERVED') return main;
  const { endpoint, kind, remedy } = main;
  return new V2Error(endpoint, { kind, reason: [main.reason, ...others].join('; '), remedy }, main);
}
