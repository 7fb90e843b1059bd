import { FlannelError } from '../../runtime/errors.ts';

/**
 * The registry: the part of etcd's v3 API that leases need, as one member (or several, behind a rotation) offers it.
 *
 * Revisions are numbers (etcd's int64; 2^53 writes are out of reach). Lease ids exceed 2^53 and are decimal strings; '0'
 * means none. Keys and values are text; a value that is not UTF-8 arrives with U+FFFD in it and fails to parse later,
 * alone.
 *
 * Every call rejects with {@link RegistryError} and nothing else, or with `signal.reason` when its signal aborts.
 */
export interface Registry {
  /** Where calls go at present, for messages: `http://10.0.0.1:2379`. */
  readonly endpoint: string;
  /** Linearizable read of one key, or of [key, rangeEnd). */
  range(request: RangeRequest, signal?: AbortSignal): Promise<RangeResponse>;
  /** Compares, then writes, at one revision. A rejection with `outcomeUnknown` may have taken effect: read back. */
  txn(request: TxnRequest, signal?: AbortSignal): Promise<TxnResponse>;
  /**
   * Grants a lease of `ttlSeconds`; resolves to its id and the TTL the server chose. With `id` (decimal, 1 to 2^63 - 1) the
   * lease gets that one, so that it can be revoked even when the answer is lost; one that is taken is an error.
   */
  leaseGrant(ttlSeconds: number, signal?: AbortSignal, id?: string): Promise<GrantedLease>;
  /** Renews once; resolves to the seconds it lives from now, 0 when there is no such lease. */
  leaseKeepAlive(id: string, signal?: AbortSignal): Promise<{ readonly ttlSeconds: number }>;
  /** The seconds left (-1 when there is no such lease) and the TTL it was granted with. */
  leaseTimeToLive(id: string, signal?: AbortSignal): Promise<RemainingTtl>;
  /** Revokes a lease and deletes its keys. A lease that is gone already is a success. */
  leaseRevoke(id: string, signal?: AbortSignal): Promise<void>;
  /**
   * Opens one watch over [key, rangeEnd) from `startRevision` on (inclusive). The iteration yields batches in order and
   * ends only by throwing: {@link RegistryError} when the stream is lost (code COMPACTED with `compactRevision` when
   * `startRevision` is compacted), or `signal.reason`. The stream is closed when the iteration ends for any reason. An expired token is
   * renewed before a watch is given up as UNAUTHENTICATED.
   *
   * A start that is the compacted revision itself is accepted, but etcd (3.4.23; etcd-io/etcd issue 18089) then leaves out
   * the deletes of that very revision. Who must miss nothing starts at the last revision seen, not at the one after it: what
   * comes twice is harmless, and had the next revision been compacted the start is refused.
   */
  watch(request: WatchRequest, signal: AbortSignal): AsyncIterable<WatchBatch>;
  /** Closes connections. Calls under way reject; no timer or socket is left. */
  close(): void;
}

/** An etcd lease: its decimal id, and the TTL that the server chose. */
export interface GrantedLease {
  readonly id: string;
  readonly ttlSeconds: number;
}

export interface RemainingTtl {
  readonly ttlSeconds: number;
  readonly grantedTtlSeconds: number;
}

/** An alarm that a member of etcd has raised: NOSPACE, CORRUPT. */
export interface EtcdAlarm {
  readonly name: string;
  /** As etcdctl writes it. */
  readonly member: string;
}

export interface KeyValue {
  readonly key: string;
  readonly value: string;
  readonly createRevision: number;
  readonly modRevision: number;
  /** Decimal lease id; '0' when the key has no lease. */
  readonly lease: string;
}

export interface ResponseHeader {
  /** Decimal; {@link NO_CLUSTER} where etcd's gRPC proxy confirms a watch in etcd's place. */
  readonly clusterId: string;
  readonly revision: number;
}

/**
 * The cluster that a header names which names none. The proxy (3.2 to 3.6) merges a watch into one that it has open already, and
 * confirms it with the revision that was asked for. Such a header is no evidence of the cluster or of its revision.
 */
