import type { RegistryErrorCode } from '../src/subnet/registry/registry.ts';

/**
 * What a member that answers may be: a learner (serves nobody), overloaded, corrupt or read-only (refuse what changes
 * something), too old to compare ranges, or a proxy that has lost its etcd (serves nobody, and its streams stay open).
 */
export type Unfitness = 'learner' | 'overloaded' | 'corrupt' | 'read-only' | 'old' | 'proxy alone';

/** What a call asks of a member: `txn` is a transaction that only reads. */
export type Asked = 'read' | 'txn' | 'write';

/** Why a member refuses. */
export interface Refusing {
  readonly kind: RegistryErrorCode;
  readonly reason: string;
}

/** Those that serve nobody. */
const refusingAll: Partial<Record<Unfitness, Refusing>> = {
  learner: { kind: 'NOT_SERVING', reason: 'this member is a learner, which serves no clients' },
  'proxy alone': {
    kind: 'UNAVAILABLE',
    reason: 'a proxy answers there and reaches no etcd (HTTP 503)',
  },
};
/** Those that are read from as ever. */
const refusingWrites: Partial<Record<Unfitness, Refusing>> = {
  overloaded: { kind: 'EXHAUSTED', reason: 'this member is overloaded (too many requests)' },
  corrupt: {
    kind: 'EXHAUSTED',
    reason: 'the data of its members differ (alarm CORRUPT), it accepts no writes',
  },
  // In words of its own.
  'read-only': { kind: 'UNEXPECTED', reason: 'read-only for the time being (gRPC status 7)' },
};
const full: Refusing = {
  kind: 'EXHAUSTED',
  reason: 'the etcd database is full (alarm NOSPACE), it accepts no writes',
};

/** Members that answer and do not serve, or not all. */
export class UnfitMembers {
  readonly #members = new Map<string, Unfitness>();
  /** The alarm NOSPACE, which all members heed. */
  full = false;

  set(member: string, unfit: Unfitness | undefined): void {
    if (unfit === undefined) this.#members.delete(member);
    else this.#members.set(member, unfit);
  }

  isOld(member: string): boolean {
    return this.#members.get(member) === 'old';
  }

  /** Undefined: the member does what it is asked. */
  refusal(member: string, asked: Asked): Refusing | undefined {
    const unfit = this.#members.get(member);
    const refusal = unfit && (refusingAll[unfit] ?? (asked === 'write' ? refusingWrites[unfit] : undefined));
    if (refusal !== undefined) return refusal;
    // etcd 3.4 looks at its quota before it looks at what a transaction does.
    return this.full && asked !== 'read' ? full : undefined;
  }
}
