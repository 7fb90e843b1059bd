import type { PerFamily, Subnet } from '../ip/ip.ts';
import type { Random } from '../runtime/random.ts';
import { chooseSubnet, fits, isFree, poolSize } from './allocate.ts';
import type { PoolConfig } from './config.ts';
import { keepKey } from './keep-key.ts';
import { formatLeaseValue, type Lease, parseLease } from './lease.ts';
import { listRange } from './list.ts';
import { type LeaseOptions, type OwnLease, PoolExhaustedError, RaceLostError } from './own-lease.ts';
import type { KeyValue } from './registry.ts';
import { formatSubnetKey, parseSubnetKey } from './subnet-key.ts';
import { overlapsKey, subnetsOf, take } from './take.ts';

export interface AcquireOptions extends LeaseOptions {
  readonly random: Random;
  /** Where subnets come from, for each family that is on. */
  readonly pools: PerFamily<PoolConfig>;
  /** Subnets to prefer when nothing else speaks against them: those in the previous subnet.env. */
  readonly hint?: PerFamily<Subnet>;
}

/** Races lost in a row before the whole list is read again, and lists read before it is left to the caller's backoff. */
const attemptsPerList = 16;
const listsPerPass = 4;

/**
 * Gets this host its lease, in one pass: the one it has already (found by its PublicIP), else the hint, else a free subnet
 * at random. Losing a race for a subnet is normal, the next free one is tried.
 *
 * Rejects with RegistryError, {@link PoolExhaustedError} or {@link RaceLostError}: try again later. What was granted in vain
 * is in `options.grants` then.
 */
export async function acquireLease(options: AcquireOptions, signal: AbortSignal): Promise<OwnLease> {
  const { registry, grants, subnetsPrefix } = options;
  let preferred = options.hint?.ipv4;
  for (let lists = 0; lists < listsPerPass; lists++) {
    const { kvs } = await listRange(registry, subnetsPrefix, signal);
    const own = findOwn(options, kvs);
    if (own.chosen !== undefined) grants.use(own.chosen.lease.leaseId);
    // A key of an earlier attempt whose answer was lost goes with its lease, and one that is still on its way never comes.
    await grants.revokeUnused(signal);
    if (own.unfit.length > 0) {
      await giveBack(options, own.unfit, kvs, signal);
      continue;
    }
    const { chosen } = own;
    const held =
      chosen === undefined
        ? await takeFree(options, kvs, preferred, signal)
        : await adopt(options, chosen, signal);
    if (held !== undefined) {
      reportOthers(options, held, own.others);
      return held;
    }
    // It died or was changed under our hands; the subnet is still the one to have.
    preferred = chosen?.subnet ?? preferred;
  }
  throw new RaceLostError(subnetsPrefix);
}

interface Candidate {
  readonly lease: Lease;
  readonly subnet: Subnet;
}

interface OwnLeases {
  /** The one to go on with. */
  readonly chosen: Candidate | undefined;
  /** Those to be given back before another is taken. */
  readonly unfit: readonly Lease[];
  /** Keys that are left alone. */
  readonly others: readonly string[];
}

/**
 * Of the leases that carry our PublicIP the fitting one; a reservation (a key without a lease) first, then the first in
 * byte order, as flanneld chooses. When none fits they are given back, but for reservations, which are the operator's.
 *
 * One that overlaps an older key of somebody else does not fit: it is what a crash left before we could give way to it.
 */
function findOwn(options: AcquireOptions, kvs: readonly KeyValue[]): OwnLeases {
  const own = ownLeases(options, kvs);
  const candidates = own
    .flatMap((lease): Candidate[] => (lease.subnets.ipv4 ? [{ lease, subnet: lease.subnets.ipv4 }] : []))
    .filter(({ subnet }) => fits(ipv4Pool(options), subnet))
    .filter(({ lease, subnet }) => !overlapsOlder(options, lease, { ipv4: subnet }, kvs, own));
  const chosen = candidates.find(({ lease }) => lease.leaseId === '0') ?? candidates[0];
  const rest = own.filter((lease) => lease !== chosen?.lease);
  const unfit = chosen === undefined ? rest.filter(({ leaseId }) => leaseId !== '0') : [];
  const others = rest.filter((lease) => !unfit.includes(lease)).map(({ key }) => key);
  return { chosen, unfit, others };
}

function ownLeases({ addresses, subnetsPrefix }: AcquireOptions, kvs: readonly KeyValue[]): Lease[] {
  const publicIP = addresses.ipv4 ?? '';
  const own: Lease[] = [];
  for (const kv of kvs) {
    // Parsing tens of thousands of values only to find one's own costs more than looking for the text (or an escape) first.
    if (!kv.value.includes(publicIP) && !kv.value.includes('\\')) continue;
    const parsed = parseLease(subnetsPrefix, kv);
    if ('lease' in parsed && parsed.lease.value.publicIP === publicIP) own.push(parsed.lease);
  }
  return own;
}

