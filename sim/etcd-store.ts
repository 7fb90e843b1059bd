import type {
  Compare,
  KeyValue,
  Operation,
  RangeRequest,
  RegistryErrorCode,
  TxnRequest,
  WatchEvent,
} from '../src/subnet/registry/registry.ts';
import { holds, type Versioned } from './etcd-compare.ts';
import { compareBytes, inRange, SortedKeys } from './etcd-keys.ts';

/** etcd's `--max-txn-ops`. */
const maxTxnOps = 128;

/** What the store answers instead of a result; a member turns it into a RegistryError. */
export class Refusal extends Error {
  readonly kind: RegistryErrorCode;
  readonly compactRevision: number;

  constructor(kind: RegistryErrorCode, message: string, compactRevision = 0) {
    super(message);
    this.kind = kind;
    this.compactRevision = compactRevision;
  }
}

/** All changes of one revision, in the order they were made. */
export interface Commit {
  readonly revision: number;
  readonly events: readonly WatchEvent[];
}

interface Found {
  readonly versioned: readonly Versioned[];
  readonly kvs: readonly KeyValue[];
}

interface Page {
  readonly kvs: readonly KeyValue[];
  readonly more: boolean;
}

/** All keys from `key` on as of one revision, and the pages of it that were read, by first key and limit. */
interface List {
  readonly key: string;
  readonly kvs: readonly KeyValue[];
  readonly pages: Map<string, Page>;
}

/** Lists of so many revisions can be read on, page by page, while others write. */
const mostLists = 100;

/** Everything a snapshot holds. */
export interface StoreData {
  readonly revision: number;
  readonly compactRevision: number;
  readonly history: readonly Commit[];
  readonly base: ReadonlyMap<string, Versioned>;
  readonly keys: ReadonlyMap<string, Versioned>;
}

/** The key space of an etcd cluster: every revision since the last compaction. It knows nothing of time or members. */
export class EtcdStore {
  revision = 1;
  compactRevision = 0;
  /** Called after every change, before the call that made it returns. */
  onCommit: (commit: Commit) => void = () => {};
  #keys = new SortedKeys<Versioned>();
  /** The keys as of the compacted revision; with the history it gives the keys as of any later one. */
  #base: ReadonlyMap<string, Versioned> = new Map();
  #history: Commit[] = [];
  /** What was last found in a range: many hosts ask for the same one. */
  #last: { readonly revision: number; readonly of: string; readonly found: Found } | undefined;
  /** By revision and end. Ten thousand hosts read the same lists, and each page made from the history anew would take minutes. */
  readonly #lists = new Map<string, List>();

  range(request: RangeRequest): Page {
    const { key, rangeEnd, limit = 0, revision = 0, keysOnly = false } = request;
    if (revision > this.revision) {
      throw new Refusal('PROTOCOL', 'etcdserver: mvcc: required revision is a future revision');
    }
    if (revision > 0 && revision < this.compactRevision) {
      throw new Refusal('COMPACTED', 'the revision asked for is compacted');
    }
    const page = keysOnly ? undefined : this.#page(key, rangeEnd, limit, revision || this.revision);
    if (page !== undefined) return page;
    const keys = revision === 0 || revision === this.revision ? this.#keys : this.#at(revision);
    const found = keys.range(key, rangeEnd);
    const kvs = (limit > 0 ? found.slice(0, limit) : found).map((kv) =>
      plain(keysOnly ? { ...kv, value: '' } : kv),
    );
    return { kvs, more: kvs.length < found.length };
  }

