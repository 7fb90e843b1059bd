import type { PerFamily } from '../../../ip/ip.ts';
import type { Clock, Random } from '../../../runtime/effects.ts';
import { plural } from '../../../runtime/texts.ts';
import type { PoolConfig } from '../../config/config.ts';
import { formatSubnetKey, keysOf, type LeaseSubnets } from '../../keys.ts';
import { type GrantedLease, type KeyValue, listRange } from '../../registry/registry.ts';
import { formatLeaseValue, isOwnKey, isOwnLease, type Lease } from '../lease.ts';
import {
  AddressInUseError,
  familiesText,
  type LeaseOptions,
  type OwnLease,
  RaceLostError,
  renewKey,
  renewLease,
  rewrite,
} from '../own-lease.ts';
import { type ChosenSubnets, chooseSubnets, type Exhaustion, isFree } from '../pool.ts';
import { type AddressUse, probe } from '../probe.ts';
import type { FamilyMix } from '../watch/reader.ts';
import { absent, claimSubnets, listSince, overlapsKey, subnetsOf } from './claim.ts';
import { type Candidate, findOwn, isHinted } from './own-keys.ts';

/** Getting a lease needs these beside what keeping one needs. */
export interface AcquireOptions extends LeaseOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** Where subnets come from, for each family that is on. */
  readonly pools: PerFamily<PoolConfig>;
  /** Subnets to prefer when nothing speaks against them: those of the previous subnet.env. */
  readonly hint?: LeaseSubnets;
  /**
   * A number below 2^31 that no other host has, the same until this host boots again; our etcd leases carry
   * it (see Grants). With it, this host probes doubtful leases before it touches them.
   */
  readonly hostIdentity?: number;
  /** Absent: nobody knows whether another host uses this host's addresses. */
  readonly addressUse?: AddressUse;
  /** Leases granted here, by key and value, that another daemon answered for: no second probe. */
  readonly theirs: Map<string, string>;
  readonly exhaustion: Exhaustion;
  readonly mix: FamilyMix;
}

/** Races to lose before the next list, and lists to read before the caller's backoff. */
const attemptsPerList = 16;
const listsPerPass = 4;

/**
 * Gets this host its lease, in one pass: the one it already has (found by its address), else the hint, else
 * free subnets at random. To lose a race for a subnet is normal; this host then tries the next free one.
 *
 * Rejects with RegistryError, PoolExhaustedError, {@link AddressInUseError} or {@link RaceLostError}: try
 * again later. Leases that etcd granted in vain are then in `options.grants`.
 */
export async function acquireLease(options: AcquireOptions, signal: AbortSignal): Promise<OwnLease> {
  const { addresses, registry, grants, subnetsPrefix } = options;
  let preferred = options.hint;
  /** Leases that nobody answered for. */
  const vetted = new Set<string>();
  const answered = new Set<string>();
  for (let lists = 0; lists < listsPerPass + vetted.size + 2 * answered.size; lists++) {
    const listed = await listRange(registry, subnetsPrefix, signal);
    const { kvs } = listed;
    const { chosen, unfit, others } = findOwn(options, kvs);
    await refuseSharedAddress(options, chosen?.lease, signal);
    if (chosen !== undefined) grants.markUsed(chosen.lease.leaseId);
    // This deletes a key of an earlier attempt whose answer was lost, and stops one that is on its way.
    await grants.revokeUnused(signal);
    // Before the probe, which is a write: without a free subnet it would be in vain.
    const wanted = chosen && (await subnetsBeside(options, chosen, kvs, signal));
    const found = chosen === undefined ? unfit : [chosen.lease];
    const doubtful = found.find((lease) => isDoubtful(options, lease) && !vetted.has(lease.key));
    if (doubtful !== undefined) {
      const answer = await probe(options, doubtful, signal);
      if (answer === 'quiet') vetted.add(doubtful.key);
      else if (answer === 'answered') {
        if (isOwnLease(addresses, doubtful)) throw new AddressInUseError(addresses, { key: doubtful.key });
        // Another asker puts the key once. The holder answers each time.
        if (answered.has(doubtful.key)) options.theirs.set(doubtful.key, doubtful.rawValue);
        else answered.add(doubtful.key);
      }
      continue;
    }
    if (unfit.length > 0) {
      await giveBack(options, unfit, kvs, signal);
      continue;
    }
    const foreign = kvs.filter(({ key }) => key !== chosen?.lease.key);
    options.mix.list(
      foreign.map(({ key }) => key),
      options.pools,
    );
    const held =
      chosen === undefined || wanted === undefined
        ? await takeFree(options, listed, preferred, signal)
        : chosen.complete
          ? await adopt(options, chosen, kvs, signal)
          : await replaceKey(options, chosen.lease, wanted, foreign, signal);
    if (held !== undefined) {
      reportOthers(options, held, others);
      return held;
    }
    // The lease died or somebody changed it meanwhile. This host still wants its subnets.
    preferred = chosen?.kept ?? preferred;
  }
  throw new RaceLostError(subnetsPrefix);
}

