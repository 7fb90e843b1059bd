import { nearestTo } from '../../runtime/texts.ts';
import { loadGoRegexp } from '../interface/go-regexp.ts';
import {
  type Environment,
  type GivenFlag,
  parseGoBoolean,
  Settings,
  shownName,
  shownRest,
  splitFlags,
} from './command-line.ts';
import {
  type Command,
  daemonCommand,
  helpCommand,
  namedCommands,
  type ParsedCommand,
} from './command-table.ts';
import { quote, UsageError } from './errors.ts';
import { environmentName, type Flag, flagName } from './flag.ts';
import { helpText } from './help.ts';
import { isOldVariable, oldFlag } from './old-flags.ts';
import type { ServiceSettings } from './service-settings.ts';
import { flags, flagTable } from './table.ts';
import { VERSION } from './version.ts';

export type { ParsedCommand } from './command-table.ts';
export type { Options } from './run-options.ts';

/** `argv` without the program: process.argv.slice(2). */
export interface CommandLine {
  readonly argv: readonly string[];
  readonly env: Environment;
  /** Reads what the service is given; asked by commands that look where it looks when nothing tells them. */
  readonly service?: () => Promise<ServiceSettings | undefined>;
}

/**
 * Reads the command line and the environment, and nothing else. Precedence: flag, FLANNELD_… variable, sysconfig name, default.
 * `--help`, then `--version`, win over bad values of other flags. A command is one as the first word only; any other word that is
 * no flag is wrong usage, because flags behind it would be lost, and a mistyped command would start a daemon.
 *
 * Rejects with {@link UsageError} and nothing else.
 */
export async function parseOptions(line: CommandLine): Promise<ParsedCommand> {
  const { argv } = line;
  const begun = begunHelp(argv);
  if (begun !== undefined) return { command: 'help', text: await helpText(begun) };
  const command = commandOf(argv);
  const { flags: written, words } = splitWords(argv, command);
  const service = await serviceOf(line, command, written);
  const given = service === undefined ? written : [...flagsOfService(service, command, written), ...written];
  const env = { ...service?.env, ...line.env };
  const settings = new Settings(given, env);
  if (given.some(({ name }) => name === 'h') || settings.optional(flags.help) === true) {
    return { command: 'help', text: await helpText(command) };
  }
  if (command === helpCommand) return { command: 'help', text: await helpText(helpTopic(argv, words)) };
  if (command.read === undefined || settings.optional(flags.version) === true)
    return { command: 'version', text: `flanneld-ts ${VERSION}` };
  if (settings.sourceOf(flags.ifaceRegex) !== undefined) await loadGoRegexp();
  const [text] = words;
  const warnings: string[] = command.likeDaemon ? [...unknownVariables(env)] : [];
  if (service !== undefined)
    warnings.push(`settings of the service: ${service.paths.join(' and, winning, ')}`);
  return command.read({
    settings,
    warnings,
    warn: (message) => warnings.push(message),
    ...(text === undefined ? {} : { operand: { text, shown: shown(argv, words) } }),
  });
}

/** What the service is given; undefined for a command that does not ask, or is told by a flag or variable where to look. */
async function serviceOf(
  { env, service }: CommandLine,
  { asService }: Command,
  written: readonly GivenFlag[],
): Promise<ServiceSettings | undefined> {
  const settings = new Settings(written, env);
  const asksForHelp = written.some(({ name }) => ['h', 'help', 'version'].includes(name));
  const isTold = [flags.etcdEndpoints, flags.etcdPrefix].some(
    (flag) => settings.sourceOf(flag) !== undefined,
  );
  return asService && !asksForHelp && !isTold ? await service?.() : undefined;
}

/** Those that the command knows, without those that are written anew. Throws {@link UsageError}. */
function flagsOfService(
  { argv }: ServiceSettings,
  command: Command,
  written: readonly GivenFlag[],
): readonly GivenFlag[] {
  try {
    const names = new Set(written.map(({ name }) => name));
    return splitWords(argv, daemonCommand).flags.filter(
      ({ name }) =>
        !names.has(name) && (command.likeDaemon || command.flags.some((flag) => flag.name === name)),
    );
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new UsageError('BAD_VALUE', `FLANNEL_OPTIONS of the service: ${error.message}`);
  }
}

function commandOf(argv: readonly string[]): Command {
  const [first, second] = argv;
  if (first === undefined || isFlagLike(first)) return daemonCommand;
  const named = namedCommands.find(({ words }) => words.every((word, index) => argv[index] === word));
  if (named !== undefined) return named;
  const started = namedCommands.find(({ words }) => words[0] === first);
  if (started === undefined) throw unknownCommand(argv, [first]);
  if (second !== undefined && !isFlagLike(second)) throw unknownCommand(argv, [first, second]);
  throw new UsageError('SYNTAX', `${quote(first)} needs a verb: flanneld-ts ${started.words.join(' ')}`);
}

/** `lease --help`: of a command by its first word alone. */
function begunHelp([first, second, ...rest]: readonly string[]): Command | undefined {
  if (rest.length > 0 || !/^--?h(elp)?$/.test(second ?? '')) return undefined;
  return namedCommands.find(({ words }) => words.length > 1 && words[0] === first);
}

function isFlagLike(word: string): boolean {
  return word.length > 1 && word.startsWith('-');
}

