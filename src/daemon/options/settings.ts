import { FlannelError } from '../../runtime/errors.ts';
import { escapeControls } from '../../runtime/texts.ts';

/** What is wrong with a command line. */
export type UsageErrorKind =
  | 'SYNTAX'
  | 'UNKNOWN_COMMAND'
  | 'UNKNOWN_FLAG'
  | 'MISSING_VALUE'
  | 'BAD_VALUE'
  | 'REFUSED_MODE';

/**
 * The command line or the environment asks for something impossible. The message is one line that names the flag or the variable and
 * what is allowed. It repeats no value, because any may be a password that got into the wrong place, except the wrong part of a regular
 * expression. Nothing has been touched yet.
 */
export class UsageError extends FlannelError {
  /** What the process ends with. */
  readonly exitCode = 2;

  constructor(kind: UsageErrorKind, message: string) {
    super(`USAGE_${kind}`, message);
  }
}

/** Thrown by the parser of one value, which does not know whose value it is: the message says what is allowed ("must be …"). */
export class InvalidValue extends Error {
  override readonly name = 'InvalidValue';
}

const LONGEST_QUOTE = 100;

/** The text in quotes on one line: control characters escaped, the end of a very long one cut off. */
export function quote(text: string): string {
  const cut = text.length > LONGEST_QUOTE ? `${text.slice(0, LONGEST_QUOTE)}…` : text;
  return escapeControls(JSON.stringify(cut));
}

/** What can be given on the command line or in the environment, and how it is read. */
export interface Setting<T> {
  readonly name: string;
  /** Throws InvalidValue. */
  readonly parse: (text: string) => T;
  /** The default, written as a user would write it. */
  readonly fallback?: string;
  readonly boolean?: true;
  /** Every occurrence counts, not the last alone. */
  readonly repeatable?: true;
  /** `--name=` counts as not given. */
  readonly emptyIsAbsent?: true;
  /** Names from sysconfig files, used when neither the flag nor FLANNELD_… is there; earlier ones first. */
  readonly sysconfig?: readonly string[];
  /** Asks for something else than a run, so there is no variable for it. */
  readonly noEnvironment?: true;
}

type Parsed<S extends Setting<unknown>> = ReturnType<S['parse']>;
type Value<S extends Setting<unknown>> = S extends { readonly repeatable: true }
  ? readonly Parsed<S>[]
  : Exclude<Parsed<S>, undefined>;
/** Names of the settings that are always there: those with a default that is a value, and lists. */
type Certain<T extends Readonly<Record<string, Setting<unknown>>>> = {
  [K in keyof T]: T[K] extends { readonly repeatable: true }
    ? K
    : T[K] extends { readonly fallback: string }
      ? undefined extends Parsed<T[K]>
        ? never
        : K
      : never;
}[keyof T];

/** The values of a table of settings, by the names they have in the code; absent: given nowhere, or given as none. */
export type Values<T extends Readonly<Record<string, Setting<unknown>>>> = {
  readonly [K in Certain<T>]: Value<T[K]>;
} & { readonly [K in Exclude<keyof T, Certain<T>>]?: Value<T[K]> };

/** The variable that stands for a flag: `FLANNELD_`, upper case, dashes as underscores. */
export function environmentName({ name }: Pick<Setting<unknown>, 'name'>): string {
  return `FLANNELD_${name.toUpperCase().replaceAll('-', '_')}`;
}

/** The flag as a user writes it: `--iface`, `-v`. */
export function flagName({ name }: Pick<Setting<unknown>, 'name'>): string {
  return name.length === 1 ? `-${name}` : `--${name}`;
}

/** One flag as it was written, in the order of the command line. */
export interface GivenFlag {
  readonly name: string;
  /** A boolean written without a value has `true`. */
  readonly value: string;
}

/** A word of the command line that is no flag; `position` counts from 1. */
export interface Word {
  readonly text: string;
  readonly position: number;
  /** The boolean right before it, when that has no value: the word may be meant as one. */
  readonly behind?: string;
}

/** What a command line consists of. */
export interface CommandWords {
  readonly flags: readonly GivenFlag[];
  /** The words between the flags, and after `--`. */
  readonly words: readonly Word[];
}

/**
 * Splits a command line into flags and words. Flags are written by the rules of Go's package flag, which are flanneld's:
 * `-name=value`, `-name value` and the same with two dashes; a boolean takes a value only after `=`, any other flag takes the next
 * word whatever it looks like (`-v -1`). Unlike Go's, a flag is one behind a word too, so that none is lost, and a word that `kindOf`
 * knows as a flag is never another one's value. Behind `--` there are only words.
 *
 * `kindOf` tells what a flag is, undefined for a name it does not know; `refuse` throws for such a name. Throws {@link UsageError} for
 * a flag without its value and for words like `---x` and `-=x`.
 */
