import type { Family } from '../../src/ip/ip.ts';

/** What IPv6 tests write for what IPv4 tests write: networks that lie to each other as those do. */
const inIPv6: readonly (readonly [RegExp, string])[] = [
  [/^172\.20\.0\.0\/16$/, 'fc00::/32'],
  [/^172\.20\.(\d+)\.0\/24$/, 'fc00:0:$1::/64'],
  [/^172\.20\.(\d+)\.0\/22$/, 'fc00:0:$1::/62'],
  [/^172\.20\.(\d+)\.(\d+)\/24$/, 'fc00:0:$1::$2/64'],
  [/^172\.16\.0\.0\/12$/, 'fc00::/12'],
  [/^10\.211\.55\.(\d+)\/24$/, 'fd00:55::$1/64'],
  [/^10\.211\.55\.(\d+)\/32$/, 'fd00:55::$1/128'],
  [/^10\.211\.55\.(\d+)$/, 'fd00:55::$1'],
  [/^10\.44\.0\.(\d+)\/24$/, 'fd44::$1/64'],
  [/^10\.(\d+)\.0\.(\d+)$/, 'fd$1::$2'],
  [/^10\.(\d+)\.(\d+)\.0\/24$/, 'fd$1:$2::/64'],
  [/^192\.168\.(\d+)\.0\/24$/, 'fd99:$1::/64'],
  [/^0\.0\.0\.0\/0$/, '::/0'],
];

/** The address, CIDR or subnet of a family that stands for this one of IPv4. Throws for what has no counterpart. */
export function inFamily(family: Family, text: string): string {
  if (family === 4 || text.includes(':')) return text;
  const found = inIPv6.find(([pattern]) => pattern.test(text));
  if (found === undefined) throw new Error(`no IPv6 counterpart of ${text}`);
  return text.replace(found[0], found[1]);
}