  /** Undefined: it has to be made from the history. `limit` 0: all. */
  #page(key: string, rangeEnd: string | undefined, limit: number, revision: number): Page | undefined {
    const of = `${revision} ${rangeEnd ?? key}`;
    let list = this.#lists.get(of);
    if (list === undefined || compareBytes(key, list.key) < 0) {
      if (revision !== this.revision) return undefined;
      list = { key, kvs: this.#find(key, rangeEnd).kvs, pages: new Map() };
      // A single key is found as quickly.
      if (rangeEnd !== undefined) this.#lists.set(of, list);
      const [oldest = ''] = this.#lists.keys();
      if (this.#lists.size > mostLists) this.#lists.delete(oldest);
    }
    const { kvs, pages } = list;
    const known = pages.get(`${key} ${limit}`);
    if (known !== undefined) return known;
    const start = key === list.key ? 0 : kvs.findIndex((kv) => compareBytes(kv.key, key) >= 0);
    const rest = start === 0 ? kvs : start < 0 ? [] : kvs.slice(start);
    const more = limit > 0 && rest.length > limit;
    const page = { kvs: more ? rest.slice(0, limit) : rest, more };
    pages.set(`${key} ${limit}`, page);
    return page;
  }

  #find(key: string, rangeEnd: string | undefined): Found {
    const of = `${key} ${rangeEnd}`;
    if (this.#last?.revision !== this.revision || this.#last.of !== of) {
      const versioned = this.#keys.range(key, rangeEnd);
      const found = { versioned, kvs: versioned.map(plain) };
      if (rangeEnd === undefined) return found;
      this.#last = { revision: this.revision, of, found };
    }
    return this.#last.found;
  }

  /** Compares and writes at one revision; refuses, with nothing changed, what etcd refuses. */
  txn(request: TxnRequest, leaseExists: (id: string) => boolean) {
    const failure = request.failure ?? [];
    for (const part of [request.compare, request.success, failure]) {
      if (part.length > maxTxnOps)
        throw new Refusal('PROTOCOL', 'etcdserver: too many operations in txn request');
    }
    refuseDuplicates(request.success);
    refuseDuplicates(failure);
    const succeeded = request.compare.every((compare) => this.#holds(compare));
    const operations = succeeded ? request.success : failure;
    for (const operation of operations) {
      if (operation.op === 'put' && operation.lease !== '0' && !leaseExists(operation.lease)) {
        throw new Refusal('LEASE_NOT_FOUND', 'the etcd lease does not exist any more');
      }
    }
    return { succeeded, ranges: this.#execute(operations) };
  }

  /** Deletes the keys of a lease that ended, all at one revision, in byte order. */
  deleteLease(lease: string): void {
    this.#commit(
      [...this.#keys.values()].filter((kv) => kv.lease === lease).map((kv) => this.#delete(kv.key)),
    );
  }

  /** What was committed from `startRevision` on; refuses when that is compacted. */
  since(startRevision: number): readonly Commit[] {
    if (startRevision < this.compactRevision) {
      throw new Refusal(
        'COMPACTED',
        `the revision to watch from is compacted, the oldest that is left is ${this.compactRevision}`,
        this.compactRevision,
      );
    }
    return this.#history.filter(({ revision }) => revision >= startRevision);
  }

  /** Forgets what was before `revision`; it stays readable. */
  compact(revision: number): void {
    if (revision > this.revision || revision <= this.compactRevision) {
      throw new RangeError(
        `cannot compact at ${revision}: at ${this.revision}, compacted ${this.compactRevision}`,
      );
    }
    this.#base = this.#at(revision).toMap();
    this.#history = this.#history
      .filter((commit) => commit.revision >= revision)
      // Compaction removes the tombstones of its own revision too: a watch that starts exactly there gets the puts of that
      // revision and not the deletes (3.4.23 does so; etcd-io/etcd issue 18089).
      .map((commit) =>
        commit.revision === revision ? { revision, events: commit.events.filter(isPut) } : commit,
      );
    this.compactRevision = revision;
  }

  save(): StoreData {
    return {
      revision: this.revision,
      compactRevision: this.compactRevision,
      history: [...this.#history],
      base: this.#base,
      keys: this.#keys.toMap(),
    };
  }

  load(data: StoreData): void {
    this.#last = undefined;
    this.#lists.clear();
    this.revision = data.revision;
    this.compactRevision = data.compactRevision;
    this.#history = [...data.history];
    this.#base = data.base;
    this.#keys = new SortedKeys(data.keys);
  }

  #at(revision: number): SortedKeys<Versioned> {
    const keys = new SortedKeys(this.#base);
    for (const commit of this.#history) {
      if (commit.revision > revision) break;
      // The base includes the compacted revision already.
      if (commit.revision <= this.compactRevision) continue;
      for (const event of commit.events) {
        if (event.type === 'delete') keys.delete(event.key);
        else keys.set(event.kv.key, { ...event.kv, version: (keys.get(event.kv.key)?.version ?? 0) + 1 });
      }
    }
    return keys;
  }

  #execute(operations: readonly Operation[]): readonly (readonly KeyValue[])[] {
    const events: WatchEvent[] = [];
    const ranges: (readonly KeyValue[])[] = [];
    for (const operation of operations) {
      if (operation.op === 'range') {
        const { key, rangeEnd, minModRevision = 0 } = operation;
        const kvs = this.#keys.range(key, rangeEnd).map(plain);
        ranges.push(kvs.filter(({ modRevision }) => modRevision >= minModRevision));
      } else if (operation.op === 'put') events.push(this.#put(operation));
      else if (this.#keys.get(operation.key) !== undefined) events.push(this.#delete(operation.key));
    }
    this.#commit(events);
    return ranges;
  }

  #put({
    key,
    value,
    lease,
  }: {
    readonly key: string;
    readonly value: string;
    readonly lease: string;
  }): WatchEvent {
    const before = this.#keys.get(key);
    const modRevision = this.revision + 1;
    const createRevision = before?.createRevision ?? modRevision;
    const kv = { key, value, createRevision, modRevision, version: (before?.version ?? 0) + 1, lease };
    this.#keys.set(key, kv);
    return { type: 'put', kv: plain(kv) };
  }

  #delete(key: string): WatchEvent {
    this.#keys.delete(key);
    return { type: 'delete', key, modRevision: this.revision + 1 };
  }

  /** A transaction that changed nothing has no revision of its own. */
  #commit(events: readonly WatchEvent[]): void {
    if (events.length === 0) return;
    this.revision += 1;
    const commit = { revision: this.revision, events };
    this.#history.push(commit);
    this.onCommit(commit);
  }

