import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type HostPlace, onHost, runFolder } from './host.ts';
import { type Exit, RunningProcess } from './process.ts';

/** The program under test as hosts run it, made by `npm run build`: it takes Node from PATH. */
export const PROGRAM = join(import.meta.dirname, '../../dist/flanneld-ts');

/** The protocol number that marks the daemon's routes, as `ip -N` writes it. */
export const OUR_PROTOCOL = '102';

const READY_DEADLINE_MS = 30_000;

export interface DaemonOptions extends HostPlace {
  /** `--etcd-endpoints`; not given when undefined. */
  readonly endpoints?: string;
  /** `--etcd-prefix`; not given when undefined. */
  readonly prefix?: string;
  /** More flags. */
  readonly flags?: readonly string[];
  /** Commands that exec the program with other rights: `setpriv …`. */
  readonly through?: readonly string[];
  /** More environment; FLANNEL* of this process's own is not handed on. */
  readonly env?: Readonly<Record<string, string>>;
}

/** One line of the daemon's log. */
export interface LogRecord {
  readonly level: string;
  readonly event?: string;
  readonly msg?: string;
  readonly [field: string]: unknown;
}

/** The daemon on one host: a process that can be ended and started again, with the files it writes. */
export class DaemonProcess {
  readonly options: DaemonOptions;
  #process: RunningProcess | undefined;

  constructor(options: DaemonOptions) {
    this.options = options;
  }

  /** /run/flannel/subnet.env of the host, as this process sees it. */
  get subnetFile(): string {
    return join(runFolder(this.options), 'flannel/subnet.env');
  }

  /** /run/docker_opts.env of the host, as this process sees it. */
  get dockerOptsFile(): string {
    return join(runFolder(this.options), 'docker_opts.env');
  }

  /** A file with what all of its processes have logged, one JSON object per line. */
  get logFile(): string {
    return join(this.options.dir, 'flanneld-ts.log');
  }

  /** The current or last process; throws before the first launch. */
  get process(): RunningProcess {
    if (this.#process === undefined) throw new Error('the daemon was never started');
    return this.#process;
  }

  get pid(): number {
    return this.process.pid;
  }

  get running(): boolean {
    return this.#process?.running ?? false;
  }

  /** What the current or last process has logged. */
  get logs(): readonly LogRecord[] {
    return parseLogs(this.process.lines);
  }

  /** What all of its processes have logged. */
  history(): readonly LogRecord[] {
    return parseLogs(readFileSync(this.logFile, 'utf8').split('\n'));
  }

  /** Starts the process without waiting for anything. */
  launch(): void {
    if (this.running) throw new Error('the daemon is running already');
    if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is missing: npm run build`);
    const { endpoints, prefix, flags = [], through = [], env = {} } = this.options;
    const argv = [
      ...through,
      PROGRAM,
      '--log-format=json',
      ...(endpoints === undefined ? [] : [`--etcd-endpoints=${endpoints}`]),
      ...(prefix === undefined ? [] : [`--etcd-prefix=${prefix}`]),
      ...flags,
    ];
    this.#process = new RunningProcess(onHost(this.options, argv), {
      env: { ...plainEnvironment(), ...env },
      logFile: this.logFile,
    });
  }

  /** Starts the process and waits until it says that it is ready. */
  async start(timeoutMs = READY_DEADLINE_MS): Promise<LogRecord> {
    this.launch();
    return await this.ready(timeoutMs);
  }

  /** Waits for the log line that goes with READY=1. */
  async ready(timeoutMs = READY_DEADLINE_MS): Promise<LogRecord> {
    return await this.waitForLog('ready', timeoutMs);
  }

  /** Waits for a log line, one that is there already included: by its `event`, or by a predicate. */
  async waitForLog(
    which: string | ((record: LogRecord) => boolean),
    timeoutMs = READY_DEADLINE_MS,
  ): Promise<LogRecord> {
    const matches = typeof which === 'string' ? (record: LogRecord) => record.event === which : which;
    let read = 0;
    const next = (lines: readonly string[]) => {
      const found = parseLogs(lines.slice(read)).find(matches);
      read = lines.length;
      return found;
    };
    return await this.process.waitFor(next, timeoutMs, `waiting for the log line ${String(which)}`);
  }

  /** Ends the process; an error when that takes over 5 s. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<Exit> {
    return await this.process.stop(signal, 5_000);
  }

  async kill9(): Promise<Exit> {
    return await this.process.stop('SIGKILL');
  }

  /** Ends the process by `signal` and starts it again. */
  async restart(signal: NodeJS.Signals = 'SIGTERM'): Promise<LogRecord> {
    await this.stop(signal);
    return await this.start();
  }

  /** subnet.env by variable name; throws when there is none. */
  subnetEnv(): Readonly<Record<string, string>> {
    const lines = readFileSync(this.subnetFile, 'utf8').trimEnd().split('\n');
    return Object.fromEntries(
      lines.map((line) => [line.split('=', 1)[0] ?? '', line.slice(line.indexOf('=') + 1)]),
    );
  }

  /** Ends the process, if any, at once. */
  async close(): Promise<void> {
    if (this.running) await this.kill9();
  }
}

/** When a line was logged, in milliseconds since the epoch. */
export function loggedAtMs(record: LogRecord): number {
  const atMs = Date.parse(String(record['time']));
  if (Number.isNaN(atMs)) throw new Error(`a log line without its time: ${JSON.stringify(record)}`);
  return atMs;
}

function parseLogs(lines: readonly string[]): readonly LogRecord[] {
  return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as LogRecord);
}

/** This process's environment without what names flannel. */
export function plainEnvironment(): NodeJS.ProcessEnv {
  const foreign = /^(FLANNEL_|FLANNELD$|FLANNELD_(?!TS_RUN$))/;
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !foreign.test(name)));
}
