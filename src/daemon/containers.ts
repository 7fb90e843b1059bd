import { readdir, readFile, readlink } from 'node:fs/promises';
import type { LocalContainer } from '../cli/doctor/check-packets.ts';
import { containsAddress, type Family, formatAddress, type Subnet } from '../ip/ip.ts';

/**
 * A running process in a network namespace of its own that has an address in `subnet`: a container, whoever started it. The
 * kernel tells by /proc/PID/net, which shows the namespace of that process. Processes that end meanwhile, and those of
 * others when this is not root's process, are passed over.
 */
export async function findContainer(subnet: Subnet): Promise<LocalContainer | undefined> {
  const seen = new Set([await readlink('/proc/self/ns/net')]);
  const processes = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  for (const id of processes) {
    const namespace = `/proc/${id}/ns/net`;
    const identity = await readlink(namespace).catch(() => undefined);
    if (identity === undefined || seen.has(identity)) continue;
    const text = await readFile(`/proc/${id}/net/${tables[subnet.family]}`, 'utf8').catch(() => undefined);
    if (text === undefined) continue;
    seen.add(identity);
    const address = localAddresses(subnet.family, text).find((one) => containsAddress(subnet, one));
    if (address !== undefined) return { address, namespace };
  }
  return undefined;
}

const tables = { 4: 'fib_trie', 6: 'if_inet6' } as const;

/** The addresses in the text of /proc/net/fib_trie (IPv4) or of /proc/net/if_inet6. */
export function localAddresses(family: Family, text: string): readonly string[] {
  if (family === 4) return [...text.matchAll(/\|-- (\S+)\n\s+\/32 host LOCAL$/gm)].map(([, one = '']) => one);
  return [...text.matchAll(/^[\da-f]{32}\b/gm)].map(([digits]) => formatAddress(6, BigInt(`0x${digits}`)));
}
