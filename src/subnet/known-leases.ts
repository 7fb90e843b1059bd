import type { LeaseSnapshot, LeaseUpdate } from './lease-update.ts';

/** What a consumer was told of: each lease by the revision it was last changed at. */
export class KnownLeases {
  readonly #modRevisions = new Map<string, number>();

  /** Takes in what the consumer is told now. */
  take(update: LeaseUpdate): void {
    if (update.type === 'snapshot') this.#modRevisions.clear();
    else for (const key of update.removed) this.#modRevisions.delete(key);
    for (const lease of update.type === 'snapshot' ? update.leases : update.put)
      this.#modRevisions.set(lease.key, lease.modRevision);
  }

  /** Whether the snapshot holds nothing else. */
  equals({ leases }: LeaseSnapshot): boolean {
    const same = leases.every(({ key, modRevision }) => this.#modRevisions.get(key) === modRevision);
    return same && leases.length === this.#modRevisions.size;
  }
}
