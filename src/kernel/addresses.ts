import { containsAddress, type Family, parseAddress, type Subnet } from '../ip/ip.ts';
import { ipv6Text } from '../ip/ipv6-text.ts';
import type { Kernel } from './kernel.ts';

/**
 * Canonical text of an address in the kernel's byte order (4 or 16 bytes), the same as src/ip makes; undefined for any
 * other length. Without the detour by big numbers: a dump holds tens of thousands.
 */
export function addressText(bytes: Uint8Array): string | undefined {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  if (bytes.length !== 16) return undefined;
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0));
  return ipv6Text(groups);
}

/** The address's bytes as the kernel wants them; undefined when `text` is not an address of that family. */
export function addressBytes(family: Family, text: string): Buffer | undefined {
  const parsed = parseAddress(text);
  if (parsed?.family !== family) return undefined;
  return Buffer.from(parsed.value.toString(16).padStart(family === 4 ? 8 : 32, '0'), 'hex');
}

/** The name of the link with an address in `subnet`: of the bridge of this host's containers; undefined when there is none. */
export async function linkInside(
  kernel: Pick<Kernel, 'links' | 'addresses'>,
  subnet: Subnet,
  signal: AbortSignal,
): Promise<string | undefined> {
  const [links, addresses] = [await kernel.links(signal), await kernel.addresses(signal)];
  const inside = addresses.find(({ address }) => containsAddress(subnet, address));
  return links.find(({ index }) => index === inside?.linkIndex)?.name;
}
