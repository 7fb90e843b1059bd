import type { V2ErrorKind } from './store.ts';

/** One member of etcd, as far as its keys API (`/v2/keys/…`) goes. One request, one connection. */
export interface V2Member {
  /** `http://10.0.0.1:2379` */
  readonly endpoint: string;
  /**
   * Resolves when the head of the answer is there, whatever its status. Rejects with {@link NoAnswer}, or with
   * `signal.reason`; the signal ends the answer's body, too. It has no deadline beyond that of the connection.
   */
  ask(request: V2Request, signal: AbortSignal): Promise<V2Answer>;
  /** In words for messages; never a secret. */
  readonly username: string | undefined;
}

export interface V2Request {
  /** No DELETE: see V2Store.expire. */
  readonly method: 'GET' | 'PUT';
  /** As it stands in etcd, without any encoding. */
  readonly key: string;
  readonly query: Readonly<Record<string, string>>;
  /** The fields of a PUT's form. */
  readonly form?: Readonly<Record<string, string>>;
  /**
   * Named to etcd: the user that is configured. v2's users are others than v3's, and a user that v2 does not know may do less than
   * nobody does.
   */
  readonly asUser: boolean;
}

export interface V2Answer {
  readonly status: number;
  /** `X-Etcd-Index`: of the store when it was asked, 0 in some refusals. Undefined: this is not the keys API. */
  readonly index: number | undefined;
  /** `X-Etcd-Cluster-Id`. */
  readonly clusterId: string | undefined;
  /** The rest of the answer, when it is complete; the wait may be long. Rejects as {@link V2Member.ask} does. */
  body(): Promise<string>;
  /** Closes the connection without reading the rest. */
  drop(): void;
}

/** There was no answer, or not the whole of it. */
export class NoAnswer extends Error {
  readonly kind: Extract<V2ErrorKind, 'UNAVAILABLE' | 'TLS' | 'CREDENTIALS'>;
  readonly remedy: string | undefined;
  /** The request may have reached etcd, which may carry it out: at once, or when it wakes up. */
  readonly isSent: boolean;

  constructor(
    kind: NoAnswer['kind'],
    message: string,
    { isSent, remedy, cause }: { isSent: boolean; remedy?: string | undefined; cause?: unknown },
  ) {
    super(message, { cause });
    this.kind = kind;
    this.isSent = isSent;
    this.remedy = remedy;
  }
}
