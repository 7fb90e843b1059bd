import type { Activity } from '../../../runtime/activity.ts';
import type { Logger } from '../../../runtime/effects.ts';
import type { KeyValue, WatchEvent } from '../../registry/registry.ts';
import { type Lease, parseLease } from '../lease.ts';
import type { LeaseDelta } from './lease-watch.ts';

/** More junk keys than this are not told apart in the log any more, nor described: memory is worth more. */
const maxProblemKeys = 1_000;

const mostDescribed = 50;

/** Keys beside the leases that are none, or whose value is none. */
export interface JunkKeys {
  readonly count: number;
  /** The first of them, and what is wrong with each. */
  readonly first: readonly { readonly key: string; readonly reason: string }[];
}

export interface LeaseReaderOptions {
  readonly log: Logger;
  /** Told of what is skipped. */
  readonly activity?: Activity;
  /** `<prefix>/subnets/`, with the slash. */
  readonly subnetsPrefix: string;
}

/** Reads the leases out of keys and events; what is none is mentioned once, and counted while it is there. */
export class LeaseReader {
  readonly #options: LeaseReaderOptions;
  /** What is wrong with each key of now that is no lease; empty for those beyond the first thousand. */
  readonly #junk = new Map<string, string>();
  readonly #problemKeys = new Set<string>();

  constructor(options: LeaseReaderOptions) {
    this.#options = options;
  }

  /** What there is just now that is no lease. */
  get junk(): JunkKeys {
    const described = [...this.#junk].slice(0, mostDescribed);
    return {
      count: this.#junk.size,
      first: described.flatMap(([key, reason]) => (reason === '' ? [] : [{ key, reason }])),
    };
  }

  /** The leases among the keys, which are all there are. */
  read(kvs: readonly KeyValue[]): readonly Lease[] {
    this.#junk.clear();
    return kvs.map((kv) => this.#parse(kv)).filter((lease) => lease !== undefined);
  }

  /** What events come to. */
  deltaOf(events: readonly WatchEvent[]): LeaseDelta {
    // Several changes of one key collapse into the last: only states matter, never steps.
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
      this.#problemKeys.delete(kv.key);
      this.#junk.delete(kv.key);
      return parsed.lease;
    }
    this.#options.activity?.count('lease-skipped');
    const isDescribed = this.#junk.has(kv.key) || this.#junk.size < maxProblemKeys;
    this.#junk.set(kv.key, isDescribed ? parsed.problem : '');
    if (!this.#problemKeys.has(kv.key) && this.#problemKeys.size < maxProblemKeys) {
      // Kept also when the key is deleted: what comes and goes all day is mentioned once.
      this.#problemKeys.add(kv.key);
      this.#options.log.warn({ event: 'lease-skipped', revision: kv.modRevision }, parsed.problem);
    }
    return undefined;
  }
}

/** The revision an event happened at. */
export function revisionOf(event: WatchEvent): number {
  return event.type === 'put' ? event.kv.modRevision : event.modRevision;
}
