import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import koffi from 'koffi';
import { uniqueName } from './run.ts';

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

  monitorRoutes(): Promise<RouteMonitor> {
    return monitorRoutes(this.namespace);
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

/** What `ip monitor route` has printed, line by line (`Deleted …` for removals), both families, all tables. */
export interface RouteMonitor {
  readonly lines: readonly string[];
  /** Resolves once `predicate` holds for the lines; rejects after `timeoutMs`. */
  waitFor(predicate: (lines: readonly string[]) => boolean, timeoutMs?: number): Promise<void>;
  stop(): Promise<void>;
}

const children = new Set<ChildProcess>();
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

/** Runs a command in a namespace; resolves to its standard output, rejects with its standard error in the message. */
export function exec(namespace: string, ...argv: string[]): Promise<string> {
  return run('nsenter', [`--net=/run/netns/${namespace}`, '--', ...argv]);
}

/** Runs `ip -batch` in a namespace with these lines (each without the leading `ip`). */
export function ipBatch(namespace: string, lines: readonly string[]): Promise<string> {
  const argv = [`--net=/run/netns/${namespace}`, '--', 'ip', '-batch', '-'];
  return run('nsenter', argv, `${lines.join('\n')}\n`);
}

/** Starts `ip monitor route` in a namespace; resolves once it is subscribed, so that no later change is missed. */
export async function monitorRoutes(namespace: string): Promise<RouteMonitor> {
  const argv = [`--net=/run/netns/${namespace}`, '--', 'ip', '-o', '-rcvbuf', '16777216', 'monitor', 'route'];
  const child = spawn('nsenter', argv, { stdio: ['ignore', 'pipe', 'ignore'] });
  children.add(child);
  const ended = new Promise<void>((resolve) =>
    child.once('exit', () => resolve()).once('error', () => resolve()),
  );
  const lines: string[] = [];
  createInterface({ input: child.stdout }).on('line', (line) => lines.push(line));
  await until(() => isSubscribed(child.pid ?? 0), 10_000, 'ip monitor did not subscribe');
  return {
    lines,
    waitFor: (predicate, timeoutMs = 10_000) =>
      until(
        () => predicate(lines),
        timeoutMs,
        () => `ip monitor printed:\n${lines.join('\n')}`,
      ),
    stop: async () => {
      child.kill();
      await ended;
      children.delete(child);
    },
  };
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

/** Waits until `condition` holds, polled; rejects with `message` after `timeoutMs`. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
  message: string | (() => string) = 'condition not met',
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) {
      throw new Error(`${typeof message === 'string' ? message : message()} (after ${timeoutMs} ms)`);
    }
    await sleep(5);
  }
}

async function addNamespace(namespace: string): Promise<void> {
  namespaces.add(namespace);
  await run('ip', ['netns', 'add', namespace]);
  await exec(namespace, 'ip', 'link', 'set', 'lo', 'up');
}

async function removeNamespace(namespace: string): Promise<void> {
  await run('ip', ['netns', 'del', namespace]).catch(() => '');
  namespaces.delete(namespace);
}

/** Whether the process has a NETLINK_ROUTE socket that listens to a group (columns: sk, protocol, port id, groups, …). */
function isSubscribed(pid: number): boolean {
  try {
    const rows = readFileSync(`/proc/${pid}/net/netlink`, 'utf8').split('\n').slice(1);
    const cells = rows.map((row) => row.split(/\s+/));
    return cells.some(([, protocol, port, groups]) => {
      return protocol === '0' && port === String(pid) && Number.parseInt(groups ?? '0', 16) !== 0;
    });
  } catch {
    return false;
  }
}

function run(command: string, argv: string[], input?: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(command, argv, { maxBuffer: 256 << 20 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else
        reject(
          new Error(`${command} ${argv.join(' ')}: ${stderr.trim() || error.message}`, { cause: error }),
        );
    });
    // A command may end without reading its input; what it says then is in its standard error.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(input);
  });
}

/** The last resort when a test run dies before close(): namespaces and children go with the process. */
function cleanUpAtExit(): void {
  if (exitHook) return;
  exitHook = true;
  process.on('exit', () => {
    for (const child of children) child.kill('SIGKILL');
    for (const namespace of namespaces) {
      try {
        execFileSync('ip', ['netns', 'del', namespace], { stdio: 'ignore' });
      } catch {
        // Already gone.
      }
    }
  });
}
