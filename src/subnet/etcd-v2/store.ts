import { FlannelError } from '../../runtime/errors.ts';

/**
 * A directory of etcd's v2 store, as far as leases need it. flannel up to 0.17 keeps its leases there (0.7.1 of CentOS 7 knows
 * nothing else), and reads what we write: see the rules at {@link V2Store.expire}.
 *
 * Keys are absolute: `/coreos.com/network/subnets/10.5.1.0-24`. Indexes are numbers (etcd's uint64; 2^53 writes are out of
 * reach). Every call rejects with {@link V2Error}, or with `signal.reason` when its signal aborts; with a RangeError for a
 * TTL or an index that v2 would take for another request.
 */
export interface V2Store {
  /**
   * All keys below `dir`, at any depth, in the order of their names; without directories and without hidden names, which begin
   * with `_`. A linearizable read. A directory that does not exist has no keys.
   */
  list(dir: string, signal: AbortSignal): Promise<V2Listing>;
  /** One key, by a linearizable read. */
  get(key: string, signal: AbortSignal): Promise<V2Read>;
  /** Makes a key that does not exist yet; EXISTS when it does. Missing directories are made. */
  create(key: string, value: string, ttl: V2Ttl, signal: AbortSignal): Promise<V2Node>;
  /**
   * Gives a key a new value and time to live if nobody has written it since `prevIndex` (its `modifiedIndex`): COMPARE_FAILED when
   * somebody has, NOT_FOUND when it is gone. Also the way to renew: every write sets the time to live anew, and its
   * createdIndex stays.
   */
  replace(key: string, value: string, prevIndex: number, ttl: V2Ttl, signal: AbortSignal): Promise<V2Node>;
  /**
   * Removes a key if nobody has written it since `prevIndex`; `value` is the one that it has. It is gone within half a second, as by
   * the end of its time to live: until then it is still listed, with `ttlSeconds` 0.
   *
   * There is no other removal here. flannel 0.7.1 does not know the event of `DELETE ?prevIndex=` (compareAndDelete): it
   * reads that event again every second and sees no later one until it is restarted. A DELETE without a condition may hit the
   * key of a host that has just come.
   */
  expire(key: string, value: string, prevIndex: number, signal: AbortSignal): Promise<void>;
  /**
   * What happens to the keys below `dir` after a list, in order and without a gap, over a connection of its own. The iteration
   * ends after `again`, which asks for a new list: pause before it, since its cause may last. It throws {@link V2Error} when no
   * member of etcd takes the watch. Hidden names are left out.
   */
  watch(dir: string, after: V2Position, signal: AbortSignal): AsyncIterable<V2Event>;
}

/** A moment of the store: its index, of the cluster with this id (hexadecimal digits). */
export interface V2Position {
  readonly index: number;
  readonly clusterId: string;
}

export interface V2Listing extends V2Position {
  readonly nodes: readonly V2Node[];
}

export interface V2Read extends V2Position {
  /** Undefined when there is no such key. */
  readonly node: V2Node | undefined;
}

export interface V2Node {
  readonly key: string;
  readonly value: string;
  /** Of the last `create`, or of the last write without a condition: 0.7.1 renews by those, so it does not tell who came first. */
  readonly createdIndex: number;
  /** Of the last write, whoever made it. */
  readonly modifiedIndex: number;
  /**
   * The seconds it has left, rounded up, when it was read; in an event, at that event. Undefined: it lives until it is removed (a
   * reservation). It ends by the wall clock of etcd's leader, and no outage prolongs it.
   */
  readonly ttlSeconds: number | undefined;
}

/** How long a key lives: whole seconds, at least 1, or until somebody removes it. Each write names it: without a TTL etcd makes the key permanent. */
export type V2Ttl = number | 'permanent';

export type V2Event =
  | { readonly type: 'put'; readonly node: V2Node }
  | { readonly type: 'removed'; readonly key: string; readonly index: number }
  | { readonly type: 'again'; readonly why: V2Again };

/**
 * Why a list is needed.
 * - directory: a whole directory was removed, or made: it is one event, which names no key.
 * - history: what comes next is no longer in etcd's memory of 1,000 events (of the whole store).
 * - cluster: another cluster answers. index: the store is older than what was read from it. Both follow a restore. A cluster
 *   that was restored under its old id and written to until it was past that index looks as if nothing had been: list now and then.
 */
export type V2Again = 'directory' | 'history' | 'cluster' | 'index';

/**
 * - COMPARE_FAILED, EXISTS, NOT_FOUND: the condition of a write does not hold; nothing has changed.
 * - WRONG_TYPE: a directory where a key is meant, or a key where a directory is.
 * - NOT_SERVED: every member answers, and none serves v2.
 * - REFUSED: wrong user or password, or no right to the key; etcd tells these apart no further.
 * - OUTCOME_UNKNOWN: a write got no answer, or one that leaves open whether it took effect. It may still do so. Read before
 *   you try again.
 * - UNAVAILABLE: not reached, no leader, no answer in time: nothing has changed.
 * - TLS: no TLS connection. CREDENTIALS: a certificate, key or password file cannot be used; etcd was not asked.
 * - UNEXPECTED: an answer that this program does not know.
 */
export type V2ErrorKind =
  | 'COMPARE_FAILED'
  | 'EXISTS'
  | 'NOT_FOUND'
  | 'WRONG_TYPE'
  | 'NOT_SERVED'
  | 'REFUSED'
  | 'OUTCOME_UNKNOWN'
  | 'UNAVAILABLE'
  | 'TLS'
  | 'CREDENTIALS'
  | 'UNEXPECTED';

/** What is made of an answer, or of none: the message's reason, and what can be done about it. */
export interface V2Verdict {
  readonly kind: V2ErrorKind;
  readonly reason: string;
  readonly remedy?: string | undefined;
}

/** A failed call. `code` is `ETCD_V2_` + {@link V2ErrorKind}; the kind alone is `kind`. */
export class V2Error extends FlannelError {
  readonly kind: V2ErrorKind;
  readonly endpoint: string;
  /** The message without the endpoint. */
  readonly reason: string;

  constructor(endpoint: string, { kind, reason, remedy }: V2Verdict, cause?: unknown) {
    super(`ETCD_V2_${kind}`, `etcd at ${endpoint}: ${reason}`, { cause, remedy });
    this.kind = kind;
    this.endpoint = endpoint;
    this.reason = reason;
  }
}
