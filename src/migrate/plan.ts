import type { Subnet } from '../ip/ip.ts';
import { excerpt } from '../runtime/texts.ts';
import type { V2Node } from '../subnet/etcd-v2/store.ts';
import { formatSubnetKey, type LeaseSubnets, occupiedSubnets, parseSubnetKey } from '../subnet/keys.ts';
import { holderText, type LeaseValue, parseLeaseValue } from '../subnet/lease/lease.ts';
import type { KeyValue } from '../subnet/registry/registry.ts';
import { copyForV3, isCopy } from './copies.ts';
import { bySubnet, forEachOverlap } from './overlaps.ts';
import type { Snapshot } from './snapshot.ts';

/**
 * What becomes of a lease of the v2 store. A conflict is left as it is in both stores: an operator has to decide. Unfinished: it was not
 * possible in this run.
 */
export type What = 'copied' | 'there' | 'conflict' | 'skipped' | 'unfinished';

/** Seconds; a reservation has no end. */
export type Left = number | 'reservation';

/** One key of the v2 store, for the operator. */
export interface Row {
  /** `10.5.1.0/24`; of a key that names no subnet its own name. */
  readonly subnet: string;
  /** The PublicIP; empty when the value has none. */
  readonly host: string;
  readonly left: Left;
  /** Undefined: it is not there. */
  readonly leftInV3: Left | undefined;
  readonly what: What;
  /** The reason, and what else is worth knowing; may be empty. */
  readonly why: string;
}

/** A key to write in v3. */
export interface Copy {
  readonly key: string;
  /** See {@link copyForV3}. */
  readonly value: string;
  readonly subnets: LeaseSubnets;
  /** The id of its etcd lease; '0' for a reservation. */
  readonly leaseId: string;
  /** It is in v3 on this very lease, which is to be renewed. */
  readonly isThere: boolean;
}

export interface Step {
  readonly row: Row;
  /** What a copy of it is called in v3; empty for a key that names no subnet. */
  readonly key: string;
  /** Absent: there is nothing to do. */
  readonly copy?: Copy;
}

/** A lease that only the v3 store has. */
export interface OnlyInV3 {
  readonly subnet: string;
  readonly host: string;
}

export interface LeasePlan {
  /** By subnet; keys that name none at the end. */
  readonly steps: readonly Step[];
  /** Hosts that use the v2 store have no route to these. Reservations are left out. */
  readonly onlyInV3: readonly OnlyInV3[];
}

/** A key of v2 that names an IPv4 subnet and holds a lease. */
export interface OldLease {
  readonly node: V2Node;
  readonly subnet: Subnet;
  readonly value: LeaseValue & { readonly publicIP: string };
}

/**
 * Compares the leases of both stores. What v3 lacks is copied, on an etcd lease of its own; what both have for the same host is
 * there; one subnet with two addresses, or subnets that overlap, are a conflict.
 */
export function planLeases({ v2, v3 }: Snapshot): LeasePlan {
  const old: OldLease[] = [];
  const skipped: Step[] = [];
  for (const node of v2.nodes) {
    const read = readNode(v2.leasesPrefix, node);
    if ('subnet' in read) old.push(read);
    else skipped.push(skip(v2.leasesPrefix, node, read.problem));
  }
  const others = overlapsOf(old, v3.leasesPrefix, v3.kvs);
  const subnetsByHost = subnetsInV3(v3.leasesPrefix, v3.kvs);
  const steps = old.toSorted(bySubnet).map((lease) => {
    const { same = [], overlapping = [] } = others.get(lease) ?? {};
    const elsewhere = subnetsByHost.get(lease.value.publicIP)?.filter((text) => text !== lease.subnet.text);
    return stepOf(lease, { same, overlapping, elsewhere: elsewhere ?? [] }, v3);
  });
  const inV2 = new Set(old.map(({ subnet }) => subnet.text));
  const onlyInV3 = v3.kvs.flatMap((kv) => {
    const { ipv4 } = parseSubnetKey(v3.leasesPrefix, kv.key) ?? {};
    if (ipv4 === undefined || kv.lease === '0' || inV2.has(ipv4.text)) return [];
    return [{ subnet: ipv4.text, host: holderText(kv.value) }];
  });
  return { steps: [...steps, ...skipped], onlyInV3 };
}

