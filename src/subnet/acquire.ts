import { overlaps, type Subnet } from '../ip/ip.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Random } from '../runtime/random.ts';
import { chooseSubnet, fits, isFree, poolUsage } from './allocate.ts';
import type { PoolConfig } from './config.ts';
import { formatLeaseValue, type Lease, parseLease } from './lease.ts';
import { listRange } from './list.ts';
import { type OwnLease, PoolExhaustedError } from './own-lease.ts';
import { type KeyValue, prefixEnd, type Registry, RegistryError, type TxnRequest } from './registry.ts';
import { formatSubnetKey, parseSubnetKey, subnetKeyRange } from './subnet-key.ts';

export interface AcquireOptions {
  readonly registry: Registry;
  readonly random: Random;
  readonly log: Logger;
  readonly subnetsPrefix: string;
  readonly pool: PoolConfig;
  /** This host's address: the gateway under which peers reach the subnet. */
  readonly publicIP: string;
  /** A subnet to prefer when nothing else speaks against it: the one in the previous subnet.env. */
  readonly hint?: Subnet;
  readonly leaseTtlSeconds: number;
}

/** Races lost in a row before the whole list is read again. */
const attemptsPerList = 16;

/**
 * Gets this host its lease, in one pass: the one it has already (found by its PublicIP), else the hint, else a free subnet
 * at random. Losing a race for a subnet is normal, the next free one is tried.
 *
 * Rejects with RegistryError (try again later) or {@link PoolExhaustedError}. No etcd lease is left behind in either case,
 * as far as etcd can be reached.
 */
export async function acquireLease(options: AcquireOptions, signal: AbortSignal): Promise<OwnLease> {
  const { registry, subnetsPrefix } = options;
  for (;;) {
    const { kvs } = await listRange(registry, subnetsPrefix, signal);
    const own = chooseOwn(options, kvs);
    if (own !== undefined) {
      const adopted = await adopt(options, own, signal);
      if (adopted !== undefined) return adopted;
      continue;
    }
    const taken = await takeFree(options, kvs, signal);
    if (taken !== undefined) return taken;
  }
}

/**
 * Of the leases that carry our PublicIP the fitting one; a reservation (a key without a lease) first, then the first in
 * byte order, as flanneld chooses.
 */
function chooseOwn(options: AcquireOptions, kvs: readonly KeyValue[]): Lease | undefined {
  const own = ownLeases(options, kvs);
  const fitting = own.filter(
    (lease) => lease.subnets.ipv4 !== undefined && fits(options.pool, lease.subnets.ipv4),
  );
  const chosen = fitting.find((lease) => lease.leaseId === '0') ?? fitting[0];
  // An unfit lease of ours is given back once a new one is held; an unfit reservation is the operator's to change.
  const others = own
    .filter((lease) => lease !== chosen && (chosen !== undefined || lease.leaseId === '0'))
    .map((lease) => lease.key);
  if (others.length > 0) {
    options.log.warn(
      { event: 'other-own-leases', keys: others, publicIP: options.publicIP },
      `other leases carry this host's address ${options.publicIP}: ${others.join(', ')}; ` +
        `delete them if no other host uses that address`,
    );
  }
  return chosen;
}

function ownLeases(options: AcquireOptions, kvs: readonly KeyValue[]): Lease[] {
  const own: Lease[] = [];
  for (const kv of kvs) {
    // Parsing tens of thousands of values only to find one's own costs more than looking for the text first.
    if (!kv.value.includes(options.publicIP)) continue;
    const parsed = parseLease(options.subnetsPrefix, kv);
    if ('lease' in parsed && parsed.lease.value.publicIP === options.publicIP) own.push(parsed.lease);
  }
  return own;
}

