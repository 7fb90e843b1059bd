import type { Clock, Random } from '../src/runtime/effects.ts';
import type { KeyValue } from '../src/subnet/registry/registry.ts';
import type { HostEnd } from './etcd-connection.ts';
import { EtcdFaults } from './etcd-faults.ts';
import { LateWrites } from './etcd-late.ts';
import { LeaseTable } from './etcd-leases.ts';
import { type Calls, type ClusterAccess, noCalls, SimMember } from './etcd-member.ts';
import { type Commit, EtcdStore, type StoreData } from './etcd-store.ts';

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
  /**
   * The hosts that are told of a commit by the watches that they have open; undefined: all. In a cluster of thousands a host
   * can do without most of it.
   */
  readonly audience?: (commit: Commit) => ReadonlySet<string> | undefined;
  /** Has some writes that nobody answered take effect later; absent: none does. */
  readonly lateWrites?: Random;
}

/** What {@link SimEtcd.snapshot} returns; opaque. */
export interface Snapshot {
  readonly data: StoreData;
  readonly leases: ReadonlyMap<string, number>;
}

/**
 * An etcd cluster in memory: revisions, transactions, leases that expire on the given clock, watches, compaction, restore,
 * and members that can be stopped, frozen, cut off or made to lag. Kept honest by the contract suite, which runs on a real etcd
 * too. Members share one store; one that lags tells of none of the changes since then, and has nothing confirmed.
 */
export class SimEtcd extends EtcdFaults {
  /** All calls of all hosts. */
  readonly calls: Calls = noCalls();
  readonly #store = new EtcdStore();
  readonly #leases: LeaseTable;
  #writer: Writer = 'operator';
  /** Called at every change of keys, before anybody else hears of it. */
  onCommit: (commit: Commit, writer: Writer) => void = () => {};
  readonly access: ClusterAccess;
  readonly #options: SimEtcdOptions;
  #clusterId = 14_841_639_068_965_178_000n;

  constructor(options: SimEtcdOptions) {
    super(
      options.members ?? ['etcd-0'],
      options.lateWrites && new LateWrites(options.clock, options.lateWrites),
    );
    this.#options = options;
    this.#leases = new LeaseTable(options.clock, (id, expired) => {
      const forget = () => this.#store.deleteLease(id);
      if (expired) this.#as('expiry', forget);
      else forget();
    });
    this.#store.onCommit = (commit) => {
      this.onCommit(commit, this.#writer);
      const audience = options.audience?.(commit);
      for (const stream of this.streams)
        if (audience === undefined || audience.has(stream.host)) stream.deliver(commit);
    };
    this.access = {
      clock: options.clock,
      deadlineMs: options.deadlineMs ?? 5_000,
      latencyMs: options.latencyMs ?? 0,
      fragmentEvents: options.fragmentEvents ?? Number.POSITIVE_INFINITY,
      progressIntervalMs: options.progressIntervalMs ?? 600_000,
      store: this.#store,
      leases: this.#leases,
      streams: this.streams,
      calls: this.calls,
      faults: this,
      header: () => ({ clusterId: String(this.#clusterId), revision: this.#store.revision }),
      as: (host, write) => this.#as({ host }, write),
    };
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
    return this.streams.size;
  }

  /** A connection of `host` to a member. */
  member(name: string, host = 'host', end?: HostEnd): SimMember {
    if (!this.members.includes(name)) throw new RangeError(`no member ${name}`);
    return new SimMember(this.access, name, host, end);
  }

  /** Connections of `host` to all members, in their order. */
  connect(host: string, end?: HostEnd): readonly SimMember[] {
    return this.members.map((name) => this.member(name, host, end));
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

  /**
   * All members come back with the data of a snapshot: revisions go back, all streams are lost. As a new cluster, or with the id
   * it had: that follows from the members' addresses and a token, which an operator may leave as they were.
   */
  restore(snapshot: Snapshot, { sameId = false } = {}): void {
    this.late?.forget();
    this.#store.load(snapshot.data);
    this.#leases.load(snapshot.leases);
    if (!sameId) this.#clusterId += 1n;
    this.cutWatches();
  }

  protected onQuorum(there: boolean): void {
    if (there) this.#leases.resume();
    else this.#leases.pause();
  }

  protected makeStranger(member: string): SimEtcd {
    const { lateWrites: _, ...options } = this.#options;
    const stranger = new SimEtcd({ ...options, members: [member] });
    stranger.#clusterId = this.#clusterId + 1_000_000n;
    return stranger;
  }

  /** Ends the lease timer; the cluster is of no more use. */
  close(): void {
    this.dismissStrangers();
    this.#leases.close();
    this.late?.forget();
    this.cutWatches();
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
}
