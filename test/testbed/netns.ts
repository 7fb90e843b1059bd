import { execFileSync } from 'node:child_process';

import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import { exec, run } from './commands.ts';
import { type KernelMonitor, monitorKernel } from './kernel-monitor.ts';
import { uniqueName } from './run.ts';

export { ipBatch, until, untilLines } from './commands.ts';

/**
 * Hosts on one Ethernet segment, made of network namespaces: a "switch" namespace holds a bridge, each host namespace
 * an `eth0` whose veth peer is a port of that bridge. Names are unique to the run, nothing exists in the root namespace.
 * Needs root, `ip` and `nsenter`.
 */
export interface Network {
  /** Name of the namespace with the bridge `br0`; host i (from 0) is on its port `p<i>`. */
  readonly switchNamespace: string;
  readonly hosts: readonly Host[];
  /** Removes everything, also what is partly gone already. Never throws. */
  close(): Promise<void>;
}

export interface HostOptions {
  /** Short name, part of the namespace's name; default `h<i>`. */
  readonly name?: string;
  /** CIDRs for eth0, e.g. `10.211.55.100/24`; IPv6 ones come up without duplicate address detection. */
  readonly addresses: readonly string[];
  /** Gateway of a default route, if one is wanted. */
  readonly defaultGateway?: string;
}

/** One host: a namespace with `lo` and `eth0`. */
export class Host {
  readonly name: string;
  /** The namespace's name, under /run/netns. */
  readonly namespace: string;
  readonly addresses: readonly string[];
  readonly #switchNamespace: string;
  readonly #port: string;

  constructor(options: {
    name: string;
    namespace: string;
    addresses: readonly string[];
    switchNamespace: string;
    port: string;
  }) {
    this.name = options.name;
    this.namespace = options.namespace;
    this.addresses = options.addresses;
    this.#switchNamespace = options.switchNamespace;
    this.#port = options.port;
  }

  /** The first address without its length. */
  get address(): string {
    return this.addresses[0]?.split('/')[0] ?? '';
  }

  /** The command line that runs this one in the host's network. */
  command(...argv: string[]): string[] {
    return ['nsenter', `--net=/run/netns/${this.namespace}`, '--', ...argv];
  }

  /** Runs a command in the host; resolves to its standard output, rejects with its standard error. */
  exec(...argv: string[]): Promise<string> {
    return exec(this.namespace, ...argv);
  }

  /** `ip …` in the host; the words may come as one string. */
  ip(...argv: string[]): Promise<string> {
    return exec(this.namespace, 'ip', ...argv.flatMap((word) => word.split(' ')));
  }

  linkDown(link = 'eth0'): Promise<string> {
    return this.ip(`link set ${link} down`);
  }

  linkUp(link = 'eth0'): Promise<string> {
    return this.ip(`link set ${link} up`);
  }

