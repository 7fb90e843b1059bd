import type { PerFamily } from '../../../ip/ip.ts';
import type { Clock, Random } from '../../../runtime/effects.ts';
import type { PoolConfig } from '../../config/config.ts';
import type { LeaseSubnets } from '../../keys.ts';
import type { LeaseOptions } from '../own-lease.ts';
import type { FamilyMix } from '../watch/reader.ts';
import type { Exhaustion } from './pool-exhausted.ts';

/** What getting a lease needs beside what keeping one does. */
export interface AcquireOptions extends LeaseOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Where subnets come from, for each family that is on. */
  readonly pools: PerFamily<PoolConfig>;
  /** Subnets to prefer when nothing else speaks against them: those in the previous subnet.env. */
  readonly hint?: LeaseSubnets;
  /**
   * A number below 2^31 that no other host has, the same until this one is booted again; our etcd leases carry it (see
   * Grants). With it, a lease under our address that may be another host's is probed before it is touched.
   */
  readonly hostIdentity?: number;
  /** Absent: whether another host uses this host's addresses is not known. */
  readonly addressUse?: AddressUse;
  /** Leases that were granted here and that another daemon answered for, under the values they had: not asked for again. */
  readonly theirs: Map<string, string>;
  readonly exhaustion: Exhaustion;
  readonly mix: FamilyMix;
}

/** Whether another host uses one of this host's addresses, as the link tells: etcd cannot, when that keeps a host from it. */
export interface AddressUse {
  /** The MAC address of the other host, as far as is known. */
  readonly rival: string | undefined;
  /** Whether the link was asked for our IPv4 address as it is now, and no other host has it. */
  readonly alone: boolean;
  /** Resolves once `rival` is known as far as it can be. */
  looked(signal: AbortSignal): Promise<void>;
  /** Resolves when `rival` is not `seen`, at once or later. */
  changed(seen: string | undefined, signal: AbortSignal): Promise<void>;
}