/** The command that the words after `help` name; the daemon when there are none. */
function helpTopic(argv: readonly string[], words: readonly string[]): Command {
  if (words.length === 0) return daemonCommand;
  const named = namedCommands.find((command) => words.every((word, index) => command.words[index] === word));
  if (named === undefined) throw unknownCommand(argv, words);
  return named;
}

function unknownCommand(argv: readonly string[], words: readonly string[]): UsageError {
  const mayBeShown = shown(argv, words) === words.map(quote).join(' ');
  const said = mayBeShown ? quote(words.join(' ')) : '(not shown)';
  if (otherDash.test(words[0] ?? '')) return wrongDash(said);
  const nearest = nearestCommand(words);
  const meant = nearest === undefined ? '' : ` Did you mean ${quote(nearest)}?`;
  return new UsageError('UNKNOWN_COMMAND', `unknown command ${said}.${meant} ${commandList()}`);
}

/** As word processors and web pages make of "-" and "--". */
const otherDash = /^[\u2010-\u2015\u2212]/;

function wrongDash(said: string): UsageError {
  return new UsageError('SYNTAX', `${said} begins with another dash than "-": type it anew`);
}

function commandList(): string {
  return `Commands: ${commandNames().join(', ')}. Without one the daemon starts: see flanneld-ts --help`;
}

function commandNames(): readonly string[] {
  return namedCommands.map(({ words }) => words.join(' '));
}

/** The command that was meant: by most of its letters, by its beginning, or by its verb alone. */
function nearestCommand(words: readonly string[]): string | undefined {
  const text = words.join(' ').toLowerCase();
  const names = commandNames();
  const begun = names.filter((name) => text.length > 1 && name.startsWith(text));
  if (begun.length === 1) return begun[0];
  const verbs = new Map(names.map((name) => [name.slice(name.lastIndexOf(' ') + 1), name]));
  return nearestName(text, names) ?? verbs.get(nearestName(text, [...verbs.keys()]) ?? '');
}

interface Split {
  readonly flags: readonly GivenFlag[];
  readonly words: readonly string[];
}

/** The flags, and the words beside them that the command takes; any other word is refused. */
function splitWords(argv: readonly string[], command: Command): Split {
  const given: GivenFlag[] = [];
  const words: string[] = [];
  let left = argv.slice(command.words.length);
  for (;;) {
    const part = splitFlags(
      left,
      (name) => kindOf(name, command),
      (name) => name.length > 1 && isKnown(name, command),
    );
    given.push(...part.flags);
    const [word, ...rest] = part.rest;
    if (word === undefined) break;
    const { bareBoolean } = part;
    if (bareBoolean !== undefined && parseGoBoolean(word) !== undefined)
      throw separateBoolean(bareBoolean, word, rest);
    if (command.operand === undefined) throw strayWord(argv, part.rest, command);
    words.push(word);
    left = rest;
  }
  if (words.length > 1 && command !== helpCommand) {
    const name = command.words.join(' ');
    throw new UsageError('SYNTAX', `${name} takes one ${command.operand}, not ${shown(argv, words)}`);
  }
  return { flags: given, words };
}

function separateBoolean(name: string, word: string, rest: readonly string[]): UsageError {
  const flag = flagName({ name });
  const right = parseGoBoolean(word) === true ? `${flag} or ${flag}=true` : `${flag}=false`;
  const lost = rest.length === 0 ? '' : ` Nothing after ${quote(word)} would be read.`;
  return new UsageError('SYNTAX', `${flag} takes no separate value: write ${right}.${lost}`);
}

function strayWord(argv: readonly string[], rest: readonly string[], command: Command): UsageError {
  const said = shown(argv, rest);
  const [word = ''] = rest;
  if (isFlagLike(word)) return new UsageError('SYNTAX', `nothing after "--" would be read: ${said}`);
  if (otherDash.test(word)) return wrongDash(said);
  const name = command.words.join(' ');
  if (command !== daemonCommand) return new UsageError('SYNTAX', `${name} takes flags only, not ${said}`);
  const nearest = nearestCommand([word]);
  const meant = nearest === undefined ? commandList() : `A command comes first: flanneld-ts ${nearest} …`;
  return new UsageError('SYNTAX', `the daemon takes flags only, not ${said}. ${meant}`);
}

function shown(argv: readonly string[], words: readonly string[]): string {
  return shownRest(argv, words, knownNames);
}

const knownNames = new Set(flagTable.map(({ name }) => name));

function isKnown(name: string, { flags: known }: Command): boolean {
  return knownNames.has(name) || known.some((flag) => flag.name === name) || oldFlag(name) !== undefined;
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

/** The name most like `text`, or undefined when none is like it: more than a third of it would have to change. */
function nearestName(text: string, names: readonly string[]): string | undefined {
  const wanted = text.toLowerCase().slice(0, 64);
  const most = Math.max(1, Math.floor(wanted.length / 3));
  const byFolded = new Map(names.map((name) => [name.toLowerCase(), name]));
  // One letter is like any other letter: a suggestion must share something with what was written.
  const nearest = nearestTo(wanted, byFolded.keys(), (name) => Math.min(most, name.length - 1));
  return nearest === undefined ? undefined : byFolded.get(nearest);
}
