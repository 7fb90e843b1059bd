import { UsageError } from '../../src/daemon/options/errors.ts';
import { type Options, parseOptions } from '../../src/daemon/options/options.ts';

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