/**
 * Throws {@link AddressInUseError} when another host uses our address, unless this host is the one that has
 * had the lease. The holder need not wait for the link: it may only have to ask once more (see isDoubtful).
 */
async function refuseSharedAddress(
  { addressUse, addresses, grants, hint }: AcquireOptions,
  lease: Lease | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (addressUse === undefined) return;
  // Granted here since the boot, or a reservation; for this address; and in subnet.env.
  const isProven =
    lease !== undefined &&
    (lease.leaseId === '0' || grants.isOurs(lease.leaseId)) &&
    isHinted(hint, lease) &&
    isOwnLease(addresses, lease);
  if (isProven) return;
  await addressUse.looked(signal);
  if (addressUse.rival !== undefined) throw new AddressInUseError(addresses, { mac: addressUse.rival });
}

/**
 * Whether somebody else may use a lease. One that carries our address: another host that was given the same
 * one (behind NAT, or all copies of a template), unless it was granted here or is the one in subnet.env. One
 * that carries another address: a host that has got that address since, or a second daemon of this host.
 * Either: another host that was seen with our address, and may have taken over the lease meanwhile.
 */
function isDoubtful(options: AcquireOptions, lease: Lease): boolean {
  const { addresses, grants, hint, hostIdentity, addressUse } = options;
  if (hostIdentity === undefined) return false;
  if (addressUse?.rival !== undefined || !isOwnLease(addresses, lease)) return true;
  return !(grants.isOurs(lease.leaseId) || isHinted(hint, lease));
}

/** Takes the preferred or random free subnets; undefined: list again. */
async function takeFree(
  options: AcquireOptions,
  { kvs, header: { revision: listedRevision } }: Awaited<ReturnType<typeof listRange>>,
  preferred: LeaseSubnets | undefined,
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { grants, subnetsPrefix, addresses, leaseTtlSeconds, exhaustion } = options;
  const taken = subnetsOf(subnetsPrefix, kvs);
  const known = new Set(kvs.map(({ key }) => key));
  // Another host with our address may take a subnet at this very moment: see it.
  const isRival = (kv: KeyValue) => !known.has(kv.key) && isOwnKey(addresses, subnetsPrefix, kv);
  let granted: GrantedLease | undefined;
  let raced = false;
  for (let attempt = 0; attempt < attemptsPerList; attempt++) {
    const chosen = chooseSubnets(options, taken, { hint: preferred });
    if ('exhausted' in chosen) {
      // Others have taken the last subnets since the list: count their keys, too.
      if (raced) return undefined;
      throw await exhaustion.errorFor(options, chosen.exhausted, kvs, signal);
    }
    granted ??= await grants.grant(leaseTtlSeconds, signal);
    const rules = { isInTheWay: isRival, listedRevision };
    const outcome = await claimSubnets(options, chosen.subnets, granted, signal, rules);
    if ('held' in outcome) return { ...outcome.held, origin: chosen.hinted ? 'hint' : 'new' };
    if (outcome.inTheWay.some(isRival) || outcome.revision <= listedRevision) return undefined;
    raced ||= outcome.inTheWay.some(({ key }) => !known.has(key));
    const occupied = subnetsOf(subnetsPrefix, outcome.inTheWay);
    // Odd keys such as 10.5.1.0-240 lie in the range and occupy nothing.
    const tried = [chosen.subnets.ipv4, chosen.subnets.ipv6].filter((subnet) => subnet !== undefined);
    taken.push(...occupied, ...(tried.every((subnet) => isFree(subnet, occupied)) ? tried : []));
  }
  return undefined;
}

/**
 * Chooses the subnets of a host that has this lease: the lease's own that still fit, and for the rest the
 * hint's or free ones. Rejects with PoolExhaustedError.
 */