export function splitCommandLine(
  argv: readonly string[],
  kindOf: (name: string) => 'boolean' | 'value' | undefined,
  refuse: (name: string) => never,
): CommandWords {
  const flags: GivenFlag[] = [];
  const words: Word[] = [];
  let hasEnded = false;
  let behind: string | undefined;
  for (let at = 0; at < argv.length; at += 1) {
    const text = argv[at] ?? '';
    const looksLikeFlag = text.length > 1 && text.startsWith('-') && text !== '--';
    if (hasEnded && (looksLikeFlag || text === '--'))
      throw new UsageError('SYNTAX', `argument ${at + 1} is a flag after "--", where none is read`);
    if (text === '--') hasEnded = true;
    else if (!looksLikeFlag) words.push({ text, position: at + 1, ...(behind !== undefined && { behind }) });
    behind = undefined;
    if (!looksLikeFlag) continue;
    const { name, value } = splitWord(text, at + 1);
    const kind = kindOf(name) ?? refuse(name);
    if (value === undefined && kind === 'boolean') behind = name;
    if (value !== undefined || kind === 'boolean') {
      flags.push({ name, value: value ?? 'true' });
      continue;
    }
    at += 1;
    const next = argv[at];
    if (next === undefined) throw missingValue(name);
    const [, nextName = ''] = /^--?([^-=][^=]+)/.exec(next) ?? [];
    if (kindOf(nextName) !== undefined) throw missingValue(name, `, and --${nextName} is a flag of its own`);
    flags.push({ name, value: next });
  }
  return { flags, words };
}

function missingValue(name: string, because = ''): UsageError {
  const flag = flagName({ name });
  return new UsageError('MISSING_VALUE', `${flag} needs a value: ${flag}=…${because}`);
}

function splitWord(word: string, position: number): { readonly name: string; readonly value?: string } {
  const [, name, value] = /^--?([^-=][^=]*)(?:=(.*))?$/s.exec(word) ?? [];
  if (name !== undefined) return { name, ...(value !== undefined && { value }) };
  throw new UsageError(
    'SYNTAX',
    `argument ${position} is not a flag: flags are written --name=value, -name=value or -name value`,
  );
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** One value and where it was found, for the error message. */
interface Found {
  readonly text: string;
  readonly source: string;
}

/** Finds and parses the values of flags: flag, FLANNELD_… variable, sysconfig name, default. */
export class Settings {
  readonly #given: readonly GivenFlag[];
  readonly #environment: Environment;

  constructor(given: readonly GivenFlag[], environment: Environment) {
    this.#given = given;
    this.#environment = environment;
  }

  /** Where the value comes from, as the user wrote it: `--iface`, `FLANNELD_IFACE`; undefined for the default. */
  sourceOf(setting: Setting<unknown>): string | undefined {
    return this.#find(setting).at(-1)?.source;
  }

  /** The value as the user wrote it, all of a repeatable one with commas between; undefined for the default. */
  written(setting: Setting<unknown>): string | undefined {
    const found = this.#find(setting);
    const counting = setting.repeatable ? found : found.slice(-1);
    return counting.length === 0 ? undefined : counting.map(({ text }) => text).join(',');
  }

  /** These, and where they say nothing what another command line and environment give. */
  over(given: readonly GivenFlag[], environment: Environment): Settings {
    const names = new Set(this.#given.map(({ name }) => name));
    const others = given.filter(({ name }) => !names.has(name));
    return new Settings([...others, ...this.#given], { ...environment, ...this.#environment });
  }

  /** The values of a table. Throws {@link UsageError} for the first that its flag does not allow. */
  values<T extends Readonly<Record<string, Setting<unknown>>>>(table: T): Values<T> {
    const values = Object.entries(table).map(([key, setting]) => [key, this.value(setting)] as const);
    return Object.fromEntries(values.filter(([, value]) => value !== undefined)) as Values<T>;
  }

  /** One of them; undefined when it is given nowhere and has no default, or is given as none. Throws {@link UsageError}. */
  value<T>(setting: Setting<T> & { readonly repeatable: true }): readonly T[];
  value<T>(setting: Setting<T>): T | undefined;
  value<T>(setting: Setting<T>): T | readonly T[] | undefined {
    const found = this.#find(setting);
    if (setting.repeatable) return found.map((one) => parse(setting, one));
    const fallback = setting.fallback === undefined ? [] : [{ text: setting.fallback, source: 'default' }];
    const last = [...fallback, ...found].at(-1);
    return last === undefined ? undefined : parse(setting, last);
  }

  #find(setting: Setting<unknown>): readonly Found[] {
    const written = this.#given.filter(({ name }) => name === setting.name);
    const last = written.at(-1);
    if (last !== undefined && !(setting.emptyIsAbsent && last.value === '')) {
      return written.map(({ value }) => ({ text: value, source: flagName(setting) }));
    }
    if (setting.noEnvironment) return [];
    for (const source of [environmentName(setting), ...(setting.sysconfig ?? [])]) {
      const text = this.#environment[source];
      if (text !== undefined && text !== '') return [{ text, source }];
    }
    return [];
  }
}

function parse<T>(setting: Setting<T>, { text, source }: Found): T {
  try {
    return setting.parse(text);
  } catch (error) {
    if (!(error instanceof InvalidValue)) throw error;
    throw new UsageError('BAD_VALUE', `${source} ${error.message}`);
  }
}
