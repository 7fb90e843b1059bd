import { parseOptions } from '../../src/daemon/options/command-line.ts';
import type { Options } from '../../src/daemon/options/options.ts';
import { UsageError } from '../../src/daemon/options/settings.ts';

export type Env = Readonly<Record<string, string | undefined>>;

/** Parses what must be a run of the daemon. */
export async function run(
  argv: readonly string[],
  env: Env = {},
): Promise<{ options: Options; warnings: readonly string[] }> {
  const command = await parseOptions({ argv, env });
  if (command.command !== 'run') throw new Error(`expected a run, got ${command.command}`);
  return command;
}

/** The text that must be printed for a command line. */
export async function printed(...argv: readonly string[]): Promise<string> {
  const command = await parseOptions({ argv, env: {} });
  if (command.command !== 'print') throw new Error(`expected a text, got ${command.command}`);
  return command.text;
}

/** The error for what must be wrong usage. */
export async function usageError(argv: readonly string[], env: Env = {}): Promise<UsageError> {
  const error: unknown = await parseOptions({ argv, env }).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof UsageError))
    throw new Error(`expected a usage error for ${argv.join(' ')}`, { cause: error });
  return error;
}
