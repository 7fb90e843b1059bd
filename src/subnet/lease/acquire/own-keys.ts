import type { PerFamily, Subnet } from '../../../ip/ip.ts';
import type { PoolConfig } from '../../config/config.ts';
import { type LeaseSubnets, parseSubnetKey } from '../../keys.ts';
import type { KeyValue } from '../../registry/registry.ts';
import { isOwnLease, type Lease, leaseOf, parseLease } from '../lease.ts';
import type { LeaseOptions } from '../own-lease.ts';
import { fits } from '../pool.ts';
import { overlapsKey } from './claim.ts';

/*
 * Whose lease is it? flanneld tells hosts apart by their address, but hosts may share one (NAT, copied
 * machines), and a host may get another one. So three things count, in this order:
 *
 * 1. The etcd lease. The ids of ours begin with 31 bits from the boot id, the network namespace and the
 *    prefix (see Grants). A lease granted here weighs more than an address: this host keeps its subnet when
 *    it gets the address that a dead host's lease names.
 * 2. subnet.env. A lease with our address that was not granted here and is not named there gets a probe
 *    first. A normal restart probes nothing. A copied subnet.env that survives a boot escapes this.
 * 3. The address in the lease.
 */

/** A lease of this host, and those of its subnets that this host keeps. */
export interface Candidate {
  readonly lease: Lease;
  /** At least one. */
  readonly kept: LeaseSubnets;
  /** The key names exactly the subnets this host needs: a kept one for each family that is on. */
  readonly complete: boolean;
}

export interface OwnLeases {
  /** This host keeps this one. */
  readonly chosen: Candidate | undefined;
  /** This host gives these back before it takes another one. */
  readonly unfit: readonly Lease[];
  /** This host leaves these keys alone. */
  readonly others: readonly string[];
}

interface OwnKeysOptions extends Pick<LeaseOptions, 'subnetsPrefix' | 'addresses'> {
  readonly pools: PerFamily<PoolConfig>;
  readonly grants: Pick<LeaseOptions['grants'], 'isOurs'>;
  readonly hint?: LeaseSubnets | undefined;
  /** Keys, with their values, that look like ours, and that another daemon answered for. */
  readonly theirs?: ReadonlyMap<string, string>;
}

/**
 * Chooses the lease to keep, of those that carry our address and those granted here since the boot: the
 * address may have changed while no daemon ran, even to one that a dead host's lease names, and this host's
 * containers are in its own subnet. When none fits, this host gives them back, except reservations, which are
 * the operator's. A lease that subnet.env names counts for nothing when it neither carries our address nor
 * was granted here: since ours ended a flanneld may use it, and flanneld answers no probe.
 *
 * The best first: a reservation (a key without a lease) for our address; a lease with two of three marks
 * (granted here, named in subnet.env, carries our address), the first two above all; one granted here; one
 * that carries our address. Among equals one that needs no change, then one whose IPv4 subnet can stay, then
 * the first in byte order, as flanneld chooses.
 *
 * A subnet that overlaps an older key of another host does not fit: a crash kept this host from giving way.
 */
export function findOwn(options: OwnKeysOptions, kvs: readonly KeyValue[]): OwnLeases {
  const own = ownLeases(options, kvs);
  const ownKeys = new Set(own.map(({ key }) => key));
  const foreign = kvs.filter(({ key }) => !ownKeys.has(key));
  const [chosen] = own
    .map((lease) => candidate(options, lease, foreign))
    .filter(({ kept }) => kept.ipv4 !== undefined || kept.ipv6 !== undefined)
    // Sorting is stable: what is equal stays in byte order.
    .toSorted((a, b) => rank(options, a) - rank(options, b));
  const rest = own.filter((lease) => lease !== chosen?.lease);
  const unfit = chosen === undefined ? rest.filter(({ leaseId }) => leaseId !== '0') : [];
  const others = rest.filter((lease) => !unfit.includes(lease)).map(({ key }) => key);
  return { chosen, unfit, others };
}

function rank(options: OwnKeysOptions, { lease, kept, complete }: Candidate): number {
  return 4 * evidence(options, lease) + (complete ? 0 : 2) + (kept.ipv4 === undefined ? 1 : 0);
}

