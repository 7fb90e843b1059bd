import { type PerFamily, parseSubnet, type Subnet } from '../../ip/ip.ts';
import { excerpt } from '../../runtime/texts.ts';
import type { NetworkConfig } from '../config/config.ts';
import { occupiedSubnets, parseSubnetKey } from '../keys.ts';
import type { KeyValue, RemainingTtl } from '../registry/registry.ts';
import { type LeaseValue, parseLeaseValue } from './lease.ts';
import { misfitReason } from './misfits.ts';

/** A key below the leases' prefix as an operator sees it. */
export interface LeaseRow {
  readonly key: string;
  /** The key without the prefix. */
  readonly name: string;
  /** Canonical text; none for a key that names no subnet. */
  readonly subnets: PerFamily<string>;
  readonly addresses: PerFamily<string>;
  readonly backend: string;
  /** A subnet without an etcd lease. */
  readonly reserved: boolean;
  /** Of etcd, in hexadecimal as etcdctl shows it; null without one. */
  readonly etcdLease: string | null;
  /** Null: a reservation, or a lease that has just ended. */
  readonly secondsLeft: number | null;
  /** Since its last renewal: etcd keeps no other time. Null as above. */
  readonly renewedSecondsAgo: number | null;
  readonly createRevision: number;
  readonly modRevision: number;
  readonly marks: readonly LeaseMark[];
}

/** Something odd about a lease. */
export interface LeaseMark {
  readonly code: LeaseMarkCode;
  readonly text: string;
  /** Whether it keeps hosts from reaching each other, now or soon; otherwise it is worth knowing. */
  readonly problem: boolean;
}

/**
 * - NO_LEASE: the key names no subnet, or its value cannot be read.
 * - OVERLAP: another lease has a part of its subnet; the older one is routed.
 * - SAME_ADDRESS: another lease has its host's address, too.
 * - NO_ADDRESS: it names no address for a subnet.
 * - BACKEND: hosts with host-gw do not route to it.
 * - OUTSIDE: outside the cluster's network. NOT_IN_POOL: its host takes another subnet at its next start.
 * - ENDED: its etcd lease is gone, and etcd is about to delete the key.
 */
export type LeaseMarkCode =
  | 'NO_LEASE'
  | 'OVERLAP'
  | 'SAME_ADDRESS'
  | 'NO_ADDRESS'
  | 'BACKEND'
  | 'OUTSIDE'
  | 'NOT_IN_POOL'
  | 'ENDED';

export interface Cluster {
  /** `<prefix>/subnets/`. */
  readonly leasesPrefix: string;
  /** All keys below it, as of one revision. */
  readonly kvs: readonly KeyValue[];
  /** By decimal id of the etcd lease. */
  readonly ttls: ReadonlyMap<string, RemainingTtl>;
  /** Absent: there is none that can be used. */
  readonly config?: NetworkConfig;
}

/** A key, read as far as it goes. */
interface Read {
  readonly kv: KeyValue;
  readonly name: string;
  readonly subnets: PerFamily<Subnet>;
  readonly value: LeaseValue | undefined;
  readonly marks: LeaseMark[];
}

/** All leases of a cluster with what is odd about each, in the order of their subnets. */
export function overviewOf({ leasesPrefix, kvs, ttls, config }: Cluster): readonly LeaseRow[] {
  const all = kvs.map((kv): Read => {
    const read = { kv, name: kv.key.slice(leasesPrefix.length), marks: [] };
    const subnets = parseSubnetKey(leasesPrefix, kv.key);
    return { ...read, subnets: subnets ?? {}, value: parseLeaseValue(kv.value) };
  });
  for (const read of all) markAlone(read, ttls, config);
  markOverlaps(all, leasesPrefix);
  markAddresses(all);
  return all.toSorted(bySubnet).map((read) => rowOf(read, ttls));
}

