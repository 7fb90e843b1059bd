import type { Clock } from '../src/runtime/effects.ts';
import { Refusal } from './etcd-store.ts';

/** etcd's shortest lease: one and a half election timeouts, rounded up to seconds. */
const minTtlSeconds = 2;

interface SimLease {
  readonly ttlSeconds: number;
  expiresMs: number;
}

/** The leases of a simulated cluster; they expire on the given clock while the cluster has a leader. */
export class LeaseTable {
  readonly #clock: Clock;
  readonly #onEnd: (id: string, expired: boolean) => void;
  #leases = new Map<string, SimLease>();
  #nextId = 7_587_870_000_000_000_001n;
  #timer = new AbortController();
  #dueMs = Number.POSITIVE_INFINITY;
  #paused = false;

  /** `onEnd` deletes the keys of a lease that expired or was revoked. */
  constructor(clock: Clock, onEnd: (id: string, expired: boolean) => void) {
    this.#clock = clock;
    this.#onEnd = onEnd;
  }

  get ids(): readonly string[] {
    return [...this.#leases.keys()];
  }

  has(id: string): boolean {
    return this.#leases.has(id);
  }

  grant(
    ttlSeconds: number,
    id = String(this.#nextId++),
  ): { readonly id: string; readonly ttlSeconds: number } {
    if (this.#leases.has(id)) throw new Refusal('PROTOCOL', 'etcdserver: lease already exists');
    const ttl = Math.max(minTtlSeconds, ttlSeconds);
    const expiresMs = this.#clock.monotonic() + ttl * 1000;
    this.#leases.set(id, { ttlSeconds: ttl, expiresMs });
    this.#arm(expiresMs);
    return { id, ttlSeconds: ttl };
  }

  /** The TTL the lease has again, 0 when there is none. */
  keepAlive(id: string): number {
    const lease = this.#leases.get(id);
    if (lease === undefined) return 0;
    lease.expiresMs = this.#clock.monotonic() + lease.ttlSeconds * 1000;
    return lease.ttlSeconds;
  }

  timeToLive(id: string): { readonly ttlSeconds: number; readonly grantedTtlSeconds: number } {
    const lease = this.#leases.get(id);
    if (lease === undefined) return { ttlSeconds: -1, grantedTtlSeconds: 0 };
    const leftMs = Math.max(0, lease.expiresMs - this.#clock.monotonic());
    return { ttlSeconds: Math.floor(leftMs / 1000), grantedTtlSeconds: lease.ttlSeconds };
  }

  revoke(id: string): boolean {
    if (!this.#leases.delete(id)) return false;
    if (this.#leases.size === 0) this.#disarm();
    this.#onEnd(id, false);
    return true;
  }

  /** The leader is lost: nothing expires. */
  pause(): void {
    this.#paused = true;
    this.#disarm();
  }

  /** A new leader gives every lease its whole TTL again, because it does not know when it was renewed last. */
  resume(): void {
    this.#paused = false;
    for (const lease of this.#leases.values())
      lease.expiresMs = this.#clock.monotonic() + lease.ttlSeconds * 1000;
    this.#disarm();
    this.#armAll();
  }

  /** Id and TTL of every lease, for a snapshot. */
  save(): ReadonlyMap<string, number> {
    return new Map([...this.#leases].map(([id, { ttlSeconds }]) => [id, ttlSeconds]));
  }

  load(saved: ReadonlyMap<string, number>): void {
    this.#leases = new Map([...saved].map(([id, ttlSeconds]) => [id, { ttlSeconds, expiresMs: 0 }]));
    this.resume();
  }

  /** Ends the timer. */
  close(): void {
    this.#timer.abort();
  }

  /** One timer for all: it is set for the earliest end known, and looks anew when it fires (keepalives only defer ends). */
  #arm(dueMs: number): void {
    if (this.#paused || dueMs >= this.#dueMs) return;
    this.#disarm();
    this.#dueMs = dueMs;
    void this.#clock.sleep(dueMs - this.#clock.monotonic(), this.#timer.signal).then(
      () => this.#expire(),
      () => undefined,
    );
  }

  #disarm(): void {
    this.#timer.abort();
    this.#timer = new AbortController();
    this.#dueMs = Number.POSITIVE_INFINITY;
  }

  #expire(): void {
    this.#dueMs = Number.POSITIVE_INFINITY;
    const nowMs = this.#clock.monotonic();
    for (const [id, lease] of this.#leases) {
      if (lease.expiresMs > nowMs) continue;
      this.#leases.delete(id);
      this.#onEnd(id, true);
    }
    this.#armAll();
  }

  #armAll(): void {
    let dueMs = Number.POSITIVE_INFINITY;
    for (const lease of this.#leases.values()) dueMs = Math.min(dueMs, lease.expiresMs);
    this.#arm(dueMs);
  }
}
