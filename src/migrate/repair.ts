import { V2Error, type V2Node } from '../subnet/etcd-v2/store.ts';
import { joinKey, parseSubnetKey, subnetsPrefix } from '../subnet/keys.ts';
import { holderText, parseLeaseValue } from '../subnet/lease/lease.ts';
import { type KeyValue, listRange, RegistryError } from '../subnet/registry/registry.ts';
import { leaseIdOf } from './copies.ts';
import { replaceCopy } from './copy.ts';
import type { Left } from './plan.ts';
import { inBatches, type Sides } from './snapshot.ts';

// `etcdctl migrate` copies each key of the v2 store without its time to live. A lease becomes a reservation: no host
// renews it, and it keeps its subnet from others after its host is gone.

/**
 * What becomes of a reservation in v3.
 * - repaired: it gets an etcd lease. kept: it may be the operator's own. Nothing is done about a conflict.
 * - unfinished: somebody wrote the key in this very moment.
 */
export type RepairWhat = 'repaired' | 'kept' | 'conflict' | 'unfinished';

/** One reservation of the v3 store, for the operator. */
export interface RepairRow {
  readonly subnet: string;
  /** The PublicIP; empty when the value has none. */
  readonly host: string;
  /** Undefined: v2 has no lease for it, or cannot be read. */
  readonly left: Left | undefined;
  readonly what: RepairWhat;
  /** May be empty. */
  readonly why: string;
}

export interface RepairReport {
  /** In the order of the keys. With `dryRun` their `repaired` says what would be done. */
  readonly rows: readonly RepairRow[];
  /** Named, and no reservation: with an etcd lease already, or not in v3 at all. */
  readonly others: readonly { readonly subnet: string; readonly hasLease: boolean }[];
  /** How many keys v2 has there; undefined when etcd does not serve that store. */
  readonly keysInV2: number | undefined;
}

/** etcd did not let it finish; how many were repaired before. */
export interface RepairStopped {
  readonly stopped: V2Error | RegistryError;
  readonly repaired: number;
}

export interface RepairWish {
  readonly dryRun: boolean;
  /** Subnets whose reservations the operator gives up, as `10.5.1.0/24`: v2 need not say what they were. */
  readonly named: ReadonlySet<string>;
}

/** What both stores hold; of v2 undefined when it is not served. */
export interface Reservations {
  readonly v2: { readonly leasesPrefix: string; readonly nodes: readonly V2Node[] } | undefined;
  readonly v3: { readonly leasesPrefix: string; readonly kvs: readonly KeyValue[] };
}

export interface RepairStep {
  readonly row: RepairRow;
  readonly kv: KeyValue;
  /** Of the etcd lease that it gets; absent: it gets none. */
  readonly leaseId?: string;
}

/** Each round reads both stores again: a host may have written its key meanwhile. */
const maxRounds = 3;

/**
 * Gives each reservation that was a lease in v2 an etcd lease of its own. v2 tells: it has the subnet for the same host, with a time to
 * live (see isConverted). What v2 does not know any more is left alone unless it is named, for an operator may have made it. The value stays as
 * it is, so that a host that lives on the key goes on, and renews it from then on.
 *
 * It may be killed at any moment and run again: the id of the etcd lease follows from key and value.
 *
 * Rejects with `signal.reason` alone.
 */
export async function repairReservations(
  sides: Sides,
  wish: RepairWish,
  signal: AbortSignal,
): Promise<RepairReport | RepairStopped> {
  const { registry } = sides.to;
  const rows = new Map<string, RepairRow>();
  const repaired = new Set<string>();
  try {
    for (let round = 1; ; round++) {
      const found = await readReservations(sides, signal);
      const steps = planRepairs(found, wish.named);
      for (const { kv, row } of steps) rows.set(kv.key, row);
      const toDo =
        wish.dryRun || round > maxRounds ? [] : steps.filter(({ leaseId }) => leaseId !== undefined);
      if (toDo.length === 0) return reportOf(found, rows, wish, repaired);
      await inBatches(toDo, async ({ kv, leaseId = '0' }) => {
        if ((await replaceCopy(registry, kv, { value: kv.value, leaseId }, signal)) !== undefined)
          repaired.add(kv.key);
      });
    }
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof V2Error || error instanceof RegistryError)
      return { stopped: error, repaired: repaired.size };
    throw error;
  }
}