function overlapsOlder(
  { subnetsPrefix }: AcquireOptions,
  lease: Lease,
  subnets: PerFamily<Subnet>,
  kvs: readonly KeyValue[],
  own: readonly Lease[],
): boolean {
  return kvs.some(
    (kv) =>
      kv.createRevision < lease.createRevision &&
      overlapsKey(subnetsPrefix, kv, subnets) &&
      !own.some(({ key }) => key === kv.key),
  );
}

async function adopt(
  options: AcquireOptions,
  { lease, subnet }: Candidate,
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { key, rawValue, modRevision, leaseId } = lease;
  const kept = await keepKey(options, { key, value: rawValue, modRevision, lease: leaseId }, signal);
  return kept && { key, subnets: { ipv4: subnet }, ...kept, origin: 'reused' };
}

/** Takes the preferred or a random free subnet; undefined when it is time to list again. */
async function takeFree(
  options: AcquireOptions,
  kvs: readonly KeyValue[],
  preferred: Subnet | undefined,
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { random, grants, subnetsPrefix, addresses, leaseTtlSeconds } = options;
  const pool = ipv4Pool(options);
  const taken = subnetsOf(subnetsPrefix, kvs);
  if (chooseSubnet(pool, taken, random) === undefined) throw exhausted(options, kvs);
  const granted = await grants.grant(leaseTtlSeconds, signal);
  for (let attempt = 0; attempt < attemptsPerList; attempt++) {
    const wish = attempt === 0 && preferred && fits(pool, preferred) && isFree(preferred, taken);
    const subnet = wish ? preferred : chooseSubnet(pool, taken, random);
    if (subnet === undefined) throw exhausted(options, kvs);
    const outcome = await take(options, { ipv4: subnet }, granted.id, signal);
    if (outcome === 'taken') {
      grants.use(granted.id);
      const key = formatSubnetKey(subnetsPrefix, { ipv4: subnet });
      const lease = { value: formatLeaseValue(addresses), leaseId: granted.id };
      return {
        key,
        subnets: { ipv4: subnet },
        ...lease,
        ttlSeconds: granted.ttlSeconds,
        origin: wish ? 'hint' : 'new',
      };
    }
    taken.push(subnet, ...subnetsOf(subnetsPrefix, outcome));
  }
  return undefined;
}

/** Deletes own leases that cannot be used any more, with their etcd leases unless another key hangs on them. */
async function giveBack(
  { registry, grants, log }: AcquireOptions,
  unfit: readonly Lease[],
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<void> {
  for (const { key, modRevision, leaseId } of unfit) {
    const shared = kvs.some((kv) => kv.lease === leaseId && kv.key !== key);
    if (!shared) grants.own(leaseId);
    const compare = [{ key, target: 'mod', op: '=', value: modRevision } as const];
    const { succeeded } = await registry.txn({ compare, success: [{ op: 'delete', key }] }, signal);
    // Somebody changed it; perhaps it is theirs now.
    if (!succeeded) grants.use(leaseId);
    else {
      log.warn(
        { event: 'lease-unfit', key },
        `the previous lease ${key} was given back: it does not fit the network configuration, or an older one overlaps it`,
      );
    }
  }
  await grants.revokeUnused(signal);
}

function exhausted(options: AcquireOptions, kvs: readonly KeyValue[]): PoolExhaustedError {
  const { subnetsPrefix } = options;
  const pool = ipv4Pool(options);
  const named = kvs.filter(({ key }) => parseSubnetKey(subnetsPrefix, key) !== undefined);
  const reservations = named.filter(({ lease }) => lease === '0').length;
  return new PoolExhaustedError(pool, subnetsPrefix, poolSize(pool), named.length, reservations);
}

function reportOthers({ log, addresses }: AcquireOptions, held: OwnLease, keys: readonly string[]): void {
  if (keys.length === 0) return;
  const publicIP = addresses.ipv4;
  log.warn(
    { event: 'other-own-leases', keys, publicIP },
    `beside ${held.key} other keys carry this host's address ${publicIP}: ${keys.join(', ')}; ` +
      `delete them (etcdctl del KEY) if no other host uses that address`,
  );
}

function ipv4Pool({ pools }: AcquireOptions): PoolConfig {
  if (pools.ipv4 === undefined) throw new RangeError('there is no IPv4 pool');
  return pools.ipv4;
}
