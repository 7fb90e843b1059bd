import type { Subnet } from '../ip/ip.ts';
import { excerpt } from '../runtime/texts.ts';
import type { V2Node } from '../subnet/etcd-v2/store.ts';
import { formatSubnetKey } from '../subnet/keys.ts';
import { holderText, type LeaseValue } from '../subnet/lease/lease.ts';
import type { KeyValue } from '../subnet/registry/registry.ts';
import { copyForV3, markedValue } from './copies.ts';
import { forEachOverlap } from './overlaps.ts';

// What a bridge between the two stores is to do, from what both hold: pure. Each subnet has one master at a time, the store in which its host
// has written it; the other store gets a copy. A host that changes sides writes its key there, over the copy, and is master from then on.

/** A lease in v2. */
export interface InV2 {
  readonly node: V2Node;
  readonly subnet: Subnet;
  readonly value: LeaseValue & { readonly publicIP: string };
  readonly isCopy: boolean;
}

/** A key of v3 that takes an IPv4 subnet. */
export interface InV3 {
  readonly kv: KeyValue;
  readonly subnet: Subnet;
  /** Undefined: the key does not name its subnet exactly, or its value no host of IPv4. */
  readonly value: (LeaseValue & { readonly publicIP: string }) | undefined;
  readonly isCopy: boolean;
}

/** What was seen of a subnet before. */
export interface Known {
  /** modifiedIndex of the last lease of a host in v2; absent: none was seen since the store was last known to be another one. */
  readonly v2?: number;
  /** mod_revision of the last lease of a host in v3. */
  readonly v3?: number;
  readonly master?: Master;
}

export type Master = 'v2' | 'v3';

export interface Held {
  readonly v2: readonly InV2[];
  readonly v3: readonly InV3[];
  readonly known: ReadonlyMap<string, Known>;
  /** Seconds since an etcd lease of v3 was granted or renewed, by its id, as far as they were asked for. */
  readonly agesSeconds: ReadonlyMap<string, number>;
  /** Whether the etcd lease of a copy in v3 is to be renewed; `index`: the original's modifiedIndex. */
  readonly isRenewalDue: (leaseId: string, index: number) => boolean;
}

/** One write, with the guard that keeps it from another's. All concern `subnet`; `why` is for the log. */
export type Action = { readonly subnet: Subnet; readonly host: string; readonly why: string } & (
  | { readonly what: 'create-v3'; readonly key: string; readonly value: string; readonly leaseId: string }
  | { readonly what: 'replace-v3'; readonly kv: KeyValue; readonly value: string; readonly leaseId: string }
  | { readonly what: 'renew-v3'; readonly leaseId: string; readonly index: number }
  | { readonly what: 'remove-v3'; readonly kv: KeyValue }
  | {
      readonly what: 'create-v2';
      readonly key: string;
      readonly value: string;
      readonly isReservation: boolean;
    }
  | {
      readonly what: 'replace-v2';
      readonly node: V2Node;
      readonly value: string;
      readonly isReservation: boolean;
    }
  | { readonly what: 'expire-v2'; readonly node: V2Node }
);

/** A subnet that an operator has to look at; nothing is done about it. */
export interface Conflict {
  readonly subnet: string;
  readonly why: string;
}

/** A copy whose original was gone before this bridge began, or was lost with its store: it is left to end by itself. */
export interface Orphan {
  readonly subnet: string;
  readonly host: string;
  readonly store: Master;
}

export interface PairPlan {
  readonly actions: readonly Action[];
  /** Subnets of hosts that use each store. */
  readonly onV2: number;
  readonly onV3: number;
  readonly conflicts: readonly Conflict[];
  readonly orphans: readonly Orphan[];
  /** Etcd leases whose age decides; ask for it and plan again. */
  readonly askAges: readonly string[];
  readonly known: ReadonlyMap<string, Known>;
}

/**
 * The time to live of copies, flannel's own. In v2 they are renewed when less than half of it is left: v3 tells of no renewal, but a key that
 * is there has a host that renews it.
 */
