import type { Clock } from '../src/runtime/clock.ts';
import type { KeyValue, ResponseHeader } from '../src/subnet/registry.ts';
import { LeaseTable } from './etcd-leases.ts';
import { type Calls, type ClusterAccess, noCalls, SimMember } from './etcd-member.ts';
import { type Commit, EtcdStore, type StoreData } from './etcd-store.ts';
import type { Link, SimStream } from './etcd-watch.ts';

/** Who changes keys: a host's daemon by its name, an operator, or the end of a lease. */
export type Writer = { readonly host: string } | 'operator' | 'expiry';

export interface SimEtcdOptions {
  readonly clock: Clock;
  /** Names of the members; also their host names in endpoints. Default: `etcd-0` alone. */
  readonly members?: readonly string[];
  /** How long a silent member is waited for. Default: 5 s. */
  readonly deadlineMs?: number;
  /** Time a message travels, one way. Default 0: answers come without time passing. */
  readonly latencyMs?: number;
  /** Watch messages hold at most this many events; a bigger one is cut into fragments. Default: no limit. */
  readonly fragmentEvents?: number;
  /** Idle watches are told the revision this often. Default: ten minutes, as etcd. */
  readonly progressIntervalMs?: number;
}

type MemberState = 'running' | 'stopped' | 'frozen' | 'isolated';

/** What {@link SimEtcd.snapshot} returns; opaque. */
export interface Snapshot {
  readonly data: StoreData;
  readonly leases: ReadonlyMap<string, number>;
}

/**
 * An etcd cluster in memory: revisions, transactions, leases that expire on the given clock, watches, compaction, restore,
 * and members that can be stopped, frozen or cut off. Kept honest by the contract suite, which runs on a real etcd too.
 * Members share one store: none ever lags.
 */
export class SimEtcd {
  /** All calls of all hosts. */
  readonly calls: Calls = noCalls();
  readonly #store = new EtcdStore();
  readonly #leases: LeaseTable;
  readonly #streams = new Set<SimStream>();
  readonly #members = new Map<string, MemberState>();
  readonly #cutLinks = new Set<string>();
  /** Links on which requests arrive and answers do not. */
  readonly #deafLinks = new Set<string>();
  readonly #streamDelaysMs = new Map<string, number>();
  #writer: Writer = 'operator';
  /** Called at every change of keys, before anybody else hears of it. */
  onCommit: (commit: Commit, writer: Writer) => void = () => {};
  readonly #access: ClusterAccess;
  readonly #streamCuts: number[] = [];
  readonly #lostReplies: { readonly applied: boolean; readonly host: string | undefined }[] = [];
  #clusterId = 14_841_639_068_965_178_000n;
  #hadQuorum = true;