/** Takes a lease over as it stands; undefined when it changed or died under our hands (list again). */
async function adopt(
  options: AcquireOptions,
  lease: Lease,
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { registry, publicIP } = options;
  const value = formatLeaseValue({ publicIP });
  let ttlSeconds: number | undefined;
  if (lease.leaseId !== '0') {
    ttlSeconds = (await registry.leaseKeepAlive(lease.leaseId, signal)).ttlSeconds;
    // The lease is dead and etcd is about to delete its keys.
    if (ttlSeconds <= 0) return undefined;
  }
  if (lease.rawValue !== value) {
    // Without this peers never route to us: a reservation may lack BackendType, an old lease may say vxlan.
    const rewritten = await registry.txn(
      {
        compare: [{ key: lease.key, target: 'mod', op: '=', value: lease.modRevision }],
        success: [{ op: 'put', key: lease.key, value, lease: lease.leaseId }],
      },
      signal,
    );
    if (!rewritten.succeeded) return undefined;
    options.log.info(
      { event: 'lease-rewritten', key: lease.key, before: lease.rawValue, after: value },
      'the value of the own lease was brought up to date',
    );
  }
  const { ipv4 } = lease.subnets;
  if (ipv4 === undefined) return undefined;
  return {
    key: lease.key,
    subnet: ipv4,
    value,
    leaseId: lease.leaseId,
    ttlSeconds: ttlSeconds ?? 0,
    origin: 'reused',
  };
}

/** Takes the hint or a random free subnet; undefined after too many lost races (list again). */
async function takeFree(
  options: AcquireOptions,
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { registry, pool, random } = options;
  const taken = takenSubnets(options.subnetsPrefix, kvs);
  const unfit = ownLeases(options, kvs);
  if (chooseSubnet(pool, taken, random) === undefined) throw exhausted(pool, taken);
  const granted = await registry.leaseGrant(options.leaseTtlSeconds, signal);
  try {
    for (let attempt = 0; attempt < attemptsPerList; attempt++) {
      const hint = attempt === 0 && usableHint(options, taken) ? options.hint : undefined;
      const subnet = hint ?? chooseSubnet(pool, taken, random);
      if (subnet === undefined) throw exhausted(pool, taken);
      const outcome = await take(options, subnet, granted.id, signal);
      if (outcome === 'taken') {
        await deleteUnfit(options, unfit, signal);
        return ownLease(options, subnet, granted, hint ? 'hint' : 'new');
      }
      taken.push(subnet, ...outcome);
    }
  } catch (error) {
    await revokeQuietly(options, granted.id);
    throw error;
  }
  await revokeQuietly(options, granted.id);
  return undefined;
}

function usableHint(options: AcquireOptions, taken: readonly Subnet[]): boolean {
  return options.hint !== undefined && fits(options.pool, options.hint) && isFree(options.hint, taken);
}

function ownLease(
  options: AcquireOptions,
  subnet: Subnet,
  granted: { readonly id: string; readonly ttlSeconds: number },
  origin: OwnLease['origin'],
): OwnLease {
  return {
    key: formatSubnetKey(options.subnetsPrefix, { ipv4: subnet }),
    subnet,
    value: formatLeaseValue({ publicIP: options.publicIP }),
    leaseId: granted.id,
    ttlSeconds: granted.ttlSeconds,
    origin,
  };
}

/**
 * Creates the key of `subnet`, unless someone was faster: then resolves to the subnets seen there.
 *
 * The range compare covers the subnet with and without an IPv6 half, and lets any number of joiners proceed side by side.
 * What it cannot see (a key of another length that overlaps) shows in the list read by the same transaction: whoever has
 * the later create_revision gives way, and that can only be the one who sees the other.
 */
