import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { until } from './commands.ts';
import { plainEnvironment } from './daemon.ts';
import { type HostPlace, onHost, runFolder } from './host.ts';
import { type Exit, RunningProcess } from './process.ts';

const READY_DEADLINE_MS = 30_000;

/** What stands for flannel 0.7.1: the binary that FLANNELD_071 names, else the model of it. */
export const FLANNEL_071 = program(process.env['FLANNELD_071']);

export interface Flannel071ProcessOptions extends HostPlace {
  readonly endpoints: string;
  readonly prefix: string;
  /** More flags, by flannel's names. */
  readonly flags?: readonly string[];
}

/** flannel 0.7.1 on one host: a process that can be ended and started again. */
export class Flannel071Process {
  readonly #options: Flannel071ProcessOptions;
  #process: RunningProcess | undefined;

  constructor(options: Flannel071ProcessOptions) {
    this.#options = options;
  }

  /** The current or last process; throws before the first launch. */
  get process(): RunningProcess {
    if (this.#process === undefined) throw new Error('flannel 0.7.1 was never started');
    return this.#process;
  }

  get running(): boolean {
    return this.#process?.running ?? false;
  }

  /** /run/flannel/subnet.env of the host, as this process sees it. */
  get subnetFile(): string {
    return join(runFolder(this.#options), 'flannel/subnet.env');
  }

  /** The subnet in subnet.env, `10.5.1.0/24`; throws when there is none. */
  get subnet(): string {
    const [, subnet] = /^FLANNEL_SUBNET=(.*)$/m.exec(readFileSync(this.subnetFile, 'utf8')) ?? [];
    if (subnet === undefined) throw new Error(`${this.subnetFile} has no FLANNEL_SUBNET`);
    return subnet.replace(/\.1\//, '.0/');
  }

  /** Starts the process without waiting for anything; `flags` besides those of every start. */
  launch(...flags: readonly string[]): void {
    if (this.running) throw new Error('flannel 0.7.1 is running already');
    const { endpoints, prefix, flags: always = [] } = this.#options;
    const own = [`-etcd-endpoints=${endpoints}`, `-etcd-prefix=${prefix}`, '-iface=eth0'];
    const argv = [...FLANNEL_071.command, ...own, ...always, ...flags];
    this.#process = new RunningProcess(onHost(this.#options, argv), { env: plainEnvironment() });
  }

  /** Starts the process and waits until it has written subnet.env, which it does anew at each start, before any route. */
  async start(...flags: readonly string[]): Promise<void> {
    const before = this.#writtenAt;
    this.launch(...flags);
    const isReady = () => {
      if (!this.running) throw new Error(`flannel 0.7.1 has ended\n${this.process.tail()}`);
      return this.#writtenAt !== before;
    };
    await until(isReady, READY_DEADLINE_MS, () => `no new ${this.subnetFile}\n${this.process.tail()}`);
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<Exit> {
    return await this.process.stop(signal);
  }

  /** Ends the process, if any, at once. */
  async close(): Promise<void> {
    if (this.running) await this.stop('SIGKILL');
  }

  /** When subnet.env was written, ns; undefined while there is none. */
  get #writtenAt(): bigint | undefined {
    return existsSync(this.subnetFile) ? statSync(this.subnetFile, { bigint: true }).mtimeNs : undefined;
  }
}

function program(path: string | undefined): { readonly name: string; readonly command: readonly string[] } {
  if (path === undefined || path === '') {
    const model = join(import.meta.dirname, 'flannel-071-main.ts');
    return { name: 'the model of flannel 0.7.1', command: [process.execPath, model] };
  }
  if (!existsSync(path)) throw new Error(`FLANNELD_071=${path}: there is no such file`);
  return { name: path, command: [path] };
}
