import type { PoolConfig } from '../../config/config.ts';
import { formatSubnetKey, type LeaseSubnets } from '../../keys.ts';
import type { KeyValue } from '../../registry/registry.ts';
import { formatLeaseValue, isOwnKey } from '../lease.ts';
import type { OwnLease } from '../own-lease.ts';
import { type ChosenSubnets, chooseSubnets } from '../pool.ts';
import { renewKey, renewLease, rewrite } from '../renew.ts';
import { absent, keysOf, listOf, overlapsKey, subnetsOf } from './claim.ts';
import type { AcquireOptions } from './options.ts';
import type { Candidate } from './own-keys.ts';

/** The subnets a host is to go on with; `fresh` are those that its lease does not name yet. */
export type Wanted = Exclude<ChosenSubnets, { readonly exhausted: unknown }>;

/**
 * What a host needs that has this lease: its subnets that still fit, and for the rest the hint's or free ones. Rejects with what
 * `onExhausted` makes of a pool without a free subnet.
 */
export async function subnetsBeside(
  options: AcquireOptions,
  { complete, kept, lease }: Candidate,
  kvs: readonly KeyValue[],
  onExhausted: (pool: PoolConfig) => Promise<Error>,
): Promise<Wanted> {
  if (complete) return { subnets: kept, fresh: {}, hinted: false };
  const taken = subnetsOf(
    options.subnetsPrefix,
    kvs.filter(({ key }) => key !== lease.key),
  );
  const chosen = chooseSubnets(options, taken, { kept, hint: options.hint });
  if ('exhausted' in chosen) throw await onExhausted(chosen.exhausted);
  return chosen;
}

/**
 * Goes on with a lease of this host: as it is, or with its key replaced when it does not name exactly the subnets to be had
 * (IPv6 was turned on or off). Undefined when the key changed under our hands: list again. Rejects with RegistryError.
 */
export async function adopt(
  options: AcquireOptions,
  { candidate, wanted }: { readonly candidate: Candidate; readonly wanted: Wanted },
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  if (candidate.complete) return await adoptAsIs(options, candidate, kvs, signal);
  const others = kvs.filter(({ key }) => key !== candidate.lease.key);
  return await replaceKey(options, candidate, wanted, others, signal);
}

async function adoptAsIs(
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
  // A lease that was found keeps its TTL, flanneld's included; one that this host was granted follows the flag.
  if (asAsked || !grants.isOurs(own.leaseId) || own.leaseId !== leaseId) return own;
  return await changeTtl(options, own, kvs, signal);
}

/** Puts the key on a new etcd lease of the TTL asked for; the old one goes unless another key hangs on it. */
async function changeTtl(
  options: AcquireOptions,
  own: OwnLease,
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { grants, log, leaseTtlSeconds } = options;
  const granted = await grants.grant(leaseTtlSeconds, signal);
  // The server may have a longest and a shortest TTL.
  if (granted.ttlSeconds === own.ttlSeconds) {
    await grants.revokeUnused(signal);
    return own;
  }
  const { key, value, leaseId } = own;
  // Before the answer: should that be lost, the key tells, when it is read again, which of the two leases it carries.
  if (!kvs.some((kv) => kv.lease === leaseId && kv.key !== key)) grants.markUnused(leaseId, key);
  const modRevision = await rewrite(options, own, { value, lease: granted.id }, signal);
  if (modRevision === undefined) return undefined;
  await grants.revokeUnused(signal);
  const fields = { event: 'lease-ttl-changed', key, before: own.ttlSeconds, after: granted.ttlSeconds };
  log.info(fields, `the own lease ${key} lives for ${granted.ttlSeconds} s from now on`);
  return { ...own, modRevision, leaseId: granted.id, ttlSeconds: granted.ttlSeconds };
}

/**
 * Replaces the key by one that names the chosen subnets, on the same etcd lease or none, at one revision: at no moment is the
 * subnet that stays free, and whoever watches learns of both at once. The old key is deleted first, because flanneld takes
 * the events one by one and must end up with the route.
 *
 * What is kept needs no guard, the old key is one. An overlap of what is new, which only a list shows, is resolved as in
 * `claimSubnets`: the later key gives way, here by being replaced once more.
 */
async function replaceKey(
  options: AcquireOptions,
  { lease }: Candidate,
  { subnets, fresh }: Wanted,
  others: readonly KeyValue[],
  signal: AbortSignal,
): Promise<OwnLease | undefined> {
  const { registry, grants, log, subnetsPrefix, addresses } = options;
  const key = formatSubnetKey(subnetsPrefix, subnets);
  // It can only be ours: it names a subnet of ours.
  const there = others.find((kv) => kv.key === key && isOwnKey(addresses, subnetsPrefix, kv));
  const value = formatLeaseValue(addresses);
  const { id, ttlSeconds } = await renewLease(options, lease.leaseId, signal);
  // Should the answer be lost: the new key may hang on it.
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
        listOf(subnetsPrefix),
      ],
    },
    signal,
  );
  if (!succeeded) return undefined;
  grants.markUsed(id);
  log.info(
    { event: 'lease-key-replaced', before: lease.key, key },
    `the own lease ${lease.key} is ${key} from now on`,
  );
  if ((ranges[0] ?? []).some((kv) => kv.key !== key && isForeign(options, kv, fresh))) return undefined;
  return { key, subnets, value, modRevision: header.revision, leaseId: id, ttlSeconds, origin: 'reused' };
}

function isForeign(
  { addresses, subnetsPrefix }: AcquireOptions,
  kv: KeyValue,
  subnets: LeaseSubnets,
): boolean {
  return overlapsKey(subnetsPrefix, kv, subnets) && !isOwnKey(addresses, subnetsPrefix, kv);
}
