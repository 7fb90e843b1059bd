import { overlaps, type PerFamily } from '../../ip/ip.ts';
import { plural } from '../../runtime/texts.ts';
import type { NetworkConfig } from '../../subnet/config/config.ts';
import { formatSubnetKey, type LeaseSubnets, occupiedSubnets } from '../../subnet/keys.ts';
import { formatLeaseValue, holderText, isOwnKey } from '../../subnet/lease/lease.ts';
import { misfitReason } from '../../subnet/lease/misfits.ts';
import { familiesText } from '../../subnet/lease/own-lease.ts';
import { type KeyValue, prefixEnd, RegistryError } from '../../subnet/registry/registry.ts';
import { askingEtcd, complain, type ExitCode, printJson, wrapped } from '../output.ts';
import { type ClusterView, type LeaseParts, readCluster } from './cluster.ts';
import { type LeaseTarget, noLeaseText, rowsOf } from './show.ts';

export interface ReserveParts extends LeaseParts {
  readonly subnets: LeaseSubnets;
  /** Of the host, canonical, one for each of the subnets. */
  readonly addresses: PerFamily<string>;
  readonly dryRun: boolean;
}

/** Other hosts may take leases at the same moment; then it is looked again. */
const attempts = 10;

/**
 * `lease reserve`: makes a key without an etcd lease, so that the host takes this subnet at its next start and never loses it. The
 * lease that the host has of the same subnet becomes the reservation. Refuses a subnet that is none of the pool's, as the host would
 * not take it, and one that another host has.
 *
 * Resolves to the exit code: 0 reserved, or it was already; 1 refused; 3 etcd cannot be asked. Rejects only with `signal.reason`.
 */
export async function reserveSubnet(parts: ReserveParts, signal: AbortSignal): Promise<ExitCode> {
  return await askingEtcd(parts, signal, async () => {
    for (let attempt = 1; ; attempt++) {
      const view = await readCluster(parts, signal);
      const refusal = refusalOf(parts, view);
      if (refusal !== undefined) {
        complain(parts, `${refusal}; nothing was reserved`, 'NOT_RESERVED');
        return 1;
      }
      const done = await put(parts, view, signal);
      if (done !== undefined) return tell(parts, view, done);
      if (attempt < attempts) continue;
      complain(
        parts,
        'other hosts keep changing the leases at the same moment; nothing was reserved',
        'RACE_LOST',
      );
      return 1;
    }
  });
}

function keyOf({ subnets }: ReserveParts, { leasesPrefix }: ClusterView): string {
  return formatSubnetKey(leasesPrefix, subnets);
}

function refusalOf(parts: ReserveParts, view: ClusterView): string | undefined {
  const { subnets, addresses } = parts;
  const { config, kvs, leasesPrefix } = view;
  if (config === undefined) return `the network configuration cannot be used: ${view.configFault}`;
  const unfit = misfitOf(subnets, config);
  if (unfit !== undefined) return unfit;
  const own = keyOf(parts, view);
  const isTaken = ({ key }: KeyValue) =>
    occupiedSubnets(leasesPrefix, key).some((taken) =>
      [subnets.ipv4, subnets.ipv6].some((subnet) => subnet !== undefined && overlaps(subnet, taken)),
    );
  const rival = kvs.find((kv) => isTaken(kv) && !(kv.key === own && isOwnKey(addresses, leasesPrefix, kv)));
  return rival && `${rival.key} of ${holderText(rival.value)} has it, or a part of it`;
}

/** Why a host would not keep these subnets; undefined when it would. */
function misfitOf(subnets: LeaseSubnets, config: NetworkConfig): string | undefined {
  for (const family of ['ipv4', 'ipv6'] as const) {
    const [subnet, pool] = [subnets[family], config[family]];
    const version = family === 'ipv4' ? 'IPv4' : 'IPv6';
    if (subnet === undefined && pool !== undefined)
      return `${version} is on, so that the reservation needs an ${version} subnet and address, too: SUBNET,SUBNET HOST,HOST`;
    if (subnet === undefined) continue;
    if (pool === undefined) return `${version} is off in the network configuration`;
    const why = misfitReason(pool, subnet);
    if (why !== undefined) return `${subnet.text} would not be kept: ${why}`;
  }
  return undefined;
}

type Done = { readonly revision: number } | 'already' | 'dry run';