export const copyTtlSeconds = 86_400;

/** Which of two leases of one host is the newer one is not told by ages that are nearer than this. */
const sameAgeSeconds = 2;

/** flannel 0.7.1 has renewed a lease an hour before its end: what has less left than this it does not use. */
const unrenewedSeconds = 300;

/** All that is said about one subnet, in both stores. */
interface Group {
  readonly subnet: Subnet;
  v2?: InV2;
  readonly v3: InV3[];
  readonly overlapping: string[];
}

/** What is to be done now. When it is done, and both stores tell so, nothing is left to do. */
export function planPairs(
  leasesPrefixes: { readonly v2: string; readonly v3: string },
  held: Held,
): PairPlan {
  const groups = groupsOf(held);
  const actions: Action[] = [];
  const conflicts: Conflict[] = [];
  const orphans: Orphan[] = [];
  const askAges: string[] = [];
  const known = new Map<string, Known>();
  const count = { v2: 0, v3: 0 };
  for (const [text, group] of groups) {
    const before = held.known.get(text) ?? {};
    const verdict = judge(group, before, held, leasesPrefixes);
    const master = verdict.master ?? (verdict.presumed === undefined ? before.master : undefined);
    const { v2, v3 } = originalsOf(group);
    const { master: _, ...seen } = before;
    known.set(text, {
      ...seen,
      ...(v2 && { v2: v2.node.modifiedIndex }),
      ...(v3 && { v3: v3.kv.modRevision }),
      ...(master && { master }),
    });
    actions.push(...(verdict.actions ?? []));
    if (verdict.conflict !== undefined) conflicts.push({ subnet: text, why: verdict.conflict });
    if (verdict.orphan !== undefined) orphans.push({ subnet: text, ...verdict.orphan });
    if (verdict.askAge !== undefined) {
      askAges.push(verdict.askAge);
      known.set(text, before);
    }
    const user = verdict.master ?? verdict.presumed;
    if (user !== undefined) count[user] += 1;
  }
  return { actions, conflicts, orphans, askAges, known, onV2: count.v2, onV3: count.v3 };
}

interface Verdict {
  /** Whose key it is; undefined: nobody's, or not to be told. */
  readonly master?: Master;
  /** Whose it most likely is: nothing is remembered of that. */
  readonly presumed?: Master;
  readonly actions?: readonly Action[];
  readonly conflict?: string;
  readonly orphan?: Omit<Orphan, 'subnet'>;
  readonly askAge?: string;
}

function originalsOf({ v2, v3 }: Group): { readonly v2: InV2 | undefined; readonly v3: InV3 | undefined } {
  return { v2: v2?.isCopy === false ? v2 : undefined, v3: v3.find(({ isCopy }) => !isCopy) };
}

function judge(
  group: Group,
  known: Known,
  held: Held,
  prefixes: { readonly v2: string; readonly v3: string },
): Verdict {
  const { subnet, v2, v3, overlapping } = group;
  const { v2: old, v3: kept } = originalsOf(group);
  const [copy] = v3.filter(({ isCopy }) => isCopy);
  if (kept !== undefined) {
    const hosts = new Set(v3.filter(({ isCopy }) => !isCopy).map(({ value }) => value?.publicIP));
    if (hosts.size > 1) return { conflict: 'v3 has it for two hosts' };
    if (kept.value === undefined)
      return old === undefined
        ? {}
        : { conflict: `its key in v3 holds no lease: ${excerpt(kept.kv.value, 60)}` };
    // The daemon of a host with IPv6 puts a key of its own beside.
    const beside = copy && [removal(copy, 'its host has another key in v3')];
    if (old === undefined) {
      const actions =
        overlapping.length > 0 && v2 === undefined ? [] : copyToV2(kept, v2, subnet, prefixes.v2);
      return withOverlaps(group, { master: 'v3', actions: [...(beside ?? []), ...actions] });
    }
    return bothWritten(old, { ...kept, value: kept.value }, known, held);
  }
  if (old !== undefined) {
    const actions =
      copy === undefined && overlapping.length > 0 ? [] : copyToV3(old, copy, held, prefixes.v3);
    return withOverlaps(group, { master: 'v2', actions });
  }
  if (v2 !== undefined && copy === undefined) {
    const { node, value } = v2;
    if (known.v3 === undefined) return { orphan: { host: value.publicIP, store: 'v2' } };
    return {
      actions: [{ what: 'expire-v2', node, subnet, host: value.publicIP, why: 'its lease in v3 has ended' }],
    };
  }
  if (copy === undefined) return {};
  const host = copy.value?.publicIP ?? '';
  // Copies on both sides came from backups.
  if (v2 !== undefined || known.v2 === undefined) return { orphan: { host, store: 'v3' } };
  return { actions: [removal(copy, 'its lease in v2 has ended')] };
}

