import type { Clock } from '../../runtime/effects.ts';
import {
  type RangeRequest,
  type Registry,
  RegistryError,
  type RegistryErrorCode,
  type TxnRequest,
  type WatchBatch,
  type WatchRequest,
} from './registry.ts';

export type CallName = 'range' | 'txn' | 'grant' | 'keepalive' | 'timetolive' | 'revoke' | 'watch';

/** One call to one member that has come to an end. */
export interface MeasuredCall {
  readonly endpoint: string;
  readonly call: CallName;
  /** How long the answer took; absent for a watch, which lasts. */
  readonly durationMs?: number;
  /** What it failed with; absent when it did not. */
  readonly error?: RegistryErrorCode;
}

/** A member whose calls are reported as they end, except those that the caller aborted. */
export class MeasuredMember implements Registry {
  readonly #member: Registry;
  readonly #clock: Clock;
  readonly #onCall: (call: MeasuredCall) => void;

  constructor(member: Registry, clock: Clock, onCall: (call: MeasuredCall) => void) {
    this.#member = member;
    this.#clock = clock;
    this.#onCall = onCall;
  }

  get endpoint(): string {
    return this.#member.endpoint;
  }

  range(request: RangeRequest, signal?: AbortSignal) {
    return this.#measure('range', () => this.#member.range(request, signal));
  }

  txn(request: TxnRequest, signal?: AbortSignal) {
    return this.#measure('txn', () => this.#member.txn(request, signal));
  }

  leaseGrant(ttlSeconds: number, signal?: AbortSignal, id?: string) {
    return this.#measure('grant', () => this.#member.leaseGrant(ttlSeconds, signal, id));
  }

  leaseKeepAlive(id: string, signal?: AbortSignal) {
    return this.#measure('keepalive', () => this.#member.leaseKeepAlive(id, signal));
  }

  leaseTimeToLive(id: string, signal?: AbortSignal) {
    return this.#measure('timetolive', () => this.#member.leaseTimeToLive(id, signal));
  }

  leaseRevoke(id: string, signal?: AbortSignal) {
    return this.#measure('revoke', () => this.#member.leaseRevoke(id, signal));
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    try {
      yield* this.#member.watch(request, signal);
    } catch (error) {
      if (error instanceof RegistryError)
        this.#onCall({ endpoint: this.endpoint, call: 'watch', error: error.kind });
      throw error;
    }
  }

  close(): void {
    this.#member.close();
  }

  async #measure<T>(call: CallName, make: () => Promise<T>): Promise<T> {
    const { endpoint } = this;
    const startedMs = this.#clock.monotonic();
    const tell = (more: Pick<MeasuredCall, 'error'>) =>
      this.#onCall({ endpoint, call, durationMs: this.#clock.monotonic() - startedMs, ...more });
    try {
      const answer = await make();
      tell({});
      return answer;
    } catch (error) {
      if (error instanceof RegistryError) tell({ error: error.kind });
      throw error;
    }
  }
}