  #holds(compare: Compare): boolean {
    return holds(compare, this.#find(compare.key, compare.rangeEnd).versioned);
  }
}

/** Of each version one object: lists of many revisions hold the same. */
const plainOnes = new WeakMap<Versioned, KeyValue>();

function plain(versioned: Versioned): KeyValue {
  const { key, value, createRevision, modRevision, lease } = versioned;
  const kv = plainOnes.get(versioned) ?? { key, value, createRevision, modRevision, lease };
  plainOnes.set(versioned, kv);
  return kv;
}

function isPut(event: WatchEvent): boolean {
  return event.type === 'put';
}

function refuseDuplicates(operations: readonly Operation[]): void {
  const puts = operations.flatMap((operation) => (operation.op === 'put' ? [operation.key] : []));
  const deletes = operations.flatMap((operation) => (operation.op === 'delete' ? [operation.key] : []));
  if (new Set(puts).size < puts.length || deletes.some((key) => puts.includes(key))) {
    throw new Refusal('PROTOCOL', 'etcdserver: duplicate key given in txn request');
  }
}

/** Whether an event is about a key of [key, rangeEnd). */
export function eventInRange(event: WatchEvent, key: string, rangeEnd: string): boolean {
  return inRange(keyOf(event), key, rangeEnd);
}

/** The key that an event is about. */
export function keyOf(event: WatchEvent): string {
  return event.type === 'put' ? event.kv.key : event.key;
}
