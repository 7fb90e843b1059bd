import { plural } from '../../../runtime/texts.ts';
import type { PoolConfig } from '../../config/config.ts';
import { formatSubnetKey, type LeaseSubnets } from '../../keys.ts';
import { type KeyValue, listRange } from '../../registry/registry.ts';
import { formatLeaseValue, isOwnKey, isOwnLease, type Lease } from '../lease.ts';
import { AddressInUseError, familiesText, type OwnLease, RaceLostError } from '../own-lease.ts';
import { chooseSubnets, isFree } from '../pool.ts';
import { probe } from '../probe.ts';
import { adopt, subnetsBeside } from './adopt.ts';
import { claimSubnets, subnetsOf } from './claim.ts';
import type { AcquireOptions } from './options.ts';
import { findOwn, isHinted } from './own-keys.ts';

/** Races lost in a row before the whole list is read again, and lists read before it is left to the caller's backoff. */
const attemptsPerList = 16;
const listsPerPass = 4;

/**
 * Gets this host its lease, in one pass: the one it has already (found by its address), else the hint, else free subnets at
 * random. Losing a race for a subnet is normal, the next free one is tried.
 *
 * Rejects with RegistryError, PoolExhaustedError, {@link AddressInUseError} or {@link RaceLostError}: try again later. What was
 * granted in vain is in `options.grants` then.
 */
export async function acquireLease(options: AcquireOptions, signal: AbortSignal): Promise<OwnLease> {
  const { addresses, registry, grants, subnetsPrefix } = options;
  let preferred = options.hint;
  /** Leases that nobody answered for. */
  const vetted = new Set<string>();
  const answered = new Set<string>();
  for (let lists = 0; lists < listsPerPass + vetted.size + 2 * answered.size; lists++) {
    const { kvs } = await listRange(registry, subnetsPrefix, signal);
    const own = findOwn(options, kvs);
    const { chosen, unfit } = own;
    await refuseSharedAddress(options, chosen?.lease, signal);
    if (chosen !== undefined) grants.markUsed(chosen.lease.leaseId);
    // A key of an earlier attempt whose answer was lost goes with its lease, and one that is still on its way never comes.
    await grants.revokeUnused(signal);
    const onExhausted = (pool: PoolConfig) => options.exhaustion.errorFor(options, pool, kvs, signal);
    // What cannot be gone on with is not asked for either: each question is a write.
    const adoption = chosen && {
      candidate: chosen,
      wanted: await subnetsBeside(options, chosen, kvs, onExhausted),
    };
    const found = chosen === undefined ? unfit : [chosen.lease];
    const doubtful = found.find((lease) => isDoubtful(options, lease) && !vetted.has(lease.key));
    if (doubtful !== undefined) {
      const answer = await probe(options, doubtful, signal);
      if (answer === 'quiet') vetted.add(doubtful.key);
      else if (answer === 'answered') {
        if (isOwnLease(addresses, doubtful)) throw new AddressInUseError(addresses, { key: doubtful.key });
        // A host that asks, too, does so once: who holds it answers each time.
        if (answered.has(doubtful.key)) options.theirs.set(doubtful.key, doubtful.rawValue);
        else answered.add(doubtful.key);
      }
      continue;
    }
    if (unfit.length > 0) {
      await giveBack(options, unfit, kvs, signal);
      continue;
    }
    const foreign = kvs.filter(({ key }) => key !== chosen?.lease.key).map(({ key }) => key);
    options.mix.list(foreign, options.pools);
    const held =
      adoption === undefined
        ? await takeFree({ ...options, onExhausted }, kvs, preferred, signal)
        : await adopt(options, adoption, kvs, signal);
    if (held !== undefined) {
      reportOthers(options, held, own.others);
      return held;
    }
    // It died or was changed under our hands; the subnets are still those to have.
    preferred = chosen?.kept ?? preferred;
  }
  throw new RaceLostError(subnetsPrefix);
}

/**
 * Throws {@link AddressInUseError} when another host uses our address, unless this is the one of the two that has had the lease.
 * That one waits for nothing: who has it may only be asked once more (see isDoubtful).
 */
async function refuseSharedAddress(
  options: AcquireOptions,
  lease: Lease | undefined,
  signal: AbortSignal,
): Promise<void> {
  const { addressUse, addresses } = options;
  if (addressUse === undefined || (lease !== undefined && isProven(options, lease))) return;
  await addressUse.looked(signal);
  if (addressUse.rival !== undefined) throw new AddressInUseError(addresses, { mac: addressUse.rival });
}

/** Whether this host has had the lease: granted here since the boot, or a reservation, for this address; and in subnet.env. */
function isProven({ addresses, grants, hint }: AcquireOptions, lease: Lease): boolean {
  const granted = lease.leaseId === '0' || grants.isOurs(lease.leaseId);
  return granted && isHinted(hint, lease) && isOwnLease(addresses, lease);
}

