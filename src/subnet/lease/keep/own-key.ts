import type { PerFamily } from '../../../ip/ip.ts';
import { formatSubnetKey } from '../../keys.ts';
import type { KeyValue } from '../../registry/registry.ts';
import { claimSubnets, findOverlaps } from '../acquire/claim.ts';
import { differsFrom, formatLeaseValue, isOwnKey, namesAnother } from '../lease.ts';
import type { LeaseOptions, OwnLease } from '../own-lease.ts';
import type { AddressDefence } from '../probe.ts';
import { renewKey, renewLease, rewrite } from '../renew.ts';
import type { NextMove } from './move.ts';

export interface CheckOptions extends LeaseOptions {
  /** Answers who asks for our key. */
  readonly defence: AddressDefence;
  /** Addresses that the value is to name from now on, when this host has got other ones. */
  readonly nextMove?: NextMove | undefined;
  /** Whether this host has written a value, or may have without hearing of it; `granted`: on an etcd lease granted here. */
  readonly wrote: (value: string, granted: boolean) => boolean;
  /** Whether a value that names another host in one family alone comes back however often it is put right; counts this time. */
  readonly yieldsTo: (value: string) => boolean;
  /** Another host had our subnet when we looked last. */
  readonly contested: boolean;
  /** Told when our key is found to be gone, before it is taken again. */
  readonly onLost: () => void;
}

/** `again`: it changed under our hands, look once more; `contested`: another host's key has our subnet. */
export type CheckedKey =
  | { readonly result: 'held'; readonly lease: OwnLease }
  | { readonly result: 'contested'; readonly by: KeyValue }
  | { readonly result: 'again' };

const again: CheckedKey = { result: 'again' };

/**
 * Reads our key and renews it, or takes it again. Whoever owns it shows in the key only, not in a lease that lives. Rejects
 * with RegistryError.
 */
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
  // A key of ours that was never confirmed, because an answer was lost: does it overlap an older one? Then it goes. Likewise one that
  // was taken beside another under an address which turns out not to be this host's any more.
  const isDoubtful = grants.isUnused(kv.lease) || nextMove !== undefined;
  const overlapping = isDoubtful ? await findOverlaps(options, own.subnets, signal) : [];
  const older = overlapping.find(
    (other) => other.createRevision < kv.createRevision && !isOfThisHost(options, other),
  );
  if (older) return { result: 'contested', by: older };
  grants.markUsed(kv.lease);
  const kept =
    nextMove !== undefined && (nextMove.atOnce || isAskedFor(own, kv))
      ? await move(options, kv, nextMove.target, signal)
      : await keep(options, own, kv, signal);
  if (kept === undefined) return again;
  noteLease(options, own, kept.leaseId);
  await grants.revokeUnused(signal);
  return { result: 'held', lease: { ...own, ...kept } };
}

/**
 * A value that names another host, and that is not our own doing. When it does so in one family alone somebody may have spoilt it, and it is
 * put right; but on an etcd lease that is not ours, or when it comes back, it is that of a host which has our address of the other family.
 */
function isAnothers(options: CheckOptions, own: OwnLease, kv: KeyValue): boolean {
  const { addresses, grants, yieldsTo } = options;
  if (!differsFrom(addresses, kv.value) || isOwnWrite(options, own, kv)) return false;
  if (namesAnother(addresses, kv.value)) return true;
  const isTheirs = kv.lease !== '0' && kv.lease !== own.leaseId && !grants.isOurs(kv.lease);
  return isTheirs || yieldsTo(kv.value);
}

/** Our own doing although it names other addresses, those before or after a move: nobody else puts a key on our lease. */
function isOwnWrite({ wrote, grants }: CheckOptions, { leaseId }: OwnLease, kv: KeyValue): boolean {
  const granted = grants.isOurs(kv.lease);
  return (granted || kv.lease === leaseId) && wrote(kv.value, granted);
}

/**
 * A value that names nobody was spoilt, and is put right. But a key on a lease that is not ours is another host's, which puts it
 * right itself, when it was made since we had ours, or comes from a restored backup of the time before.
 */
function isSpoiltAnother(
  { addresses, grants, subnetsPrefix }: CheckOptions,
  own: OwnLease,
  kv: KeyValue,
): boolean {
  const isOfNow = kv.createRevision <= own.modRevision && kv.modRevision >= own.modRevision;
  if (isOfNow || isOwnKey(addresses, subnetsPrefix, kv)) return false;
  return kv.lease !== '0' && kv.lease !== own.leaseId && !grants.isOurs(kv.lease);
}

