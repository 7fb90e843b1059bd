import { formatSubnetKey, keysOf } from '../subnet/keys.ts';
import { absent } from '../subnet/lease/acquire/claim.ts';
import {
  type Compare,
  type KeyValue,
  type Registry,
  RegistryError,
  type TxnRequest,
} from '../subnet/registry/registry.ts';
import type { Copy } from './plan.ts';

// The writes of a migration. Each has a guard, and may be done again: whatever becomes of an answer, or of this process, the next
// attempt finds what the last one did.

/**
 * The time to live of a copy, flannel's own. The rest that the lease has in v2 would not do: a daemon keeps the TTL that it finds, and
 * would renew every few minutes from then on.
 */
const leaseTtlSeconds = 86_400;

/** A write without an answer is tried this often; each time the key is read first. */
const attempts = 3;

/** Conditions that each write has beside its own: see BridgeLock. */
export type Guard = readonly Compare[];

/** A key that was written, and its mod_revision. */
export interface Written {
  readonly key: string;
  readonly revision: number;
}

/**
 * Creates the key of a copy. The guard covers its IPv4 subnet with and without an IPv6 half, as a daemon's own claim does: see
 * claimSubnets. Resolves to undefined when another key is there: nothing has changed, except that an etcd lease may be left without a
 * key. It ends by itself; to revoke it would delete the key that a second migration puts on it.
 *
 * Rejects with RegistryError. Then the key may exist, or come late: run again.
 */
export async function writeCopy(
  registry: Registry,
  leasesPrefix: string,
  { value, subnets, leaseId }: Pick<Copy, 'value' | 'subnets' | 'leaseId'>,
  signal: AbortSignal,
  guard: Guard = [],
): Promise<Written | undefined> {
  const key = formatSubnetKey(leasesPrefix, subnets);
  const compare = [...guard, ...keysOf(leasesPrefix, subnets).map(absent)];
  return await putCopy(registry, { key, value, lease: leaseId }, compare, signal);
}

/**
 * Puts a copy over a key that nobody has written since `kv` was read; resolves to undefined when somebody has. As {@link writeCopy}
 * otherwise.
 */
export async function replaceCopy(
  registry: Registry,
  kv: KeyValue,
  { value, leaseId: lease }: Pick<Copy, 'value' | 'leaseId'>,
  signal: AbortSignal,
  guard: Guard = [],
): Promise<Written | undefined> {
  const { key, modRevision } = kv;
  const compare = [...guard, { key, target: 'mod', op: '=', value: modRevision } as const];
  return await putCopy(registry, { key, value, lease }, compare, signal);
}

async function putCopy(
  registry: Registry,
  put: Pick<KeyValue, 'key' | 'value' | 'lease'>,
  compare: Guard,
  signal: AbortSignal,
): Promise<Written | undefined> {
  const { key, value, lease } = put;
  const isOurs = (kv: KeyValue | undefined) => kv?.value === value && kv.lease === lease;
  const request = { compare, success: [{ op: 'put', ...put }] } as const;
  for (let attempt = 1; ; attempt++) {
    try {
      if (lease !== '0') await grantOrRenew(registry, lease, signal);
      return await write(registry, key, request, isOurs, signal);
    } catch (error) {
      if (!(error instanceof RegistryError) || attempt === attempts) throw error;
      // The lease was revoked between the two calls, or nobody knows what became of one.
      if (error.kind !== 'LEASE_NOT_FOUND' && !error.outcomeUnknown) throw error;
    }
  }
}

/** Creates the network configuration; resolves to whether it is there with this text. Rejects as {@link writeCopy}. */
export async function writeConfig(
  registry: Registry,
  key: string,
  value: string,
  signal: AbortSignal,
  guard: Guard = [],
): Promise<boolean> {
  const compare = [...guard, absent({ key })];
  const request = { compare, success: [{ op: 'put', key, value, lease: '0' }] } as const;
  for (let attempt = 1; ; attempt++) {
    try {
      return (await write(registry, key, request, (kv) => kv?.value === value, signal)) !== undefined;
    } catch (error) {
      if (!(error instanceof RegistryError) || !error.outcomeUnknown || attempt === attempts) throw error;
    }
  }
}

/** A key that is there already counts as written when it is the one meant: an earlier attempt has put it. */
async function write(
  registry: Registry,
  key: string,
  request: TxnRequest,
  isMeant: (kv: KeyValue | undefined) => boolean,
  signal: AbortSignal,
): Promise<Written | undefined> {
  const failure = [{ op: 'range', key }] as const;
  const { succeeded, header, ranges } = await registry.txn({ ...request, failure }, signal);
  if (succeeded) return { key, revision: header.revision };
  const [found] = ranges[0] ?? [];
  return found !== undefined && isMeant(found) ? { key, revision: found.modRevision } : undefined;
}

/** Gives the lease with this id its whole time to live, and grants it if there is none. Rejects with RegistryError. */
async function grantOrRenew(registry: Registry, id: string, signal: AbortSignal): Promise<void> {
  try {
    await registry.leaseGrant(leaseTtlSeconds, signal, id);
  } catch (error) {
    if (!(error instanceof RegistryError)) throw error;
    // etcd says PROTOCOL when it has the lease already.
    if (error.kind !== 'PROTOCOL' && !error.outcomeUnknown) throw error;
    if (!(await renewCopy(registry, id, signal))) throw error;
  }
}

/** Renews the etcd lease of a copy; resolves to false when it is gone, and the key with it. Rejects with RegistryError. */
export async function renewCopy(registry: Registry, leaseId: string, signal: AbortSignal): Promise<boolean> {
  return (await registry.leaseKeepAlive(leaseId, signal)).ttlSeconds > 0;
}

/**
 * Takes a key back unless somebody has written it since; resolves to the revision at which it went, if it did so. Its etcd lease ends by
 * itself, for the reason that {@link writeCopy} gives. Rejects with RegistryError when the key may still be there.
 */
export async function removeCopy(
  registry: Registry,
  { key, revision }: Written,
  signal: AbortSignal,
  guard: Guard = [],
): Promise<number | undefined> {
  const compare = [...guard, { key, target: 'mod', op: '=', value: revision } as const];
  for (let attempt = 1; ; attempt++) {
    try {
      const success = [{ op: 'delete', key } as const];
      const { succeeded, header } = await registry.txn({ compare, success }, signal);
      return succeeded ? header.revision : undefined;
    } catch (error) {
      if (!(error instanceof RegistryError) || !error.outcomeUnknown || attempt === attempts) throw error;
    }
  }
}
