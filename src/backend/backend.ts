import type { PerFamily } from '../ip/ip.ts';
import type { LeaseUpdate } from '../subnet/lease-update.ts';

/** Makes containers of other hosts reachable, in step with the leases. host-gw does it with one route per peer. */
export interface Backend {
  /** Takes over a snapshot or a change of the leases. Never throws, never waits; the work is done by `run`. */
  update(update: LeaseUpdate): void;
  /** Works until `signal` aborts, then rejects with its reason and leaves everything installed as it is. */
  run(signal: AbortSignal): Promise<never>;
  /** Resolves once everything the first snapshot asks for has been tried; rejects with `signal.reason`. */
  synced(signal: AbortSignal): Promise<void>;
  /** Takes over that this host's peers reach it at other addresses now. Never throws, never waits. */
  moveTo(addresses: PerFamily<string>): void;
  /** Takes over the addresses of etcd, of either family: no route may lead to them. Never throws, never waits. */
  protect(addresses: readonly string[]): void;
  status(): BackendStatus;
}

export interface BackendStatus {
  readonly peers: readonly PeerRoute[];
  /** Leases of peers that cannot be routed to, and why. */
  readonly refused: readonly RefusedLease[];
  /** Peers' routes that lead out of the cluster's network: they are installed like any other. */
  readonly outside: readonly OutsideRoute[];
  /** Wall-clock ms when the kernel was last seen to be as the leases want it; absent before the first time. */
  readonly syncedAtMs?: number;
}

export interface RefusedLease {
  readonly key: string;
  readonly reason: string;
}

/** A route that a lease outside the cluster's network asks for. */
export interface OutsideRoute {
  readonly key: string;
  readonly dst: string;
  readonly network: string;
}

/** Why something is not as a lease asks for, and whether this host or the peer is to blame. */
export interface Reason {
  readonly text: string;
  readonly fault: 'own' | 'peer';
  /** What an operator can do about it. */
  readonly remedy?: string;
}

/** The route to a peer's subnet of one family. */
export interface PeerRoute {
  /** The etcd key of its lease. */
  readonly key: string;
  readonly dst: string;
  readonly gateway: string;
  readonly state: 'installed' | 'pending' | 'parked' | 'conflict';
  /** Why it is not installed; absent while it is being put there. */
  readonly reason?: Reason;
  /** Wall-clock ms since when it is in this state. */
  readonly sinceMs: number;
}