/** Whether somebody has put our key again as it is: who lives at the address that this host has lost asks for it. */
function isAskedFor({ value, leaseId, modRevision }: OwnLease, kv: KeyValue): boolean {
  return kv.value === value && kv.lease === leaseId && kv.modRevision > modRevision;
}

async function keep(options: CheckOptions, own: OwnLease, kv: KeyValue, signal: AbortSignal) {
  const kept = await renewKey(options, kv, signal);
  if (kept === undefined || kept.modRevision !== kv.modRevision) return kept;
  return { ...kept, modRevision: await options.defence.answer(options, own, kv, signal) };
}

/** Names the new addresses in the value; the subnet, the key and its lease or lack of one stay. */
async function move(options: CheckOptions, kv: KeyValue, to: PerFamily<string>, signal: AbortSignal) {
  const value = formatLeaseValue(to);
  const { id: leaseId, ttlSeconds } = await renewLease(options, kv.lease, signal);
  if (kv.value === value && kv.lease === leaseId)
    return { value, leaseId, ttlSeconds, modRevision: kv.modRevision };
  const modRevision = await rewrite(options, kv, { value, lease: leaseId }, signal);
  return modRevision === undefined ? undefined : { value, leaseId, ttlSeconds, modRevision };
}

/** An operator may make a reservation of our key, or give it another lease. Both are respected. */
function noteLease({ log, grants }: CheckOptions, { key, leaseId: before }: OwnLease, after: string): void {
  if (after === before) return;
  log.warn(
    { event: 'lease-changed', key, before, after },
    `the own lease ${key} is now attached to a different etcd lease`,
  );
  grants.release(before);
}

/**
 * Our key is gone (deleted, revoked, expired): the same subnets again, if nobody else has them. Routes stay as they are. The
 * lease it had serves again when it still lives and was granted to this host. Another's, flanneld's for one, is left to expire: what
 * is never confirmed goes with its lease, and so would all that others have put on it.
 */
async function retake(options: CheckOptions, own: OwnLease, signal: AbortSignal): Promise<CheckedKey> {
  const { registry, grants, addresses, leaseTtlSeconds, subnetsPrefix } = options;
  const { subnets } = own;
  options.onLost();
  // Also a key that is still on its way from an attempt before.
  await grants.revokeUnused(signal);
  // A look first: to put the key and give way again, at every attempt, would make all hosts change their routes.
  const mayOverlap = (kv: KeyValue) => isOfThisHost(options, kv);
  const overlapping = options.contested ? await findOverlaps(options, subnets, signal) : [];
  const still = overlapping.find((kv) => !mayOverlap(kv));
  if (still) return { result: 'contested', by: still };
  const lives = grants.isOurs(own.leaseId)
    ? (await registry.leaseKeepAlive(own.leaseId, signal)).ttlSeconds
    : 0;
  // Until the key is confirmed the lease counts as unused; a dead one is remembered, as a restored backup may revive it.
  if (lives > 0) grants.markUnused(own.leaseId);
  else grants.release(own.leaseId);
  const granted =
    lives > 0 ? { id: own.leaseId, ttlSeconds: lives } : await grants.grant(leaseTtlSeconds, signal);
  let outcome = await claimSubnets(options, subnets, granted.id, signal, { mayOverlap });
  // Another key of this host for the same subnet, which an operator or an older program made: both may be there.
  if ('inTheWay' in outcome && outcome.inTheWay.every(mayOverlap)) {
    const rules = { mayOverlap, seenRevision: outcome.revision };
    outcome = await claimSubnets(options, subnets, granted.id, signal, rules);
  }
  if ('modRevision' in outcome) {
    grants.markUsed(granted.id);
    const key = formatSubnetKey(subnetsPrefix, subnets);
    const { id: leaseId, ttlSeconds } = granted;
    const lease = { ...own, key, ...outcome, value: formatLeaseValue(addresses), leaseId, ttlSeconds };
    return { result: 'held', lease: { ...lease, origin: 'retaken' } };
  }
  const by = outcome.inTheWay.find((kv) => !mayOverlap(kv));
  // Gone by now, or put by another program of this host: look again.
  return by === undefined ? again : { result: 'contested', by };
}

/**
 * Whether a key is this host's own, as its value says or, when it names an address from before, the lease granted here. During a
 * move an address says nothing: the former one may have another host by now, the new one still.
 */
function isOfThisHost({ addresses, nextMove, grants, subnetsPrefix }: CheckOptions, kv: KeyValue): boolean {
  const named = nextMove === undefined ? [addresses] : [addresses, nextMove.target];
  return grants.isOurs(kv.lease) || named.every((one) => isOwnKey(one, subnetsPrefix, kv));
}
