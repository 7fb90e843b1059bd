import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';

/**
 * A number below 2^31 that the daemons of other hosts do not have, of other network namespaces of this host neither, nor those
 * that keep leases under another prefix; the same until this host is booted again. A lease that carries it in the id of its
 * etcd lease was taken here. Random when the kernel does not tell: then no lease of an earlier run is known again by it.
 */
export function hostIdentity(etcdPrefix: string): number {
  let facts: string | Buffer;
  try {
    const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8');
    facts = JSON.stringify([bootId, readlinkSync('/proc/self/ns/net'), etcdPrefix]);
  } catch {
    facts = randomBytes(16);
  }
  return createHash('sha256').update(facts).digest().readUInt32BE() >>> 1;
}
