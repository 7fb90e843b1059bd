import { NoAnswer } from '../src/subnet/etcd-v2/member.ts';
import type { V2Change } from './etcd-v2-store.ts';

/** A poll whose answer has a head and no body yet. */
interface Poll {
  readonly member: string;
  readonly dir: string;
  end(text: string): void;
  fail(error: NoAnswer): void;
}

/** The open polls of a cluster. Each ends with one event, without any, or cut in the middle. */
export class V2Polls {
  /** Cuts off the next event on its way. */
  cutsNextEvent = false;
  readonly #open = new Set<Poll>();

  get count(): number {
    return this.#open.size;
  }

  /** The body of a new poll's answer; with a `past` event it is there at once. */
  async open(member: string, dir: string, past: V2Change | undefined, signal: AbortSignal): Promise<string> {
    // An abort that came while the request was on its way fires no more.
    signal.throwIfAborted();
    return await new Promise((resolve, reject) => {
      const over = () => {
        this.#open.delete(poll);
        signal.removeEventListener('abort', onAbort);
      };
      const fail = (error: unknown) => {
        over();
        reject(error);
      };
      const end = (text: string) => {
        over();
        resolve(text);
      };
      const onAbort = () => fail(signal.reason);
      const poll: Poll = { member, dir, end, fail };
      this.#open.add(poll);
      signal.addEventListener('abort', onAbort, { once: true });
      if (past !== undefined) this.#send(poll, past);
    });
  }

  /** Sends each poll what there is for it. */
  tell(eventFor: (member: string, dir: string) => V2Change | undefined): void {
    for (const poll of this.#open) {
      const event = eventFor(poll.member, poll.dir);
      if (event !== undefined) this.#send(poll, event);
    }
  }

  /** Ends all with an answer that has no body. */
  end(): void {
    for (const poll of this.#open) poll.end('');
  }

  cut(isMeant: (member: string) => boolean): void {
    for (const poll of this.#open) if (isMeant(poll.member)) poll.fail(cutOff());
  }

  #send(poll: Poll, event: V2Change): void {
    if (!this.cutsNextEvent) return poll.end(JSON.stringify(event));
    this.cutsNextEvent = false;
    poll.fail(cutOff());
  }
}

/** What an answer that breaks off ends with. */
export function cutOff(): NoAnswer {
  const message = 'it closed the connection before its answer was complete';
  return new NoAnswer('UNAVAILABLE', message, { isSent: true });
}
