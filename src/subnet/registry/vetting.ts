import type { Clock } from '../../runtime/effects.ts';
import {
  NO_CLUSTER,
  prefixEnd,
  type Registry,
  RegistryError,
  type RegistryErrorCode,
  type ResponseHeader,
  type TxnRequest,
} from './registry.ts';

/** What a call does; a read is whatever changes nothing. */
export type Asked = 'read' | 'write';

/** What a member failed with, and what it was asked: one that failed to write may be read from all along. */
interface Failing {
  readonly reason: RegistryError;
  readonly asked: Asked;
}

/** Failures that only an operator can fix: they are reported whether another member serves or not. */
const lasting: ReadonlySet<RegistryErrorCode> = new Set<RegistryErrorCode>(['NOT_SERVING', 'NOT_ETCD']);

/** Failures that no call is spared, whatever it does. */
const unreached: ReadonlySet<RegistryErrorCode> = new Set<RegistryErrorCode>(['UNAVAILABLE', 'TLS']);

/** The member belongs to another cluster than the endpoints that are in use. */
class ForeignMember extends RegistryError {}

/** Once one member has named its cluster, a silent one is not waited for longer than this. */
const graceMs = 500;

/**
 * Finds out of each member whether it serves, and for the cluster of the others. One that serves another cluster answers
 * everything: its empty list would take every route away.
 *
 * It remembers the members that do not serve: those that calls left for another one. A member that refused a write is later asked to
 * write, because it may have answered reads all along.
 *
 * The cluster is the one that most endpoints name at the start, the first listed of two equals. It stays that as long as one
 * of its endpoints serves; after a restore under a new id it is the one that more than half of all endpoints name. So a list
 * of endpoints with a stranger in it does not lead there while the own cluster is away. Was the stranger alone at the start,
 * it is left as soon as more than half of the endpoints name another cluster.
 */
export class Vetting {
  readonly #members: readonly Registry[];
  readonly #onFitness: (endpoint: string, unfit: RegistryError | undefined) => void;
  readonly #leasesPrefix: string;
  readonly #question: TxnRequest;
  readonly #writeQuestion: TxnRequest;
  /** Those that served when they were asked, as long as no member has failed since. */
  readonly #vetted = new Set<Registry>();
  readonly #unfit = new Map<Registry, Failing>();
  /** Those that failed; they are unfit once another one serves what they did not. */
  readonly #left = new Map<Registry, Failing>();
  #cluster: string | undefined;
  /** Fewer than half of the endpoints have named the cluster. */
  #provisional = false;
  readonly #clock: Clock | undefined;