async function subnetsBeside(
  options: AcquireOptions,
  { complete, kept, lease }: Candidate,
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<ChosenSubnets> {
  if (complete) return { subnets: kept, fresh: {}, hinted: false };
  const others = kvs.filter(({ key }) => key !== lease.key);
  const taken = subnetsOf(options.subnetsPrefix, others);
  const chosen = chooseSubnets(options, taken, { kept, hint: options.hint });
  if (!('exhausted' in chosen)) return chosen;
  throw await options.exhaustion.errorFor(options, chosen.exhausted, kvs, signal);
}

/** Keeps a complete lease of this host; undefined when somebody changed the key: list again. */
async function adopt(
  options: AcquireOptions,
  { lease, kept: subnets }: Candidate,
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { key, rawValue: value, modRevision, leaseId } = lease;
  const kept = await renewKey(options, { key, value, modRevision, lease: leaseId }, signal);
  if (kept === undefined) return undefined;
  const own: OwnLease = { key, subnets, ...kept, origin: 'reused' };
  const { grants, leaseTtlSeconds } = options;
  const asAsked = own.leaseId === '0' || own.ttlSeconds === leaseTtlSeconds;
  // A found lease keeps its TTL, flanneld's included. One that this host was granted follows the flag.
  if (asAsked || !grants.isOurs(own.leaseId) || own.leaseId !== leaseId) return own;
  return await changeTtl(options, own, kvs, signal);
}

/** Moves the key to an etcd lease of the configured TTL. Drops the old one unless another key uses it. */
async function changeTtl(
  options: AcquireOptions,
  own: OwnLease,
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { grants, log, leaseTtlSeconds } = options;
  const { id, ttlSeconds } = await grants.grant(leaseTtlSeconds, signal);
  // The server may have a longest and a shortest TTL.
  if (ttlSeconds === own.ttlSeconds) {
    await grants.revokeUnused(signal);
    return own;
  }
  const { key, value, leaseId } = own;
  // Before the write: if its answer is lost, the next read of the key shows which lease it carries.
  if (!kvs.some((kv) => kv.lease === leaseId && kv.key !== key)) grants.markUnused(leaseId, key);
  const modRevision = await rewrite(options, own, { value, lease: id }, signal);
  if (modRevision === undefined) return undefined;
  await grants.revokeUnused(signal);
  const fields = { event: 'lease-ttl-changed', key, before: own.ttlSeconds, after: ttlSeconds };
  log.info(fields, `the TTL of this host's lease ${key} changed to ${ttlSeconds} s`);
  return { ...own, modRevision, leaseId: id, ttlSeconds };
}

/**
 * Replaces a key that does not name exactly the chosen subnets (IPv6 was turned on or off) by one that does,
 * on the same etcd lease or none, at one revision: the subnet that stays is never free, and every watcher
 * learns of both at once. The old key goes first, because flanneld takes the events one by one and must end
 * up with the route. Undefined: list again.
 *
 * The old key guards what this host keeps. Only a list shows an overlap of what is new; the later key gives
 * way, as in `claimSubnets`, here by another replacement.
 */
async function replaceKey(
  options: AcquireOptions,
  lease: Lease,
  { subnets, fresh }: ChosenSubnets,
  others: readonly KeyValue[],
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { registry, grants, log, subnetsPrefix, addresses } = options;
  const key = formatSubnetKey(subnetsPrefix, subnets);
  const isOwn = (kv: KeyValue) => isOwnKey(addresses, subnetsPrefix, kv);
  // It can only be ours: it names a subnet of ours.
  const there = others.find((kv) => kv.key === key && isOwn(kv));
  const value = formatLeaseValue(addresses);
  const { id, ttlSeconds } = await renewLease(options, lease.leaseId, signal);
  // If the answer is lost, the new key may be attached to this lease.
  if (grants.isUnused(id)) grants.markUnused(id, key);
  const { succeeded, ranges, header } = await registry.txn(
    {
      compare: [
        { key: lease.key, target: 'mod', op: '=', value: lease.modRevision },
        there === undefined ? absent({ key }) : { key, target: 'mod', op: '=', value: there.modRevision },
        ...(fresh.ipv4 === undefined ? [] : keysOf(subnetsPrefix, fresh).map(absent)),
      ],
      success: [
        { op: 'delete', key: lease.key },
        { op: 'put', key, value, lease: id },
        listSince(subnetsPrefix, 0),
      ],
    },
    signal,
  );
  if (!succeeded) return undefined;
  grants.markUsed(id);
  const fields = { event: 'lease-key-replaced', before: lease.key, key };
  log.info(fields, `replaced this host's lease ${lease.key} by ${key}`);
  const isInTheWay = (kv: KeyValue) => kv.key !== key && overlapsKey(subnetsPrefix, kv, fresh) && !isOwn(kv);
  if (ranges[0]?.some(isInTheWay)) return undefined;
  return { key, subnets, value, modRevision: header.revision, leaseId: id, ttlSeconds, origin: 'reused' };
}

function reportOthers({ log, addresses }: AcquireOptions, held: OwnLease, keys: readonly string[]): void {
  if (keys.length === 0) return;
  const address = familiesText(addresses);
  log.warn(
    { event: 'other-own-leases', keys, addresses },
    `beside ${held.key} ${plural(keys.length, 'another key carries', 'other keys carry')} ` +
      `this host's address ${address}, or ${plural(keys.length, 'was', 'were')} leased by it: ` +
      `${keys.join(', ')}; ` +
      `if no other host uses ${plural(keys.length, 'it, delete it', 'them, delete them')}: etcdctl del KEY`,
  );
}

/** Deletes own leases that do not fit, and their etcd leases unless another key uses them. */
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
    // Somebody changed the key, so it may be theirs now.
    if (!succeeded) grants.markUsed(leaseId);
    else {
      deleted.add(key);
      log.warn(
        { event: 'lease-unfit', key },
        `gave back the previous lease ${key}: it does not fit the network configuration, ` +
          'or an older lease overlaps it',
      );
    }
  }
  await grants.revokeUnused(signal);
}