function withOverlaps({ overlapping }: Group, verdict: Verdict): Verdict {
  return overlapping.length === 0 ? verdict : { ...verdict, conflict: overlapping.join('; ') };
}

/**
 * A host has written its key in both stores: what it wrote last counts. Where that is not known its lease in v3 is presumed to be in use, and
 * nothing that its host may need is changed: its key in v2 stays as it is, and its lease in v3 alive, until one of them tells.
 */
function bothWritten(
  old: InV2,
  kept: InV3 & { readonly value: LeaseValue & { readonly publicIP: string } },
  known: Known,
  held: Held,
): Verdict {
  const { subnet, node } = old;
  const { kv } = kept;
  const host = old.value.publicIP;
  if (kept.value.publicIP !== host)
    return { conflict: `v2 has it for ${host}, v3 for ${holderText(kv.value)}` };
  const isReservation = { v2: node.ttlSeconds === undefined, v3: kv.lease === '0' };
  const later = laterOf(old, kept, known, held.agesSeconds);
  if (later === undefined) return { askAge: kv.lease };
  const common = { subnet, host, why: `its host uses ${later} now` } as const;
  if (later === 'perhaps v3') {
    const { modifiedIndex: index } = node;
    const isInDoubt = !isReservation.v2 && !isReservation.v3;
    if (!isInDoubt || !held.isRenewalDue(kv.lease, index)) return { presumed: 'v3' };
    const why = 'its host may use it';
    return { presumed: 'v3', actions: [{ what: 'renew-v3', leaseId: kv.lease, index, subnet, host, why }] };
  }
  // An operator's reservation is not replaced by a lease, which ends.
  const other = later === 'v2' ? 'v3' : 'v2';
  if (isReservation[other] && !isReservation[later]) return { master: later };
  if (later === 'v3') {
    const value = markedValue(kept.value, 'v3');
    const action = { what: 'replace-v2', node, value, isReservation: isReservation.v3, ...common } as const;
    return { master: 'v3', actions: [action] };
  }
  const copy = copyForV3(kv.key, { value: old.value, text: node.value, isReservation: isReservation.v2 });
  return { master: 'v2', actions: [{ what: 'replace-v3', kv, ...copy, ...common }] };
}

/**
 * The side that has changed since both were last seen. Where that is not known: v2 when its lease is the younger one, v3 when nobody has
 * renewed the one in v2 until shortly before its end, else perhaps v3. A lease in v3 may be older than it says, since a new leader of etcd
 * gives each its whole time again. Reservations have no age; either end of a pair of them will do. Undefined: the age has to be asked for.
 */
function laterOf(
  { node }: InV2,
  { kv }: InV3,
  known: Known,
  agesSeconds: ReadonlyMap<string, number>,
): Master | 'perhaps v3' | undefined {
  const isOldV2 = known.v2 === node.modifiedIndex;
  const isOldV3 = known.v3 === kv.modRevision;
  if (isOldV2 && isOldV3 && known.master !== undefined) return known.master;
  if (isOldV2 !== isOldV3) return isOldV2 ? 'v3' : 'v2';
  const { ttlSeconds: left } = node;
  if (left === undefined || kv.lease === '0')
    return left === undefined && kv.lease === '0' ? 'v3' : 'perhaps v3';
  const age = agesSeconds.get(kv.lease);
  if (age === undefined) return undefined;
  if (copyTtlSeconds - left < age - sameAgeSeconds) return 'v2';
  return left < unrenewedSeconds ? 'v3' : 'perhaps v3';
}

