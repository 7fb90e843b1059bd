import { type Family, familiesOf, type PerFamily, type Subnet } from '../ip/ip.ts';
import type { Clock, Logger, Random } from '../runtime/effects.ts';
import { explanationOf } from '../runtime/errors.ts';
import { plural } from '../runtime/texts.ts';
import { NetworkConfigError, parseNetworkConfig } from '../subnet/config/config.ts';
import { describeMissing, type Stores } from '../subnet/config/source.ts';
import { configKey, parseSubnetKey, subnetsPrefix } from '../subnet/keys.ts';
import { Grants } from '../subnet/lease/grants.ts';
import { holderText, isOwnLease, parseLease } from '../subnet/lease/lease.ts';
import { familiesText } from '../subnet/lease/own-lease.ts';
import { probe } from '../subnet/lease/probe.ts';
import { type KeyValue, listRange, type Registry, RegistryError } from '../subnet/registry/registry.ts';
import { type Answer, aliveText } from './lease/alive.ts';
import { duration } from './status.ts';

export interface LeaseReleaseParts {
  readonly registry: Registry;
  readonly etcdPrefix: string;
  /** The lease of a subnet, or of the host with these addresses, in canonical form. */
  readonly target: { readonly subnet: Subnet } | { readonly addresses: PerFamily<string> };
  /** Release reservations and leases of running daemons as well, and do not ask. */
  readonly force: boolean;
  readonly dryRun: boolean;
  /** Says that the daemon of this host runs and holds this key; undefined when it does not. */
  readonly heldHere: (kv: KeyValue) => string | undefined;
  /** Whether a host other than this one answers at its address, by ping or ARP; absent: nobody is asked. */
  readonly askHost?: (address: string, signal: AbortSignal) => Promise<Answer | undefined>;
  /** Asks the operator; absent without a terminal. */
  readonly confirm?: (question: string) => Promise<boolean>;
  readonly clock: Clock;
  readonly random: Random;
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
}

/**
 * Releases the lease of a host that is gone, so that its subnet is free at once: deletes its key, guarded by
 * mod_revision, and revokes its etcd lease unless another key uses it.
 *
 * Without `force` it does not release the lease of a running daemon. It asks this host's daemon directly, and
 * any other by a probe (see {@link probe}), which takes two seconds. A flanneld does not answer probes, so that
 * a host that answers ping or ARP keeps its lease, too, and the operator is asked as well.
 *
 * Resolves to the exit code: 0 released; 1 not (no such lease, a reservation, a host that lives, the operator
 * said no, etcd failed, or the key changed meanwhile). Rejects only with `signal.reason`.
 */
export async function runLeaseRelease(parts: LeaseReleaseParts, signal: AbortSignal): Promise<0 | 1> {
  const { force, dryRun, out, err } = parts;
  try {
    const found = await findKeys(parts, signal);
    const refusal = refusalOf(parts, found);
    if (refusal !== undefined) {
      err(refusal);
      return 1;
    }
    if (dryRun) {
      for (const kv of found) out(`would release ${leaseText(parts, kv)}: delete ${kv.key}`);
      if (!force) out('a run without --dry-run asks its daemon first, and stops if the daemon answers');
      return 0;
    }
    const agreed = force ? found : await askedFor(parts, found, signal);
    if (agreed === undefined) return 1;
    const released = await releaseKeys(parts, agreed, signal);
    return released.length === agreed.length ? 0 : 1;
  } catch (error) {
    signal.throwIfAborted();
    err(explanationOf(error));
    return 1;
  }
}

/** Deletes these keys, unless they changed, and revokes their etcd leases. Resolves to those that it deleted. Rejects with RegistryError. */
export async function releaseKeys(
  parts: Pick<LeaseReleaseParts, 'registry' | 'etcdPrefix' | 'force' | 'out' | 'err'>,
  kvs: readonly KeyValue[],
  signal: AbortSignal,
): Promise<readonly KeyValue[]> {
  const { registry, out, err } = parts;
  const released: KeyValue[] = [];
  for (const kv of kvs) {
    if (await deleteKey(registry, kv, signal)) {
      released.push(kv);
      out(`released ${leaseText(parts, kv)}: deleted ${kv.key}`);
    } else err(`somebody else changed or deleted ${kv.key} meanwhile; left it alone`);
  }
  await revoke(parts, new Set(released.map(({ lease }) => lease).filter((id) => id !== '0')), signal);
  return released;
}