export const NO_CLUSTER = '0';

export interface RangeRequest {
  readonly key: string;
  /** Exclusive end; without it only `key` itself. */
  readonly rangeEnd?: string;
  /** At most this many keys; 0 or absent: all. */
  readonly limit?: number;
  /** Read at this revision (0 or absent: the newest). Code COMPACTED when it is compacted. */
  readonly revision?: number;
  readonly keysOnly?: boolean;
}

export interface RangeResponse {
  readonly header: ResponseHeader;
  /** In byte order of the keys. */
  readonly kvs: readonly KeyValue[];
  /** Whether `limit` cut the answer short. */
  readonly more: boolean;
}

/** One condition; with `rangeEnd` it must hold for every existing key of the range (etcd 3.3 and later). */
export type Compare = {
  readonly key: string;
  readonly rangeEnd?: string;
  readonly op: '=' | '<' | '>' | '!=';
} & (
  | { readonly target: 'create' | 'mod' | 'version'; readonly value: number }
  | { readonly target: 'value' | 'lease'; readonly value: string }
);

export type Operation =
  /** `lease`: decimal id; '0' for none. */
  | { readonly op: 'put'; readonly key: string; readonly value: string; readonly lease: string }
  | { readonly op: 'delete'; readonly key: string }
  /** `minModRevision`: only keys that were put at this revision or later. */
  | {
      readonly op: 'range';
      readonly key: string;
      readonly rangeEnd?: string;
      readonly minModRevision?: number;
    };

export interface TxnRequest {
  readonly compare: readonly Compare[];
  readonly success: readonly Operation[];
  readonly failure?: readonly Operation[];
}

export interface TxnResponse {
  readonly header: ResponseHeader;
  readonly succeeded: boolean;
  /** The answers of the `range` operations of the branch taken, in their order. */
  readonly ranges: readonly (readonly KeyValue[])[];
}

export interface WatchRequest {
  readonly key: string;
  readonly rangeEnd: string;
  /** The first revision to tell of. Absent: what happens after `created`. */
  readonly startRevision?: number;
}

export type WatchEvent =
  | { readonly type: 'put'; readonly kv: KeyValue }
  | { readonly type: 'delete'; readonly key: string; readonly modRevision: number };

export interface WatchBatch {
  readonly header: ResponseHeader;
  readonly events: readonly WatchEvent[];
  /** The server cut one revision's events over several messages, and this is not the last of them. */
  readonly fragment: boolean;
  /**
   * `created`: the watch is accepted (no events). `progress`: nothing happened up to header.revision (no events).
   * `events`: the rest. Only with `progress` does header.revision say that all earlier events have been delivered.
   */
  readonly kind: 'created' | 'progress' | 'events';
}

/**
 * - UNAVAILABLE: not reached, no leader, connection lost, frozen peer; or a deadline passed.
 * - COMPACTED: the revision asked for is gone; `compactRevision` is the oldest that can be read (0: not known).
 * - LEASE_NOT_FOUND: a transaction named a lease that does not exist.
 * - UNAUTHENTICATED: wrong or expired credentials. PERMISSION_DENIED: the user may not touch this key.
 * - CREDENTIALS: a certificate, key or password file cannot be used; etcd was not asked.
 * - NOT_ETCD: something else answers at this address. TLS: the handshake failed.
 * - EXHAUSTED: the server refuses to write: for lack of space, because of too many requests, or because data are corrupt.
 * - NOT_SERVING: etcd answers and cannot serve: a learner, too old, or a member of another cluster.
 * - PROTOCOL: the request itself is at fault; every member would say so.
 * - UNEXPECTED: an answer that nobody knows, of etcd or of a proxy before it; another member may do better.
 */
