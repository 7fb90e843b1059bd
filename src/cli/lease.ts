import type { PerFamily, Subnet } from '../ip/ip.ts';
import { explanationOf } from '../runtime/errors.ts';
import { holderText, isOwnLease } from '../subnet/holder.ts';
import { parseLease } from '../subnet/lease.ts';
import { listRange } from '../subnet/list.ts';
import { familiesText } from '../subnet/own-lease.ts';
import { type KeyValue, type Registry, RegistryError } from '../subnet/registry.ts';
import { parseSubnetKey, subnetsPrefix } from '../subnet/subnet-key.ts';

export interface LeaseReleaseParts {
  readonly registry: Registry;
  readonly etcdPrefix: string;
  /** Whose lease: that of a subnet, or of the host with these addresses, in canonical form. */
  readonly target: { readonly subnet: Subnet } | { readonly addresses: PerFamily<string> };
  /** Release reservations, too. */
  readonly force: boolean;
  /** Takes lines for standard output, and for standard error. */
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
}

/**
 * Gives back the lease of a host that is gone, so that its subnet is free at once: deletes its key, guarded by mod_revision,
 * and revokes its etcd lease unless another key hangs on it.
 *
 * Resolves to the exit code: 0 done; 1 not done (nothing matches, a reservation without `force`, etcd, or somebody changed
 * the key meanwhile). Rejects only with `signal.reason`.
 */
export async function runLeaseRelease(parts: LeaseReleaseParts, signal: AbortSignal): Promise<0 | 1> {
  try {
    const { kvs } = await listRange(parts.registry, subnetsPrefix(parts.etcdPrefix), signal);
    const found = kvs.filter(matcher(parts));
    const refusal = refusalOf(parts, found);
    if (refusal !== undefined) {
      parts.err(refusal);
      return 1;
    }
    let code: 0 | 1 = 0;
    for (const kv of found) if (!(await release(parts, kv, kvs, signal))) code = 1;
    return code;
  } catch (error) {
    signal.throwIfAborted();
    parts.err(explanationOf(error));
    return 1;
  }
}

/** The target of `lease release`'s argument or `--public-ip`, for messages. */
function targetText({ target }: LeaseReleaseParts): string {
  return 'subnet' in target
    ? `of the subnet ${target.subnet.text}`
    : `of a host with the address ${familiesText(target.addresses)}`;
}

/** Tells the keys of the target. */
function matcher({ target, etcdPrefix }: LeaseReleaseParts): (kv: KeyValue) => boolean {
  const prefix = subnetsPrefix(etcdPrefix);
  if ('addresses' in target) {
    return (kv) => {
      const parsed = parseLease(prefix, kv);
      return 'lease' in parsed && isOwnLease(target.addresses, parsed.lease);
    };
  }
  const { text } = target.subnet;
  return ({ key }) => {
    const { ipv4, ipv6 } = parseSubnetKey(prefix, key) ?? {};
    return ipv4?.text === text || ipv6?.text === text;
  };
}

function refusalOf(parts: LeaseReleaseParts, found: readonly KeyValue[]): string | undefined {
  const prefix = subnetsPrefix(parts.etcdPrefix);
  if (found.length === 0)
    return `there is no lease ${targetText(parts)} under ${prefix} at ${parts.registry.endpoint}`;
  const reservations = found.filter(({ lease }) => lease === '0').map(({ key }) => key);
  if (reservations.length === 0 || parts.force) return undefined;
  return `${reservations.join(', ')} is a reservation, which somebody put on purpose; nothing was released (--force does it)`;
}

/** Whether the key is gone. Rejects with RegistryError. */
async function release(
  { registry, etcdPrefix, out, err }: LeaseReleaseParts,
  kv: KeyValue,
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<boolean> {
  const { key, lease } = kv;
  if (!(await deleteKey(registry, kv, signal))) {
    err(`${key} was changed or deleted by somebody else meanwhile; it was left alone`);
    return false;
  }
  const subnets = familiesText(parseSubnetKey(subnetsPrefix(etcdPrefix), key) ?? {});
  out(`released ${subnets} of ${holderText(kv.value)}: deleted ${key}`);
  if (lease === '0') return true;
  const sharers = kvs.filter((other) => other.lease === lease && other.key !== key);
  if (sharers.length === 0) {
    await registry.leaseRevoke(lease, signal);
    out(
      'revoked its etcd lease; a daemon that still runs on that host will take the subnet again: stop it first',
    );
  } else {
    out(`its etcd lease stays: ${sharers.map((other) => other.key).join(', ')} hangs on it, too`);
  }
  return true;
}

/** Unless it was changed since it was read. */
async function deleteKey(registry: Registry, { key, modRevision }: KeyValue, signal: AbortSignal) {
  const compare = [{ key, target: 'mod', op: '=', value: modRevision } as const];
  try {
    return (await registry.txn({ compare, success: [{ op: 'delete', key }] }, signal)).succeeded;
  } catch (error) {
    if (!(error instanceof RegistryError) || !error.outcomeUnknown) throw error;
    // The answer was lost: what is there now tells.
    const { kvs } = await registry.range({ key }, signal);
    if (kvs.length === 0) return true;
    throw error;
  }
}
