import { type Command, daemonCommand, namedCommands, type ParsedCommand } from './commands.ts';
import { quote, UsageError } from './errors.ts';
import { environmentName, type Flag } from './flag.ts';
import { splitFlags } from './go-flags.ts';
import { helpText } from './help.ts';
import { nearestName } from './nearest.ts';
import { isOldVariable, oldFlag } from './old-flags.ts';
import { type Environment, Settings } from './settings.ts';
import { shownName, shownRest } from './shown.ts';
import { flags, flagTable } from './table.ts';
import { VERSION } from './version.ts';

export type { ParsedCommand } from './commands.ts';
export type { Options } from './run-options.ts';

/** `argv` without the program: process.argv.slice(2). */
export interface CommandLine {
  readonly argv: readonly string[];
  readonly env: Environment;
}

/**
 * Reads the command line and the environment, and nothing else. Precedence: flag, FLANNELD_… variable, sysconfig name, default.
 * `--help`, then `--version`, win over bad values of other flags. A command is one as the first word only.
 *
 * Rejects with {@link UsageError} and nothing else.
 */
export async function parseOptions({ argv, env }: CommandLine): Promise<ParsedCommand> {
  const named = namedCommands.find(({ words }) => words.every((word, index) => argv[index] === word));
  const command = named ?? daemonCommand;
  const { flags: given, rest } = splitFlags(argv.slice(command.words.length), (name) =>
    kindOf(name, command),
  );
  const settings = new Settings(given, env);
  if (given.some(({ name }) => name === 'h') || settings.optional(flags.help) === true) {
    return { command: 'help', text: await helpText(command) };
  }
  if (settings.optional(flags.version) === true)
    return { command: 'version', text: `flanneld-ts ${VERSION}` };
  const warnings: string[] = [];
  if (rest.length > 0) warnings.push(judgeRest(command, argv, rest));
  if (command === daemonCommand) warnings.push(...unknownVariables(env));
  return command.read({ settings, warnings, warn: (message) => warnings.push(message) });
}

function kindOf(name: string, command: Command): 'boolean' | 'value' {
  if (name === 'h') return 'boolean';
  const known: readonly Flag<unknown>[] = command.flags;
  const flag =
    known.find((row) => row.name === name) ?? (command === daemonCommand ? oldFlag(name) : undefined);
  if (flag !== undefined) return flag.boolean ? 'boolean' : 'value';
  const nearest = nearestName(
    name,
    known.map((row) => row.name),
  );
  const help = ['flanneld-ts', ...command.words, '--help'].join(' ');
  const hint = nearest === undefined ? `see ${help}` : `did you mean --${nearest}?`;
  throw new UsageError('UNKNOWN_FLAG', `unknown flag ${shownName(name)}: ${hint}`);
}

/** flanneld's rule for words after the flags is to ignore them; that is kept for the daemon, and said. */
function judgeRest(command: Command, argv: readonly string[], rest: readonly string[]): string {
  const shown = shownRest(argv, rest, new Set(flagTable.map(({ name }) => name)));
  if (command !== daemonCommand) {
    throw new UsageError('SYNTAX', `${command.words.join(' ')} takes flags only, not ${shown}`);
  }
  const commands = namedCommands.map(({ words }) => words.join(' '));
  const meant = rest.length === argv.length ? nearestName(rest.join(' '), commands) : undefined;
  const hint = meant === undefined ? '' : `; did you mean the command ${meant}?`;
  return `ignored, because flags end at the first word that is none: ${shown}${hint}`;
}

/** A misspelt variable has no effect and no error: say so. */
function unknownVariables(env: Environment): readonly string[] {
  const known = flagTable.filter((flag) => !flag.noEnvironment).map(environmentName);
  return Object.keys(env)
    .filter((name) => name.startsWith('FLANNELD_') && env[name] !== '')
    .filter((name) => !known.includes(name) && !isOldVariable(name))
    .toSorted()
    .map((name) => {
      const nearest = nearestName(name, known);
      return `ignored, because there is no such flag: the variable ${quote(name)}${nearest === undefined ? '' : `; did you mean ${nearest}?`}`;
    });
}
