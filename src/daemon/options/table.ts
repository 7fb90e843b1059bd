import type { Flag } from './flag.ts';
import { etcdFlags } from './flags-etcd.ts';
import { interfaceFlags, leaseFlags } from './flags-host.ts';
import { packetFlags } from './flags-packets.ts';
import { processFlags } from './flags-process.ts';

/** Every flag of the daemon by the name it has in the code. */
export const flags = {
  ...etcdFlags,
  ...interfaceFlags,
  ...leaseFlags,
  ...packetFlags,
  ...processFlags,
} as const;

/** All rows, in the order of the help text. */
export const flagTable: readonly Flag<unknown>[] = Object.values(flags);
