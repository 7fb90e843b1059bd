import type { RegistryErrorCode } from '../src/subnet/registry.ts';

/**
 * What a member that answers may be: a learner (serves nobody), overloaded (refuses what changes something), or too old to
 * compare ranges.
 */
export type Unfitness = 'learner' | 'overloaded' | 'old';

/** What a call asks of a member: `txn` is a transaction that only reads. */
export type Asked = 'read' | 'txn' | 'write';

/** Why a member refuses. */
export interface Refusing {
  readonly kind: RegistryErrorCode;
  readonly reason: string;
}

const learner: Refusing = {
  kind: 'NOT_SERVING',
  reason: 'this member is a learner, which serves no clients',
};
const overloaded: Refusing = {
  kind: 'EXHAUSTED',
  reason: 'this member is overloaded (too many requests)',
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
    if (unfit === 'learner') return learner;
    if (unfit === 'overloaded' && asked === 'write') return overloaded;
    // etcd 3.4 looks at its quota before it looks at what a transaction does.
    return this.full && asked !== 'read' ? full : undefined;
  }
}
