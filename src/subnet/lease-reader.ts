import type { Activity } from '../runtime/activity.ts';
import type { Logger } from '../runtime/logger.ts';
import { type Lease, parseLease } from './lease.ts';
import type { LeaseDelta } from './lease-update.ts';
import type { KeyValue, WatchEvent } from './registry.ts';

/** More junk keys than this are not told apart any more: memory is worth more than a log line. */
const maxProblemKeys = 1_000;

export interface LeaseReaderOptions {
  readonly log: Logger;
  /** Told of what is skipped. */
  readonly activity?: Activity;
  /** `<prefix>/subnets/`, with the slash. */
  readonly subnetsPrefix: string;
}

/** Reads the leases out of keys and events; what is none is mentioned once. */
export class LeaseReader {
  readonly #options: LeaseReaderOptions;
  readonly #problemKeys = new Set<string>();

  constructor(options: LeaseReaderOptions) {
    this.#options = options;
  }

  /** The leases among the keys. */
  read(kvs: readonly KeyValue[]): readonly Lease[] {
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
      return parsed.lease;
    }
    this.#options.activity?.count('lease-skipped');
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
