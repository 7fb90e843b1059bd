import type { Clock } from '../src/runtime/effects.ts';
import {
  type Compare,
  type RangeRequest,
  type RangeResponse,
  type Registry,
  RegistryError,
  type RegistryErrorCode,
  type ResponseHeader,
  type TxnRequest,
  type TxnResponse,
  type WatchBatch,
  type WatchRequest,
} from '../src/subnet/registry/registry.ts';
import { type HostEnd, SimConnection } from './etcd-connection.ts';
import type { EtcdFaults } from './etcd-faults.ts';
import type { LeaseTable } from './etcd-leases.ts';
import { silence, type Way } from './etcd-network.ts';
import { type EtcdStore, Refusal } from './etcd-store.ts';
import type { Asked } from './etcd-unfit.ts';
import { type Link, reasons, SimStream, type WatchSource } from './etcd-watch.ts';

/** How often each kind of call was made, failed ones included. */
export type Calls = Record<keyof Omit<Registry, 'endpoint' | 'close'>, number>;

/** What etcd is asked, in the order of a table. */
export const callKinds = [
  'range',
  'txn',
  'leaseGrant',
  'leaseKeepAlive',
  'leaseTimeToLive',
  'leaseRevoke',
  'watch',
] as const satisfies readonly (keyof Calls)[];

/** A Calls of zeros. */
export function noCalls(): Calls {
  return { range: 0, txn: 0, leaseGrant: 0, leaseKeepAlive: 0, leaseTimeToLive: 0, leaseRevoke: 0, watch: 0 };
}

/** What a member needs of its cluster. */
export interface ClusterAccess {
  readonly clock: Clock;
  readonly deadlineMs: number;
  /** One way, in ms; 0: answers come without time passing. */
  readonly latencyMs: number;
  readonly fragmentEvents: number;
  readonly progressIntervalMs: number;
  readonly store: EtcdStore;
  readonly leases: LeaseTable;
  readonly streams: Set<SimStream>;
  /** All calls of all members. */
  readonly calls: Calls;
  header(): ResponseHeader;
  /** Does what a host asked for. */
  as<T>(host: string, write: () => T): T;
  readonly faults: EtcdFaults;
}

/** One member of the simulated cluster as one host sees it. */
export class SimMember implements Registry {
  readonly endpoint: string;
  /** The calls made through this object. */
  readonly calls = noCalls();
  readonly #host: string;
  readonly #name: string;
  readonly #home: ClusterAccess;
  readonly #closing = new AbortController();
  readonly #connection: SimConnection;

