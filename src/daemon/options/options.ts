import { type Command, daemonCommand, namedCommands, type ParsedCommand } from './command-table.ts';
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

export type { ParsedCommand } from './command-table.ts';
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
  const command = commandOf(argv);
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
  const shown = shownRest(argv, rest, new Set(flagTable.map(({ name }) => name)));
  const [text] = command.operand !== undefined && rest.length === 1 ? rest : [];
  if (rest.length > 0 && text === undefined)
    warnings.push(judgeRest(command, shown) + commandHint(argv, rest));
  if (command.likeDaemon) warnings.push(...unknownVariables(env));
  return command.read({
    settings,
    warnings,
    warn: (message) => warnings.push(message),
    ...(text === undefined ? {} : { operand: { text, shown } }),
  });
}

function commandOf(argv: readonly string[]): Command {
  const named = namedCommands.find(({ words }) => words.every((word, index) => argv[index] === word));
  if (named !== undefined) return named;
  const started = namedCommands.find(({ words }) => words[0] === argv[0]);
  if (started === undefined) return daemonCommand;
  // The daemon must not start because half a command was written.
  throw new UsageError('SYNTAX', `${quote(argv[0] ?? '')} is no command: ${started.words.join(' ')} is`);
}

function kindOf(name: string, command: Command): 'boolean' | 'value' {
  if (name === 'h') return 'boolean';
  const known: readonly Flag<unknown>[] = command.flags;
  const flag = known.find((row) => row.name === name) ?? (command.likeDaemon ? oldFlag(name) : undefined);
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
function judgeRest(command: Command, shown: string): string {
  if (!command.likeDaemon) {
    const taken = command.operand === undefined ? 'flags only' : `flags and then one ${command.operand}`;
    throw new UsageError('SYNTAX', `${command.words.join(' ')} takes ${taken}, not ${shown}`);
  }
  return `ignored, because flags end at the first word that is none: ${shown}`;
}

function commandHint(argv: readonly string[], rest: readonly string[]): string {
  if (rest.length < argv.length) return '';
  const commands = namedCommands.map(({ words }) => words.join(' '));
  const meant = nearestName(rest.join(' '), commands);
  return meant === undefined ? '' : `; did you mean the command ${meant}?`;
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
