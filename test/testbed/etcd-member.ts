import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** How long a member may take to become healthy; a loaded two-core machine needs seconds, never this long. */
const READY_DEADLINE_MS = 60_000;

/** How a member is called and where it is reached. */
export interface Addresses {
  readonly name: string;
  readonly netns?: string;
  readonly clientUrl: string;
  readonly listenClientUrls: string;
  readonly peerUrl: string;
}

/** How a member and etcdctl reach each other. */
export interface EtcdAccess {
  /** Flags of every member. */
  readonly args: readonly string[];
  /** Flags of every etcdctl; more are pushed once authentication is enabled. */
  readonly ctlArgs: string[];
}

/** One etcd process that can be ended, frozen and started again. */
export class EtcdMember {
  readonly name: string;
  readonly clientUrl: string;
  readonly logFile: string;
  readonly #addresses: Addresses;
  readonly #dataDir: string;
  readonly #initialCluster: string;
  readonly #access: EtcdAccess;
  #process: ChildProcess | undefined;

  constructor(addresses: Addresses, dir: string, initialCluster: string, access: EtcdAccess) {
    this.name = addresses.name;
    this.clientUrl = addresses.clientUrl;
    this.logFile = join(dir, `${addresses.name}.log`);
    this.#addresses = addresses;
    this.#dataDir = join(dir, addresses.name);
    this.#initialCluster = initialCluster;
    this.#access = access;
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
      ...words('setpriv --pdeathsig KILL -- etcd'),
      ...words(`--name ${name} --data-dir ${this.#dataDir}`),
      ...words(`--listen-client-urls ${listenClientUrls} --advertise-client-urls ${clientUrl}`),
      ...words(`--listen-peer-urls ${peerUrl} --initial-advertise-peer-urls ${peerUrl}`),
      ...words(`--initial-cluster ${this.#initialCluster} --initial-cluster-state new`),
      ...this.#access.args,
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

  /** SIGSTOP: connections stay open and nothing answers. Returns once every thread has stopped. */
  pause(): void {
    const { pid } = this;
    process.kill(pid, 'SIGSTOP');
    const deadline = performance.now() + 10_000;
    while (!threadStates(pid).every((state) => state === 'T')) {
      if (performance.now() > deadline) throw new Error(`${this.name} does not stop`);
    }
  }

  /** SIGCONT. */
  resume(): void {
    process.kill(this.pid, 'SIGCONT');
  }

  /** Runs etcdctl (v3 API) against this member, in its namespace, and resolves to its standard output. */
  async ctl(...args: string[]): Promise<string> {
    return await this.#ctl(args);
  }

  /** Runs `etcdctl txn` with these lines of compares and of what is then done; resolves to `SUCCESS` or `FAILURE` and the answers. */
  async txn(compares: readonly string[], requests: readonly string[], ...flags: string[]): Promise<string> {
    // Compares, requests on success, requests on failure, each ended by an empty line.
    const lines = [...compares, '', ...requests, '', '', ''];
    return await this.#ctl([...flags, 'txn'], lines.join('\n'));
  }

  /** Changes the password of an etcd user. */
  async setPassword(user: string, password: string): Promise<void> {
    await this.#ctl(['user', 'passwd', user, '--interactive=false'], `${password}\n`);
  }

  /** Runs etcdctl with the v2 API (for etcd's `--enable-v2`), whose flags have other names. */
  async ctlV2(...args: string[]): Promise<string> {
    const names = { cacert: 'ca-file', cert: 'cert-file', key: 'key-file' };
    const access = this.#access.ctlArgs.map((arg) =>
      arg.replace(/^--(cacert|cert|key)=/, (_, name: keyof typeof names) => `--${names[name]}=`),
    );
    return await this.#run(['--endpoints', this.clientUrl, ...access, ...args], '2');
  }

  async #ctl(args: readonly string[], input = ''): Promise<string> {
    return await this.#run(['--endpoints', this.clientUrl, ...this.#access.ctlArgs, ...args], '3', input);
  }

  async #run(args: readonly string[], version: '2' | '3', input = ''): Promise<string> {
    const argv = this.#inNetns(['etcdctl', ...args]);
    const running = run(argv[0] ?? '', argv.slice(1), {
      env: { ...plainEnvironment(), ETCDCTL_API: version },
      maxBuffer: 256 << 20,
    });
    // It may end without reading its input; what it says then is in its standard error.
    running.child.stdin?.on('error', () => undefined);
    running.child.stdin?.end(input);
    return (await running).stdout;
  }

  /** Writes the data of a snapshot into this stopped member's folder. `token` goes into the new cluster id. */
  async restore(snapshotFile: string, token: string): Promise<void> {
    rmSync(this.#dataDir, { recursive: true, force: true });
    await this.ctl(
      ...words(`snapshot restore ${snapshotFile} --name ${this.name} --data-dir ${this.#dataDir}`),
      ...words(`--initial-cluster ${this.#initialCluster} --initial-cluster-token ${token}`),
      ...words(`--initial-advertise-peer-urls ${this.#addresses.peerUrl}`),
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

/** A command line without quoting; the folders tests make have no spaces in their names. */
function words(line: string): readonly string[] {
  return line.split(' ');
}

/** The state letter of each thread of a process (proc(5), stat): the signal's sender returns before they have stopped. */
function threadStates(pid: number): readonly string[] {
  return readdirSync(`/proc/${pid}/task`).map((task) => {
    const stat = readFileSync(`/proc/${pid}/task/${task}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3);
  });
}

/** etcd and etcdctl take options from ETCD_* and ETCDCTL_*, and must not use a proxy. */
function plainEnvironment(): NodeJS.ProcessEnv {
  const foreign = /^(ETCD|ETCDCTL)_|_proxy$/i;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)));
}
