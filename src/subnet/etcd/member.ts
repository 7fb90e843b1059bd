import type { Clock } from '../../runtime/effects.ts';
import { unlessAborted } from '../../runtime/wake.ts';
import type { EtcdAddresses } from '../registry/addresses.ts';
import {
  type EtcdAlarm,
  type GrantedLease,
  type RangeRequest,
  type RangeResponse,
  type Registry,
  RegistryError,
  type RemainingTtl,
  type TxnRequest,
  type TxnResponse,
  type WatchBatch,
  type WatchRequest,
} from '../registry/registry.ts';
import { Call, type EtcdServices } from './client.ts';
import { Connection } from './connection.ts';
import { bytes, fromHeader, fromKeyValue, keyRange, toCompare, toRequestOp } from './convert.ts';
import { registryError } from './failure.ts';
import type { EtcdSecurity } from './security.ts';
import { firstAnswer, watchMember } from './watch.ts';

export interface MemberOptions {
  readonly clock: Clock;
  /** How long a call other than a watch may take, connecting included. Default: 5 s. */
  readonly deadlineMs?: number;
  /** The certificates and the user; shared by all members. Default: no user, and Node's own CA certificates. */
  readonly security?: EtcdSecurity;
  /** Told where connections are tried and made. */
  readonly addresses?: EtcdAddresses;
}

/** What a call is for. */
interface Purpose {
  /** One that changes something matters even when its answer is lost. */
  readonly kind: 'read' | 'write';
  /** The key it is about, if the user needs permission for one. */
  readonly key?: string | undefined;
}

/** One etcd member as a {@link Registry}. Nothing is connected before the first call. */
export class EtcdMember implements Registry {
  readonly endpoint: string;
  readonly #connection: Connection;
  readonly #clock: Clock;
  readonly #deadlineMs: number;
  readonly #closing = new AbortController();

  /**
   * `endpoint`: a normalised URL, `http://host:port` or `https://host:port` (etcd3 fails on a trailing slash, on spaces and on
   * upper-case schemes).
   */
  constructor(endpoint: string, { clock, security, addresses, deadlineMs = 5_000 }: MemberOptions) {
    this.endpoint = endpoint;
    this.#connection = new Connection(endpoint, { clock, security, addresses, deadlineMs });
    this.#clock = clock;
    this.#deadlineMs = deadlineMs;
  }

