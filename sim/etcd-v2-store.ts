/** etcd's memory of events, of the whole store. */
const historyLimit = 1_000;

/** A key or a directory. */
interface Entry {
  readonly dir: boolean;
  readonly value: string;
  readonly createdIndex: number;
  readonly modifiedIndex: number;
  /** By the wall clock, ms since the epoch; undefined: it lives until it is removed. */
  readonly expiresAtMs: number | undefined;
}

/** A node as the keys API shows it. */
export interface V2WireNode {
  readonly key: string;
  readonly dir?: true;
  readonly value?: string;
  readonly nodes?: readonly V2WireNode[];
  readonly expiration?: string;
  readonly ttl?: number;
  readonly createdIndex: number;
  readonly modifiedIndex: number;
}

/** What a write did, as its answer and the watches show it. */
export interface V2Change {
  readonly action: 'set' | 'create' | 'update' | 'compareAndSwap' | 'delete' | 'expire' | 'compareAndDelete';
  readonly node: V2WireNode;
  readonly prevNode?: V2WireNode;
}

/** A refusal: etcd's number for it, its words, the HTTP status they come with. */
export class V2Refusal extends Error {
  readonly code: number;
  readonly status: number;
  readonly about: string;

  constructor(code: keyof typeof refusals, about: string) {
    const [status, words] = refusals[code];
    super(words);
    this.code = code;
    this.status = status;
    this.about = about;
  }
}

const refusals = {
  100: [404, 'Key not found'],
  101: [412, 'Compare failed'],
  102: [403, 'Not a file'],
  104: [400, 'Not a directory'],
  105: [412, 'Key already exists'],
  107: [400, 'Root is read only'],
  110: [401, 'The request requires user authentication'],
  300: [500, 'Raft Internal Error'],
  401: [400, 'The event in requested index is outdated and cleared'],
} as const;

/** How a key is written. */
export interface V2Put {
  readonly value?: string;
  /** Makes a directory instead. */
  readonly dir?: boolean;
  /** Whole seconds; 0: etcd removes the key at its next look. Absent: the key becomes permanent, even one that had a TTL. */
  readonly ttlSeconds?: number | undefined;
  readonly prevExist?: boolean | undefined;
  /** 0 is no condition. */
  readonly prevIndex?: number | undefined;
  /** A new time to live for the old value. Watches do not hear of it. */
  readonly refresh?: boolean;
}

/** Everything a backup holds. */
export interface V2Data {
  readonly index: number;
  readonly entries: ReadonlyMap<string, Entry>;
  readonly history: readonly (V2Change & { readonly refresh: boolean })[];
}

/** The key space of etcd's v2 API: one index, keys and directories, and the last 1,000 events. It knows nothing of members or timers. */
export class V2KeySpace {
  /** etcd uses the first ones for its own settings. */
  index = 3;
  /** Called after each change that watches hear of. */
  onChange: (change: V2Change) => void = () => {};
  /** When the first key is due, by the wall clock, or earlier. */
  dueMs = Number.POSITIVE_INFINITY;
  onDueSooner: () => void = () => {};
  readonly #now: () => number;
  #entries = new Map<string, Entry>();
  #history: (V2Change & { readonly refresh: boolean })[] = [];

  /** `now`: the leader's wall clock, ms. */
  constructor(now: () => number) {
    this.#now = now;
  }

  get(key: string, recursive = false): V2WireNode {
    return this.#wire(key, this.#find(key), recursive ? Number.POSITIVE_INFINITY : 1);
  }

  put(key: string, put: V2Put): V2Change {
    const { prevExist, prevIndex = 0, dir = false, ttlSeconds, refresh = false } = put;
    if (key === '/') throw new V2Refusal(107, '/');
    const compares = prevIndex > 0;
    const keeps = compares || prevExist === true;
    const before = keeps ? this.#find(key) : this.#existing(key);
    if (prevExist === false && before !== undefined) throw new V2Refusal(105, key);
    if (before?.dir === true && !dir) throw new V2Refusal(102, key);
    if (compares && before?.modifiedIndex !== prevIndex)
      throw new V2Refusal(101, `[${prevIndex} != ${before?.modifiedIndex}]`);
    this.#makeParents(key);
    const shown = before && { prevNode: this.#wire(key, before, 0) };
    this.index += 1;
    const entry: Entry = {
      dir,
      value: refresh && before !== undefined ? before.value : (put.value ?? ''),
      createdIndex: keeps && before !== undefined ? before.createdIndex : this.index,
      modifiedIndex: this.index,
      expiresAtMs: ttlSeconds === undefined ? undefined : this.#now() + ttlSeconds * 1000,
    };
    this.#entries.set(key, entry);
    this.#noteDue(entry.expiresAtMs);
    const unlessCompared = prevExist === undefined ? 'set' : prevExist ? 'update' : 'create';
    const action = compares ? 'compareAndSwap' : unlessCompared;
    return this.#note({ action, node: this.#wire(key, entry, 0), ...shown }, refresh);
  }

  /** `recursive`: a directory with all that is in it. `prevIndex`: what flannel 0.7.1 does not understand. */
  delete(key: string, { recursive = false, prevIndex = 0 } = {}): V2Change {
    const entry = this.#find(key);
    if (entry.dir && !recursive) throw new V2Refusal(102, key);
    if (prevIndex > 0 && entry.modifiedIndex !== prevIndex)
      throw new V2Refusal(101, `[${prevIndex} != ${entry.modifiedIndex}]`);
    return this.#remove(key, prevIndex > 0 ? 'compareAndDelete' : 'delete');
  }

  /** Removes what is due. */
  expireDue(): void {
    const due = [...this.#entries].filter(([, { expiresAtMs = Number.POSITIVE_INFINITY }]) => {
      return expiresAtMs <= this.#now();
    });
    due.sort(([, a], [, b]) => (a.expiresAtMs ?? 0) - (b.expiresAtMs ?? 0));
    for (const [key] of due) if (this.#entries.has(key)) this.#remove(key, 'expire');
    this.#findDue();
  }

  #findDue(): void {
    const ends = [...this.#entries.values()].map(({ expiresAtMs = Number.POSITIVE_INFINITY }) => expiresAtMs);
    this.dueMs = Math.min(Number.POSITIVE_INFINITY, ...ends);
  }

  #noteDue(atMs = Number.POSITIVE_INFINITY): void {
    if (atMs >= this.dueMs) return;
    this.dueMs = atMs;
    this.onDueSooner();
  }

