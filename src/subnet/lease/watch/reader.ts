import type { PerFamily } from '../../../ip/ip.ts';
import type { Activity } from '../../../runtime/activity.ts';
import type { Logger } from '../../../runtime/effects.ts';
import { parseSubnetKey } from '../../keys.ts';
import type { KeyValue, WatchEvent } from '../../registry/registry.ts';
import { type Lease, parseLease } from '../lease.ts';

export interface ReaderOptions {
  readonly log: Logger;
  /** Hears of each round of the loop, of each repeated list and of each key that is not a lease. */
  readonly activity?: Activity;
  /** `<prefix>/subnets/`, with the slash: `subnets-old/` is not ours. */
  readonly subnetsPrefix: string;
}

/** A consumer gets a snapshot, then deltas, then perhaps another snapshot, and never a gap. */
export type LeaseUpdate = LeaseSnapshot | LeaseDelta;

export interface LeaseSnapshot {
  readonly type: 'snapshot';
  readonly leases: readonly Lease[];
  readonly revision: number;
}

export interface LeaseDelta {
  readonly type: 'delta';
  readonly put: readonly Lease[];
  /** Keys that no longer hold a usable lease: deleted, or overwritten by a value that is not a lease. */
  readonly removed: readonly string[];
  readonly revision: number;
}

/** The log and the description tell this many junk keys apart, and no more, to limit memory. */
const maxProblemKeys = 1_000;
const mostDescribed = 50;

/** Keys below the prefix that are not leases, by name or by value. */
export interface JunkKeys {
  readonly count: number;
  /** The first of them, and what is wrong with each. */
  readonly first: readonly { readonly key: string; readonly reason: string }[];
}

/** Reads the leases out of keys and events. Logs each junk key once, and counts it while it is there. */
export class LeaseReader {
  readonly #options: ReaderOptions;
  /** The fault of each junk key that exists now; empty for those beyond the first thousand. */
  readonly #junk = new Map<string, string>();
  /** The junk keys in the log. Deleted ones stay, so that a key that comes and goes is logged once. */
  readonly #logged = new Set<string>();

  constructor(options: ReaderOptions) {
    this.#options = options;
  }

  /** The junk keys that exist now. */
  get junk(): JunkKeys {
    const described = [...this.#junk].slice(0, mostDescribed);
    return {
      count: this.#junk.size,
      first: described.flatMap(([key, reason]) => (reason === '' ? [] : [{ key, reason }])),
    };
  }

  /** The leases of a list of all keys. */
  read(kvs: readonly KeyValue[]): readonly Lease[] {
    this.#junk.clear();
    return kvs.map((kv) => this.#parse(kv)).filter((lease) => lease !== undefined);
  }

  /** The sum of events: of several changes to one key the last counts. */
  deltaOf(events: readonly WatchEvent[]): LeaseDelta {
    const changes = new Map<string, Lease | undefined>();
    let revision = 0;
    for (const event of events) {
      const key = event.type === 'put' ? event.kv.key : event.key;
      revision = Math.max(revision, revisionOf(event));
      if (event.type !== 'put') this.#junk.delete(key);
      changes.set(key, event.type === 'put' ? this.#parse(event.kv) : undefined);
    }
    const put = [...changes.values()].filter((lease) => lease !== undefined);
    const removed = [...changes].filter(([, lease]) => lease === undefined).map(([key]) => key);
    return { type: 'delta', put, removed, revision };
  }

  #parse(kv: KeyValue): Lease | undefined {
    const parsed = parseLease(this.#options.subnetsPrefix, kv);
    if ('lease' in parsed) {
      this.#logged.delete(kv.key);
      this.#junk.delete(kv.key);
      return parsed.lease;
    }
    this.#options.activity?.count('lease-skipped');
    const isDescribed = this.#junk.has(kv.key) || this.#junk.size < maxProblemKeys;
    this.#junk.set(kv.key, isDescribed ? parsed.problem : '');
    if (!this.#logged.has(kv.key) && this.#logged.size < maxProblemKeys) {
      this.#logged.add(kv.key);
      this.#options.log.warn({ event: 'lease-skipped', revision: kv.modRevision }, parsed.problem);
    }
    return undefined;
  }
}

/** The revision of an event. */
export function revisionOf(event: WatchEvent): number {
  return event.type === 'put' ? event.kv.modRevision : event.modRevision;
}

/** The leases that an update brings, and the keys that it removes by name. A snapshot names none. */
export function changesOf(update: LeaseUpdate): Pick<LeaseDelta, 'put' | 'removed'> {
  return update.type === 'snapshot' ? { put: update.leases, removed: [] } : update;
}

/**
 * Warns, once, when the cluster has leases with an IPv4 subnet alone beside leases with both: an IPv4-only
 * flanneld crashes when it sees a dual-stack key, and a dual-stack flanneld when it allocates and sees an
 * IPv4-only one. Hosts that all run this program are safe, but no key shows which program put it.
 */
export class FamilyMix {
  readonly #options: Pick<ReaderOptions, 'log' | 'subnetsPrefix'>;
  readonly #ipv4Only = new Set<string>();
  readonly #dual = new Set<string>();
  #warned = false;

  constructor(options: Pick<ReaderOptions, 'log' | 'subnetsPrefix'>) {
    this.#options = options;
  }

  /** Takes in all keys except that of this host, for which the families count that are on. */
  list(keys: readonly string[], on: PerFamily<unknown>): void {
    const anyDual = on.ipv6 !== undefined || keys.some((key) => key.includes('&'));
    if (this.#warned || !anyDual) return;
    this.#clear();
    for (const key of keys) this.#add(key, parseSubnetKey(this.#options.subnetsPrefix, key));
    this.#add("this host's", on);
    this.#warnIfMixed();
  }

  /** Takes in an update of the lease watch. */
  observe(update: LeaseUpdate): void {
    if (this.#warned) return;
    if (update.type === 'snapshot') this.#clear();
    const { put, removed } = changesOf(update);
    for (const key of removed) {
      this.#ipv4Only.delete(key);
      this.#dual.delete(key);
    }
    for (const { key, subnets } of put) this.#add(key, subnets);
    this.#warnIfMixed();
  }

  #clear(): void {
    this.#ipv4Only.clear();
    this.#dual.clear();
  }

  #add(key: string, subnets: PerFamily<unknown> | undefined): void {
    if (subnets?.ipv4 === undefined) return;
    (subnets.ipv6 === undefined ? this.#ipv4Only : this.#dual).add(key);
  }

  #warnIfMixed(): void {
    const [ipv4Only] = this.#ipv4Only;
    const [dual] = this.#dual;
    if (ipv4Only === undefined || dual === undefined) return;
    this.#warned = true;
    const fields = { event: 'mixed-families', ipv4Only: this.#ipv4Only.size, dualStack: this.#dual.size };
    this.#clear();
    this.#options.log.warn(
      fields,
      `there are leases of IPv4 alone (${ipv4Only}) and of both families (${dual}): a flanneld without ` +
        'IPv6 crashes when it sees the latter, one with IPv6 may crash when it sees the former. Move every host ' +
        'from flanneld to this program before you set EnableIPv6, or set it to false again',
    );
  }
}
