import { counted, plural } from '../../../runtime/texts.ts';
import type { TroubleLog } from '../../../runtime/trouble.ts';
import type { Lease } from '../lease.ts';
import type { LeaseUpdate } from './lease-watch.ts';

/** So few leases may go at once without a question. */
const unquestioned = 3;
const what = 'mass-removal';

/**
 * Knows the leases that a consumer was told of and that a route can come of, and doubts an update that takes most of them
 * away: more than three, and more than half of the peers'. The own lease is not told apart here: that one may be counted as
 * a peer's costs a list at most.
 */
export class MassRemovals {
  readonly #trouble: TroubleLog;
  readonly #subnetsPrefix: string;
  readonly #keys = new Set<string>();

  constructor(trouble: TroubleLog, subnetsPrefix: string) {
    this.#trouble = trouble;
    this.#subnetsPrefix = subnetsPrefix;
  }

  /**
   * Whether the update has to be confirmed before anybody is told; the operator is, then. `restored`: any removal has to, since
   * a restore takes leases from hosts of which some may have taken theirs again by now, and others not yet.
   */
  doubts(update: LeaseUpdate, restored = false): boolean {
    const gone = restored ? this.#goneOf(update) || undefined : this.#massOf(update);
    if (gone === undefined) return false;
    const known = this.#keys.size;
    const text = `${gone} of ${counted(known, 'lease')} under ${this.#subnetsPrefix} ${plural(gone, 'is', 'are')} gone at once`;
    const fields = { gone, known, revision: update.revision };
    this.#trouble.report(what, `${text}; their routes stay until another list confirms it`, fields);
    return true;
  }

  /** Takes in what the consumer is told now. */
  take(update: LeaseUpdate): void {
    const gone = this.#massOf(update);
    const verdict =
      gone === undefined
        ? 'is not confirmed'
        : `is confirmed: ${gone} of ${this.#keys.size} ${plural(gone, 'is', 'are')} gone`;
    this.#trouble.clear(what, `the bulk removal of leases ${verdict}`);
    if (update.type === 'snapshot') this.#keys.clear();
    else for (const key of update.removed) this.#keys.delete(key);
    for (const lease of update.type === 'snapshot' ? update.leases : update.put) {
      if (isPeer(lease)) this.#keys.add(lease.key);
      else this.#keys.delete(lease.key);
    }
  }

  #massOf(update: LeaseUpdate): number | undefined {
    const gone = this.#goneOf(update);
    return gone > unquestioned && 2 * gone > this.#keys.size ? gone : undefined;
  }

  #goneOf(update: LeaseUpdate): number {
    const isKnown = (key: string) => this.#keys.has(key);
    const isSpoilt = (lease: Lease) => isKnown(lease.key) && !isPeer(lease);
    return update.type === 'delta'
      ? update.removed.filter(isKnown).length + update.put.filter(isSpoilt).length
      : this.#keys.size - update.leases.filter((lease) => isKnown(lease.key) && isPeer(lease)).length;
  }
}

function isPeer({ value: { backendType, publicIP, publicIPv6 } }: Lease): boolean {
  return backendType === 'host-gw' && (publicIP ?? publicIPv6) !== undefined;
}
