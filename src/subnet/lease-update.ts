import type { Lease } from './lease.ts';

/** What a consumer of a lease watch sees: a snapshot, then deltas, then perhaps another snapshot. Never a gap. */
export type LeaseUpdate = LeaseSnapshot | LeaseDelta;

export interface LeaseSnapshot {
  readonly type: 'snapshot';
  readonly leases: readonly Lease[];
  readonly revision: number;
}

export interface LeaseDelta {
  readonly type: 'delta';
  readonly put: readonly Lease[];
  /** Keys that hold no usable lease any more: deleted, or overwritten by something that cannot be read. */
  readonly removed: readonly string[];
  readonly revision: number;
}