async function findKeys(
  { registry, etcdPrefix, target }: LeaseReleaseParts,
  signal: AbortSignal,
): Promise<readonly KeyValue[]> {
  const prefix = subnetsPrefix(etcdPrefix);
  const { kvs } = await listRange(registry, prefix, signal);
  return kvs.filter((kv) => {
    if ('addresses' in target) {
      const parsed = parseLease(prefix, kv);
      return 'lease' in parsed && isOwnLease(target.addresses, parsed.lease);
    }
    const { ipv4, ipv6 } = parseSubnetKey(prefix, kv.key) ?? {};
    return [ipv4?.text, ipv6?.text].includes(target.subnet.text);
  });
}

function refusalOf(
  { target, registry, etcdPrefix, force, heldHere }: LeaseReleaseParts,
  found: readonly KeyValue[],
): string | undefined {
  if (found.length === 0) {
    const whose =
      'subnet' in target
        ? `of the subnet ${target.subnet.text}`
        : `of a host with the address ${familiesText(target.addresses)}`;
    return `there is no lease ${whose} under ${subnetsPrefix(etcdPrefix)} at ${registry.endpoint}`;
  }
  if (force) return undefined;
  const reservations = found.filter(({ lease }) => lease === '0').map(({ key }) => key);
  if (reservations.length > 0)
    return `${reservations.join(', ')} ${plural(reservations.length, 'is a reservation', 'are reservations')}, which an operator made; nothing was released. To release it, pass --force`;
  const [here] = found.flatMap((kv) => heldHere(kv) ?? []);
  return here && `${here}; nothing was released. Stop it first (systemctl stop flanneld), or pass --force`;
}

/** The current keys, when no daemon answers for them and the operator agrees; otherwise says why not. */
async function askedFor(
  parts: LeaseReleaseParts,
  found: readonly KeyValue[],
  signal: AbortSignal,
): Promise<readonly KeyValue[] | undefined> {
  const { out, err, confirm } = parts;
  for (const kv of found) {
    const answer = await askHolder(parts, kv, signal);
    if (answer === 'quiet') continue;
    err(
      answer === 'answered'
        ? `the daemon of ${holderText(kv.value)} runs and holds ${kv.key}; nothing was released. Stop it first, or pass --force`
        : `somebody else changed ${kv.key} meanwhile; nothing was released`,
    );
    return undefined;
  }
  for (const kv of found) {
    const host = holderText(kv.value);
    const answer = await parts.askHost?.(host, signal);
    if (answer === undefined) continue;
    err(`${aliveText(host, answer)}; nothing was released. If the host has left the cluster, pass --force`);
    return undefined;
  }
  for (const kv of found) {
    const renewed = await renewedText(parts.registry, kv.lease, signal);
    out(`no daemon answers for ${leaseText(parts, kv)} (a flanneld never does)${renewed}`);
  }
  if (confirm !== undefined && !(await confirm('Release it?'))) {
    err('nothing was released');
    return undefined;
  }
  // The probe wrote the keys again.
  const now = await findKeys(parts, signal);
  const isSame = (a: KeyValue, b: KeyValue) => a.key === b.key && a.value === b.value && a.lease === b.lease;
  return found.map((kv) => now.find((one) => isSame(one, kv)) ?? kv);
}

/** When the etcd lease of a key was last renewed. A flanneld renews once a day. */
async function renewedText(registry: Registry, lease: string, signal: AbortSignal): Promise<string> {
  if (lease === '0') return '';
  const { ttlSeconds, grantedTtlSeconds } = await registry.leaseTimeToLive(lease, signal);
  return ttlSeconds < 0 ? '' : `; its lease was renewed ${duration(grantedTtlSeconds - ttlSeconds)} ago`;
}

