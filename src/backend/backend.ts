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
  /** One line per thing that keeps peers from being reached; empty when all is well. */
  readonly problems: readonly string[];
  readonly peers: readonly PeerRoute[];
  /** Leases of peers that cannot be routed to, and why. */
  readonly refused: readonly RefusedLease[];
  /** Wall-clock ms when the kernel was last seen to be as the leases want it; absent before the first time. */
  readonly syncedAtMs?: number;
}

export interface RefusedLease {
  readonly key: string;
  readonly reason: string;
}

/** The route to a peer's subnet of one family. */
export interface PeerRoute {
  /** The etcd key of its lease. */
  readonly key: string;
  readonly dst: string;
  readonly gateway: string;
  readonly state: 'installed' | 'pending' | 'parked' | 'conflict';
  /** Why it is not installed. */
  readonly reason?: string;
}
