import {
  type RangeRequest,
  type Registry,
  RegistryError,
  type TxnRequest,
  type WatchBatch,
  type WatchRequest,
} from '../../src/subnet/registry/registry.ts';
import type { Load } from './meter.ts';
import * as wire from './wire.ts';

/**
 * A member whose calls are counted as etcd sees them: those that nobody answered, because nobody was there, it never saw. Of
 * watches only the call is counted, and word that nothing happened; who tells of changes counts those.
 */
export class MeteredMember implements Registry {
  readonly #member: Registry;
  readonly #add: (load: Load) => void;
  readonly #onWatch: (key: string, opened: boolean) => void;

  /** `onWatch` is called when a watch from this key on is open, and when it has ended. */
  constructor(member: Registry, add: (load: Load) => void, onWatch: (key: string, opened: boolean) => void) {
    this.#member = member;
    this.#add = add;
    this.#onWatch = onWatch;
  }

  get endpoint(): string {
    return this.#member.endpoint;
  }

  range(request: RangeRequest, signal?: AbortSignal) {
    const receivedBytes = wire.rangeRequestBytes(request);
    return this.#count({ call: 'range', receivedBytes }, this.#member.range(request, signal), ({ kvs }) =>
      wire.rangeAnswerBytes(kvs),
    );
  }

  txn(request: TxnRequest, signal?: AbortSignal) {
    const receivedBytes = wire.txnRequestBytes(request);
    const answer = this.#member.txn(request, signal);
    return this.#count({ call: 'txn', receivedBytes }, answer, wire.txnAnswerBytes);
  }

  leaseGrant(ttlSeconds: number, signal?: AbortSignal, id?: string) {
    const answer = this.#member.leaseGrant(ttlSeconds, signal, id);
    return this.#count({ call: 'leaseGrant', receivedBytes: wire.grantBytes.request }, answer, () => {
      return wire.grantBytes.answer;
    });
  }

  leaseKeepAlive(id: string, signal?: AbortSignal) {
    return this.#aboutLease('leaseKeepAlive', this.#member.leaseKeepAlive(id, signal));
  }

  leaseTimeToLive(id: string, signal?: AbortSignal) {
    return this.#aboutLease('leaseTimeToLive', this.#member.leaseTimeToLive(id, signal));
  }

  leaseRevoke(id: string, signal?: AbortSignal) {
    const { request, answer } = wire.revokeBytes;
    const load = { call: 'leaseRevoke', receivedBytes: request } as const;
    return this.#count(load, this.#member.leaseRevoke(id, signal), () => answer);
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    const load = { call: 'watch', receivedBytes: wire.watchRequestBytes(request) } as const;
    let opened = false;
    try {
      for await (const batch of this.#member.watch(request, signal)) {
        if (!opened) {
          opened = true;
          this.#add({ ...load, sentBytes: wire.watchAnswerBytes });
          this.#onWatch(request.key, true);
        } else if (batch.kind === 'progress') this.#add({ sentBytes: wire.watchAnswerBytes });
        yield batch;
      }
    } catch (error) {
      if (!opened && wasAnswered(error)) this.#add(load);
      throw error;
    } finally {
      if (opened) this.#onWatch(request.key, false);
    }
  }

  close(): void {
    this.#member.close();
  }

  #aboutLease<T>(call: 'leaseKeepAlive' | 'leaseTimeToLive', answer: Promise<T>): Promise<T> {
    const { request, answer: sent } = wire.leaseIdBytes;
    return this.#count({ call, receivedBytes: request }, answer, () => sent);
  }

  async #count<T>(load: Load, answer: Promise<T>, sentBytes: (result: T) => number): Promise<T> {
    try {
      const result = await answer;
      this.#add({ ...load, sentBytes: sentBytes(result) });
      return result;
    } catch (error) {
      if (wasAnswered(error)) this.#add(load);
      throw error;
    }
  }
}

function wasAnswered(error: unknown): boolean {
  return error instanceof RegistryError && !error.noAnswer;
}
