import type { Etcd3 } from 'etcd3';
import type { Clock } from '../../runtime/clock.ts';
import { unlessAborted } from '../../runtime/wake.ts';
import type {
  RangeRequest,
  RangeResponse,
  Registry,
  TxnRequest,
  TxnResponse,
  WatchBatch,
  WatchRequest,
} from '../registry.ts';
import { RegistryError } from '../registry.ts';
import { Call } from './call.ts';
import { CallRejected, createClient } from './client.ts';
import { Connecting } from './connecting.ts';
import { bytes, fromHeader, fromKeyValue, keyRange, toCompare, toRequestOp } from './convert.ts';
import { registryError } from './failure.ts';
import { firstAnswer } from './stream.ts';
import { watchMember } from './watch.ts';

export interface MemberOptions {
  readonly clock: Clock;
  /** How long a call other than a watch may take, connecting included. Default: 5 s. */
  readonly deadlineMs?: number;
}

/**
 * One etcd member as a {@link Registry}. Nothing is connected before the first call. `endpoint` is a normalised URL,
 * `http://host:port` (etcd3 fails on a trailing slash, on spaces and on upper-case schemes).
 */
export function connectMember(endpoint: string, options: MemberOptions): Registry {
  return new EtcdMember(endpoint, options);
}

class EtcdMember implements Registry {
  readonly endpoint: string;
  readonly #client: Etcd3;
  readonly #clock: Clock;
  readonly #deadlineMs: number;
  readonly #connecting = new Connecting();
  readonly #closing = new AbortController();

  constructor(endpoint: string, { clock, deadlineMs = 5_000 }: MemberOptions) {
    this.endpoint = endpoint;
    this.#client = createClient(endpoint);
    this.#clock = clock;
    this.#deadlineMs = deadlineMs;
  }

  async range(request: RangeRequest, signal?: AbortSignal): Promise<RangeResponse> {
    const { key, rangeEnd, limit = 0, revision = 0, keysOnly = false } = request;
    const response = await this.#call('read', signal, ({ options }) =>
      this.#client.kv.range({ ...keyRange(key, rangeEnd), limit, revision, keys_only: keysOnly }, options),
    );
    return { header: fromHeader(response.header), kvs: response.kvs.map(fromKeyValue), more: response.more };
  }

  async txn(request: TxnRequest, signal?: AbortSignal): Promise<TxnResponse> {
    const response = await this.#call('write', signal, ({ options }) =>
      this.#client.kv.txn(
        {
          compare: request.compare.map(toCompare),
          success: request.success.map(toRequestOp),
          failure: (request.failure ?? []).map(toRequestOp),
        },
        options,
      ),
    );
    const operations = (response.succeeded ? request.success : request.failure) ?? [];
    const ranges = response.responses
      .filter((_, index) => operations[index]?.op === 'range')
      .map(({ response_range }) => response_range.kvs.map(fromKeyValue));
    return { header: fromHeader(response.header), succeeded: response.succeeded, ranges };
  }

  async leaseGrant(
    ttlSeconds: number,
    signal?: AbortSignal,
    id = '0',
  ): Promise<{ id: string; ttlSeconds: number }> {
    const response = await this.#call('write', signal, ({ options }) =>
      this.#client.leaseClient.leaseGrant({ TTL: ttlSeconds, ID: id }, options),
    );
    return { id: response.ID, ttlSeconds: Number(response.TTL) };
  }

  async leaseKeepAlive(id: string, signal?: AbortSignal): Promise<{ ttlSeconds: number }> {
    // etcd3's Lease cannot adopt an id; the stream underneath can, one request and one answer at a time.
    const response = await this.#call('read', signal, async (call) =>
      firstAnswer(await this.#client.leaseClient.leaseKeepAlive(call.options), { ID: id }),
    );
    return { ttlSeconds: Number(response.TTL) };
  }

  async leaseTimeToLive(
    id: string,
    signal?: AbortSignal,
  ): Promise<{ ttlSeconds: number; grantedTtlSeconds: number }> {
    const response = await this.#call('read', signal, ({ options }) =>
      this.#client.leaseClient.leaseTimeToLive({ ID: id }, options),
    );
    return { ttlSeconds: Number(response.TTL), grantedTtlSeconds: Number(response.grantedTTL) };
  }

  async leaseRevoke(id: string, signal?: AbortSignal): Promise<void> {
    try {
      await this.#call('write', signal, ({ options }) =>
        this.#client.leaseClient.leaseRevoke({ ID: id }, options),
      );
    } catch (error) {
      if (!(error instanceof RegistryError && error.kind === 'LEASE_NOT_FOUND')) throw error;
    }
  }

  watch(request: WatchRequest, signal: AbortSignal): AsyncIterable<WatchBatch> {
    const create_request = {
      key: bytes(request.key),
      range_end: bytes(request.rangeEnd),
      ...(request.startRevision === undefined ? {} : { start_revision: request.startRevision }),
      progress_notify: true,
      // Without it a backlog of some megabytes ends the stream (gRPC status 8).
      fragment: true,
    };
    const call = new Call();
    const open = async () => {
      const stream = await this.#connecting.run(() => this.#client.watchClient.watch(call.options));
      stream.write({ create_request });
      return stream;
    };
    return watchMember(
      { endpoint: this.endpoint, clock: this.#clock, open, closing: this.#closing.signal },
      signal,
    );
  }

  close(): void {
    this.#closing.abort(new RegistryError('UNAVAILABLE', this.endpoint, `etcd at ${this.endpoint}: closed`));
    this.#client.close();
    this.#connecting.close();
  }

  /** Makes one call; an abort cancels it on the wire and rejects at once, without waiting for anybody. */
  async #call<T>(
    kind: 'read' | 'write',
    signal: AbortSignal | undefined,
    run: (call: Call) => Promise<T>,
  ): Promise<T> {
    const stops = signal === undefined ? [this.#closing.signal] : [signal, this.#closing.signal];
    for (const stop of stops) stop.throwIfAborted();
    const call = new Call(this.#clock.now() + this.#deadlineMs);
    const abandoned = new AbortController();
    const giveUp = () => {
      call.cancel();
      abandoned.abort();
    };
    for (const stop of stops) stop.addEventListener('abort', giveUp, { once: true });
    try {
      return await unlessAborted(
        this.#connecting.run(() => run(call)),
        abandoned.signal,
      );
    } catch (error) {
      for (const stop of stops) stop.throwIfAborted();
      const cause = error instanceof CallRejected ? error.cause : error;
      throw registryError({
        endpoint: this.endpoint,
        write: kind === 'write',
        sent: call.sent,
        error: cause,
      });
    } finally {
      for (const stop of stops) stop.removeEventListener('abort', giveUp);
    }
  }
}