/** The lease in a key of v2, or why it holds none. */
export function readNode(leasesPrefix: string, node: V2Node): OldLease | { readonly problem: string } {
  const subnets = parseSubnetKey(leasesPrefix, node.key);
  if (subnets === undefined) return { problem: 'its key names no subnet (a.b.c.d-len)' };
  const { ipv4: subnet, ipv6 } = subnets;
  // flannel 0.7.1 reads 0.0.0.0-0&… as 0.0.0.0/0, so nothing that belongs there has written this.
  if (subnet === undefined || ipv6 !== undefined)
    return { problem: 'its key names an IPv6 subnet, and the v2 store serves IPv4 alone' };
  const value = parseLeaseValue(node.value);
  if (value === undefined)
    return { problem: `it holds no lease: its value is ${excerpt(node.value, 60) || 'empty'}` };
  const { publicIP } = value;
  if (publicIP === undefined) return { problem: 'its value names no host: it has no valid PublicIP' };
  // It is due, and etcd removes it within half a second.
  if (node.ttlSeconds === 0) return { problem: 'it ends at this moment' };
  return { node, subnet, value: { ...value, publicIP } };
}

function skip(leasesPrefix: string, { key, value, ttlSeconds }: V2Node, why: string): Step {
  const name = excerpt(key.slice(leasesPrefix.length), 60);
  const { ipv4 } = parseSubnetKey(leasesPrefix, key) ?? {};
  const host = parseLeaseValue(value)?.publicIP ?? '';
  const left = { left: ttlSeconds ?? 'reservation', leftInV3: undefined } as const;
  return { row: { subnet: ipv4?.text ?? name, host, ...left, what: 'skipped', why }, key: '' };
}

interface Others {
  /** Keys of v3 for the same IPv4 subnet. */
  readonly same: readonly KeyValue[];
  /** What else overlaps it, in words. */
  readonly overlapping: readonly string[];
  /** Other subnets that its host has in v3. */
  readonly elsewhere: readonly string[];
}

function stepOf(
  { node, subnet, value }: OldLease,
  { same, overlapping, elsewhere }: Others,
  { leasesPrefix, leftSeconds }: Snapshot['v3'],
): Step {
  const common = {
    subnet: subnet.text,
    host: value.publicIP,
    left: node.ttlSeconds ?? 'reservation',
  } as const;
  const [there] = same;
  const leftInV3 = there?.lease === '0' ? 'reservation' : there && leftSeconds.get(there.lease);
  const row = (what: What, ...why: readonly string[]) =>
    ({ ...common, leftInV3, what, why: why.join('; ') }) as const;
  const reasons = [...overlapping, ...same.flatMap((kv) => differenceOf(value, kv) ?? [])];
  const subnets = { ipv4: subnet };
  const key = formatSubnetKey(leasesPrefix, subnets);
  if (reasons.length > 0) return { row: row('conflict', ...reasons), key };
  const notes = [
    ...(value.backendType === 'host-gw' ? [] : [backendNote(value.backendType)]),
    ...(elsewhere.length === 0 ? [] : [`${value.publicIP} has ${elsewhere.join(' and ')} in v3, too`]),
  ];
  if (there === undefined) {
    const isReservation = node.ttlSeconds === undefined;
    const copy = {
      key,
      ...copyForV3(key, { value, text: node.value, isReservation }),
      subnets,
      isThere: false,
    };
    return { row: row('copied', ...notes), key, copy };
  }
  if (node.ttlSeconds !== undefined && isCopy(there)) {
    const copy = { key, value: there.value, subnets, leaseId: there.lease, isThere: true };
    return { row: row('there', ...notes), key, copy };
  }
  const isReserved = there.lease === '0';
  if (isReserved && node.ttlSeconds !== undefined)
    notes.push('in v3 it is a reservation, which does not end by itself: see --repair');
  if (!isReserved && node.ttlSeconds === undefined)
    notes.push('it is a reservation in v2, and in v3 it has an etcd lease, which ends');
  return { row: row('there', ...notes), key };
}