function rowOf({ kv, name, subnets, value, marks }: Read, ttls: Cluster['ttls']): LeaseRow {
  const ttl = ttls.get(kv.lease);
  const lives = ttl !== undefined && ttl.ttlSeconds >= 0;
  const { publicIP: ipv4, publicIPv6: ipv6 } = value ?? {};
  return {
    key: kv.key,
    name,
    subnets: {
      ...(subnets.ipv4 && { ipv4: subnets.ipv4.text }),
      ...(subnets.ipv6 && { ipv6: subnets.ipv6.text }),
    },
    addresses: { ...(ipv4 !== undefined && { ipv4 }), ...(ipv6 !== undefined && { ipv6 }) },
    backend: value?.backendType ?? '',
    reserved: kv.lease === '0' && (subnets.ipv4 ?? subnets.ipv6) !== undefined,
    etcdLease: kv.lease === '0' ? null : BigInt(kv.lease).toString(16),
    secondsLeft: lives ? ttl.ttlSeconds : null,
    renewedSecondsAgo: lives ? ttl.grantedTtlSeconds - ttl.ttlSeconds : null,
    createRevision: kv.createRevision,
    modRevision: kv.modRevision,
    marks,
  };
}

/** What a key shows by itself. */
function markAlone({ kv, subnets, value, marks }: Read, ttls: Cluster['ttls'], config?: NetworkConfig): void {
  const mark = (code: LeaseMarkCode, problem: boolean, text: string) => marks.push({ code, text, problem });
  if (subnets.ipv4 === undefined && subnets.ipv6 === undefined)
    return void mark('NO_LEASE', true, 'the key names no subnet (a.b.c.d-len)');
  if (value === undefined)
    mark('NO_LEASE', true, `no lease: its value is ${excerpt(kv.value, 60) || 'empty'}`);
  else {
    const { backendType } = value;
    const isReserved = kv.lease === '0';
    const shown = backendType === '' ? 'missing' : excerpt(backendType, 30);
    if (backendType !== 'host-gw' && !(isReserved && backendType === ''))
      mark('BACKEND', true, `its backend is ${shown}: hosts with host-gw do not route to it`);
    if (subnets.ipv4 !== undefined && value.publicIP === undefined)
      mark('NO_ADDRESS', true, 'it has no valid PublicIP: nobody routes to it');
    if (subnets.ipv6 !== undefined && value.publicIPv6 === undefined)
      mark('NO_ADDRESS', true, 'it has no valid PublicIPv6: nobody routes its IPv6 subnet');
  }
  if ((ttls.get(kv.lease)?.ttlSeconds ?? 0) < 0)
    mark('ENDED', false, 'its etcd lease has ended: etcd is about to delete it');
  for (const family of ['ipv4', 'ipv6'] as const) {
    const [subnet, pool] = [subnets[family], config?.[family]];
    const why = subnet && pool ? misfitReason(pool, subnet) : undefined;
    if (why === undefined) continue;
    const isOutside = why.startsWith('outside Network');
    if (isOutside) mark('OUTSIDE', true, why);
    else mark('NOT_IN_POOL', false, `${why}: its host takes another subnet at its next start`);
  }
}

/** Of a lease that many overlap, more would say nothing new. */
const mostOverlaps = 3;

/** Marks both of two leases that overlap. */
function markOverlaps(all: readonly Read[], leasesPrefix: string): void {
  // Other keys take subnets, too, though nobody routes to them.
  const taken = all
    .flatMap((read) =>
      occupiedSubnets(leasesPrefix, read.kv.key).map((subnet) => ({ read, subnet, overlaps: 0 })),
    )
    .toSorted((a, b) => compareSubnets(a.subnet, b.subnet));
  let open: typeof taken = [];
  for (const one of taken) {
    open = open.filter(
      ({ subnet }) => subnet.family === one.subnet.family && subnet.last >= one.subnet.first,
    );
    for (const other of open) {
      const isOlder = other.read.kv.createRevision <= one.read.kv.createRevision;
      const [older, younger] = isOlder ? [other, one] : [one, other];
      note(younger, `it overlaps ${textOf(older)}, which is older: hosts route that one`);
      note(older, `${textOf(younger)} overlaps it, and is younger: hosts route this one`);
    }
    open.push(one);
  }
  function note(one: (typeof taken)[number], text: string): void {
    one.overlaps += 1;
    if (one.overlaps > mostOverlaps) return;
    one.read.marks.push({ code: 'OVERLAP', text, problem: true });
  }
}