function copyToV3(old: InV2, copy: InV3 | undefined, held: Held, leasesPrefix: string): readonly Action[] {
  const { subnet, node, value } = old;
  const host = value.publicIP;
  const isReservation = node.ttlSeconds === undefined;
  const common = { subnet, host } as const;
  const copyAt = (key: string) => copyForV3(key, { value, text: node.value, isReservation });
  if (copy === undefined) {
    const key = formatSubnetKey(leasesPrefix, { ipv4: subnet });
    return [{ what: 'create-v3', key, ...copyAt(key), ...common, why: 'it is in v2' }];
  }
  const { kv } = copy;
  // A copy on a lease has the id that its value makes: to calculate ten thousand of them takes as long as all the rest.
  const isUnchanged = !isReservation && kv.lease !== '0' && kv.value === node.value;
  const wanted = isUnchanged ? { value: kv.value, leaseId: kv.lease } : copyAt(kv.key);
  if (kv.value !== wanted.value || kv.lease !== wanted.leaseId)
    return [{ what: 'replace-v3', kv, ...wanted, ...common, why: 'it has changed in v2' }];
  if (isReservation || !held.isRenewalDue(kv.lease, node.modifiedIndex)) return [];
  const { modifiedIndex: index } = node;
  return [{ what: 'renew-v3', leaseId: kv.lease, index, ...common, why: 'its host lives' }];
}

function copyToV2(
  kept: InV3,
  copy: InV2 | undefined,
  subnet: Subnet,
  leasesPrefix: string,
): readonly Action[] {
  const { kv, value: lease } = kept;
  if (lease === undefined) return [];
  const value = markedValue(lease, 'v3');
  const isReservation = kv.lease === '0';
  const common = { subnet, host: lease.publicIP, isReservation, value } as const;
  if (copy === undefined) {
    const key = formatSubnetKey(leasesPrefix, { ipv4: subnet });
    return [{ what: 'create-v2', key, ...common, why: 'it is in v3' }];
  }
  const { node } = copy;
  // flannel 0.7.1 leaves the old route when the address in a key changes: remove it first.
  if (copy.value.publicIP !== lease.publicIP)
    return [{ what: 'expire-v2', node, subnet, host: copy.value.publicIP, why: 'another host has it in v3' }];
  if (node.value !== value || (node.ttlSeconds === undefined) !== isReservation)
    return [{ what: 'replace-v2', node, ...common, why: 'it has changed in v3' }];
  if (isReservation || (node.ttlSeconds ?? 0) >= copyTtlSeconds / 2) return [];
  return [{ what: 'replace-v2', node, ...common, why: 'its host lives' }];
}

function removal({ kv, subnet, value }: InV3, why: string): Action {
  return { what: 'remove-v3', kv, subnet, host: value?.publicIP ?? '', why };
}

function groupsOf({ v2, v3 }: Held): ReadonlyMap<string, Group> {
  const groups = new Map<string, Group>();
  const groupOf = (subnet: Subnet) => {
    const found = groups.get(subnet.text) ?? { subnet, v3: [], overlapping: [] };
    groups.set(subnet.text, found);
    return found;
  };
  for (const lease of v2) groupOf(lease.subnet).v2 = lease;
  for (const lease of v3) groupOf(lease.subnet).v3.push(lease);
  forEachOverlap([...groups.values()], (group, other) => {
    const places = [other.v2 && `of ${other.v2.value.publicIP} in v2`, ...other.v3.map(inV3)].filter(Boolean);
    group.overlapping.push(`overlaps ${other.subnet.text} ${places.join(' and ')}`);
  });
  return groups;
}

function inV3({ kv, value }: InV3): string {
  return value === undefined ? `by the key ${excerpt(kv.key, 80)} in v3` : `of ${value.publicIP} in v3`;
}