function backendNote(type: string): string {
  const named = type === '' ? 'without a backend' : `of the backend ${excerpt(type, 40)}`;
  return `${named}: it keeps its subnet from others and gets no route`;
}

/** Why a key of v3 for the same subnet is not the same lease; undefined when it is. */
function differenceOf({ publicIP }: OldLease['value'], kv: KeyValue): string | undefined {
  const theirs = parseLeaseValue(kv.value);
  if (theirs === undefined) return `its key in v3 holds no lease: ${excerpt(kv.value, 60) || 'it is empty'}`;
  return theirs.publicIP === publicIP ? undefined : `v3 has it for ${holderText(kv.value)}`;
}

interface Entry {
  readonly subnet: Subnet;
  readonly words: string;
  readonly old?: OldLease;
  /** A key of v3 that names its subnets exactly. */
  readonly kv?: KeyValue;
}

/** What each old lease meets among all others, of v2 and of v3. */
function overlapsOf(
  old: readonly OldLease[],
  leasesPrefix: string,
  kvs: readonly KeyValue[],
): ReadonlyMap<OldLease, { readonly same: KeyValue[]; readonly overlapping: string[] }> {
  const met = new Map(old.map((lease) => [lease, { same: [] as KeyValue[], overlapping: [] as string[] }]));
  const meet = (entry: Entry, other: Entry) => {
    const found = entry.old && met.get(entry.old);
    if (found === undefined) return;
    if (other.kv !== undefined && other.subnet.text === entry.subnet.text) found.same.push(other.kv);
    else found.overlapping.push(`overlaps ${other.words}`);
  };
  forEachOverlap(entriesOf(old, leasesPrefix, kvs), meet);
  return met;
}

function entriesOf(
  old: readonly OldLease[],
  leasesPrefix: string,
  kvs: readonly KeyValue[],
): readonly Entry[] {
  const ofV2 = old.map((lease): Entry => {
    const { subnet, value } = lease;
    return { subnet, words: `${subnet.text} of ${value.publicIP} in v2`, old: lease };
  });
  const ofV3 = kvs.flatMap((kv) =>
    occupiedSubnets(leasesPrefix, kv.key)
      .filter(({ family }) => family === 4)
      .map((subnet): Entry => {
        const isExact = parseSubnetKey(leasesPrefix, kv.key) !== undefined;
        const name = isExact ? subnet.text : `the key ${excerpt(kv.key.slice(leasesPrefix.length), 60)}`;
        return { subnet, words: `${name} of ${holderText(kv.value)} in v3`, ...(isExact && { kv }) };
      }),
  );
  return [...ofV2, ...ofV3];
}

/** The IPv4 subnets of each host in v3, by its PublicIP. */
function subnetsInV3(leasesPrefix: string, kvs: readonly KeyValue[]): ReadonlyMap<string, readonly string[]> {
  const byHost = new Map<string, string[]>();
  for (const kv of kvs) {
    const { ipv4 } = parseSubnetKey(leasesPrefix, kv.key) ?? {};
    const { publicIP } = parseLeaseValue(kv.value) ?? {};
    if (ipv4 === undefined || publicIP === undefined) continue;
    byHost.set(publicIP, [...(byHost.get(publicIP) ?? []), ipv4.text]);
  }
  return byHost;
}
