import type { PerFamily } from '../../ip/ip.ts';
import type { Logger } from '../../runtime/effects.ts';
import { FlannelError } from '../../runtime/errors.ts';
import { excerpt } from '../../runtime/texts.ts';
import type { LeaseSubnets } from '../keys.ts';
import type { GrantedLease, KeyValue, Registry } from '../registry/registry.ts';
import type { Grants } from './grants.ts';
import { formatLeaseValue } from './lease.ts';

/** Every step of getting and keeping a lease needs these. */
export interface LeaseOptions {
  readonly registry: Registry;
  readonly grants: Grants;
  readonly log: Logger;
  /** `<prefix>/subnets/`, with the slash. */
  readonly subnetsPrefix: string;
  /** This host's addresses, the gateways of peers to its subnets: one for each family that is on. */
  readonly addresses: PerFamily<string>;
  /** The TTL that a grant asks for. */
  readonly leaseTtlSeconds: number;
}

/** The value and the etcd lease of a key of ours. */
interface KeptKey {
  /** As we wrote or found it, byte for byte. */
  readonly value: string;
  /** The key's revision when we last wrote or read it. A later one shows another's write. */
  readonly modRevision: number;
  /** Decimal etcd lease id; '0' for a reservation, which has none and never gets one. */
  readonly leaseId: string;
  /** The TTL that the last grant or keepalive announced, in seconds; 0 for a reservation. */
  readonly ttlSeconds: number;
}

/** The lease this host holds. */
export interface OwnLease extends KeptKey {
  readonly key: string;
  /** One for each family that is on. */
  readonly subnets: LeaseSubnets;
  /** How this host got it. */
  readonly origin: 'reused' | 'hint' | 'new' | 'retaken';
}

/**
 * `moving`: this host holds the lease, but the lease does not name its new address yet. `contested`: another
 * host owns our subnet now; the daemon reports it, and never overwrites that host's key.
 */
export type LeaseState = 'acquiring' | 'held' | 'moving' | 'lost' | 'contested';

/** The meaning of a state for this host, the same in log and status. */
export const leaseFaults: Readonly<Record<Exclude<LeaseState, 'held'>, string>> = {
  acquiring: 'no lease yet',
  contested: 'another host holds the subnet of this host',
  lost: "this host's lease is gone from etcd: the daemon takes it again",
  moving: "this host's lease still names the former address: the daemon is changing that",
};

/** A lease's subnets, or a host's addresses, for a line: `172.20.9.0/24`, or both of a dual-stack host. */
export function familiesText({
  ipv4,
  ipv6,
}: PerFamily<string | { readonly text: string } | undefined>): string {
  return [ipv4, ipv6]
    .flatMap((one) => (one === undefined ? [] : [typeof one === 'string' ? one : one.text]))
    .join(' and ');
}

/** Other hosts were faster each time. */
export class RaceLostError extends FlannelError {
  constructor(subnetsPrefix: string) {
    super('RACE_LOST', `other hosts keep changing ${subnetsPrefix} at the same moment; trying again`);
  }
}

/** Another host uses our address: by its MAC address, or by the lease that it holds with it. */
export class AddressInUseError extends FlannelError {
  constructor(addresses: PerFamily<string>, by: { readonly mac: string } | { readonly key: string }) {
    const address = familiesText(addresses);
    const text =
      'mac' in by
        ? `another host (MAC address ${by.mac}) uses this host's address ${address}`
        : `another host that is running uses this host's address ${address}, for the lease ${by.key}`;
    super('ADDRESS_IN_USE', text, {
      remedy:
        'Peers tell hosts apart by address only: give one of the two an address of its own with ' +
        '--iface=INTERFACE or --public-ip=ADDRESS',
    });
  }
}

/** The log shows no more of a value that somebody put into our key. */
const longestValue = 200;

/**
 * Renews the lease of a key of ours as just read, and corrects a value that differs from ours (a reservation
 * without BackendType, an old vxlan lease: peers would never route to us), guarded by mod_revision. The key
 * keeps its lease or lack of one. Only a dead lease, whose key etcd is about to delete, gets a successor.
 *
 * Undefined when somebody changed the key meanwhile, or rejects with RegistryError: read the key again.
 */
export async function renewKey(
  options: LeaseOptions,
  kv: Pick<KeyValue, 'key' | 'value' | 'modRevision' | 'lease'>,
  signal: AbortSignal,
): Promise<KeptKey | undefined> {
  const kept = await renewAs(options, kv, formatLeaseValue(options.addresses), signal);
  if (kept === undefined || kept.modRevision === kv.modRevision) return kept;
  const before = excerpt(kv.value, longestValue);
  options.log.warn(
    { event: 'lease-rewritten', key: kv.key, before, leaseBefore: kv.lease, lease: kept.leaseId },
    `corrected the value of this host's lease ${kv.key}`,
  );
  return kept;
}

/** As {@link renewKey}, with this value, and without a word in the log. */
export async function renewAs(
  options: LeaseOptions,
  kv: Pick<KeyValue, 'key' | 'value' | 'modRevision' | 'lease'>,
  value: string,
  signal: AbortSignal,
): Promise<KeptKey | undefined> {
  const { id: leaseId, ttlSeconds } = await renewLease(options, kv.lease, signal);
  const isRight = kv.value === value && kv.lease === leaseId;
  const modRevision = isRight
    ? kv.modRevision
    : await rewrite(options, kv, { value, lease: leaseId }, signal);
  return modRevision === undefined ? undefined : { value, leaseId, ttlSeconds, modRevision };
}

/** Renews an etcd lease, or grants one for a dead one; '0' stays '0' (none). Rejects with RegistryError. */
export async function renewLease(
  { registry, grants, leaseTtlSeconds }: LeaseOptions,
  id: string,
  signal: AbortSignal,
): Promise<GrantedLease> {
  if (id === '0') return { id, ttlSeconds: 0 };
  const { ttlSeconds } = await registry.leaseKeepAlive(id, signal);
  return ttlSeconds > 0 ? { id, ttlSeconds } : await grants.grant(leaseTtlSeconds, signal);
}

/**
 * Writes value and lease of a key of ours, unless somebody changed it since it was read. Resolves to its new
 * revision, or undefined. Rejects with RegistryError.
 */
export async function rewrite(
  { registry, grants }: LeaseOptions,
  { key, modRevision }: Pick<KeyValue, 'key' | 'modRevision'>,
  { value, lease }: Pick<KeyValue, 'value' | 'lease'>,
  signal: AbortSignal,
): Promise<number | undefined> {
  const compare = [{ key, target: 'mod', op: '=', value: modRevision } as const];
  const success = [{ op: 'put', key, value, lease } as const];
  const { succeeded, header } = await registry.txn({ compare, success }, signal);
  if (!succeeded) return undefined;
  grants.markUsed(lease);
  return header.revision;
}