/** Linearizable reads of both; the old store first. Rejects with V2Error, RegistryError or `signal.reason`. */
export async function readReservations({ from, to }: Sides, signal: AbortSignal): Promise<Reservations> {
  const v2Prefix = subnetsPrefix(joinKey('/', from.prefix));
  const v3Prefix = subnetsPrefix(to.prefix);
  const nodes = await from.store.list(v2Prefix.slice(0, -1), signal).then(
    (listing) => listing.nodes,
    (error: unknown) => {
      if (error instanceof V2Error && error.kind === 'NOT_SERVED') return undefined;
      throw error;
    },
  );
  const { kvs } = await listRange(to.registry, v3Prefix, signal);
  return { v2: nodes && { leasesPrefix: v2Prefix, nodes }, v3: { leasesPrefix: v3Prefix, kvs } };
}

/** What becomes of each key of v3 that names a subnet and has no etcd lease; in the order of the keys. */
export function planRepairs({ v2, v3 }: Reservations, named: ReadonlySet<string>): readonly RepairStep[] {
  const old = new Map(v2?.nodes.map((node) => [parseSubnetKey(v2.leasesPrefix, node.key)?.ipv4?.text, node]));
  return v3.kvs.flatMap((kv) => {
    const subnet = kv.lease === '0' ? subnetOf(v3.leasesPrefix, kv) : undefined;
    return subnet === undefined ? [] : [stepOf(subnet, kv, old.get(subnet), named.has(subnet))];
  });
}

function stepOf(subnet: string, kv: KeyValue, node: V2Node | undefined, isNamed: boolean): RepairStep {
  const host = parseLeaseValue(kv.value)?.publicIP;
  const left = node && (node.ttlSeconds ?? 'reservation');
  const row = (what: RepairWhat, why = ''): RepairRow => ({ subnet, host: host ?? '', left, what, why });
  if (host === undefined)
    return { kv, row: row('kept', 'its value names no host: it has no valid PublicIP') };
  if (node === undefined) {
    if (!isNamed) return { kv, row: row('kept') };
    return { kv, row: row('repaired', 'named'), leaseId: leaseIdFor(kv, undefined) };
  }
  if (parseLeaseValue(node.value)?.publicIP !== host)
    return { kv, row: row('conflict', `v2 has it for ${holderText(node.value)}`) };
  if (left === 'reservation') return { kv, row: row('kept', 'it is a reservation in v2, too') };
  if (!isNamed && !isConverted(kv, node))
    return { kv, row: row('kept', 'a lease in v2, but somebody wrote it in v3 since then') };
  return { kv, row: row('repaired'), leaseId: leaseIdFor(kv, node) };
}

/**
 * Whether `etcdctl migrate` made a key, and nobody meant it to be a reservation. That program writes v2's indexes as revisions. A host
 * that goes on in v2 renews there, which gives its key there a later index; then the key in v3 must be as it was made. An
 * operator who reserves what `migrate` copied, or what a host leased in v3, writes that key once more.
 */
function isConverted({ value, createRevision, modRevision }: KeyValue, node: V2Node): boolean {
  if (createRevision === node.createdIndex) return true;
  return createRevision < node.createdIndex && createRevision === modRevision && value === node.value;
}

/**
 * A key with v2's own value becomes what a copy of `migrate` is, which v2 rules until a host on v3 writes it (see isCopy). Any other
 * value was written by a host on v3: its key must not be taken for such a copy, so its lease has another id.
 */
function leaseIdFor({ key, value }: KeyValue, node: V2Node | undefined): string {
  return leaseIdOf(node?.value === value ? key : `repair ${key}`, value);
}

function subnetOf(leasesPrefix: string, { key }: KeyValue): string | undefined {
  const { ipv4, ipv6 } = parseSubnetKey(leasesPrefix, key) ?? {};
  return (ipv4 ?? ipv6)?.text;
}

function reportOf(
  { v2, v3 }: Reservations,
  rows: ReadonlyMap<string, RepairRow>,
  { named, dryRun }: RepairWish,
  repaired: ReadonlySet<string>,
): RepairReport {
  const all = new Set(v3.kvs.map((kv) => subnetOf(v3.leasesPrefix, kv)));
  const reserved = new Set([...rows.values()].map(({ subnet }) => subnet));
  const others = [...named].filter((subnet) => !reserved.has(subnet));
  return {
    rows: [...rows].map(([key, row]) =>
      row.what === 'repaired' && !dryRun && !repaired.has(key)
        ? { ...row, what: 'unfinished', why: 'somebody wrote its key meanwhile: run this again' }
        : row,
    ),
    others: others.map((subnet) => ({ subnet, hasLease: all.has(subnet) })),
    keysInV2: v2?.nodes.length,
  };
}
