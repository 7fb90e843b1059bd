import { expect, onTestFinished } from 'vitest';
import { V2Error, type V2Event, type V2Position, type V2Store } from '../../src/subnet/etcd-v2/store.ts';

/** A cluster that serves v2, real or simulated, and what has to be done to it. Members are named by their place. */
export interface V2World {
  /** The store by way of these members, in this order; default: all, with the usual deadline. */
  connect(options?: {
    readonly members?: readonly number[];
    readonly deadlineMs?: number;
    readonly pollMs?: number;
  }): V2Store;
  /** What somebody else puts, as flannel 0.7.1 does: without a condition. The form has `value` and `ttl`, or `dir`. */
  put(
    key: string,
    form: Readonly<Record<string, string>>,
    query?: Readonly<Record<string, string>>,
  ): Promise<void>;
  /** What somebody else deletes: a key, or a directory with all that is in it. */
  remove(key: string, query?: { readonly recursive?: 'true'; readonly prevIndex?: string }): Promise<void>;
  /** The member accepts connections and says nothing. */
  freeze(member: number): void;
  thaw(member: number): void;
  /** Ends the member, and its connections with it. */
  stop(member: number): Promise<void>;
  start(...members: readonly number[]): Promise<void>;
  /** Keeps a backup of all members' data. */
  save(): Promise<void>;
  /** All members come back with that data. Of another cluster: with any data. */
  restore(as: 'the same cluster' | 'another cluster'): Promise<void>;
  /** Lets time pass until the promise settles. */
  settled<T>(promise: Promise<T>): Promise<T>;
  /** Lets time pass until the condition holds. */
  until(what: string, condition: () => boolean | Promise<boolean>): Promise<void>;
  close(): Promise<void>;
}

/** What a part of the suite is given. */
export interface V2Suite {
  readonly world: () => V2World;
  /** A directory nobody has used. */
  readonly freshDir: () => string;
  readonly signal: AbortSignal;
}

/** The V2Error a promise rejects with; fails when it does not. */
export async function failureOf(promise: Promise<unknown>): Promise<V2Error> {
  const error = await promise.then(
    (result) => `no error: ${JSON.stringify(result)}`,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(V2Error);
  return error as V2Error;
}

/** A watch that is read for as long as the test runs. */
export class Following {
  /** In short: `+a=1`, `-a`, `again: directory`; keys without the directory. */
  readonly told: string[] = [];
  readonly events: V2Event[] = [];
  /** Resolves when the iteration ends, to what it threw. */
  readonly ended: Promise<unknown>;
  readonly controller = new AbortController();
  hasEnded = false;

  constructor(store: V2Store, dir: string, after: V2Position) {
    this.ended = this.#read(store, dir, after).finally(() => {
      this.hasEnded = true;
    });
    onTestFinished(() => this.controller.abort(new Error('the test is over')));
  }

  async #read(store: V2Store, dir: string, after: V2Position): Promise<unknown> {
    const short = (key: string) => key.replace(`${dir}/`, '');
    try {
      for await (const event of store.watch(dir, after, this.controller.signal)) {
        this.events.push(event);
        if (event.type === 'put') this.told.push(`+${short(event.node.key)}=${event.node.value}`);
        else if (event.type === 'removed') this.told.push(`-${short(event.key)}`);
        else this.told.push(`again: ${event.why}`);
      }
      return undefined;
    } catch (error) {
      return error;
    }
  }
}