/**
 * Whether a lease may be in use by somebody else: one that carries our address by another host that was given the same one (behind
 * NAT, or all of a template's copies), unless it was granted here or is what subnet.env says this host had; one that carries another
 * address by a host that has got that one since, or by a second daemon of this host. Either by another host that has been seen to
 * have our address, and may have taken the lease over while this one was away.
 */
function isDoubtful(options: AcquireOptions, lease: Lease): boolean {
  const { addresses, grants, hint, hostIdentity, addressUse } = options;
  if (hostIdentity === undefined) return false;
  if (addressUse?.rival !== undefined || !isOwnLease(addresses, lease)) return true;
  return !(grants.isOurs(lease.leaseId) || isHinted(hint, lease));
}

/** Takes the preferred or random free subnets; undefined when it is time to list again. */
async function takeFree(
  options: AcquireOptions & { readonly onExhausted: (pool: PoolConfig) => Promise<Error> },
  kvs: readonly KeyValue[],
  preferred: LeaseSubnets | undefined,
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { grants, subnetsPrefix, addresses, leaseTtlSeconds } = options;
  const taken = subnetsOf(subnetsPrefix, kvs);
  const known = new Set(kvs.map(({ key }) => key));
  // Another host with our address that takes a subnet in this very moment must not go unseen.
  const isRival = (kv: KeyValue) => !known.has(kv.key) && isOwnKey(addresses, subnetsPrefix, kv);
  let leaseId: string | undefined;
  let ttlSeconds = 0;
  let raced = false;
  for (let attempt = 0; attempt < attemptsPerList; attempt++) {
    const chosen = chooseSubnets(options, taken, { hint: preferred });
    // The others have taken the last ones since the list: what they hold is to be seen.
    if ('exhausted' in chosen && raced) return undefined;
    if ('exhausted' in chosen) throw await options.onExhausted(chosen.exhausted);
    if (leaseId === undefined) ({ id: leaseId, ttlSeconds } = await grants.grant(leaseTtlSeconds, signal));
    const outcome = await claimSubnets(options, chosen.subnets, leaseId, signal, { isInTheWay: isRival });
    if ('modRevision' in outcome) {
      grants.markUsed(leaseId);
      const key = formatSubnetKey(subnetsPrefix, chosen.subnets);
      const origin = chosen.hinted ? 'hint' : 'new';
      const { subnets } = chosen;
      return { key, subnets, value: formatLeaseValue(addresses), ...outcome, leaseId, ttlSeconds, origin };
    }
    if (outcome.inTheWay.some(isRival)) return undefined;
    raced ||= outcome.inTheWay.some(({ key }) => !known.has(key));
    const occupied = subnetsOf(subnetsPrefix, outcome.inTheWay);
    const { ipv4, ipv6 } = chosen.subnets;
    // Odd keys such as 10.5.1.0-240 lie in the range and occupy nothing.
    const tried = [ipv4, ipv6].filter((subnet) => subnet !== undefined);
    taken.push(...occupied, ...(tried.every((subnet) => isFree(subnet, occupied)) ? tried : []));
  }
  return undefined;
}

function reportOthers({ log, addresses }: AcquireOptions, held: OwnLease, keys: readonly string[]): void {
  if (keys.length === 0) return;
  const address = familiesText(addresses);
  log.warn(
    { event: 'other-own-leases', keys, addresses },
    `beside ${held.key} ${plural(keys.length, 'another key carries', 'other keys carry')} this host's address ${address}, ` +
      `or ${plural(keys.length, 'was', 'were')} leased by it: ${keys.join(', ')}; ` +
      `if no other host uses ${plural(keys.length, 'it, delete it', 'them, delete them')}: etcdctl del KEY`,
  );
}

/** Deletes own leases that cannot be used any more, with their etcd leases unless another key hangs on them. */
async function giveBack(
  { registry, grants, log }: AcquireOptions,
  unfit: readonly Lease[],
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<void> {
  const deleted = new Set<string>();
  for (const { key, modRevision, leaseId } of unfit) {
    const shared = kvs.some((kv) => kv.lease === leaseId && kv.key !== key && !deleted.has(kv.key));
    if (!shared) grants.markUnused(leaseId);
    const compare = [{ key, target: 'mod', op: '=', value: modRevision } as const];
    const { succeeded } = await registry.txn({ compare, success: [{ op: 'delete', key }] }, signal);
    // Somebody changed it; perhaps it is theirs now.
    if (!succeeded) grants.markUsed(leaseId);
    else {
      deleted.add(key);
      log.warn(
        { event: 'lease-unfit', key },
        `the previous lease ${key} was given back: it does not fit the network configuration, or an older one overlaps it`,
      );
    }
  }
  await grants.revokeUnused(signal);
}