export async function take(
  options: Pick<AcquireOptions, 'registry' | 'subnetsPrefix' | 'publicIP'>,
  subnet: Subnet,
  leaseId: string,
  signal: AbortSignal,
): Promise<'taken' | readonly Subnet[]> {
  const { registry, subnetsPrefix, publicIP } = options;
  const guard = subnetKeyRange(subnetsPrefix, subnet);
  const key = formatSubnetKey(subnetsPrefix, { ipv4: subnet });
  const request: TxnRequest = {
    compare: [{ ...guard, target: 'create', op: '=', value: 0 }],
    success: [
      { op: 'put', key, value: formatLeaseValue({ publicIP }), lease: leaseId },
      { op: 'range', key: subnetsPrefix, rangeEnd: prefixEnd(subnetsPrefix) },
    ],
    failure: [{ op: 'range', ...guard }],
  };
  const { succeeded, kvs } = await transact(registry, request, subnetsPrefix, key, leaseId, signal);
  if (!succeeded) return takenSubnets(subnetsPrefix, kvs);
  const earlier = kvs.filter((kv) => kv.key !== key);
  const overlapping = takenSubnets(subnetsPrefix, earlier).filter((other) => overlaps(other, subnet));
  if (overlapping.length === 0) return 'taken';
  await registry.txn(
    { compare: [{ key, target: 'lease', op: '=', value: leaseId }], success: [{ op: 'delete', key }] },
    signal,
  );
  return overlapping;
}

/**
 * Runs the transaction; when its answer is lost, reads back whether it took effect. When it has not (yet: it may still be on
 * its way), the error goes on to the caller, who revokes the lease; a late transaction then fails for lack of it.
 */
async function transact(
  registry: Registry,
  request: TxnRequest,
  subnetsPrefix: string,
  key: string,
  leaseId: string,
  signal: AbortSignal,
): Promise<{ readonly succeeded: boolean; readonly kvs: readonly KeyValue[] }> {
  try {
    const { succeeded, ranges } = await registry.txn(request, signal);
    return { succeeded, kvs: ranges[0] ?? [] };
  } catch (error) {
    if (!(error instanceof RegistryError) || !error.outcomeUnknown) throw error;
    const { kvs } = await listRange(registry, subnetsPrefix, signal);
    const mine = kvs.find((kv) => kv.key === key);
    if (mine?.lease !== leaseId) throw error;
    return { succeeded: true, kvs: kvs.filter((kv) => kv.createRevision <= mine.createRevision) };
  }
}

/** Own leases that do not fit the configuration any more go, once a new one is held. Reservations are the operator's: kept. */
async function deleteUnfit(
  options: AcquireOptions,
  unfit: readonly Lease[],
  signal: AbortSignal,
): Promise<void> {
  for (const lease of unfit.filter(({ leaseId }) => leaseId !== '0')) {
    const request: TxnRequest = {
      compare: [{ key: lease.key, target: 'mod', op: '=', value: lease.modRevision }],
      success: [{ op: 'delete', key: lease.key }],
    };
    try {
      await options.registry.txn(request, signal);
      options.log.warn(
        { event: 'lease-unfit', key: lease.key },
        `the previous lease ${lease.key} does not fit the network configuration any more and was given back`,
      );
    } catch (error) {
      // Nobody renews it any more, so it goes by itself; the new lease must not be lost over it.
      options.log.debug(
        { event: 'give-back-failed', key: lease.key, err: error },
        'an unfit lease was left to expire',
      );
    }
  }
}

function takenSubnets(subnetsPrefix: string, kvs: readonly KeyValue[]): Subnet[] {
  const taken: Subnet[] = [];
  for (const { key } of kvs) {
    const subnets = parseSubnetKey(subnetsPrefix, key);
    if (subnets?.ipv4) taken.push(subnets.ipv4);
    if (subnets?.ipv6) taken.push(subnets.ipv6);
  }
  return taken;
}

function exhausted(pool: PoolConfig, taken: readonly Subnet[]): PoolExhaustedError {
  const { size, used } = poolUsage(pool, taken);
  return new PoolExhaustedError(pool, size, used);
}

/** A lease granted for nothing must not live on for a day (L8: crash loops pile them up), even when we are being stopped. */
async function revokeQuietly(options: AcquireOptions, leaseId: string): Promise<void> {
  try {
    await options.registry.leaseRevoke(leaseId);
  } catch (error) {
    options.log.debug(
      { event: 'revoke-failed', leaseId, err: error },
      'an unused etcd lease could not be revoked',
    );
  }
}