  /**
   * The first event from `waitIndex` on that a watch of `dir` hears of, up to the index `applied`; undefined when there is none yet.
   * Past events of hidden names are told, live ones are not ({@link isToldLive}).
   */
  scan(dir: string, waitIndex: number, applied: number): V2Change | undefined {
    const oldest = this.#history[0]?.node.modifiedIndex ?? 0;
    if (waitIndex < oldest)
      throw new V2Refusal(401, `the requested history has been cleared [${oldest}/${waitIndex}]`);
    return this.#history.find(({ node, prevNode, refresh }) => {
      const { modifiedIndex, key } = node;
      if (refresh || modifiedIndex < waitIndex || modifiedIndex > applied) return false;
      return isAtOrBelow(dir, key) || (prevNode?.dir === true && dir.startsWith(key));
    });
  }

  save(): V2Data {
    return { index: this.index, entries: new Map(this.#entries), history: [...this.#history] };
  }

  load({ index, entries, history }: V2Data): void {
    this.index = index;
    this.#entries = new Map(entries);
    this.#history = [...history];
    this.#findDue();
    this.onDueSooner();
  }

  /** The entry of a key that has to be there. */
  #find(key: string): Entry {
    const found = this.#existing(key);
    if (found !== undefined) return found;
    const missing = [...ancestorsOf(key), key].find((path) => !this.#entries.has(path));
    throw new V2Refusal(100, missing ?? key);
  }

  #existing(key: string): Entry | undefined {
    if (key === '/')
      return { dir: true, value: '', createdIndex: 0, modifiedIndex: 0, expiresAtMs: undefined };
    const file = ancestorsOf(key).find((path) => this.#entries.get(path)?.dir === false);
    if (file !== undefined) throw new V2Refusal(104, file);
    return this.#entries.get(key);
  }

  #makeParents(key: string): void {
    const [createdIndex, modifiedIndex] = [this.index + 1, this.index + 1];
    for (const path of ancestorsOf(key)) {
      if (this.#entries.has(path)) continue;
      this.#entries.set(path, { dir: true, value: '', createdIndex, modifiedIndex, expiresAtMs: undefined });
    }
  }

  #remove(key: string, action: V2Change['action']): V2Change {
    const entry = this.#find(key);
    for (const path of this.#entries.keys()) if (isAtOrBelow(key, path)) this.#entries.delete(path);
    this.index += 1;
    const { createdIndex, dir } = entry;
    const node = { key, ...(dir ? { dir: true as const } : {}), modifiedIndex: this.index, createdIndex };
    return this.#note({ action, node, prevNode: this.#wire(key, entry, 0) }, false);
  }

  #note(change: V2Change, refresh: boolean): V2Change {
    this.#history.push({ ...change, refresh });
    if (this.#history.length > historyLimit) this.#history.shift();
    if (!refresh) this.onChange(change);
    return change;
  }

  /** `depth`: how many levels below a directory are shown. */
  #wire(key: string, entry: Entry, depth: number): V2WireNode {
    const { dir, value, createdIndex, modifiedIndex, expiresAtMs } = entry;
    // Zeros are left out: what is due has no ttl.
    const ttl = Math.max(0, Math.ceil(((expiresAtMs ?? 0) - this.#now()) / 1000));
    // etcd writes a date here. That there is one is all that counts.
    const expiration = expiresAtMs === undefined ? {} : { expiration: `${expiresAtMs} ms` };
    const nodes = depth > 0 && dir ? { nodes: this.#children(key, depth - 1) } : {};
    return {
      key,
      ...(dir ? { dir: true as const, ...nodes } : { value }),
      ...expiration,
      ...(ttl > 0 ? { ttl } : {}),
      modifiedIndex,
      createdIndex,
    };
  }

  #children(dir: string, depth: number): readonly V2WireNode[] {
    const base = dir === '/' ? dir : `${dir}/`;
    return [...this.#entries]
      .filter(([path]) => path.startsWith(base) && !/\/|^_/.test(path.slice(base.length)))
      .map(([path, entry]) => this.#wire(path, entry, depth));
  }
}

/** Whether a waiting watch of `dir` hears of a change. */
export function isToldLive(dir: string, { node: { key, dir: isDir }, action }: V2Change): boolean {
  const removes = action === 'delete' || action === 'expire';
  if (isDir === true && removes && isAtOrBelow(key, dir)) return true;
  return isAtOrBelow(dir, key) && !`/${key.slice(dir.length)}`.replaceAll('//', '/').includes('/_');
}

function isAtOrBelow(dir: string, key: string): boolean {
  return dir === '/' || key === dir || key.startsWith(`${dir}/`);
}

/** The directories above a key, the topmost first, without the root. */
function ancestorsOf(key: string): readonly string[] {
  const parts = key.split('/').slice(1, -1);
  return parts.map((_, last) => `/${parts.slice(0, last + 1).join('/')}`);
}
