/** Text of IPv6 addresses, to and from. Written here because a cluster's leases hold tens of thousands of them. */

/** Groups in lower case without leading zeros; of an address, what {@link ipv6Value} reads. */
export const canonicalIPv6 = /^(?:(?:0|[1-9a-f][\da-f]{0,3})?(?::|$))*$/;

/** The number of an address that is known to be one, without a zone or a dotted tail. */
export function ipv6Value(text: string): bigint {
  const [head = '', tail] = text.split('::');
  const front = groupsOf(head);
  const back = tail === undefined ? [] : groupsOf(tail);
  const zeros = '0000'.repeat(8 - front.length - back.length);
  return BigInt(`0x${hexOf(front)}${zeros}${hexOf(back)}`);
}

/** RFC 5952: lower case, no leading zeros, the longest run of zero groups compressed, the first one on a tie. */
export function ipv6Text(groups: readonly number[]): string {
  const { start, length } = longestZeroRun(groups);
  if (length < 2) return groupText(groups);
  return `${groupText(groups.slice(0, start))}::${groupText(groups.slice(start + length))}`;
}

/** The eight groups of the address with this number. */
export function ipv6Groups(value: bigint): readonly number[] {
  const hex = value.toString(16).padStart(32, '0');
  return Array.from({ length: 8 }, (_, i) => Number.parseInt(hex.slice(4 * i, 4 * i + 4), 16));
}

function groupsOf(part: string): readonly string[] {
  return part === '' ? [] : part.split(':');
}

function hexOf(groups: readonly string[]): string {
  return groups.map((group) => group.padStart(4, '0')).join('');
}

function groupText(groups: readonly number[]): string {
  return groups.map((group) => group.toString(16)).join(':');
}

function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  for (let start = 0; start < groups.length; start++) {
    let end = start;
    while (groups[end] === 0) end++;
    if (end - start > best.length) best = { start, length: end - start };
    start = Math.max(start, end - 1);
  }
  return best;
}
