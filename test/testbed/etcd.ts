import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** How long a member may take to become healthy; a loaded two-core machine needs seconds, never this long. */
const READY_DEADLINE_MS = 60_000;

/** Where a member runs: in a network namespace with an address of its own, ports 2379 and 2380. */
export interface EtcdPlace {
  readonly netns: string;
  readonly ip: string;
}

export interface EtcdOptions {
  /** Folder for data and logs; made when missing, left in place (its owner removes it). */
  readonly dir: string;
  /** How many members on free ports of 127.0.0.1, or the place of each. Default: one. */
  readonly members?: number | readonly EtcdPlace[];
  /** More command line for every member, e.g. `--quota-backend-bytes=2000000`. */
  readonly args?: readonly string[];
}

/** A running etcd cluster of real processes. */
export interface EtcdCluster {
  readonly members: readonly EtcdMember[];
  /** The first member, which most tests talk to. */
  readonly first: EtcdMember;
  /** The client URLs of all members, comma separated. */
  readonly endpoints: string;
  /** etcdctl against the first member. */
  ctl(...args: string[]): Promise<string>;
  /** Replaces everybody's data by that of a snapshot (`ctl('snapshot', 'save', file)`), under a new cluster id. */
  restore(snapshotFile: string): Promise<void>;
  /** Ends all processes, whatever their state, and waits for them. */
  close(): Promise<void>;
}

interface Addresses {
  readonly name: string;
  readonly netns?: string;
  readonly clientUrl: string;
  readonly listenClientUrls: string;
  readonly peerUrl: string;
}

/** One etcd process that can be ended, frozen and started again. */
export class EtcdMember {
  readonly name: string;
  readonly clientUrl: string;
  readonly logFile: string;
  readonly #addresses: Addresses;
  readonly #dataDir: string;
  readonly #initialCluster: string;
  readonly #args: readonly string[];
  #process: ChildProcess | undefined;

  constructor(addresses: Addresses, dir: string, initialCluster: string, args: readonly string[]) {
    this.name = addresses.name;
    this.clientUrl = addresses.clientUrl;
    this.logFile = join(dir, `${addresses.name}.log`);
    this.#addresses = addresses;
    this.#dataDir = join(dir, addresses.name);
    this.#initialCluster = initialCluster;
    this.#args = args;
  }

  /** Process id; throws when the member is not running. */
  get pid(): number {
    const pid = this.running ? this.#process?.pid : undefined;
    if (pid === undefined) throw new Error(`${this.name} is not running\n${this.logTail()}`);
    return pid;
  }

  get running(): boolean {
    return (
      this.#process !== undefined && this.#process.exitCode === null && this.#process.signalCode === null
    );
  }

