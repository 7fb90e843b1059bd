import { FlannelError } from '../../../runtime/errors.ts';
import { counted, plural } from '../../../runtime/texts.ts';
import type { PoolConfig } from '../../config/config.ts';
import { occupiedSubnets } from '../../keys.ts';
import type { KeyValue } from '../../registry/registry.ts';
import type { LeaseOptions } from '../own-lease.ts';
import { poolSize } from '../pool.ts';

/** The one thing that asks etcd for peers' expiry: so many leases at most, and only when there is no subnet to be had. */
const expiriesAsked = 32;
/** Nor more often than this: who waits for a subnet looks every few seconds. */
const askAgainMs = 600_000;

const hourS = 3_600;
/** Coarse, so that the same thing is not said anew every minute. */
const spans: readonly (readonly [number, string])[] = [
  [hourS, 'within an hour'],
  [6 * hourS, 'within 6 hours'],
  [24 * hourS, 'within a day'],
  [Number.POSITIVE_INFINITY, 'in more than a day'],
];

/** Every subnet of the pool is leased or overlapped by a lease. */
export class PoolExhaustedError extends FlannelError {
  constructor(pool: PoolConfig, subnetsPrefix: string, used: string, expiry: string) {
    const { min, max } = pool;
    const size = poolSize(pool);
    const all =
      size === 1n ? `the only one, ${min.text}, is` : `all ${size} from ${min.text} to ${max.text} are`;
    super('POOL_EXHAUSTED', `no free subnet: ${all} used, by ${used} under ${subnetsPrefix}${expiry}`, {
      remedy:
        `Enlarge ${pool.min.family === 4 ? 'Network or SubnetMin..SubnetMax' : 'IPv6Network or IPv6SubnetMin..IPv6SubnetMax'}, ` +
        'or release the leases of hosts that are gone (flanneld-ts lease release)',
    });
  }
}

/** Says how a pool without a free subnet stands. It remembers what etcd said of the leases' expiry. */
export class Exhaustion {
  readonly #monotonicMs: () => number;
  #expiry = '';
  #askedAtMs = Number.NEGATIVE_INFINITY;

  constructor(monotonicMs: () => number) {
    this.#monotonicMs = monotonicMs;
  }

  /** Rejects as the registry does. `kvs`: all keys under the prefix. */
  async errorFor(
    { registry, subnetsPrefix }: LeaseOptions,
    pool: PoolConfig,
    kvs: readonly KeyValue[],
    signal: AbortSignal,
  ): Promise<PoolExhaustedError> {
    const keys = kvs.filter(({ key }) =>
      occupiedSubnets(subnetsPrefix, key).some(({ family }) => family === pool.min.family),
    );
    const leaseIds = new Set(keys.map(({ lease }) => lease).filter((id) => id !== '0'));
    if (this.#monotonicMs() - this.#askedAtMs >= askAgainMs) {
      const asked = [...leaseIds].slice(0, expiriesAsked);
      let soonestS = Number.POSITIVE_INFINITY;
      for (const id of asked) {
        const { ttlSeconds } = await registry.leaseTimeToLive(id, signal);
        if (ttlSeconds >= 0) soonestS = Math.min(soonestS, ttlSeconds);
      }
      this.#askedAtMs = this.#monotonicMs();
      this.#expiry = expiryText(soonestS, asked.length, leaseIds.size);
    }
    const reservations = keys.filter(({ lease }) => lease === '0').length;
    const used = `${counted(keys.length, 'key')}, ${reservations} of them ${plural(reservations, 'a reservation', 'reservations')},`;
    return new PoolExhaustedError(pool, subnetsPrefix, used, this.#expiry);
  }
}

function expiryText(soonestS: number, asked: number, leases: number): string {
  const span = spans.find(([limitS]) => soonestS <= limitS);
  if (asked === 0 || span === undefined) return '; none of them ever expires';
  const which =
    asked < leases ? `the first to end of ${asked} that were looked at ends` : 'the first to end does so';
  return `; ${which} ${span[1]}, unless its host renews it`;
}
