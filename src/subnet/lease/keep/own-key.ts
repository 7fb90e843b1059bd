import type { KeyValue } from '../../registry/registry.ts';
import { claimSubnets, findOverlaps } from '../acquire/claim.ts';
import { differsFrom, formatLeaseValue, isOwnKey, namesAnother } from '../lease.ts';
import { type LeaseOptions, type OwnLease, renewAs, renewKey } from '../own-lease.ts';
import type { AddressDefence } from '../probe.ts';
import type { Move, NextMove } from './move.ts';

interface CheckOptions extends LeaseOptions {
  /** Answers probes of our key. */
  readonly defence: AddressDefence;
  readonly move: Move;
  /** The next step of a move to other addresses; undefined without one. */
  readonly nextMove: NextMove | undefined;
  /** Another host had our subnet at the last check. */
  readonly contested: boolean;
  /** Called when our key is gone, before this host takes it again. */
  readonly onLost: () => void;
}

/** `again`: somebody changed the key, check once more; `contested`: another host's key has our subnet. */
type CheckedKey =
  | { readonly result: 'held'; readonly lease: OwnLease }
  | { readonly result: 'contested'; readonly by: KeyValue }
  | { readonly result: 'again' };

const again: CheckedKey = { result: 'again' };

/** Reads our key, the one proof of its owner, and renews it or takes it again. Rejects with RegistryError. */
export async function renewOrReclaim(
  options: CheckOptions,
  own: OwnLease,
  signal: AbortSignal,
): Promise<CheckedKey> {
  const { registry, grants } = options;
  const kv = (await registry.range({ key: own.key }, signal)).kvs[0];
  if (kv === undefined) return await retake(options, own, signal);
  if (isAnothers(options, own, kv) || isSpoiltAnother(options, own, kv))
    return { result: 'contested', by: kv };
  const { nextMove } = options;
  // Our key goes if it overlaps an older one, and was never confirmed, because an answer was lost, or was
  // taken beside another key with an address that this host no longer has.
  const isDoubtful = grants.isUnused(kv.lease) || nextMove !== undefined;
  const overlapping = isDoubtful ? await findOverlaps(options, own.subnets, signal) : [];
  const older = overlapping.find(
    (other) => other.createRevision < kv.createRevision && !isOfThisHost(options, other),
  );
  if (older) return { result: 'contested', by: older };
  grants.markUsed(kv.lease);
  const kept =
    nextMove !== undefined && (nextMove.atOnce || isAskedFor(own, kv))
      ? await renewAs(options, kv, formatLeaseValue(nextMove.target), signal)
      : await keep(options, own, kv, signal);
  if (kept === undefined) return again;
  noteLease(options, own, kept.leaseId);
  await grants.revokeUnused(signal);
  return { result: 'held', lease: { ...own, ...kept } };
}

/**
 * Whether the value names another host and this host did not write it. Somebody may have spoilt a value that
 * names another host in one family alone, and this host corrects it. But on an etcd lease that is not ours,
 * or when it comes back, it belongs to a host with our address of the other family.
 */
function isAnothers(options: CheckOptions, own: OwnLease, kv: KeyValue): boolean {
  const { addresses, grants, move } = options;
  if (!differsFrom(addresses, kv.value)) return false;
  const granted = grants.isOurs(kv.lease);
  // This host writes other addresses before and after a move, and nobody else puts a key on our lease.
  if ((granted || kv.lease === own.leaseId) && move.wrote(kv.value, granted)) return false;
  return namesAnother(addresses, kv.value) || isOnOtherLease(options, own, kv) || move.yieldsTo(kv.value);
}

function isOnOtherLease({ grants }: CheckOptions, own: OwnLease, { lease }: KeyValue): boolean {
  return lease !== '0' && lease !== own.leaseId && !grants.isOurs(lease);
}

/**
 * Whether a spoilt value, which names nobody, is in another host's key, which that host corrects itself: a
 * key on a lease that is not ours, newer than ours, or from a restored backup of the time before.
 */
