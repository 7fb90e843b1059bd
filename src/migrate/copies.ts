import type { LeaseValue } from '../subnet/lease/lease.ts';
import type { KeyValue } from '../subnet/registry/registry.ts';

// How a copy is told from what a host has written itself. Every host that takes a lease over writes its own value, flannel 0.7.1, later ones
// and this program alike: from then on the key is that host's, and the copy is on the other side.

/** flannel, 0.7.1 and today's, ignores what it does not know in a value; so does this program. */
const mark = { v2: ',"CopiedFrom":"v2"}', v3: ',"CopiedFrom":"v3"}' } as const;

/** The value of a copy that carries its origin. IPv6 is left out: flannel 0.7.1 knows of none. */
export function markedValue({ publicIP, backendType }: LeaseValue, from: 'v2' | 'v3'): string {
  const value = JSON.stringify({ PublicIP: publicIP, BackendType: backendType });
  return value.slice(0, -1) + mark[from];
}

/** Whether a value of v2 is a copy of a lease of v3. */
export function isCopyInV2(value: string): boolean {
  return value.endsWith(mark.v3);
}

/**
 * Whether a key of v3 is a copy that nobody has written since: its value makes the id of its lease. A copy of a reservation has no lease,
 * and a mark in its value.
 */
export function isCopy({ key, value, lease }: Pick<KeyValue, 'key' | 'value' | 'lease'>): boolean {
  return lease === '0' ? value.endsWith(mark.v2) : lease === leaseIdOf(key, value);
}

/** What a copy in v3 holds: on a lease the bytes of v2, without one (a reservation) its mark. */
export function copyForV3(
  key: string,
  { value, text, isReservation }: { value: LeaseValue; text: string; isReservation: boolean },
): { readonly value: string; readonly leaseId: string } {
  if (isReservation) return { value: markedValue(value, 'v2'), leaseId: '0' };
  return { value: text, leaseId: leaseIdOf(key, text) };
}

/**
 * The id of the etcd lease of a copy, a positive int64 in decimal: the same on each run. A run that was killed between grant and put leaves
 * a lease that the next one finds and uses. It follows from key and value alone: v2's createdIndex changes whenever flannel 0.7.1 renews,
 * since that is a PUT without a condition.
 */
export function leaseIdOf(key: string, value: string): string {
  // FNV-1a, 64 bits; a length before each text keeps two pairs from making one.
  let hash = 0xcbf2_9ce4_8422_2325n;
  for (const character of `migrate ${key.length} ${key} ${value}`) {
    hash ^= BigInt(character.codePointAt(0) ?? 0);
    hash = BigInt.asUintN(64, hash * 0x100_0000_01b3n);
  }
  const id = BigInt.asUintN(63, hash ^ (hash >> 32n));
  // 0 would have etcd choose one.
  return String(id === 0n ? 1n : id);
}