  /** Starts the process with the data it has, without waiting until it is healthy. */
  launch(): void {
    if (this.running) throw new Error(`${this.name} is running already`);
    const { name, listenClientUrls, clientUrl, peerUrl } = this.#addresses;
    const argv = this.#inNetns([
      // A test run that is killed takes its etcd with it.
      ...['setpriv', '--pdeathsig', 'KILL', '--', 'etcd', '--name', name, '--data-dir', this.#dataDir],
      ...['--listen-client-urls', listenClientUrls, '--advertise-client-urls', clientUrl],
      ...['--listen-peer-urls', peerUrl, '--initial-advertise-peer-urls', peerUrl],
      ...['--initial-cluster', this.#initialCluster, '--initial-cluster-state', 'new', ...this.#args],
    ]);
    const log = openSync(this.logFile, 'a');
    this.#process = spawn(argv[0] ?? '', argv.slice(1), {
      stdio: ['ignore', log, log],
      env: plainEnvironment(),
    });
    closeSync(log);
  }

  /** Starts (again, with the same data) and waits until it serves linearizable reads. */
  async start(): Promise<void> {
    this.launch();
    await this.healthy();
  }

  /** Waits until the member serves linearizable reads, which needs a quorum. */
  async healthy(): Promise<void> {
    const deadline = performance.now() + READY_DEADLINE_MS;
    for (;;) {
      if (!this.running) throw new Error(`${this.name} ended while starting\n${this.logTail()}`);
      const error = await this.ctl('endpoint', 'health', '--command-timeout=2s').then(
        () => undefined,
        (reason: unknown) => reason,
      );
      if (error === undefined) return;
      if (performance.now() > deadline) {
        throw new Error(`${this.name} is not healthy\n${this.logTail()}`, { cause: error });
      }
      await sleep(50);
    }
  }

  /** SIGKILL; resolves when it has ended. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /** SIGTERM; resolves when it has ended. */
  async stop(): Promise<void> {
    await this.#end('SIGTERM');
  }

  /** SIGSTOP: connections stay open and nothing answers. */
  pause(): void {
    process.kill(this.pid, 'SIGSTOP');
  }

  /** SIGCONT. */
  resume(): void {
    process.kill(this.pid, 'SIGCONT');
  }

  /** Runs etcdctl (v3 API) against this member, in its namespace, and resolves to its standard output. */
  async ctl(...args: string[]): Promise<string> {
    const argv = this.#inNetns(['etcdctl', '--endpoints', this.clientUrl, ...args]);
    const { stdout } = await run(argv[0] ?? '', argv.slice(1), {
      env: { ...plainEnvironment(), ETCDCTL_API: '3' },
      maxBuffer: 256 << 20,
    });
    return stdout;
  }

  /** Writes the data of a snapshot into this stopped member's folder. `token` goes into the new cluster id. */
  async restore(snapshotFile: string, token: string): Promise<void> {
    rmSync(this.#dataDir, { recursive: true, force: true });
    await this.ctl(
      ...['snapshot', 'restore', snapshotFile, '--name', this.name, '--data-dir', this.#dataDir],
      ...['--initial-cluster', this.#initialCluster, '--initial-cluster-token', token],
      ...['--initial-advertise-peer-urls', this.#addresses.peerUrl],
    );
  }

  /** The end of the member's log, for messages. */
  logTail(lines = 20): string {
    return readFileSync(this.logFile, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  }

  #inNetns(argv: readonly string[]): string[] {
    const { netns } = this.#addresses;
    return netns === undefined ? [...argv] : ['nsenter', `--net=/run/netns/${netns}`, '--', ...argv];
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    if (child === undefined || !this.running) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    // A frozen process takes no SIGTERM before it is thawed.
    child.kill('SIGCONT');
    await exited;
  }
}

/** Starts a cluster and waits until every member is healthy. On failure nothing is left running. */
export async function startEtcd(options: EtcdOptions): Promise<EtcdCluster> {
  mkdirSync(options.dir, { recursive: true });
  const addresses = await addressesOf(options.members ?? 1);
  const initialCluster = addresses.map(({ name, peerUrl }) => `${name}=${peerUrl}`).join(',');
  const members = addresses.map((a) => new EtcdMember(a, options.dir, initialCluster, options.args ?? []));
  const [first] = members;
  if (first === undefined) throw new RangeError('a cluster needs a member');
  const close = async (): Promise<void> => {
    await Promise.all(members.map((member) => member.kill()));
  };
  const startAll = async (): Promise<void> => {
    for (const member of members) member.launch();
    await Promise.all(members.map((member) => member.healthy()));
  };
  await startAll().catch(async (error: unknown) => {
    await close();
    throw error;
  });
  let restores = 0;
  return {
    members,
    first,
    endpoints: members.map((member) => member.clientUrl).join(','),
    ctl: (...args) => first.ctl(...args),
    async restore(snapshotFile) {
      await Promise.all(members.map((member) => member.stop()));
      restores += 1;
      for (const member of members) await member.restore(snapshotFile, `restore-${restores}`);
      await startAll();
    },
    close,
  };
}

async function addressesOf(members: number | readonly EtcdPlace[]): Promise<readonly Addresses[]> {
  if (typeof members !== 'number') {
    return members.map(({ netns, ip }, index) => ({
      name: `etcd-${index}`,
      netns,
      clientUrl: `http://${ip}:2379`,
      listenClientUrls: `http://${ip}:2379,http://127.0.0.1:2379`,
      peerUrl: `http://${ip}:2380`,
    }));
  }
  const ports = await freePorts(members * 2);
  return Array.from({ length: members }, (_, index) => {
    const clientUrl = `http://127.0.0.1:${ports[index * 2]}`;
    const peerUrl = `http://127.0.0.1:${ports[index * 2 + 1]}`;
    return { name: `etcd-${index}`, clientUrl, listenClientUrls: clientUrl, peerUrl };
  });
}

/**
 * Ports of 127.0.0.1 nobody listens on, from below the range the kernel gives to outgoing connections: a member that is
 * stopped for a while finds its port still free.
 */
export async function freePorts(count: number): Promise<readonly number[]> {
  const ports = new Set<number>();
  while (ports.size < count) {
    const port = 10_000 + Math.floor(Math.random() * 22_000);
    if (!ports.has(port) && (await isFree(port))) ports.add(port);
  }
  return [...ports];
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return await new Promise((resolve) => {
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

/** etcd and etcdctl take options from ETCD_* and ETCDCTL_*, and must not use a proxy. */
function plainEnvironment(): NodeJS.ProcessEnv {
  const foreign = /^(ETCD|ETCDCTL)_|_proxy$/i;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)));
}