/** Puts the key, if no lease has changed since it was looked; undefined when one has. */
async function put(parts: ReserveParts, view: ClusterView, signal: AbortSignal): Promise<Done | undefined> {
  const { registry, addresses, dryRun } = parts;
  const { leasesPrefix, revision, kvs } = view;
  const key = keyOf(parts, view);
  const there = kvs.find((kv) => kv.key === key);
  const value = formatLeaseValue(addresses);
  if (there?.lease === '0' && there.value === value) return 'already';
  if (dryRun) return 'dry run';
  const all = { key: leasesPrefix, rangeEnd: prefixEnd(leasesPrefix) };
  const compare = [{ ...all, target: 'mod', op: '<', value: revision + 1 } as const];
  // A lease that has ended meanwhile is no change that a compare of revisions sees.
  const same = there && ({ key, target: 'mod', op: '=', value: there.modRevision } as const);
  try {
    const success = [{ op: 'put', key, value, lease: '0' } as const];
    const request = { compare: [...compare, ...(same ? [same] : [])], success };
    const { succeeded, header } = await registry.txn(request, signal);
    return succeeded ? { revision: header.revision } : undefined;
  } catch (error) {
    if (!(error instanceof RegistryError) || !error.outcomeUnknown) throw error;
    // The answer was lost: the next look finds it.
    return undefined;
  }
}

function tell(parts: ReserveParts, view: ClusterView, done: Done): 0 {
  const { subnets, addresses } = parts;
  const key = keyOf(parts, view);
  const others = view.kvs.filter((kv) => kv.key !== key && isOwnKey(addresses, view.leasesPrefix, kv));
  const names = others.map((kv) => kv.key.slice(view.leasesPrefix.length));
  if (parts.json) {
    const outcome =
      typeof done === 'string' ? { reserved: done === 'already', why: done } : { reserved: true, ...done };
    printJson(parts, { key, ...outcome, otherLeases: names });
    return 0;
  }
  const what = `${familiesText(subnets)} for ${familiesText(addresses)}`;
  const texts = {
    already: `${what} is reserved already`,
    'dry run': `would reserve ${what}: put ${key}`,
  };
  for (const line of wrapped(typeof done === 'string' ? texts[done] : `reserved ${what}: ${key}`, 2))
    parts.out(line);
  if (names.length === 0) return 0;
  const list = names.join(', ');
  const text =
    `The host has ${list} now, and takes the reservation when flanneld and Docker are restarted. ` +
    `Then ${list} ${plural(names.length, 'ends by itself', 'end by themselves')}, or at once: flanneld-ts lease release ${names[0]}`;
  for (const line of wrapped(text, 2)) parts.out(line);
  return 0;
}

export interface UnreserveParts extends LeaseParts {
  readonly target: LeaseTarget;
  readonly dryRun: boolean;
}

/** A host that lives renews the lease in this time; flannel's own. */
const leaseTtlSeconds = 86_400;

/**
 * `lease unreserve`: gives the reservation of a subnet or host an etcd lease of a day. A host that runs keeps it and renews it from then
 * on; that of a host that is gone becomes free after a day (or at once by `lease release`).
 *
 * Resolves to the exit code: 0; 1 when there is no such reservation, or somebody changed it meanwhile; 3 etcd cannot be asked.
 */
export async function unreserve(parts: UnreserveParts, signal: AbortSignal): Promise<ExitCode> {
  return await askingEtcd(parts, signal, async () => {
    const { registry, dryRun } = parts;
    const view = await readCluster(parts, signal);
    const rows = rowsOf(view, parts.target);
    const keys = rows.filter(({ reserved }) => reserved).map(({ key }) => key);
    const found = view.kvs.filter(({ key }) => keys.includes(key));
    if (found.length === 0) {
      const text =
        rows.length === 0
          ? noLeaseText(view, parts)
          : `${rows.map(({ key }) => key).join(', ')} is no reservation`;
      complain(parts, text, 'NO_SUCH_RESERVATION');
      return 1;
    }
    const changed: string[] = [];
    for (const kv of dryRun ? [] : found) {
      const { id } = await registry.leaseGrant(leaseTtlSeconds, signal);
      const compare = [{ key: kv.key, target: 'mod', op: '=', value: kv.modRevision } as const];
      const success = [{ op: 'put', key: kv.key, value: kv.value, lease: id } as const];
      const { succeeded } = await registry.txn({ compare, success }, signal);
      if (succeeded) continue;
      changed.push(kv.key);
      await registry.leaseRevoke(id, signal);
    }
    const done = found.map(({ key }) => key).filter((key) => !changed.includes(key));
    if (parts.json) printJson(parts, { unreserved: dryRun ? [] : done, changed, dryRun });
    else {
      for (const key of done) {
        const text = `${dryRun ? 'would turn' : 'turned'} ${key} into a lease of a day, which its host renews if it runs`;
        for (const line of wrapped(text, 2)) parts.out(line);
      }
      for (const key of changed) parts.err(`somebody else changed ${key} meanwhile; left it alone`);
    }
    return changed.length === 0 ? 0 : 1;
  });
}