  async range(request: RangeRequest, signal?: AbortSignal): Promise<RangeResponse> {
    const { key, rangeEnd, limit = 0, revision = 0, keysOnly = false } = request;
    const response = await this.#call({ kind: 'read', key }, signal, ({ kv }, { options }) =>
      kv.range({ ...keyRange(key, rangeEnd), limit, revision, keys_only: keysOnly }, options),
    );
    return { header: fromHeader(response.header), kvs: response.kvs.map(fromKeyValue), more: response.more };
  }

  async txn(request: TxnRequest, signal?: AbortSignal): Promise<TxnResponse> {
    const [first] = [...request.success, ...request.compare, ...(request.failure ?? [])];
    const changes = [...request.success, ...(request.failure ?? [])].some(({ op }) => op !== 'range');
    const purpose: Purpose = { kind: changes ? 'write' : 'read', key: first?.key };
    const response = await this.#call(purpose, signal, ({ kv }, { options }) =>
      kv.txn(
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

  async leaseGrant(ttlSeconds: number, signal?: AbortSignal, id = '0'): Promise<GrantedLease> {
    const response = await this.#call({ kind: 'write' }, signal, ({ lease }, { options }) =>
      lease.leaseGrant({ TTL: ttlSeconds, ID: id }, options),
    );
    return { id: response.ID, ttlSeconds: Number(response.TTL) };
  }

  async leaseKeepAlive(id: string, signal?: AbortSignal): Promise<{ ttlSeconds: number }> {
    // etcd3's Lease cannot adopt an id; the stream underneath can, one request and one answer at a time.
    const response = await this.#call({ kind: 'read' }, signal, async ({ lease }, { options }) =>
      firstAnswer(await lease.leaseKeepAlive(options), { ID: id }),
    );
    return { ttlSeconds: Number(response.TTL) };
  }

  async leaseTimeToLive(id: string, signal?: AbortSignal): Promise<RemainingTtl> {
    const response = await this.#call({ kind: 'read' }, signal, ({ lease }, { options }) =>
      lease.leaseTimeToLive({ ID: id }, options),
    );
    return { ttlSeconds: Number(response.TTL), grantedTtlSeconds: Number(response.grantedTTL) };
  }

  async leaseRevoke(id: string, signal?: AbortSignal): Promise<void> {
    try {
      await this.#call({ kind: 'write' }, signal, ({ lease }, { options }) =>
        lease.leaseRevoke({ ID: id }, options),
      );
    } catch (error) {
      if (!(error instanceof RegistryError && error.kind === 'LEASE_NOT_FOUND')) throw error;
    }
  }

  /** The alarms of all members. Rejects as the calls of a registry do. */
  async alarms(signal?: AbortSignal): Promise<readonly EtcdAlarm[]> {
    const { alarms } = await this.#call({ kind: 'read' }, signal, ({ maintenance }, { options }) =>
      maintenance.alarm({ action: 'Get' }, options),
    );
    return alarms.map(({ alarm, memberID }) => ({
      name: alarm.toUpperCase(),
      member: BigInt(memberID).toString(16),
    }));
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    let begun = false;
    try {
      for await (const batch of this.#watchOnce(request, signal)) {
        begun = true;
        yield batch;
      }
    } catch (error) {
      if (begun || !isRefusal(error)) throw error;
      // A stream's token may have expired, which some versions call a missing permission. A call that fails says which it is,
      // and one that does not has seen to a new token.
      await this.range({ ...request, limit: 1, keysOnly: true }, signal);
    }
    yield* this.#watchOnce(request, signal);
  }

  #watchOnce(request: WatchRequest, signal: AbortSignal): AsyncIterable<WatchBatch> {
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
      const stream = await this.#connection.stream(({ watch }) => watch.watch(call.options));
      stream.write({ create_request });
      return stream;
    };
    const context = { way: this.#connection, key: request.key };
    return watchMember({ ...context, clock: this.#clock, open, closing: this.#closing.signal }, signal);
  }

  close(): void {
    this.#closing.abort(new RegistryError('UNAVAILABLE', this.endpoint, `etcd at ${this.endpoint}: closed`));
    this.#connection.close();
  }

  /** Makes one call; an abort cancels it on the wire and rejects at once, without waiting for anybody. */
  async #call<T>(
    { kind, key }: Purpose,
    signal: AbortSignal | undefined,
    run: (services: EtcdServices, call: Call) => Promise<T>,
  ): Promise<T> {
    const stops = signal === undefined ? [this.#closing.signal] : [signal, this.#closing.signal];
    for (const stop of stops) stop.throwIfAborted();
    const deadline = this.#clock.now() + this.#deadlineMs;
    let call: Call | undefined;
    const abandoned = new AbortController();
    const giveUp = () => {
      call?.cancel();
      abandoned.abort();
    };
    const newCall = () => {
      call = new Call(deadline);
      if (abandoned.signal.aborted) call.cancel();
      return call;
    };
    for (const stop of stops) stop.addEventListener('abort', giveUp, { once: true });
    try {
      return await unlessAborted(this.#connection.call(newCall, run), abandoned.signal);
    } catch (error) {
      for (const stop of stops) stop.throwIfAborted();
      const [write, sent] = [kind === 'write', call?.sent === true];
      throw registryError({ way: this.#connection, key, write, sent, error });
    } finally {
      for (const stop of stops) stop.removeEventListener('abort', giveUp);
    }
  }
}

function isRefusal(error: unknown): boolean {
  return (
    error instanceof RegistryError && (error.kind === 'UNAUTHENTICATED' || error.kind === 'PERMISSION_DENIED')
  );
}
