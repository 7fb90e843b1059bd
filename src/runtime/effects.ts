import { FlannelError } from './errors.ts';

/**
 * Time, as the core sees it. Nothing in the core reads a clock or sets a timer except through this interface, so that a
 * whole cluster can run on a virtual clock.
 */
export interface Clock {
  /** Wall-clock time in milliseconds since the epoch. It may jump: a suspended VM, an operator, NTP. */
  now(): number;
  /** Milliseconds on a clock that never goes backwards; only differences mean something. */
  monotonic(): number;
  /**
   * Resolves after `ms` milliseconds (at once for 0 or less), or rejects with `signal.reason` when the signal aborts
   * first. An already aborted signal rejects without waiting.
   */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Randomness, as the core sees it: seeded in simulation, the system's generator in production. */
export interface Random {
  /** A number in [0, 1). */
  next(): number;
}

/** An integer in [0, bound), uniformly; `bound` must be a positive safe integer. */
export function randomInt(random: Random, bound: number): number {
  return Math.min(bound - 1, Math.floor(random.next() * bound));
}

/** Structured logging: `fields` are machine-readable, `message` is for the operator. One line per event that matters. */
export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
}

export type LogFields = Readonly<Record<string, unknown>>;

/** The few file operations the core needs. Errors are Node's own system errors (`code`: ENOENT, EACCES, ENOSPC, …). */
export interface Files {
  /** The file's text, or undefined when there is none at `path`. Throws every other error. */
  readText(path: string): Promise<string | undefined>;
  /**
   * Replaces `path` by `content` so that a reader, or a crash at any point, sees the old file or the new one and never
   * a part: a temporary file beside it is written, fsynced, given `mode` whatever the umask, and renamed; the folder is
   * fsynced too. A symbolic link at `path` is replaced, not followed. Missing folders are created 0755. On failure the
   * temporary file is removed and nothing has changed.
   */
  writeAtomic(path: string, content: string, mode: number): Promise<void>;
  /**
   * Writes to the file that is there, without replacing it and without any of the promises of `writeAtomic`: for the kernel's
   * settings below /proc/sys, which look like files. Nothing is created: ENOENT when there is none.
   */
  writeInPlace(path: string, content: string): Promise<void>;
  /**
   * Calls `onChange` when something happens to `path`, or to the folder it is in, until the returned function is called; more often
   * than needed, and perhaps not at all where the system cannot tell: poll as well. After the first call it only covers what existed when
   * it was made: watch again when the folder comes or goes. Never throws.
   */
  watch(path: string, onChange: () => void): () => void;
}

/** What a program that ran to its end has left behind. */
export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  /** Written to the program's standard input, which is then closed; default: nothing. */
  readonly stdin?: string;
  /** A program that takes longer is killed. */
  readonly timeoutMs: number;
}

/** Other programs of this host, run without a shell, with the C locale. */
export interface Commands {
  /**
   * Runs `program` (looked up in PATH) to its end; resolves whatever its exit code. Rejects with {@link CommandError} when
   * it was not run to its end, or with `signal.reason` when the signal aborts; the program has ended in any case.
   */
  run(
    program: string,
    args: readonly string[],
    options: CommandOptions,
    signal: AbortSignal,
  ): Promise<CommandResult>;
}

/**
 * COMMAND_MISSING: there is no such program. COMMAND_TIMEOUT: it took too long. COMMAND_FAILED: it could not be started, was
 * ended by a signal, or said more than can be meant.
 */
export type CommandErrorCode = 'COMMAND_MISSING' | 'COMMAND_TIMEOUT' | 'COMMAND_FAILED';

/** A program that did not run to its end. */
export class CommandError extends FlannelError {
  declare readonly code: CommandErrorCode;

  constructor(code: CommandErrorCode, message: string, cause?: unknown) {
    super(code, message, { cause });
  }
}

/**
 * What the service manager is told (systemd's sd_notify protocol). Calls never throw and never wait: a service manager
 * that does not listen is no reason to stop routing.
 */
export interface Notifier {
  /** READY=1: the files are written and the first route sync is done. */
  ready(): void;
  /** STATUS=…: one line for `systemctl status`; newlines are flattened. */
  status(text: string): void;
  /** How long the service manager waits for the next `alive` before it restarts the process; absent: no limit. */
  readonly watchdogMs?: number;
  /** WATCHDOG=1. */
  alive(): void;
  /** STOPPING=1. */
  stopping(): void;
}
