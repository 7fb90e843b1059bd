import type { PerFamily, Subnet } from '../ip/ip.ts';
import { fits } from './allocate.ts';
import type { PoolConfig } from './config.ts';
import type { Grants } from './grants.ts';
import { isOwnLease } from './holder.ts';
import { type Lease, parseLease } from './lease.ts';
import type { KeyValue } from './registry.ts';
import type { LeaseSubnets } from './subnet-key.ts';
import { overlapsKey } from './take.ts';

/** A lease of this host, and those of its subnets that it goes on with. */
export interface Candidate {
  readonly lease: Lease;
  /** At least one. */
  readonly kept: LeaseSubnets;
  /** The key names exactly the subnets to be had: a kept one for each family that is on, and no other. */
  readonly complete: boolean;
}

export interface OwnLeases {
  /** The one to go on with. */
  readonly chosen: Candidate | undefined;
  /** Those to be given back before another is taken. */
  readonly unfit: readonly Lease[];
  /** Keys that are left alone. */
  readonly others: readonly string[];
}

interface OwnKeysOptions {
  readonly subnetsPrefix: string;
  readonly addresses: PerFamily<string>;
  readonly pools: PerFamily<PoolConfig>;
  readonly grants: Pick<Grants, 'isOurs'>;
  readonly hint?: LeaseSubnets;
}

/**
 * Of the leases that carry our address a fitting one: a reservation (a key without a lease) first, then one that needs no
 * change, then one whose IPv4 subnet can stay, then the first in byte order, as flanneld chooses. When none fits they are
 * given back, but for reservations, which are the operator's.
 *
 * When none carries our address, that counts which this host was granted since it was booted and had when subnet.env was
 * written: the address changed while no daemon ran. The subnet stays, as when it changes under a running one.
 *
 * A subnet that overlaps an older key of somebody else does not fit: it is what a crash left before we could give way to it.
 */
export function findOwn(options: OwnKeysOptions, kvs: readonly KeyValue[]): OwnLeases {
  const named = ownLeases(options, kvs);
  const own = named.length > 0 ? named : formerLeases(options, kvs);
  const ownKeys = new Set(own.map(({ key }) => key));
  const foreign = (kv: KeyValue) => !ownKeys.has(kv.key);
  const [chosen] = own
    .map((lease) => candidate(options, lease, kvs, foreign))
    .filter(({ kept }) => kept.ipv4 !== undefined || kept.ipv6 !== undefined)
    // Sorting is stable: what is equal stays in byte order.
    .toSorted((a, b) => rank(a) - rank(b));
  const rest = own.filter((lease) => lease !== chosen?.lease);
  const unfit = chosen === undefined ? rest.filter(({ leaseId }) => leaseId !== '0') : [];
  const others = rest.filter((lease) => !unfit.includes(lease)).map(({ key }) => key);
  return { chosen, unfit, others };
}

function rank({ lease, kept, complete }: Candidate): number {
  return (lease.leaseId === '0' ? 0 : 4) + (complete ? 0 : 2) + (kept.ipv4 === undefined ? 1 : 0);
}

function ownLeases({ addresses, subnetsPrefix }: OwnKeysOptions, kvs: readonly KeyValue[]): Lease[] {
  const own: Lease[] = [];
  for (const kv of kvs) {
    if (!mayName(addresses, kv.value)) continue;
    const parsed = parseLease(subnetsPrefix, kv);
    if ('lease' in parsed && isOwnLease(addresses, parsed.lease)) own.push(parsed.lease);
  }
  return own;
}

function formerLeases({ grants, hint, subnetsPrefix }: OwnKeysOptions, kvs: readonly KeyValue[]): Lease[] {
  return kvs.flatMap((kv) => {
    const parsed = grants.isOurs(kv.lease) ? parseLease(subnetsPrefix, kv) : undefined;
    return parsed !== undefined && 'lease' in parsed && isHinted(hint, parsed.lease) ? [parsed.lease] : [];
  });
}

/** Whether the hint names the lease's subnet: the IPv4 one, if it has any. */
export function isHinted(hint: LeaseSubnets | undefined, { subnets }: Lease): boolean {
  const family = subnets.ipv4 === undefined ? 'ipv6' : 'ipv4';
  return subnets[family]?.text === hint?.[family]?.text;
}

/**
 * Parsing tens of thousands of values only to find one's own costs more than looking for the text (or an escape) first. An
 * IPv6 address has many spellings, but counts only where no IPv4 address does.
 */
function mayName({ ipv4, ipv6 }: PerFamily<string>, value: string): boolean {
  if (value.includes('\\')) return true;
  if (ipv4 !== undefined && value.includes(ipv4)) return true;
  if (ipv6 === undefined || (ipv4 !== undefined && /"PublicIP"\s*:\s*"[1-9]/i.test(value))) return false;
  return /"[^"]*:[^"]*:[^"]*"/.test(value);
}

function candidate(
  { pools, subnetsPrefix }: OwnKeysOptions,
  lease: Lease,
  kvs: readonly KeyValue[],
  foreign: (kv: KeyValue) => boolean,
): Candidate {
  const { createRevision } = lease;
  const keep = (pool: PoolConfig | undefined, subnet: Subnet | undefined) => {
    if (pool === undefined || subnet === undefined || !fits(pool, subnet)) return false;
    const subnets = subnet.family === 4 ? { ipv4: subnet } : { ipv6: subnet };
    return !kvs.some(
      (kv) => kv.createRevision < createRevision && overlapsKey(subnetsPrefix, kv, subnets) && foreign(kv),
    );
  };
  const { ipv4, ipv6 } = lease.subnets;
  const keptIPv4 = keep(pools.ipv4, ipv4);
  const keptIPv6 = keep(pools.ipv6, ipv6);
  const kept = { ...(ipv4 && keptIPv4 ? { ipv4 } : {}), ...(ipv6 && keptIPv6 ? { ipv6 } : {}) };
  const complete =
    keptIPv4 === (pools.ipv4 !== undefined) &&
    keptIPv6 === (pools.ipv6 !== undefined) &&
    (ipv4 !== undefined) === keptIPv4 &&
    (ipv6 !== undefined) === keptIPv6;
  return { lease, kept, complete };
}
