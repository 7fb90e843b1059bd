import { counted, plural } from '../../../runtime/texts.ts';
import type { TroubleLog } from '../../../runtime/trouble.ts';
import type { Lease } from '../lease.ts';
import { changesOf, type LeaseSnapshot, type LeaseUpdate } from './reader.ts';

interface DeliveredOptions {
  readonly trouble: TroubleLog;
  readonly subnetsPrefix: string;
}

/** An update may remove this many leases at once without a second list. */
const unquestioned = 3;
const what = 'mass-removal';

/**
 * The leases that the consumer has. Doubts an update that removes most of those that routes follow from: more
 * than three, and more than half of them. The own lease may count as a peer's, which costs one list at most.
 */
export class DeliveredLeases {
  readonly #options: DeliveredOptions;
  /** By key, see {@link versionOf}. */
  readonly #versions = new Map<string, string>();
  /** Of those that a route can follow from. */
  #peers = 0;
  #hasTaken = false;

  constructor(options: DeliveredOptions) {
    this.#options = options;
  }

  /** Undefined before the first update. */
  get count(): number | undefined {
    return this.#hasTaken ? this.#versions.size : undefined;
  }

  /** Whether the snapshot holds nothing else. */
  equals({ leases }: LeaseSnapshot): boolean {
    const same = leases.every((lease) => this.#versions.get(lease.key) === versionOf(lease));
    return same && leases.length === this.#versions.size;
  }

  /**
   * Whether a second list has to confirm the update before the consumer gets it; tells the operator if so.
   * `restored`: it has to confirm any removal, because not all hosts have taken their leases again yet.
   */
  doubts(update: LeaseUpdate, restored: boolean): boolean {
    const gone = restored ? this.#goneOf(update) || undefined : this.#massOf(update);
    if (gone === undefined) return false;
    const { trouble, subnetsPrefix } = this.#options;
    const known = this.#peers;
    const text = `${gone} of ${counted(known, 'lease')} under ${subnetsPrefix} ${plural(gone, 'is', 'are')}`;
    const fields = { gone, known, revision: update.revision };
    trouble.report(what, `${text} gone at once; their routes stay until another list confirms it`, fields);
    return true;
  }

  /** Takes in an update that the consumer gets. */
  note(update: LeaseUpdate): void {
    const gone = this.#massOf(update);
    const verdict =
      gone === undefined
        ? 'is not confirmed'
        : `is confirmed: ${gone} of ${this.#peers} ${plural(gone, 'is', 'are')} gone`;
    this.#options.trouble.clear(what, `the bulk removal of leases ${verdict}`);
    this.#hasTaken = true;
    const { put, removed } = changesOf(update);
    if (update.type === 'snapshot') {
      this.#versions.clear();
      this.#peers = 0;
    }
    for (const key of removed) this.#forget(key);
    for (const lease of put) {
      this.#forget(lease.key);
      this.#versions.set(lease.key, versionOf(lease));
      if (isPeer(lease)) this.#peers += 1;
    }
  }

  #forget(key: string): void {
    if (this.#isPeer(key)) this.#peers -= 1;
    this.#versions.delete(key);
  }

  #isPeer(key: string): boolean {
    return this.#versions.get(key)?.startsWith(peerMark) === true;
  }

  /** How many leases a bulk removal removes; undefined for another update. */
  #massOf(update: LeaseUpdate): number | undefined {
    const gone = this.#goneOf(update);
    return gone > unquestioned && 2 * gone > this.#peers ? gone : undefined;
  }

  #goneOf(update: LeaseUpdate): number {
    const isKnown = (key: string) => this.#isPeer(key);
    const isSpoilt = (lease: Lease) => isKnown(lease.key) && !isPeer(lease);
    return update.type === 'delta'
      ? update.removed.filter(isKnown).length + update.put.filter(isSpoilt).length
      : this.#peers - update.leases.filter((lease) => isKnown(lease.key) && isPeer(lease)).length;
  }
}

/** Before the version of a lease that a route can follow from. */
const peerMark = '+';

/** After a restore a key may be put again at the revision that it had before: who has it counts as well. */
function versionOf(lease: Lease): string {
  const { publicIP, publicIPv6, backendType } = lease.value;
  const mark = isPeer(lease) ? peerMark : '-';
  return [mark, lease.modRevision, lease.leaseId, publicIP, publicIPv6, backendType].join(' ');
}

function isPeer({ value: { backendType, publicIP, publicIPv6 } }: Lease): boolean {
  return backendType === 'host-gw' && (publicIP ?? publicIPv6) !== undefined;
}
