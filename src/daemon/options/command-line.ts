import type { Argv } from 'yargs';
import { nearestTo } from '../../runtime/texts.ts';
import { loadGoRegexp } from '../interface/go-regexp.ts';
import {
  type Command,
  commandGroups,
  completionCommand,
  daemonCommand,
  namedCommands,
  type ParsedCommand,
} from './commands.ts';
import { type Flag, flags, flagTable, GROUPS } from './flags.ts';
import { isOldVariable, oldFlag } from './old-flags.ts';
import type { ServiceSettings } from './service-settings.ts';
import {
  type Environment,
  environmentName,
  flagName,
  type GivenFlag,
  quote,
  Settings,
  splitCommandLine,
  UsageError,
  type Word,
} from './settings.ts';

/** Put in by the build; absent when the sources run as they are. */
declare const FLANNELD_TS_VERSION: string;

/** The program's version, as in package.json; `development` without a build. */
export const VERSION = typeof FLANNELD_TS_VERSION === 'string' ? FLANNELD_TS_VERSION : 'development';

/** `argv` without the program: process.argv.slice(2). */
export interface CommandLine {
  readonly argv: readonly string[];
  readonly env: Environment;
  /** Reads what the service is given; asked by commands that look where it looks when nothing tells them. */
  readonly service?: () => Promise<ServiceSettings | undefined>;
}

const epilogue = `Flags are written --name=value, --name value, -name=value or -name value.
Each may come from the environment instead: --etcd-prefix from
FLANNELD_ETCD_PREFIX, or from FLANNEL_ETCD_PREFIX as in the sysconfig file
(likewise FLANNEL_ETCD_ENDPOINTS). An empty variable counts as not set.
Other flags of flanneld, from Kubernetes or its old log, are let pass.

Exit status: 0 asked to stop, 1 fatal error, 2 wrong usage.`;

/** What the script of `completion` calls the program with; the words typed so far follow. */
const asksForCompletions = '--get-yargs-completions';

/**
 * Reads the command line and the environment, and nothing else. Precedence: flag, FLANNELD_… variable, sysconfig name, default.
 * `--help`, then `--version`, win over bad values of other flags. Any word that is neither a flag nor of a command is wrong usage: a
 * mistyped command would start a daemon.
 *
 * yargs knows the commands: it finds the one that is meant, suggests the nearest, lays out the help and completes. The flags are split
 * here, because Go's syntax must be split before yargs could read it; and yargs guesses types, which flanneld's flags do not allow. The
 * daemon, and a command that is named to the letter, need no yargs and do not load it.
 *
 * Rejects with {@link UsageError} and nothing else.
 */
export async function parseOptions(line: CommandLine): Promise<ParsedCommand> {
  const completion = (argv: readonly string[]) =>
    ({ command: 'completion', print: () => printCompletion(argv) }) as const;
  if (line.argv[0] === asksForCompletions) return completion(line.argv);
  const { flags: written, words } = splitCommandLine(line.argv, kindOf, refuseFlag);
  const isHelp = words[0]?.text === 'help';
  const wantsHelp = new Settings(written, {}).value(flags.help) === true;
  if (isHelp || wantsHelp || written.some(({ name }) => name === 'h'))
    return print(await helpText(words.slice(isHelp ? 1 : 0)));
  const { command, operands } =
    words.length === 0 ? { command: daemonCommand, operands: [] } : await chosenCommand(words);
  refuseOthersFlags(written, command);
  const service = await serviceOf(line, command, written);
  const given = service === undefined ? written : [...flagsOfService(service, command, written), ...written];
  const env = { ...service?.env, ...line.env };
  const settings = new Settings(given, env);
  if (command === completionCommand) return completion(command.words);
  if (command.read === undefined || settings.value(flags.version) === true)
    return print(`flanneld-ts ${VERSION}`);
  if (settings.sourceOf(flags.ifaceRegexes) !== undefined) await loadGoRegexp();
  const warnings: string[] = command.likeDaemon ? [...unknownVariables(env)] : [];
  if (service !== undefined)
    warnings.push(`settings of the service: ${service.paths.join(' and, winning, ')}`);
  const warn = (message: string) => warnings.push(message);
  return command.read({ settings, warnings, warn, operands });
}

function print(text: string): ParsedCommand {
  return { command: 'print', text };
}

/** What the service is given; undefined for a command that does not ask, or is told by a flag or variable where to look. */
async function serviceOf(
  { env, service }: CommandLine,
  { asService }: Command,
  written: readonly GivenFlag[],
): Promise<ServiceSettings | undefined> {
  const settings = new Settings(written, env);
  const isTold = [flags.etcdEndpoints, flags.etcdPrefix].some(
    (flag) => settings.sourceOf(flag) !== undefined,
  );
  const asks = asService?.(settings) === true && !isTold && settings.value(flags.version) !== true;
  return asks ? await service?.() : undefined;
}