function isSpoiltAnother(options: CheckOptions, own: OwnLease, kv: KeyValue): boolean {
  const isOfNow = kv.createRevision <= own.modRevision && kv.modRevision >= own.modRevision;
  if (isOfNow || isOwnKey(options.addresses, options.subnetsPrefix, kv)) return false;
  return isOnOtherLease(options, own, kv);
}

/** Whether somebody put our key again as it is: the host that now has our former address asks for it. */
function isAskedFor({ value, leaseId, modRevision }: OwnLease, kv: KeyValue): boolean {
  return kv.value === value && kv.lease === leaseId && kv.modRevision > modRevision;
}

async function keep(options: CheckOptions, own: OwnLease, kv: KeyValue, signal: AbortSignal) {
  const kept = await renewKey(options, kv, signal);
  if (kept === undefined || kept.modRevision !== kv.modRevision) return kept;
  return { ...kept, modRevision: await options.defence.answer(options, own, kv, signal) };
}

/** Accepts that an operator made a reservation of our key, or gave it another lease. */
function noteLease({ log, grants }: CheckOptions, { key, leaseId: before }: OwnLease, after: string): void {
  if (after === before) return;
  log.warn(
    { event: 'lease-changed', key, before, after },
    `this host's lease ${key} is now attached to a different etcd lease`,
  );
  grants.release(before);
}

/**
 * Takes the same subnets again after our key is gone (deleted, revoked, expired), if nobody else has them.
 * Routes stay as they are. The key's old etcd lease serves again when it still lives and was granted to this
 * host. Another's, flanneld's for one, is left to expire: to revoke it with an unconfirmed key would also
 * delete the keys that others have put on it.
 */
async function retake(options: CheckOptions, own: OwnLease, signal: AbortSignal): Promise<CheckedKey> {
  const { registry, grants, leaseTtlSeconds } = options;
  const { subnets } = own;
  options.onLost();
  // This also prevents a key that is still on its way from an earlier attempt.
  await grants.revokeUnused(signal);
  // Read first: to put the key and give way, at every attempt, would make all hosts change their routes.
  const mayOverlap = (kv: KeyValue) => isOfThisHost(options, kv);
  const overlapping = options.contested ? await findOverlaps(options, subnets, signal) : [];
  const still = overlapping.find((kv) => !mayOverlap(kv));
  if (still) return { result: 'contested', by: still };
  const id = own.leaseId;
  const ttlSeconds = grants.isOurs(id) ? (await registry.leaseKeepAlive(id, signal)).ttlSeconds : 0;
  // The lease is unused until the key is confirmed. Remember a dead one: a restore may revive it.
  if (ttlSeconds > 0) grants.markUnused(id);
  else grants.release(id);
  const granted = ttlSeconds > 0 ? { id, ttlSeconds } : await grants.grant(leaseTtlSeconds, signal);
  let outcome = await claimSubnets(options, subnets, granted, signal, { mayOverlap });
  // An operator or an older program may have made another key of this host for the same subnet.
  if ('inTheWay' in outcome && outcome.inTheWay.every(mayOverlap)) {
    const rules = { mayOverlap, seenRevision: outcome.revision };
    outcome = await claimSubnets(options, subnets, granted, signal, rules);
  }
  if ('held' in outcome) return { result: 'held', lease: { ...outcome.held, origin: 'retaken' } };
  const by = outcome.inTheWay.find((kv) => !mayOverlap(kv));
  // Gone by now, or put by another program of this host: check again.
  return by === undefined ? again : { result: 'contested', by };
}

/**
 * Whether a key is this host's own, by its value or, when it names a former address, by the lease granted
 * here. During a move the value must name both: another host may have the former or the new address.
 */
function isOfThisHost({ addresses, nextMove, grants, subnetsPrefix }: CheckOptions, kv: KeyValue): boolean {
  const named = nextMove === undefined ? [addresses] : [addresses, nextMove.target];
  return grants.isOurs(kv.lease) || named.every((one) => isOwnKey(one, subnetsPrefix, kv));
}