export type RegistryErrorCode =
  | 'UNAVAILABLE'
  | 'COMPACTED'
  | 'LEASE_NOT_FOUND'
  | 'UNAUTHENTICATED'
  | 'PERMISSION_DENIED'
  | 'CREDENTIALS'
  | 'NOT_ETCD'
  | 'TLS'
  | 'EXHAUSTED'
  | 'NOT_SERVING'
  | 'PROTOCOL'
  | 'UNEXPECTED';

/** A failed registry call. `code` is `ETCD_` + {@link RegistryErrorCode}; the kind alone is `kind`. */
export class RegistryError extends FlannelError {
  readonly kind: RegistryErrorCode;
  readonly endpoint: string;
  /** The call may have taken effect although no answer came. Always false for reads. */
  readonly outcomeUnknown: boolean;
  /** The connection failed, or nobody spoke at the other end: the member may be back in a moment. */
  readonly noAnswer: boolean;
  readonly compactRevision: number;

  constructor(
    kind: RegistryErrorCode,
    endpoint: string,
    message: string,
    options: {
      cause?: unknown;
      remedy?: string | undefined;
      outcomeUnknown?: boolean;
      noAnswer?: boolean;
      compactRevision?: number;
    } = {},
  ) {
    super(`ETCD_${kind}`, message, options);
    this.kind = kind;
    this.endpoint = endpoint;
    this.outcomeUnknown = options.outcomeUnknown ?? false;
    this.noAnswer = options.noAnswer ?? false;
    this.compactRevision = options.compactRevision ?? 0;
  }
}

/** For the watchdog: a loop that asks etcd is stuck after this long. Calls have deadlines of seconds, but a list may take many. */
export const stuckWithEtcdMs = 600_000;

/** The end of the range of all keys that start with `prefix` (etcd's convention: the last byte plus one). */
export function prefixEnd(prefix: string): string {
  const last = prefix.charCodeAt(prefix.length - 1);
  if (!(last < 0x7f))
    throw new RangeError(`prefixEnd needs a prefix that ends in an ASCII character: ${prefix}`);
  return prefix.slice(0, -1) + String.fromCharCode(last + 1);
}

/** 5,000 leases are some 0.7 MB, and decoded in some 30 ms: probes and renewals have their turn between two pages. */
const pageSize = 5_000;

/** How often a list is started over because its revision was compacted between two pages. */
const attempts = 3;

/**
 * All keys under `prefix` as of one revision, in byte order. Pages are read at the revision of the first; when that one is
 * compacted meanwhile the list starts over, a few times. Rejects with RegistryError; an error is never an empty list.
 */
export async function listRange(
  registry: Registry,
  prefix: string,
  signal: AbortSignal,
): Promise<{ readonly kvs: readonly KeyValue[]; readonly header: ResponseHeader }> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await readPages(registry, prefix, signal);
    } catch (error) {
      const compacted = error instanceof RegistryError && error.kind === 'COMPACTED';
      if (!compacted || attempt === attempts) throw error;
    }
  }
}

async function readPages(registry: Registry, prefix: string, signal: AbortSignal) {
  const rangeEnd = prefixEnd(prefix);
  const first = await registry.range({ key: prefix, rangeEnd, limit: pageSize }, signal);
  const { revision } = first.header;
  const kvs = [...first.kvs];
  for (let page = first; page.more; kvs.push(...page.kvs)) {
    const last = page.kvs.at(-1);
    if (last === undefined)
      throw new RegistryError('PROTOCOL', registry.endpoint, 'etcd announced more keys but sent none');
    // The key after a key is that key with a NUL byte behind it.
    page = await registry.range({ key: `${last.key}\0`, rangeEnd, limit: pageSize, revision }, signal);
  }
  return { kvs, header: first.header };
}

/**
 * etcd's v2 store. Old versions of flannel (0.7.1 of CentOS 7 among them) keep their network there, where the v3 API does not show it.
 */
export interface OldStore {
  /**
   * Whether it has this key; undefined when that is not to be learnt: most etcds of today do not serve it. Rejects with
   * `signal.reason` and nothing else.
   */
  has(key: string, signal: AbortSignal): Promise<boolean | undefined>;
}
