import { FlannelError } from './errors.ts';

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
