import type { PerFamily } from '../ip/ip.ts';
import { FlannelError } from '../runtime/errors.ts';
import type { Logger } from '../runtime/logger.ts';
import type { PoolConfig } from './config.ts';
import type { Grants } from './grants.ts';
import type { Registry } from './registry.ts';
import type { LeaseSubnets } from './subnet-key.ts';

/** What every step of getting and keeping a lease needs. */
export interface LeaseOptions {
  readonly registry: Registry;
  readonly grants: Grants;
  readonly log: Logger;
  /** `<prefix>/subnets/`, with the slash. */
  readonly subnetsPrefix: string;
  /** This host's addresses: the gateways under which peers reach its subnets. One for each family that is on. */
  readonly addresses: PerFamily<string>;
  /** The TTL to ask for when a lease is granted. */
  readonly leaseTtlSeconds: number;
}

/** The lease this host holds. */
export interface OwnLease {
  readonly key: string;
  readonly subnets: LeaseSubnets;
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
  constructor(pool: PoolConfig, subnetsPrefix: string, size: bigint, keys: number, reservations: number) {
    super(
      'POOL_EXHAUSTED',
      `no free subnet: all ${size} from ${pool.min.text} to ${pool.max.text} are used, by ${keys} keys under ` +
        `${subnetsPrefix}, ${reservations} of them reservations`,
      {
        remedy: 'Enlarge Network or SubnetMin..SubnetMax, or delete the keys of hosts that are gone',
      },
    );
  }
}

/** Other hosts were faster again and again. */
export class RaceLostError extends FlannelError {
  constructor(subnetsPrefix: string) {
    super('RACE_LOST', `other hosts keep changing ${subnetsPrefix} at the same moment; trying again`);
  }
}

/** A lease's subnets for a line: `172.20.9.0/24`, or both of a dual-stack host. */
export function subnetsText({ ipv4, ipv6 }: LeaseSubnets): string {
  return [ipv4, ipv6].flatMap((subnet) => (subnet === undefined ? [] : [subnet.text])).join(' and ');
}
