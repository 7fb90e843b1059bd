import { isIPv4, isIPv6 } from 'node:net';
import IPCIDR from 'ip-cidr';

/**
 * Addresses and subnets as plain values. Addresses travel as canonical text (IPv4 dotted decimal; IPv6 as RFC
 * 5952: lower case, the longest run of zero groups compressed), so equal addresses are equal strings and good
 * map keys.
 *
 * ip-cidr reads IPv6 as people write it. That takes 40 µs an address, and would block the daemon for seconds
 * when it lists ten thousand leases again. Theirs are in canonical form already, which is read here.
 */
export type Family = 4 | 6;

/** One value for each family that is on. */
export interface PerFamily<T> {
  readonly ipv4?: T;
  readonly ipv6?: T;
}

/** The families that have a value. */
export function familiesOf({ ipv4, ipv6 }: PerFamily<unknown>): readonly Family[] {
  return [...(ipv4 === undefined ? [] : [4 as const]), ...(ipv6 === undefined ? [] : [6 as const])];
}

/** An aligned block of addresses. Only functions here make one; its canonical `text` identifies it. */
export interface Subnet {
  readonly family: Family;
  readonly first: bigint;
  readonly last: bigint;
  /** Prefix length. */
  readonly length: number;
  /** Canonical CIDR, e.g. `172.20.9.0/24`. */
  readonly text: string;
}

/** Number of address bits of a family. */
export function addressBits(family: Family): number {
  return family === 4 ? 32 : 128;
}

/**
 * The number of an address; undefined when `text` is not one. Refuses leading zeros in IPv4 (`010.0.0.1`,
 * octal to some), zone ids, IPv4-mapped IPv6 and IPv6 with a dotted tail: programs read these differently.
 */
export function parseAddress(text: string): { readonly family: Family; readonly value: bigint } | undefined {
  const number = ipv4Number(text);
  if (number !== undefined) return { family: 4, value: BigInt(number) };
  if (!isIPv6(text) || /[%.]/.test(text)) return undefined;
  const value = ipv6Value(text);
  return value >> 32n === 0xffffn ? undefined : { family: 6, value };
}

/** Canonical text of an address, e.g. `FC00:0::1` → `fc00::1`; undefined when it is not an address. */
export function canonicalAddress(text: string): string | undefined {
  const parsed = parseAddress(text);
  return parsed && formatAddress(parsed.family, parsed.value);
}

/**
 * Canonical text of the address that packets to `text` go to: the IPv4 address of IPv4-mapped IPv6
 * (`::ffff:10.0.0.1`), the address alone of one with a zone; undefined when it is not an address.
 */
export function destinationAddress(text: string): string | undefined {
  const address = text.split('%', 1)[0] ?? '';
  if (isIPv4(address)) return address;
  if (!isIPv6(address)) return undefined;
  const value = ipv6Value(address.replace(/[\d.]+$/, (tail) => (isIPv4(tail) ? asGroups(tail) : tail)));
  return value >> 32n === 0xffffn ? ipv4Text(Number(value & 0xffffffffn)) : ipv6Text(ipv6Groups(value));
}

/** Canonical text of the address with this number. */
export function formatAddress(family: Family, value: bigint): string {
  return family === 4 ? ipv4Text(Number(value)) : ipv6Text(ipv6Groups(value));
}

/** The block of `length` that contains the address with this number; host bits are cleared. */
export function subnetAt(family: Family, value: bigint, length: number): Subnet {
  const hostBits = BigInt(addressBits(family) - length);
  const first = (value >> hostBits) << hostBits;
  return {
    family,
    first,
    last: first + (1n << hostBits) - 1n,
    length,
    text: `${formatAddress(family, first)}/${length}`,
  };
}

/**
 * Parses `address/length`; host bits are cleared (compare `text` with the input to refuse them). Undefined
 * for anything else, also for a length with a sign, a leading zero or out of range.
 */