  /** Takes away the carrier of eth0 (pulls the cable), or gives it back. */
  async setCarrier(plugged: boolean): Promise<void> {
    await exec(this.#switchNamespace, 'ip', 'link', 'set', this.#port, plugged ? 'up' : 'down');
  }

  /** Creates eth0 as a port of the switch, up, with `addresses`. */
  async createEth0(addresses: readonly string[] = this.addresses): Promise<void> {
    const port = this.#port;
    const sw = this.#switchNamespace;
    await this.ip(`link add eth0 type veth peer name ${port} netns ${sw}`);
    await exec(sw, 'ip', 'link', 'set', port, 'master', 'br0', 'up');
    await this.setAddresses(addresses);
    await this.linkUp();
  }

  async deleteEth0(): Promise<void> {
    await this.ip('link del eth0');
  }

  /** Deletes eth0 and creates it again: same name and addresses, new index, as when a card is replaced. */
  async recreateEth0(): Promise<void> {
    const before = await this.linkIndex('eth0');
    await this.deleteEth0();
    await this.createEth0();
    if ((await this.linkIndex('eth0')) === before) throw new Error('eth0 came back with its old index');
  }

  async flushAddresses(link = 'eth0'): Promise<void> {
    await this.ip(`addr flush dev ${link}`);
  }

  async setAddresses(addresses: readonly string[] = this.addresses, link = 'eth0'): Promise<void> {
    for (const address of addresses) {
      await this.ip(`addr add ${address} dev ${link}${address.includes(':') ? ' nodad' : ''}`);
    }
  }

  async linkIndex(link = 'eth0'): Promise<number> {
    const listed: { ifindex: number }[] = JSON.parse(await this.ip(`-j link show ${link}`));
    const [found] = listed;
    if (found === undefined) throw new Error(`no link ${link} in ${this.namespace}`);
    return found.ifindex;
  }

  /** The routes of the main table as `ip -j route` lists them. */
  async routes(family: 4 | 6 = 4): Promise<readonly ListedRoute[]> {
    const listed: ListedRoute[] = JSON.parse(
      (await this.ip(`-${family} -j -N route show table 254`)) || '[]',
    );
    return listed;
  }

  /** What the kernel tells in the host from now on. */
  monitor(): Promise<KernelMonitor> {
    return monitorKernel(this.namespace);
  }
}

/** One route of `ip -j -N route`: numeric protocol as text, left out for 3 (boot), which `ip` hides. */
export interface ListedRoute {
  readonly dst: string;
  readonly gateway?: string;
  readonly dev?: string;
  readonly protocol?: string;
  readonly metric?: number;
  readonly flags: readonly string[];
}

/**
 * The kernel's own defaults, but for forwarding, which a host of containers has on. A new namespace has IPv4's settings from the
 * machine (IPv6's only where net.core.devconf_inherit_init_net says so), and there they may be anything.
 */
const SETTINGS = `cd /proc/sys/net
for conf in ipv4/conf/all ipv4/conf/default; do
  for name in rp_filter arp_ignore arp_announce arp_filter promote_secondaries; do echo 0 >$conf/$name; done
done
echo 1 >ipv4/ip_forward
[ ! -e ipv6/conf/all/forwarding ] || echo 1 >ipv6/conf/all/forwarding
for conf in ipv6/conf/*; do [ ! -d $conf ] || echo 0 >$conf/disable_ipv6; done`;

const namespaces = new Set<string>();
let exitHook = false;

/** Makes a switch and its hosts. On failure nothing is left. */
export async function makeNetwork(hosts: readonly HostOptions[]): Promise<Network> {
  cleanUpAtExit();
  const prefix = uniqueName();
  const switchNamespace = `${prefix}-sw`;
  const made: Host[] = [];
  const close = async () => {
    for (const namespace of [...made.map((host) => host.namespace), switchNamespace]) {
      await removeNamespace(namespace);
    }
  };
  try {
    await addNamespace(switchNamespace);
    await exec(switchNamespace, 'ip', 'link', 'add', 'br0', 'type', 'bridge', 'forward_delay', '0');
    await exec(switchNamespace, 'ip', 'link', 'set', 'br0', 'up');
    for (const [i, options] of hosts.entries()) {
      const name = options.name ?? `h${i}`;
      const namespace = `${prefix}-${name}`;
      const host = new Host({
        name,
        namespace,
        addresses: options.addresses,
        switchNamespace,
        port: `p${i}`,
      });
      made.push(host);
      await addNamespace(namespace);
      await host.createEth0();
      if (options.defaultGateway) await host.ip(`route add default via ${options.defaultGateway}`);
    }
    return { switchNamespace, hosts: made, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * Moves this process's main thread into a namespace, as a test worker does before it opens sockets of its own; children
 * started later are in it too. Threads that exist already (libuv's pool) stay where they are, which does not matter for
 * descriptors opened on the main thread. Returns the way back.
 */
export function enterNamespace(namespace: string): () => void {
  const setns = koffi.load(null).func('int setns(int, int)');
  const enter = (fd: number) => {
    if (setns(fd, 0x40000000) !== 0) throw new Error(`setns: errno ${koffi.errno()}`);
    closeSync(fd);
  };
  const home = openSync('/proc/self/ns/net', 'r');
  enter(openSync(`/run/netns/${namespace}`, 'r'));
  return () => enter(home);
}

async function addNamespace(namespace: string): Promise<void> {
  namespaces.add(namespace);
  await run('ip', ['netns', 'add', namespace]);
  await exec(namespace, 'sh', '-ec', SETTINGS);
  await exec(namespace, 'ip', 'link', 'set', 'lo', 'up');
}

async function removeNamespace(namespace: string): Promise<void> {
  await run('ip', ['netns', 'del', namespace]).catch(() => '');
  namespaces.delete(namespace);
}

/** The last resort when a test run dies before close(): namespaces go with the process. */
function cleanUpAtExit(): void {
  if (exitHook) return;
  exitHook = true;
  process.on('exit', () => {
    for (const namespace of namespaces) {
      try {
        execFileSync('ip', ['netns', 'del', namespace], { stdio: 'ignore' });
      } catch {
        // Already gone.
      }
    }
  });
}