  constructor(
    members: readonly Registry[],
    leasesPrefix: string,
    onFitness: (endpoint: string, unfit: RegistryError | undefined) => void = () => {},
    clock?: Clock,
  ) {
    this.#members = members;
    this.#clock = clock;
    this.#onFitness = onFitness;
    this.#leasesPrefix = leasesPrefix;
    // The daemon's user may read all of this range. No key is at its start, which is all that etcd 3.2 compares: it ignores the end.
    const range = { key: leasesPrefix, rangeEnd: prefixEnd(leasesPrefix) };
    this.#question = {
      compare: [{ ...range, target: 'create', op: '=', value: 0 }],
      success: [{ op: 'range', ...range }],
    };
    // No version is below 0: it changes nothing, and is refused as every write is.
    this.#writeQuestion = {
      compare: [{ key: leasesPrefix, target: 'version', op: '<', value: 0 }],
      success: [{ op: 'put', key: leasesPrefix, value: '', lease: '0' }],
    };
  }

  /** Whether the cluster was chosen although more than half of the endpoints were silent. */
  get provisional(): boolean {
    return this.#provisional;
  }

  /** Asks all members again which cluster is theirs, while that is not certain. Rejects with `signal.reason`. */
  async reconsider(signal: AbortSignal): Promise<void> {
    if (this.#provisional) await this.#survey(signal);
  }

  /** Before the first call: asks all members at once. Resolves to those that are of no use; rejects with `signal.reason`. */
  async begin(signal: AbortSignal | undefined): Promise<Map<Registry, RegistryError>> {
    if (this.#cluster !== undefined || this.#vetted.size > 0) return new Map();
    return await this.#survey(signal);
  }

  /** Why the member is of no use; undefined when it is. Costs a call unless it is known. Rejects with `signal.reason`. */
  async vet(member: Registry, signal: AbortSignal | undefined): Promise<RegistryError | undefined> {
    if (this.#vetted.has(member)) return undefined;
    try {
      this.#admit(member, await this.#ask(member, signal));
      return undefined;
    } catch (error) {
      if (error instanceof RegistryError) return error;
      throw error;
    }
  }

  /** Throws when an answer comes from another cluster. */
  check(member: Registry, { clusterId }: ResponseHeader): void {
    if (clusterId === NO_CLUSTER) return;
    this.#cluster ??= clusterId;
    if (clusterId === this.#cluster) return;
    const [of, used] = [clusterId, this.#cluster].map((id) => BigInt(id).toString(16));
    const remedy =
      'Give --etcd-endpoints of one cluster only. If the cluster was restored under a new id, restart the daemon.';
    throw new ForeignMember(
      'NOT_SERVING',
      member.endpoint,
      `etcd at ${member.endpoint}: this member belongs to another cluster (${of}) than the endpoints in use (${used})`,
      { remedy },
    );
  }

  /** Has the member vetted again when an answer came from another cluster. */
  doubt(member: Registry, { clusterId }: ResponseHeader): void {
    if (this.#cluster !== undefined && clusterId !== this.#cluster) this.#vetted.delete(member);
  }

  /** Notes what a member failed with. */
  note(member: Registry, reason: RegistryError, asked: Asked): void {
    // The next member is vetted when its turn comes: much may have happened since the last time.
    const stays = reason.kind === 'EXHAUSTED' && this.#vetted.has(member);
    this.#vetted.clear();
    // It serves all but writes, or will in a moment.
    if (stays) this.#vetted.add(member);
    const failing: Failing = { reason, asked: unreached.has(reason.kind) ? 'read' : asked };
    if (lasting.has(reason.kind) || this.#unfit.has(member)) this.#remember(member, failing);
    else this.#left.set(member, failing);
  }

  /** Notes that a member did what it was asked: members that did not are unfit. */
  served(member: Registry, asked: Asked): void {
    if (asked === 'write') this.#forget(member);
    // A connection that is lost once is no news: the minute's question tells whether it stays so.
    for (const [other, failing] of this.#left)
      if (!failing.reason.noAnswer && (failing.asked === 'read' || asked === 'write'))
        this.#remember(other, failing);
  }

  /** Notes that a call failed on every member, which is more than a notice about each. */
  nobodyServed(failures: ReadonlyMap<Registry, RegistryError>): void {
    for (const [member, { reason }] of this.#left)
      if (failures.get(member) === reason) this.#left.delete(member);
  }

  /**
   * After a call that failed on every member: whether another cluster takes the place of the one that was used, because its
   * endpoints serve and none of the other does. Rejects with `signal.reason`.
   */
  async chooseAgain(
    failures: ReadonlyMap<Registry, RegistryError>,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    if (![...failures.values()].some((failure) => failure instanceof ForeignMember)) return false;
    const before = this.#cluster;
    await this.#survey(signal);
    return this.#cluster !== before;
  }

  /** Asks those that were of no use whether they serve now. Rejects with `signal.reason`. */
  async askUnfit(signal: AbortSignal): Promise<void> {
    for (const [member, { asked }] of [...this.#unfit, ...this.#left]) {
      const reason =
        (await this.vet(member, signal)) ??
        (asked === 'write' ? await this.#askToWrite(member, signal) : undefined);
      if (reason === undefined) this.#forget(member);
      else if (this.#unfit.has(member) || this.#members.some((other) => this.#vetted.has(other)))
        this.#remember(member, { reason, asked });
      else this.#left.set(member, { reason, asked });
    }
  }

  /**
   * Resolves once all have answered or failed; the first time once more than half of the members name one cluster, or a moment
   * after the first one has.
   */
  async #survey(signal: AbortSignal | undefined): Promise<Map<Registry, RegistryError>> {
    const failures = new Map<Registry, RegistryError>();
    const found = new Map<Registry, string>();
    let chosen = false;
    let enough = () => {};
    const majority = new Promise<void>((resolve) => {
      enough = resolve;
    });
    const over = new AbortController();
    let waiting = false;
    const wait = () => {
      if (waiting) return;
      waiting = true;
      this.#clock?.sleep(graceMs, over.signal).then(enough, () => {});
    };
    const judge = (member: Registry, id: string | undefined) => {
      try {
        this.#admit(member, id);
      } catch (error) {
        if (!(error instanceof RegistryError)) throw error;
        failures.set(member, error);
        this.note(member, error, 'read');
      }
    };
    const ask = async (member: Registry) => {
      try {
        const id = await this.#ask(member, signal);
        if (chosen || id === undefined) return judge(member, id);
        found.set(member, id);
        if (this.#cluster !== undefined) return;
        if (this.#isMajority(id, found)) enough();
        else wait();
      } catch (error) {
        if (!(error instanceof RegistryError)) throw error;
        failures.set(member, error);
        if (chosen) this.note(member, error, 'read');
      }
    };
    await Promise.race([majority, Promise.all(this.#members.map(ask))]);
    over.abort(new Error('the members have answered'));
    chosen = true;
    this.#choose(found);
    for (const [member, id] of found) judge(member, id);
    return new Map(failures);
  }

  #choose(found: ReadonlyMap<Registry, string>): void {
    const ids = this.#members.flatMap((member) => found.get(member) ?? []);
    if (this.#cluster !== undefined && !this.#provisional && ids.includes(this.#cluster)) return;
    const count = (id: string) => ids.filter((other) => other === id).length;
    const [most] = ids.toSorted((a, b) => count(b) - count(a));
    if (most === undefined) return;
    const certain = this.#isMajority(most, found);
    if (this.#cluster !== undefined && !certain) return;
    this.#cluster = most;
    this.#provisional = !certain;
  }

  #isMajority(id: string, found: ReadonlyMap<Registry, string>): boolean {
    return 2 * [...found.values()].filter((other) => other === id).length > this.#members.length;
  }

  /** The id of a member's cluster; undefined when the user may not ask, as the calls that follow will say. Rejects as the registry does. */
  async #ask(member: Registry, signal: AbortSignal | undefined): Promise<string | undefined> {
    try {
      const { header, succeeded, ranges } = await member.txn(this.#question, signal);
      if (!succeeded || (ranges[0] ?? []).length === 0) return header.clusterId;
    } catch (error) {
      const kind = error instanceof RegistryError ? error.kind : undefined;
      if (kind === 'PERMISSION_DENIED') return undefined;
      if (kind !== 'EXHAUSTED') throw error;
      // A full database takes no transaction at all in etcd 3.4, and is read from as ever.
      return (await member.range({ key: this.#leasesPrefix, keysOnly: true }, signal)).header.clusterId;
    }
    throw new RegistryError(
      'NOT_SERVING',
      member.endpoint,
      `etcd at ${member.endpoint}: this member is older than etcd 3.3 (it cannot compare a range of keys)`,
      { remedy: 'Upgrade etcd: without that two hosts can get one subnet.' },
    );
  }

  /** Why the member takes no writes; undefined when it does, and when the user may not. Rejects with `signal.reason`. */
  async #askToWrite(member: Registry, signal: AbortSignal): Promise<RegistryError | undefined> {
    try {
      await member.txn(this.#writeQuestion, signal);
      return undefined;
    } catch (error) {
      if (!(error instanceof RegistryError)) throw error;
      return error.kind === 'PERMISSION_DENIED' ? undefined : error;
    }
  }

  /** Throws when the id is that of another cluster. */
  #admit(member: Registry, clusterId: string | undefined): void {
    if (clusterId !== undefined) this.check(member, { clusterId, revision: 0 });
    this.#vetted.add(member);
    // To be read from says nothing of writes.
    if (this.#unfit.get(member)?.asked !== 'write') this.#forget(member);
  }

  #remember(member: Registry, { reason, asked }: Failing): void {
    this.#left.delete(member);
    const before = this.#unfit.get(member)?.asked;
    this.#unfit.set(member, { reason, asked: before === 'write' ? before : asked });
    this.#onFitness(member.endpoint, reason);
  }

  #forget(member: Registry): void {
    this.#left.delete(member);
    if (this.#unfit.delete(member)) this.#onFitness(member.endpoint, undefined);
  }
}