/**
 * The service's flags that the command takes, except those given on the command line, and those that it takes from there alone. Throws
 * {@link UsageError}.
 */
function flagsOfService(
  { argv }: ServiceSettings,
  command: Command,
  written: readonly GivenFlag[],
): readonly GivenFlag[] {
  try {
    const names = new Set(written.map(({ name }) => name));
    const { flags: given, words } = splitCommandLine(argv, kindOf, refuseFlag);
    if (words[0] !== undefined) throw strayWord(words[0]);
    refuseOthersFlags(given, daemonCommand);
    const isForService = ({ name }: GivenFlag) =>
      !Object.values(command.flags).some((flag) => flag.name === name && flag.noEnvironment === true);
    return given.filter((flag) => !names.has(flag.name) && takes(command, flag) && isForService(flag));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new UsageError('BAD_VALUE', `FLANNEL_OPTIONS of the service: ${error.message}`);
  }
}

const allFlags = new Map(
  [daemonCommand, ...namedCommands].flatMap((command) =>
    Object.values(command.flags).map((flag) => [flag.name, flag] as const),
  ),
);

function kindOf(name: string): 'boolean' | 'value' | undefined {
  if (name === 'h') return 'boolean';
  const flag = allFlags.get(name) ?? oldFlag(name);
  if (flag === undefined) return undefined;
  return flag.boolean ? 'boolean' : 'value';
}

function refuseFlag(name: string): never {
  const nearest = nearestName(name, [...allFlags.keys()]);
  const hint = nearest === undefined ? 'see flanneld-ts --help' : `did you mean --${nearest}?`;
  // --etcd-passwordhunter2 and --etcd-password:hunter2 have their password in the name.
  const shown = /pas/i.test(name) ? '' : ` ${quote(flagName({ name }))}`;
  throw new UsageError('UNKNOWN_FLAG', `unknown flag${shown}: ${hint}`);
}

function takes(command: Command, { name }: GivenFlag): boolean {
  const isOld = command.likeDaemon === true && oldFlag(name) !== undefined;
  return isOld || Object.values(command.flags).some((flag) => flag.name === name);
}

function refuseOthersFlags(written: readonly GivenFlag[], command: Command): void {
  const other = written.find((flag) => !takes(command, flag));
  if (other === undefined) return;
  const name = ['flanneld-ts', ...command.words].join(' ');
  throw new UsageError('UNKNOWN_FLAG', `${name} takes no ${flagName(other)}: see ${name} --help`);
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
      const hint = nearest === undefined ? '' : `; did you mean ${nearest}?`;
      return `ignored, because there is no such flag: the variable ${quote(name)}${hint}`;
    });
}

/** The name most like `text`, or undefined when none is like it: more than a third of it would have to change. */
function nearestName(text: string, names: readonly string[]): string | undefined {
  const wanted = text.toLowerCase().slice(0, 64);
  const most = Math.max(1, Math.floor(wanted.length / 3));
  const byFolded = new Map(names.map((name) => [name.toLowerCase(), name]));
  // One letter is like any other letter: a suggestion must share something with what was written.
  const nearest = nearestTo(wanted, byFolded.keys(), (name) => Math.min(most, name.length - 1));
  return nearest === undefined ? undefined : byFolded.get(nearest);
}

/** No command and no subnet is as long. To suggest one, yargs compares a word with each letter by letter. */
const longestWord = 100;

interface Chosen {
  readonly command: Command;
  /** The words behind those that name it. */
  readonly operands: readonly string[];
}

/** The command that the words name. Rejects with {@link UsageError}. */
async function chosenCommand(words: readonly Word[]): Promise<Chosen> {
  // A probe that runs `health` every few seconds need not load yargs.
  const said = words.map(({ text }) => text).join(' ');
  const named = namedCommands.find((command) => command.words.join(' ') === said);
  requireOperands(words);
  if (named !== undefined) return { command: named, operands: [] };
  let chosen: Command | undefined;
  const parser = await commandParser((command) => {
    chosen = command;
  });
  const stray = strayOf(words);
  parser.fail((message: string, error?: Error) => {
    throw error ?? strayWord(stray, message);
  });
  await parser.parseAsync(words.map(({ text }) => text.slice(0, longestWord)));
  if (chosen !== undefined)
    return { command: chosen, operands: words.slice(chosen.words.length).map(({ text }) => text) };
  const group = words[0]?.text ?? '';
  const whole = namedCommands.filter((command) => command.words[0] === group);
  const verbs = whole.map(({ words: [, verb] }) => verb);
  throw new UsageError('SYNTAX', `${quote(group)} needs a verb: flanneld-ts ${group} ${verbs.join(', ')}`);
}