function textOf({ read, subnet }: { readonly read: Read; readonly subnet: Subnet }): string {
  return `${subnet.text} of ${hostOf(read)}`;
}

function hostOf({ value }: Read): string {
  return value?.publicIP ?? value?.publicIPv6 ?? 'an unidentified host';
}

/** Marks the leases of one address: peers tell hosts apart by it. */
function markAddresses(all: readonly Read[]): void {
  const byAddress = new Map<string, Read[]>();
  for (const read of all) {
    const address = read.value?.publicIP ?? read.value?.publicIPv6;
    if (address === undefined || (read.subnets.ipv4 ?? read.subnets.ipv6) === undefined) continue;
    byAddress.set(address, [...(byAddress.get(address) ?? []), read]);
  }
  for (const [address, reads] of byAddress) {
    if (reads.length < 2) continue;
    const reserved = reads.find(({ kv }) => kv.lease === '0');
    for (const read of reads) {
      const others = reads.filter((other) => other !== read).slice(0, mostOverlaps);
      const names = others.map(({ subnets }) => (subnets.ipv4 ?? subnets.ipv6)?.text).join(', ');
      const why =
        reserved === undefined
          ? 'two hosts with one address, or a lease left behind'
          : 'a host takes its reservation at its next start';
      const text = `${address} has ${names}, too: ${why}`;
      read.marks.push({ code: 'SAME_ADDRESS', text, problem: reserved === undefined });
    }
  }
}

function bySubnet(a: Read, b: Read): number {
  const [first, second] = [a.subnets.ipv4 ?? a.subnets.ipv6, b.subnets.ipv4 ?? b.subnets.ipv6];
  if (first !== undefined && second !== undefined) return compareSubnets(first, second);
  // Keys that name no subnet come last.
  if (first !== second) return first === undefined ? 1 : -1;
  return a.name < b.name ? -1 : 1;
}

/** IPv4 first, then by address, the larger subnet first. */
function compareSubnets(a: Subnet, b: Subnet): number {
  if (a.family !== b.family) return a.family - b.family;
  if (a.first !== b.first) return a.first < b.first ? -1 : 1;
  return a.length - b.length;
}

/** How rows can be sorted. */
export type LeaseOrder = 'subnet' | 'host' | 'left' | 'age';

/** The rows in another order: by the host's address; the one that ends first; the oldest first. */
export function sortRows(rows: readonly LeaseRow[], order: LeaseOrder): readonly LeaseRow[] {
  switch (order) {
    case 'subnet':
      return rows;
    case 'host':
      return rows.toSorted((a, b) => compareHosts(a.addresses, b.addresses));
    case 'left':
      return rows.toSorted(
        (a, b) =>
          (a.secondsLeft ?? Number.POSITIVE_INFINITY) - (b.secondsLeft ?? Number.POSITIVE_INFINITY) || 0,
      );
    case 'age':
      return rows.toSorted((a, b) => a.createRevision - b.createRevision);
  }
}

function compareHosts(a: PerFamily<string>, b: PerFamily<string>): number {
  const [first, second] = [a, b].map(({ ipv4, ipv6 }) => {
    if (ipv4 !== undefined) return parseSubnet(`${ipv4}/32`);
    return ipv6 === undefined ? undefined : parseSubnet(`${ipv6}/128`);
  });
  if (first === undefined || second === undefined)
    return Number(first === undefined) - Number(second === undefined);
  return compareSubnets(first, second);
}