export function parseSubnet(text: string): Subnet | undefined {
  const slash = text.indexOf('/');
  const address = parseAddress(text.slice(0, slash));
  const lengthText = text.slice(slash + 1);
  if (slash < 0 || address === undefined || !/^(0|[1-9]\d{0,2})$/.test(lengthText)) return undefined;
  const length = Number(lengthText);
  return length > addressBits(address.family) ? undefined : subnetAt(address.family, address.value, length);
}

/** As {@link parseSubnet}, for text that is known to be a subnet. Throws RangeError for any other. */
export function subnetOf(text: string): Subnet {
  const subnet = parseSubnet(text);
  if (subnet === undefined) throw new RangeError(text);
  return subnet;
}

/** Whether two blocks share an address; never those of different families. */
export function overlaps(a: Subnet, b: Subnet): boolean {
  return a.family === b.family && a.first <= b.last && b.first <= a.last;
}

/** Whether `inner` lies in `outer` as a whole. */
export function containsSubnet(outer: Subnet, inner: Subnet): boolean {
  return outer.family === inner.family && outer.first <= inner.first && inner.last <= outer.last;
}

/** Whether the block contains the address (text in any form); false for text that is not an address. */
export function containsAddress(subnet: Subnet, address: string): boolean {
  const parsed = parseAddress(address);
  return parsed?.family === subnet.family && subnet.first <= parsed.value && parsed.value <= subnet.last;
}

/** The address and length of a bridge in its host's subnet, the first usable one: `172.20.9.1/24`. */
export function bridgeAddress({ family, first, length }: Subnet): string {
  return `${formatAddress(family, first + 1n)}/${length}`;
}

const [dot, zero, nine] = [0x2e, 0x30, 0x39];

/** The number of an IPv4 address without leading zeros; undefined for any other text. In one pass: lists hold thousands. */
function ipv4Number(text: string): number | undefined {
  let [value, part, dots] = [0, -1, 0];
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === dot && part >= 0) {
      value = value * 256 + part;
      part = -1;
      dots++;
    } else if (code >= zero && code <= nine && part !== 0) {
      part = Math.max(part, 0) * 10 + code - zero;
      if (part > 255) return undefined;
    } else return undefined;
  }
  return dots === 3 && part >= 0 ? value * 256 + part : undefined;
}

/** The two groups of an IPv4 address at the end of an IPv6 one. */
function asGroups(text: string): string {
  const value = ipv4Number(text) ?? 0;
  return `${Math.floor(value / 65_536).toString(16)}:${(value % 65_536).toString(16)}`;
}

function ipv4Text(value: number): string {
  return `${(value >>> 24) & 255}.${(value >>> 16) & 255}.${(value >>> 8) & 255}.${value & 255}`;
}

/** Groups in lower case without leading zeros. */
const canonicalIPv6 = /^(?:(?:0|[1-9a-f][\da-f]{0,3})?(?::|$))*$/;

/** The number of a valid address without a zone. */
function ipv6Value(text: string): bigint {
  if (!canonicalIPv6.test(text)) return new IPCIDR(`${text}/128`).start<bigint>({ type: 'bigInteger' });
  const [front = [], back = []] = text.split('::').map((part) => (part === '' ? [] : part.split(':')));
  const zeros = Array.from({ length: 8 - front.length - back.length }, () => '0');
  const hex = [...front, ...zeros, ...back].map((group) => group.padStart(4, '0')).join('');
  return BigInt(`0x${hex}`);
}

/** RFC 5952: lower case, no leading zeros, the longest run of zero groups compressed, the first one on a tie. */
export function ipv6Text(groups: readonly number[]): string {
  const { start, length } = longestZeroRun(groups);
  const textOf = (some: readonly number[]) => some.map((group) => group.toString(16)).join(':');
  if (length < 2) return textOf(groups);
  return `${textOf(groups.slice(0, start))}::${textOf(groups.slice(start + length))}`;
}

/** The eight groups of the address with this number. */
function ipv6Groups(value: bigint): readonly number[] {
  const hex = value.toString(16).padStart(32, '0');
  return Array.from({ length: 8 }, (_, i) => Number.parseInt(hex.slice(4 * i, 4 * i + 4), 16));
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