/** Throws {@link UsageError} when the command that the words name needs more of them. */
function requireOperands(words: readonly Word[]): void {
  const begun = namedCommands.find(
    (command) => command.operand !== undefined && command.words.every((word, at) => words[at]?.text === word),
  );
  const given = words.length - (begun?.words.length ?? 0);
  const needed = operandsOf(begun).filter((operand) => operand.startsWith('<'));
  if (begun === undefined || given >= needed.length) return;
  const missing = needed.slice(given).map((operand) => operand.slice(1, -1));
  const name = ['flanneld-ts', ...begun.words].join(' ');
  throw new UsageError('MISSING_VALUE', `${name} needs ${missing.join(' and ')}: see ${name} --help`);
}

function operandsOf(command: Command | undefined): readonly string[] {
  return command?.operand?.split(' ') ?? [];
}

/** The first word that no command has in its place. */
function strayOf(words: readonly Word[]): Word | undefined {
  const begins =
    (depth: number) =>
    ({ words: named }: Command) =>
      words.slice(0, depth).every(({ text }, index) => named[index] === text);
  let depth = 0;
  while (depth < words.length && namedCommands.some(begins(depth + 1))) depth += 1;
  const named = namedCommands.find((command) => command.words.length === depth && begins(depth)(command));
  return words[depth + operandsOf(named).length] ?? words.at(-1);
}

/** As word processors and web pages make of "-" and "--". */
const otherDash = /^[\u2010-\u2015\u2212]/;

/** `message`: what yargs says; it may repeat the word, so only its suggestion is taken over. */
function strayWord(word: Word | undefined, message = ''): UsageError {
  const { text, position, behind } = word ?? { text: '', position: 1 };
  const which = `argument ${position}`;
  if (otherDash.test(text))
    return new UsageError('SYNTAX', `${which} begins with another dash than "-": type it again`);
  if (behind !== undefined && /^([01tf]|true|false)$/i.test(text)) {
    const flag = flagName({ name: behind });
    return new UsageError(
      'SYNTAX',
      `${flag} takes no separate value: write ${flag}, ${flag}=true or ${flag}=false`,
    );
  }
  const said = message.startsWith('Did you mean') ? `${message} ` : '';
  const names = [...new Set(namedCommands.map(({ words: [first] }) => first))].join(', ');
  return new UsageError(
    'UNKNOWN_COMMAND',
    `${which} is neither a flag nor a command. ${said}Commands: ${names}. Without one the daemon starts: see flanneld-ts --help`,
  );
}

/** The help of a command, of a group of them, or of the daemon for no words. Rejects with {@link UsageError}. */
async function helpText(words: readonly Word[]): Promise<string> {
  const texts = words.map(({ text }) => text);
  const isBegun = namedCommands.some((command) =>
    texts.every((text, index) => command.words[index] === text),
  );
  if (!isBegun) await chosenCommand(words);
  const parser = await commandParser(() => {}, texts);
  return (await parser.getHelp()).trim();
}

/** yargs prints what belongs to completion itself: for a command, it has no other way. */
async function printCompletion(argv: readonly string[]): Promise<void> {
  const parser = await commandParser(() => {}, argv);
  await parser.completion('completion', false).parseAsync();
}

/** The commands, told to yargs. It hands the one that is named to `use`. */
async function commandParser(use: (command: Command) => void, words: readonly string[] = []): Promise<Argv> {
  const { default: yargs } = await import('yargs');
  const parser = yargs([...words])
    .scriptName('flanneld-ts')
    .locale('en')
    .exitProcess(false)
    .version(false)
    .help(false)
    .wrap(80)
    .parserConfiguration({ 'parse-numbers': false, 'parse-positional-numbers': false })
    .usage(`Usage: $0 [COMMAND] [flags]\n\n${daemonCommand.describe}`)
    .epilogue(epilogue);
  return withFlags(withCommands(parser, [], use), daemonCommand);
}

/** The commands whose words begin with `begun`. */
function withCommands(parser: Argv, begun: readonly string[], use: (command: Command) => void): Argv {
  const depth = begun.length;
  const below = namedCommands.filter(({ words }) => begun.every((word, index) => words[index] === word));
  for (const word of new Set(below.map(({ words }) => words[depth] ?? ''))) {
    const command = below.find(({ words }) => words[depth] === word && words.length === depth + 1);
    if (command === undefined) {
      parser.command(word, commandGroups[word] ?? '', (group) => withCommands(group, [...begun, word], use));
      continue;
    }
    const { operand = '', describe } = command;
    parser.command(
      `${word} ${operand}`.trimEnd(),
      describe,
      (one) => withFlags(one, command).strictCommands(),
      () => use(command),
    );
  }
  return parser.strictCommands().recommendCommands();
}

function withFlags(parser: Argv, { flags: table }: Command): Argv {
  const rows = Object.values(table);
  for (const { name, describe, fallback } of rows) {
    const description = fallback === undefined ? describe : `${describe} (default: ${fallback})`;
    parser.option(name, { describe: description, global: false });
  }
  for (const group of GROUPS) {
    const names = rows.filter((flag: Flag<unknown>) => flag.group === group).map(({ name }) => name);
    if (names.length > 0) parser.group(names, `${group}:`);
  }
  return parser;
}