/** Asks the daemon that may hold a key, by etcd. Rejects with RegistryError. */
export async function askHolder(
  {
    registry,
    etcdPrefix,
    out,
    clock,
    random,
  }: Pick<LeaseReleaseParts, 'registry' | 'etcdPrefix' | 'out' | 'clock' | 'random'>,
  kv: KeyValue,
  signal: AbortSignal,
): Promise<'answered' | 'quiet' | 'changed'> {
  const prefix = subnetsPrefix(etcdPrefix);
  const parsed = parseLease(prefix, kv);
  if (!('lease' in parsed)) return 'quiet';
  out(`asking the daemon of ${holderText(kv.value)}; waiting two seconds for its answer`);
  const grants = new Grants(registry, random);
  const common = { registry, grants, log: silent, subnetsPrefix: prefix, clock };
  return await probe({ ...common, addresses: {}, leaseTtlSeconds: 0 }, parsed.lease, signal);
}

const silent: Logger = { debug() {}, info() {}, warn() {}, error() {} };

function leaseText({ etcdPrefix }: Pick<LeaseReleaseParts, 'etcdPrefix'>, { key, value }: KeyValue): string {
  return `${familiesText(parseSubnetKey(subnetsPrefix(etcdPrefix), key) ?? {})} of ${holderText(value)}`;
}

/** Revokes the etcd leases of deleted keys, unless another key uses them. Rejects with RegistryError. */
async function revoke(
  { registry, etcdPrefix, force, out }: Pick<LeaseReleaseParts, 'registry' | 'etcdPrefix' | 'force' | 'out'>,
  leases: ReadonlySet<string>,
  signal: AbortSignal,
): Promise<void> {
  if (leases.size === 0) return;
  const { kvs } = await listRange(registry, subnetsPrefix(etcdPrefix), signal);
  for (const id of leases) {
    const users = kvs.filter(({ lease }) => lease === id).map(({ key }) => key);
    if (users.length > 0) {
      out(`kept its etcd lease: ${users.join(', ')} ${plural(users.length, 'uses', 'use')} it, too`);
    } else {
      await registry.leaseRevoke(id, signal);
      out('revoked its etcd lease');
    }
  }
  if (force) out('a daemon that still runs on that host takes a subnet again at once');
}

/** Deletes a key unless it changed; resolves to whether it is gone. Rejects with RegistryError. */
async function deleteKey(registry: Registry, { key, modRevision }: KeyValue, signal: AbortSignal) {
  const compare = [{ key, target: 'mod', op: '=', value: modRevision } as const];
  try {
    return (await registry.txn({ compare, success: [{ op: 'delete', key }] }, signal)).succeeded;
  } catch (error) {
    if (!(error instanceof RegistryError) || !error.outcomeUnknown) throw error;
    // The answer was lost: read the key to learn the outcome.
    const { kvs } = await registry.range({ key }, signal);
    if (kvs.length === 0) return true;
    throw error;
  }
}

/** The interface that the daemon would choose. */
export interface ChosenInterface {
  readonly name: string;
  readonly index: number;
  readonly addresses: PerFamily<string>;
}

/** Chooses it by the flags, with an address of each of these families; a text says why none fits. */
export type ChooseInterface = (
  families: readonly Family[],
  signal: AbortSignal,
) => Promise<ChosenInterface | string>;

export interface ThisHost extends Stores {
  readonly etcdPrefix: string;
  readonly chooseInterface: ChooseInterface;
}

/** Does not help when etcd does not answer. */
const hint = 'To name the lease: lease release SUBNET, or --public-ip=ADDRESS';

/**
 * The addresses that this host's lease carries: those that its daemon would choose, of the families of the
 * network. Any other address might match the lease of another host. A text says why they are unknown. Rejects
 * with RegistryError and with `signal.reason`.
 */
export async function addressesOfThisHost(
  host: ThisHost,
  signal: AbortSignal,
): Promise<PerFamily<string> | string> {
  const key = configKey(host.etcdPrefix);
  const unknown = (why: string) => `${why}\n${hint}`;
  try {
    const { kvs } = await host.registry.range({ key }, signal);
    const text = kvs[0]?.value;
    if (text === undefined) {
      const { problem, remedy } = await describeMissing(host, key, signal);
      return unknown(`${problem} ${remedy}`);
    }
    const chosen = await host.chooseInterface(familiesOf(parseNetworkConfig(text)), signal);
    return typeof chosen === 'string' ? unknown(chosen) : chosen.addresses;
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof RegistryError) throw error;
    const which =
      error instanceof NetworkConfigError ? `the network configuration at ${key} cannot be used: ` : '';
    return unknown(`${which}${explanationOf(error)}`);
  }
}
