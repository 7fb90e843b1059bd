import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { basename } from 'node:path';
import process from 'node:process';
import type { LocalContainer } from '../../cli/doctor/check-packets.ts';
import type { FlanneldProcess } from '../../cli/migrate-check/found.ts';
import { containsAddress, type Family, formatAddress, type Subnet } from '../../ip/ip.ts';
import type { Holder } from './file-lock.ts';

// This process, and what /proc says about the other processes of this machine.

/** As the kernel names the daemon's process. */
const daemonName = 'flanneld-ts';

/**
 * Lets `pgrep flanneld` find the daemon, `systemctl status` and `top` name it, and {@link daemonsOfThisNetwork} know it. Not by
 * process.title, which writes over the command line as well: `ps` and /proc would no longer show the flags that the daemon runs with.
 */
export function nameDaemon(): void {
  try {
    writeFileSync('/proc/self/comm', daemonName);
  } catch {
    // No /proc, or one that is read-only: it stays the node it is.
  }
}

/**
 * The daemons in this process's network namespace, whatever files they have: they keep the routes and rules that this process sees.
 * Not seen are those whose process namespace lies beside this one.
 */
export async function daemonsOfThisNetwork(): Promise<readonly Holder[]> {
  const here = await readlink('/proc/self/ns/net').catch(() => undefined);
  const found: Holder[] = [];
  for (const { pid, network } of await processes()) {
    const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => undefined);
    if (name?.trimEnd() !== daemonName || here === undefined) continue;
    if ((await network()) === here) found.push({ pid });
  }
  return found;
}

/** The processes called flanneld or flanneld-ts in this process's network namespace; without this one. */
export async function flannelds(): Promise<readonly FlanneldProcess[]> {
  const here = await readlink('/proc/self/ns/net').catch(() => undefined);
  const found: FlanneldProcess[] = [];
  for (const { pid, network } of await processes()) {
    if (pid === process.pid || here === undefined) continue;
    const text = (name: string) => readFile(`/proc/${pid}/${name}`, 'utf8').catch(() => undefined);
    const name = (await text('comm'))?.trimEnd();
    if (name !== 'flanneld' && name !== daemonName) continue;
    if ((await network()) !== here) continue;
    const command = (await text('cmdline'))?.replace(/\0$/, '').split('\0');
    const variables = (await text('environ'))?.split('\0').filter((one) => one.includes('='));
    const groups = (await text('cgroup')) ?? '';
    if (command === undefined) continue;
    // A script's interpreter stands before it.
    const at = command.findIndex((word) => basename(word) === name);
    const unit = /\/([^/\s]+\.service)\s*$/m.exec(groups)?.[1];
    found.push({
      pid,
      name,
      argv: command.slice(at + 1),
      env: variables && Object.fromEntries(variables.map(pairOf)),
      ...(unit !== undefined && { unit }),
      isInContainer: containerGroup.test(groups),
    });
  }
  return found;
}

/** What Docker, containerd, Podman and Kubernetes call the groups of a container's processes. */
const containerGroup = /\/(?:docker|kubepods|libpod|containerd|cri-containerd)[^\s]*[0-9a-f]{32}/;

function pairOf(variable: string): readonly [name: string, value: string] {
  const at = variable.indexOf('=');
  return [variable.slice(0, at), variable.slice(at + 1)];
}

/**
 * A running process in a network namespace of its own that has an address in `subnet`: a container, whoever started it. The
 * kernel tells by /proc/PID/net, which shows the namespace of that process.
 */
export async function findContainer(subnet: Subnet): Promise<LocalContainer | undefined> {
  const seen = new Set([await readlink('/proc/self/ns/net')]);
  for (const { pid, namespace, network } of await processes()) {
    const identity = await network();
    if (identity === undefined || seen.has(identity)) continue;
    const text = await readFile(`/proc/${pid}/net/${tables[subnet.family]}`, 'utf8').catch(() => undefined);
    if (text === undefined) continue;
    seen.add(identity);
    const address = localAddresses(subnet.family, text).find((one) => containsAddress(subnet, one));
    if (address !== undefined) return { address, namespace };
  }
  return undefined;
}

interface Process {
  readonly pid: number;
  /** The file by which its network namespace is entered. */
  readonly namespace: string;
  /** Which network namespace that is; undefined when the process has ended meanwhile, or is another user's and this one is not root's. */
  readonly network: () => Promise<string | undefined>;
}

async function processes(): Promise<readonly Process[]> {
  const names = await readdir('/proc').catch(() => []);
  return names
    .filter((name) => /^\d+$/.test(name))
    .map((name) => {
      const namespace = `/proc/${name}/ns/net`;
      return {
        pid: Number(name),
        namespace,
        network: async () => await readlink(namespace).catch(() => undefined),
      };
    });
}

const tables = { 4: 'fib_trie', 6: 'if_inet6' } as const;

/** The addresses in the text of /proc/net/fib_trie (IPv4) or of /proc/net/if_inet6. */
export function localAddresses(family: Family, text: string): readonly string[] {
  if (family === 4) return [...text.matchAll(/\|-- (\S+)\n\s+\/32 host LOCAL$/gm)].map(([, one = '']) => one);
  return [...text.matchAll(/^[\da-f]{32}\b/gm)].map(([digits]) => formatAddress(6, BigInt(`0x${digits}`)));
}

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

/** Calls each `listener` at SIGIO. The signal stays handled from the first call on: unhandled it ends the process. */
export function inputSignals(): (listener: () => void) => () => void {
  const listeners = new Set<() => void>();
  process.on('SIGIO', () => {
    for (const listener of listeners) listener();
  });
  return (listener) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  };
}
