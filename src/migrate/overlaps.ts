import type { Subnet } from '../ip/ip.ts';

/**
 * Calls `meet` twice for any two entries whose subnets overlap, once each way; subnets of one family. Two networks are either apart or one
 * holds the other, so a walk in the order of their first addresses needs to remember only those that hold the present one.
 */
export function forEachOverlap<Entry extends { readonly subnet: Subnet }>(
  entries: readonly Entry[],
  meet: (entry: Entry, other: Entry) => void,
): void {
  const holding: Entry[] = [];
  for (const entry of entries.toSorted(bySubnet)) {
    while ((holding.at(-1)?.subnet.last ?? entry.subnet.first) < entry.subnet.first) holding.pop();
    for (const other of holding) {
      meet(entry, other);
      meet(other, entry);
    }
    holding.push(entry);
  }
}

/** The order of subnets of one family; of those that begin alike the larger ones come first. */
export function bySubnet(a: { readonly subnet: Subnet }, b: { readonly subnet: Subnet }): number {
  if (a.subnet.first !== b.subnet.first) return a.subnet.first < b.subnet.first ? -1 : 1;
  return a.subnet.length - b.subnet.length;
}