  constructor(cluster: ClusterAccess, name: string, host: string, end?: HostEnd) {
    this.endpoint = `http://${name}:2379`;
    this.#home = cluster;
    this.#name = name;
    this.#host = host;
    this.#connection = new SimConnection(cluster.clock, end, () => {
      for (const stream of cluster.streams) if (stream.host === host && stream.member === name) stream.cut();
    });
  }

  /** Whose member is at this address. */
  get #cluster(): ClusterAccess {
    return this.#home.faults.strangerAt(this.#name) ?? this.#home;
  }

  async range(request: RangeRequest, signal?: AbortSignal): Promise<RangeResponse> {
    const { store, faults } = this.#cluster;
    const read = () => ({ ...store.range(request), header: this.#cluster.header() });
    const answer = await this.#call('range', 'read', signal, read);
    if (request.rangeEnd !== undefined) faults.onHeard(this.#host, 'list', answer.kvs);
    return answer;
  }

  txn(request: TxnRequest, signal?: AbortSignal): Promise<TxnResponse> {
    const cluster = this.#cluster;
    const { store, leases, faults } = cluster;
    const changes = [...request.success, ...(request.failure ?? [])].some(({ op }) => op !== 'range');
    return this.#call('txn', changes ? 'write' : 'txn', signal, () => {
      const understood = faults.unfit.isOld(this.#name) ? withoutRanges(request) : request;
      const result = store.txn(understood, (id) => leases.has(id));
      return { ...result, header: cluster.header() };
    });
  }

  leaseGrant: Registry['leaseGrant'] = (ttlSeconds, signal, id) =>
    this.#call('leaseGrant', 'write', signal, () => this.#cluster.leases.grant(ttlSeconds, id));

  leaseKeepAlive: Registry['leaseKeepAlive'] = (id, signal) =>
    this.#call('leaseKeepAlive', 'read', signal, () => ({ ttlSeconds: this.#cluster.leases.keepAlive(id) }));

  leaseTimeToLive: Registry['leaseTimeToLive'] = (id, signal) =>
    this.#call('leaseTimeToLive', 'read', signal, () => this.#cluster.leases.timeToLive(id));

  leaseRevoke: Registry['leaseRevoke'] = (id, signal) =>
    this.#call('leaseRevoke', 'write', signal, () => void this.#cluster.leases.revoke(id));

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    signal.throwIfAborted();
    this.#closing.signal.throwIfAborted();
    this.#count('watch');
    const either = AbortSignal.any([signal, this.#closing.signal]);
    this.#connection.use();
    await this.#travel([either]);
    if (this.#way.requests === 'ok') this.#throwIfRefused('read');
    yield* new SimStream(this.#source(), request).messages(either);
  }

  close(): void {
    this.#closing.abort(this.#error('UNAVAILABLE', 'closed'));
    this.#connection.close();
  }

  #source(): WatchSource {
    const cluster = this.#cluster;
    const { faults } = cluster;
    return {
      clock: cluster.clock,
      host: this.#host,
      member: this.#name,
      progressIntervalMs: cluster.progressIntervalMs,
      fragmentEvents: cluster.fragmentEvents,
      streams: cluster.streams,
      way: () => this.#way,
      applied: () => faults.applied(this.#name),
      delayMs: () => faults.streamDelayMs(this.#host),
      header: () => cluster.header(),
      since: (startRevision) => cluster.store.since(startRevision),
      takeCut: () => faults.takeCut(),
      heard: (keys) => faults.onHeard(this.#host, 'watch', keys),
      error: (kind, message, compactRevision) => this.#error(kind, message, false, compactRevision),
    };
  }

  async #call<T>(
    kind: keyof Calls,
    asked: Asked,
    signal: AbortSignal | undefined,
    answer: () => T,
  ): Promise<T> {
    signal?.throwIfAborted();
    this.#closing.signal.throwIfAborted();
    this.#count(kind);
    const { faults } = this.#cluster;
    const write = asked === 'write';
    const dropped = this.#connection.use();
    const stops = [this.#closing.signal, ...(signal === undefined ? [] : [signal]), dropped];
    try {
      await this.#travel(stops);
      await this.#arrive(write, answer, stops);
      this.#throwIfRefused(asked, kind);
      const result = this.#carryOut(write, answer);
      await this.#travel(stops);
      // Renewals are the leader's affair alone: a member passes them on whatever it has applied.
      const back = kind === 'leaseKeepAlive' && this.#lags ? 'ok' : this.#way.answers;
      if (back !== 'ok') throw await this.#failure(back, write, stops);
      faults.onHeard(this.#host, 'answer');
      return result;
    } catch (error) {
      const lost = dropped.aborted && error === dropped.reason;
      throw lost ? this.#error('UNAVAILABLE', 'Connection dropped', write) : error;
    }
  }

  #throwIfRefused(asked: Asked, kind?: keyof Calls): void {
    // Leases are given back in a full database, too.
    const needs = kind === 'leaseRevoke' && this.#cluster.faults.unfit.full ? 'read' : asked;
    const refusal = this.#cluster.faults.unfit.refusal(this.#name, needs);
    if (refusal !== undefined) throw this.#error(refusal.kind, refusal.reason);
  }

  get #way(): Way {
    return this.#connection.stranded ? silence : this.#cluster.faults.way(this.#host, this.#name);
  }

  get #lags(): boolean {
    return this.#way.requests === 'ok' && this.#cluster.faults.applied(this.#name) < Number.POSITIVE_INFINITY;
  }

  /** Rejects when a request does not get there, or not in time. */
  async #arrive(write: boolean, answer: () => unknown, stops: readonly AbortSignal[]): Promise<void> {
    const { requests } = this.#way;
    if (requests === 'ok') return;
    const { late } = this.#cluster.faults;
    // What a host sends from an address that it has lost does not leave it.
    const leaves = requests !== 'refused' && !this.#connection.stranded;
    const waits = write && leaves && late?.survives === true;
    if (waits)
      late.keep(
        () => this.#way.requests,
        () => this.#perform(answer),
      );
    // It waits for a leader until the caller has given up.
    const link = waits && requests === 'no-leader' ? 'silent' : requests;
    throw await this.#failure(link, write && link === 'silent', stops);
  }

  /** Does what was asked; throws when that, or the answer, is to be lost. */
  #carryOut<T>(write: boolean, answer: () => T): T {
    const { faults } = this.#cluster;
    const lost = write ? faults.takeLostReply(this.#host) : undefined;
    if (lost === undefined || lost.applied === true) {
      const result = this.#answer(() => this.#cluster.as(this.#host, answer));
      if (lost === undefined) return result;
    } else if (lost.applied !== false) faults.late?.after(lost.applied.afterMs, () => this.#perform(answer));
    throw this.#error('UNAVAILABLE', 'Connection dropped', true);
  }

  /** Does what nobody waits for any more. */
  #perform(answer: () => unknown): void {
    try {
      this.#cluster.as(this.#host, answer);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
    }
  }

  #answer<T>(answer: () => T): T {
    try {
      return answer();
    } catch (error) {
      if (error instanceof Refusal)
        throw this.#error(error.kind, error.message, false, error.compactRevision);
      throw error;
    }
  }

  /** What a call fails with on such a link; a silent one is waited for. */
  async #failure(
    link: Exclude<Link, 'ok'>,
    outcomeUnknown: boolean,
    stops: readonly AbortSignal[],
  ): Promise<RegistryError> {
    if (link === 'silent')
      await this.#cluster.clock.sleep(this.#cluster.deadlineMs, AbortSignal.any([...stops]));
    return this.#error('UNAVAILABLE', reasons[link], outcomeUnknown);
  }

  /** One signal of several costs more than a call that takes no time: it is made only where something is waited for. */
  async #travel(stops: readonly AbortSignal[]): Promise<void> {
    const { clock, latencyMs } = this.#cluster;
    if (latencyMs > 0) await clock.sleep(latencyMs, AbortSignal.any([...stops]));
    else await Promise.resolve();
    for (const stop of stops) stop.throwIfAborted();
  }

  #count(kind: keyof Calls): void {
    this.calls[kind] += 1;
    this.#cluster.calls[kind] += 1;
  }

  #error(
    kind: RegistryErrorCode,
    message: string,
    outcomeUnknown = false,
    compactRevision = 0,
  ): RegistryError {
    const text = `etcd at ${this.endpoint}: ${message}`;
    const noAnswer = noAnswers.has(message);
    return new RegistryError(kind, this.endpoint, text, { outcomeUnknown, compactRevision, noAnswer });
  }
}

const noAnswers: ReadonlySet<string> = new Set([reasons.refused, reasons.silent, 'Connection dropped']);

/** As etcd 3.2 understands it: it does not know that a range can be compared. */
function withoutRanges(request: TxnRequest): TxnRequest {
  const keyOnly = (compare: Compare): Compare => {
    const { rangeEnd, ...rest } = compare;
    return rangeEnd === undefined ? compare : rest;
  };
  return { ...request, compare: request.compare.map(keyOnly) };
}
