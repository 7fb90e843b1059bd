import type { Subnet } from '../ip/ip.ts';
import { FlannelError } from '../runtime/errors.ts';
import type { PoolConfig } from './config.ts';

/** The lease this host holds. */
export interface OwnLease {
  readonly key: string;
  readonly subnet: Subnet;
  /** The value we wrote or found, byte for byte. */
  readonly value: string;
  /** Decimal etcd lease id; '0' for a reservation, which has none and never gets one. */
  readonly leaseId: string;
  /** The TTL that the last grant or keepalive announced, in seconds; 0 for a reservation. */
  readonly ttlSeconds: number;
  /** How it was come by. */
  readonly origin: 'reused' | 'hint' | 'new' | 'retaken';
}

/** Every subnet of the pool is leased or overlapped by a lease. */
export class PoolExhaustedError extends FlannelError {
  readonly size: number;
  readonly used: number;

  constructor(pool: PoolConfig, size: number, used: number) {
    super(
      'POOL_EXHAUSTED',
      `no free subnet: all ${size} of ${pool.min.text} to ${pool.max.text} are used (${used} leases)`,
      {
        transient: true,
        remedy: 'Enlarge Network or SubnetMin..SubnetMax, or delete the leases of hosts that are gone.',
      },
    );
    this.size = size;
    this.used = used;
  }
}

/**
 * How long to wait before the next keepalive, in milliseconds: min((TTL − margin) / 3, TTL / 3), so that two may fail and
 * the third still comes before the margin is reached. A TTL below the margin is renewed every third of itself.
 */
export function renewIntervalMs(ttlSeconds: number, renewMarginMs: number): number {
  const ttlMs = ttlSeconds * 1000;
  const beforeMarginMs = ttlMs > renewMarginMs ? (ttlMs - renewMarginMs) / 3 : ttlMs / 3;
  return Math.max(500, Math.min(beforeMarginMs, ttlMs / 3));
}