  constructor(options: SimEtcdOptions) {
    for (const name of options.members ?? ['etcd-0']) this.#members.set(name, 'running');
    this.#leases = new LeaseTable(options.clock, (id, expired) => {
      const forget = () => this.#store.deleteLease(id);
      if (expired) this.#as('expiry', forget);
      else forget();
    });
    this.#store.onCommit = (commit) => {
      this.onCommit(commit, this.#writer);
      for (const stream of this.#streams) stream.deliver(commit);
    };
    this.#access = {
      clock: options.clock,
      deadlineMs: options.deadlineMs ?? 5_000,
      latencyMs: options.latencyMs ?? 0,
      fragmentEvents: options.fragmentEvents ?? Number.POSITIVE_INFINITY,
      progressIntervalMs: options.progressIntervalMs ?? 600_000,
      store: this.#store,
      leases: this.#leases,
      streams: this.#streams,
      calls: this.calls,
      header: () => this.#header(),
      as: (host, write) => this.#as({ host }, write),
      link: (host, member) => this.#link(host, member),
      answers: (host, member) => !this.#deafLinks.has(`${host} ${member}`),
      streamDelayMs: (host) => this.#streamDelaysMs.get(host) ?? 0,
      takeCut: () => this.#streamCuts.shift() ?? Number.POSITIVE_INFINITY,
      takeLostReply: (host) => this.#takeLostReply(host),
    };
  }

  get members(): readonly string[] {
    return [...this.#members.keys()];
  }

  get revision(): number {
    return this.#store.revision;
  }

  get compactRevision(): number {
    return this.#store.compactRevision;
  }

  /** Ids of the leases that exist. */
  get leaseIds(): readonly string[] {
    return this.#leases.ids;
  }

  /** How many watch streams are open. */
  get watchers(): number {
    return this.#streams.size;
  }

  /** A connection of `host` to a member. */
  member(name: string, host = 'host'): SimMember {
    if (!this.#members.has(name)) throw new RangeError(`no member ${name}`);
    return new SimMember(this.#access, name, host);
  }

  /** Connections of `host` to all members, in their order. */
  connect(host: string): readonly SimMember[] {
    return this.members.map((name) => this.member(name, host));
  }

  // What an operator does beside the daemons: no call is counted and no fault is in the way.

  put(key: string, value: string, lease = '0'): void {
    this.#store.txn({ compare: [], success: [{ op: 'put', key, value, lease }] }, (id) =>
      this.#leases.has(id),
    );
  }

  /** Puts all at one revision. */
  putAll(entries: ReadonlyMap<string, string>): void {
    const success = [...entries].map(([key, value]) => ({ op: 'put', key, value, lease: '0' }) as const);
    this.#store.txn({ compare: [], success }, () => true);
  }

  delete(...keys: readonly string[]): void {
    this.#store.txn(
      { compare: [], success: keys.map((key) => ({ op: 'delete', key }) as const) },
      () => true,
    );
  }

  get(key: string): KeyValue | undefined {
    return this.#store.range({ key }).kvs[0];
  }

  list(key: string, rangeEnd: string): readonly KeyValue[] {
    return this.#store.range({ key, rangeEnd }).kvs;
  }

  grant(ttlSeconds: number): string {
    return this.#leases.grant(ttlSeconds).id;
  }

  revoke(id: string): void {
    this.#leases.revoke(id);
  }

  /** Compacts at `revision`, by default the newest. */
  compact(revision = this.#store.revision): void {
    this.#store.compact(revision);
  }

  snapshot(): Snapshot {
    return { data: this.#store.save(), leases: this.#leases.save() };
  }

  /** All members come back with the data of a snapshot, as a new cluster: revisions go back, all streams are lost. */
  restore(snapshot: Snapshot): void {
    this.#store.load(snapshot.data);
    this.#leases.load(snapshot.leases);
    this.#clusterId += 1n;
    this.cutWatches();
  }

  /** Ends the lease timer; the cluster is of no more use. */
  close(): void {
    this.#leases.close();
    this.cutWatches();
  }

  // Faults.

  /** Connections are refused and streams end at once. */
  stop(member: string): void {
    this.#setState(member, 'stopped');
  }

  /** Calls time out; streams end when keepalive notices. */
  freeze(member: string): void {
    this.#setState(member, 'frozen');
  }

  /** The member loses the others: it answers `no leader` and ends its streams soon. */
  isolate(member: string): void {
    this.#setState(member, 'isolated');
  }

  /** Ends whatever was done to the member. */
  start(member: string): void {
    this.#setState(member, 'running');
  }

  /** Drops every packet between a host and a member (by default every member). */
  cut(host: string, member?: string): void {
    for (const name of member === undefined ? this.members : [member]) this.#cutLinks.add(`${host} ${name}`);
    this.#nudge();
  }

  /** One way: requests arrive and take effect, answers and watch messages do not. */
  cutAnswers(host: string, member?: string): void {
    for (const name of member === undefined ? this.members : [member]) this.#deafLinks.add(`${host} ${name}`);
    this.#nudge();
  }

  /** Every watch message to this host takes so long; 0 ends it. */
  slowWatches(host: string, ms: number): void {
    this.#streamDelaysMs.set(host, ms);
  }

  /** Ends all cuts, both ways and one way. */
  heal(host: string, member?: string): void {
    for (const name of member === undefined ? this.members : [member]) {
      this.#cutLinks.delete(`${host} ${name}`);
      this.#deafLinks.delete(`${host} ${name}`);
    }
    this.#nudge();
  }

  /** Ends the open watch streams of a host (by default of all), with what is on its way. */
  cutWatches(host?: string): void {
    for (const stream of this.#streams) if (host === undefined || stream.host === host) stream.cut();
  }

  /** The next stream to be opened is cut after this many messages, `created` included; further calls are for those after it. */
  cutNextWatchAfter(messages: number): void {
    this.#streamCuts.push(messages);
  }

  /** The next write (of `host`, if given) is applied, or not, and its answer lost. */
  loseNextReply(options: { readonly applied: boolean; readonly host?: string }): void {
    this.#lostReplies.push({ applied: options.applied, host: options.host });
  }

  /** No more answers to a host's writes are lost. */
  keepReplies(host: string): void {
    for (let index = this.#lostReplies.length - 1; index >= 0; index--) {
      if (this.#lostReplies[index]?.host === host) this.#lostReplies.splice(index, 1);
    }
  }

  #as<T>(writer: Writer, write: () => T): T {
    const before = this.#writer;
    this.#writer = writer;
    try {
      return write();
    } finally {
      this.#writer = before;
    }
  }

  #takeLostReply(host: string): { readonly applied: boolean } | undefined {
    const index = this.#lostReplies.findIndex((lost) => lost.host === undefined || lost.host === host);
    return index < 0 ? undefined : this.#lostReplies.splice(index, 1)[0];
  }

  #header(): ResponseHeader {
    return { clusterId: String(this.#clusterId), revision: this.#store.revision };
  }

  #link(host: string, member: string): Link {
    const state = this.#members.get(member);
    if (this.#cutLinks.has(`${host} ${member}`) || state === 'frozen') return 'silent';
    if (state === 'stopped') return 'refused';
    return state === 'running' && this.#quorum() ? 'ok' : 'no-leader';
  }

  #quorum(): boolean {
    const running = [...this.#members.values()].filter((state) => state === 'running').length;
    return running * 2 > this.#members.size;
  }

  #setState(member: string, state: MemberState): void {
    if (!this.#members.has(member)) throw new RangeError(`no member ${member}`);
    this.#members.set(member, state);
    if (state === 'stopped') for (const stream of this.#streams) if (stream.member === member) stream.cut();
    const quorum = this.#quorum();
    if (quorum !== this.#hadQuorum) {
      this.#hadQuorum = quorum;
      if (quorum) this.#leases.resume();
      else this.#leases.pause();
    }
    this.#nudge();
  }

  #nudge(): void {
    for (const stream of this.#streams) stream.nudge();
  }
}
