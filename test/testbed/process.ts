import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';

/** How a process ended: `code` or, when a signal ended it, `signal`. */
export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface ProcessOptions {
  /** The whole environment; default: this process's. */
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** A file to which all output goes as well; appended to. */
  readonly logFile?: string;
}

/** A child process whose output is kept line by line. It dies with this process (SIGKILL), whatever happens to this one. */
export class RunningProcess {
  readonly pid: number;
  /** Standard output and standard error, in the order in which the lines arrived. */
  readonly lines: string[] = [];
  readonly stdout: string[] = [];
  readonly stderr: string[] = [];
  /** Resolves when the process has ended and its output is complete. */
  readonly exit: Promise<Exit>;
  readonly #argv: readonly string[];
  readonly #child: ChildProcess;
  readonly #listeners = new Set<() => void>();
  /** Open until the output is complete, so that the file may be removed before. */
  readonly #log: number | undefined;
  #ended: Exit | undefined;

  constructor(argv: readonly string[], options: ProcessOptions = {}) {
    const { logFile, ...rest } = options;
    this.#argv = argv;
    this.#log = logFile === undefined ? undefined : openSync(logFile, 'a');
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...argv], {
      ...rest,
      stdio: ['ignore', 'pipe', 'pipe'],
      // Out of the terminal's process group: Ctrl-C comes to this process alone, which ends its children in order.
      detached: true,
    });
    this.#child = child;
    this.pid = child.pid ?? 0;
    createInterface({ input: child.stdout }).on('line', (line) => this.#keep(this.stdout, line));
    createInterface({ input: child.stderr }).on('line', (line) => this.#keep(this.stderr, line));
    this.exit = new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => {
        if (this.#log !== undefined) closeSync(this.#log);
        this.#ended = { code, signal };
        this.#wake();
        resolve(this.#ended);
      });
    });
    // Whoever does not wait for the end is told by waitFor() or stop() instead.
    this.exit.catch(() => undefined);
  }

  get running(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Resolves to what `find` returns once it returns something; rejects when the process ends first or after `timeoutMs`. */
  async waitFor<T>(
    find: (lines: readonly string[]) => T | undefined,
    timeoutMs: number,
    what: string,
  ): Promise<T> {
    return await new Promise<T>((resolve, reject) => {
      const finish = (act: () => void) => {
        clearTimeout(timer);
        this.#listeners.delete(check);
        act();
      };
      const fail = (why: string) =>
        finish(() => reject(new Error(`${this.#argv.join(' ')}: ${what}: ${why}\n${this.tail()}`)));
      const check = () => {
        const found = find(this.lines);
        if (found !== undefined) finish(() => resolve(found));
        else if (this.#ended !== undefined) fail(`ended with ${this.#ended.code ?? this.#ended.signal}`);
      };
      const timer = setTimeout(() => fail(`not within ${timeoutMs} ms`), timeoutMs);
      this.#listeners.add(check);
      check();
    });
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Sends `signal` and waits for the end. A process that is still there after `timeoutMs` is killed, and that is an error. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', timeoutMs = 15_000): Promise<Exit> {
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.#child.kill('SIGKILL');
    }, timeoutMs);
    this.#child.kill(signal);
    const exit = await this.exit.finally(() => clearTimeout(timer));
    if (late)
      throw new Error(`${this.#argv.join(' ')} ignored ${signal} for ${timeoutMs} ms\n${this.tail()}`);
    return exit;
  }

  /** The end of the output, for messages. */
  tail(lines = 30): string {
    return this.lines.slice(-lines).join('\n');
  }

  #keep(stream: string[], line: string): void {
    stream.push(line);
    this.lines.push(line);
    if (this.#log !== undefined) writeSync(this.#log, `${line}\n`);
    this.#wake();
  }

  #wake(): void {
    for (const listener of this.#listeners) listener();
  }
}

/** Runs a command to its end; resolves to its output whatever its exit code. */
export async function runToEnd(
  argv: readonly string[],
  options: ProcessOptions = {},
): Promise<{ readonly exit: Exit; readonly stdout: string; readonly output: string }> {
  const child = new RunningProcess(argv, options);
  const exit = await child.exit;
  return { exit, stdout: child.stdout.join('\n'), output: child.lines.join('\n') };
}