/** How sure it is that a lease is this host's own; 0 is the surest. */
function evidence({ addresses, grants, hint }: OwnKeysOptions, lease: Lease): number {
  if (lease.leaseId === '0') return 0;
  const [ours, hinted] = [grants.isOurs(lease.leaseId), isHinted(hint, lease)];
  if (ours && hinted) return 1;
  if ((ours || hinted) && isOwnLease(addresses, lease)) return 2;
  return ours ? 3 : 4;
}

function ownLeases(options: OwnKeysOptions, kvs: readonly KeyValue[]): Lease[] {
  const { addresses, grants, subnetsPrefix, theirs } = options;
  const own: Lease[] = [];
  for (const kv of kvs) {
    const ours = grants.isOurs(kv.lease);
    if ((!ours && !mayName(addresses, kv.value)) || theirs?.get(kv.key) === kv.value) continue;
    const parsed = parseLease(subnetsPrefix, kv);
    const subnets = parseSubnetKey(subnetsPrefix, kv.key);
    if ('lease' in parsed && (ours || isOwnLease(addresses, parsed.lease))) own.push(parsed.lease);
    // Somebody has spoilt the value of a key of this host, which corrects it.
    else if (ours && subnets !== undefined) own.push(leaseOf(kv, subnets, { backendType: '' }));
  }
  return own;
}

/**
 * The addresses in this host's lease, found without them: the lease was granted here since the boot, or
 * subnet.env names it. They may no longer be this host's.
 */
export function leasedAddresses(
  { grants, hint, subnetsPrefix }: Pick<OwnKeysOptions, 'grants' | 'hint' | 'subnetsPrefix'>,
  kvs: readonly KeyValue[],
): PerFamily<string> {
  const own = kvs.flatMap((kv) => {
    const subnets = parseSubnetKey(subnetsPrefix, kv.key);
    const hinted = subnets !== undefined && isHinted(hint, { subnets });
    const ours = grants.isOurs(kv.lease);
    // To parse the values of a whole cluster costs more.
    const parsed = ours || hinted ? parseLease(subnetsPrefix, kv) : undefined;
    if (parsed === undefined || !('lease' in parsed)) return [];
    return [{ value: parsed.lease.value, rank: (ours ? 0 : 2) + (hinted ? 0 : 1) }];
  });
  const { publicIP: ipv4, publicIPv6: ipv6 } = own.toSorted((a, b) => a.rank - b.rank)[0]?.value ?? {};
  return { ...(ipv4 !== undefined && { ipv4 }), ...(ipv6 !== undefined && { ipv6 }) };
}

/** Whether the hint names the lease's subnet: the IPv4 one, if it has any. */
export function isHinted(hint: LeaseSubnets | undefined, { subnets }: Pick<Lease, 'subnets'>): boolean {
  const family = subnets.ipv4 === undefined ? 'ipv6' : 'ipv4';
  return subnets[family]?.text === hint?.[family]?.text;
}

/**
 * Looks for an own address (or an escape) in a value's text: to parse tens of thousands of values costs more.
 * An IPv6 address has many spellings, but counts only where no IPv4 address does.
 */
function mayName({ ipv4, ipv6 }: PerFamily<string>, value: string): boolean {
  if (value.includes('\\')) return true;
  if (ipv4 !== undefined && value.includes(ipv4)) return true;
  if (ipv6 === undefined || (ipv4 !== undefined && /"PublicIP"\s*:\s*"[1-9]/i.test(value))) return false;
  return /"[^"]*:[^"]*:[^"]*"/.test(value);
}

function candidate({ pools, subnetsPrefix }: OwnKeysOptions, lease: Lease, foreign: readonly KeyValue[]) {
  const keep = (pool: PoolConfig | undefined, subnet: Subnet) => {
    if (pool === undefined || !fits(pool, subnet)) return false;
    const subnets = subnet.family === 4 ? { ipv4: subnet } : { ipv6: subnet };
    const isOlder = (kv: KeyValue) => kv.createRevision < lease.createRevision;
    return !foreign.some((kv) => isOlder(kv) && overlapsKey(subnetsPrefix, kv, subnets));
  };
  const { ipv4, ipv6 } = lease.subnets;
  const kept: LeaseSubnets = {
    ...(ipv4 && keep(pools.ipv4, ipv4) ? { ipv4 } : {}),
    ...(ipv6 && keep(pools.ipv6, ipv6) ? { ipv6 } : {}),
  };
  const complete = (['ipv4', 'ipv6'] as const).every(
    (family) => kept[family] === lease.subnets[family] && !kept[family] === !pools[family],
  );
  return { lease, kept, complete };
}
