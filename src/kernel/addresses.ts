import { type Family, parseAddress } from '../ip/ip.ts';

/**
 * Canonical text of an address in the kernel's byte order (4 or 16 bytes), the same as src/ip makes; undefined for any
 * other length. Written here because a dump holds tens of thousands, and a detour by big numbers costs 40 µs each.
 */
export function addressText(bytes: Uint8Array): string | undefined {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  if (bytes.length !== 16) return undefined;
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0));
  const { start, length } = longestZeroRun(groups);
  if (length < 2) return groupText(groups);
  return `${groupText(groups.slice(0, start))}::${groupText(groups.slice(start + length))}`;
}

/** The address's bytes as the kernel wants them; undefined when `text` is not an address of that family. */
export function addressBytes(family: Family, text: string): Buffer | undefined {
  const parsed = parseAddress(text);
  if (parsed?.family !== family) return undefined;
  return Buffer.from(parsed.value.toString(16).padStart(family === 4 ? 8 : 32, '0'), 'hex');
}

function groupText(groups: readonly number[]): string {
  return groups.map((group) => group.toString(16)).join(':');
}

/** RFC 5952: the longest run of zero groups is compressed, the first one on a tie. */
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
