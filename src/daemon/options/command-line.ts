import { InvalidValue, quote, UsageError } from './errors.ts';
import { environmentName, flagName, type Setting } from './flag.ts';

/** One flag as it was written, in the order of the command line. */
export interface GivenFlag {
  readonly name: string;
  /** A boolean written without a value has `true`. */
  readonly value: string;
}

export interface GivenFlags {
  readonly flags: readonly GivenFlag[];
  /** The words after the flags: from the first one that is no flag, or after `--`. */
  readonly rest: readonly string[];
  /** The boolean flag without a value right before `rest`, whose first word may be meant as its value. */
  readonly bareBoolean?: string;
}

/**
 * Splits a command line by the rules of Go's package flag, which are those of flanneld; GNU's long options are among them.
 * `-name=value`, `-name value` and the same with two dashes; a boolean takes a value only after `=`, any other flag takes
 * the next word whatever it looks like (`-v -1`; a password's flag alone is refused there); the first word that is no flag (a lone `-` and an empty word included)
 * ends the flags.
 *
 * `kindOf` tells what a flag is; it throws {@link UsageError} for a name it does not know. This function throws it for
 * a flag without its value and for words like `---x` and `-=x`. A word that `isFlag` knows is never another flag's value: Go
 * would take it for one, and the flag would be lost without a word.
 */
export function splitFlags(
  argv: readonly string[],
  kindOf: (name: string) => 'boolean' | 'value',
  isFlag: (name: string) => boolean = () => false,
): GivenFlags {
  const flags: GivenFlag[] = [];
  let bareBoolean: string | undefined;
  let at = 0;
  while (at < argv.length) {
    const word = argv[at] ?? '';
    if (word === '--') return { flags, rest: argv.slice(at + 1) };
    if (word.length < 2 || !word.startsWith('-')) break;
    at += 1;
    const { name, value } = splitWord(word);
    const kind = kindOf(name);
    bareBoolean = kind === 'boolean' && value === undefined ? name : undefined;
    if (kind === 'boolean') {
      flags.push({ name, value: value ?? 'true' });
    } else if (value !== undefined) {
      flags.push({ name, value });
    } else {
      const next = argv[at];
      if (next === undefined) throw missingValue(name);
      const [, nextName = ''] = /^--?([^-=][^=]+)/.exec(next) ?? [];
      // As the value of another flag a password would be printed some day.
      if (holdsPassword(next) || isFlag(nextName))
        throw missingValue(name, `, and ${shownWord(next)} is a flag of its own`);
      flags.push({ name, value: next });
      at += 1;
    }
  }
  return { flags, rest: argv.slice(at), ...(bareBoolean === undefined ? {} : { bareBoolean }) };
}

function missingValue(name: string, because = ''): UsageError {
  const flag = flagName({ name });
  return new UsageError('MISSING_VALUE', `${flag} needs a value: ${flag}=…${because}`);
}

function splitWord(word: string): { readonly name: string; readonly value: string | undefined } {
  const body = word.replace(/^--?/, '');
  if (/^[-=]/.test(body)) {
    throw new UsageError(
      'SYNTAX',
      `${shownWord(word)} is not a flag: flags are written --name=value, -name=value or -name value`,
    );
  }
  const equals = body.indexOf('=');
  if (equals < 0) return { name: body, value: undefined };
  return { name: body.slice(0, equals), value: body.slice(equals + 1) };
}

const TRUE = new Set(['1', 't', 'T', 'true', 'TRUE', 'True']);
const FALSE = new Set(['0', 'f', 'F', 'false', 'FALSE', 'False']);

/** A boolean as Go's strconv.ParseBool reads it, undefined for anything else. */
export function parseGoBoolean(text: string): boolean | undefined {
  if (TRUE.has(text)) return true;
  return FALSE.has(text) ? false : undefined;
}

/**
 * An integer, decimal or as `0x10`; undefined for anything else. Of the literals of Go that flanneld reads too, `1_000` and `010` (8)
 * are refused: nobody is known to write them, and one who writes 010 means ten.
 */
export function parseInteger(text: string): number | undefined {
  const [, sign, digits = ''] = /^([+-]?)(0|[1-9]\d{0,14}|0[xX][\da-fA-F]{1,12})$/.exec(text) ?? [];
  if (digits === '') return undefined;
  return sign === '-' && Number(digits) > 0 ? -Number(digits) : Number(digits);
}

export type Environment = Readonly<Record<string, string | undefined>>;

/** One value and where it was found, for the error message. */
interface Found {
  readonly text: string;
  readonly source: string;
}

/** Finds and parses the values of flags. All methods throw {@link UsageError} for a value that its flag does not allow. */
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

  /** The value, or undefined when it is given nowhere and has no default. */
  optional<T>(setting: Setting<T>): T | undefined {
    const found = this.#find(setting).at(-1);
    return found === undefined ? undefined : this.#parse(setting, found);
  }

  /** The value of a flag that has a default. */
  value<T>(setting: Setting<T> & { readonly fallback: string }): T {
    const found = this.#find(setting).at(-1);
    return this.#parse(setting, found ?? { text: setting.fallback, source: 'default' });
  }

  /** All values of a repeatable flag, in order. */
  list<T>(setting: Setting<T> & { readonly repeatable: true }): readonly T[] {
    return this.#find(setting).map((found) => this.#parse(setting, found));
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

  #parse<T>(setting: Setting<T>, found: Found): T {
    try {
      return setting.parse(found.text);
    } catch (error) {
      if (!(error instanceof InvalidValue)) throw error;
      throw new UsageError(
        'BAD_VALUE',
        `${found.source} is ${error.shown ?? shownValue(found.text)}: it ${error.message}`,
      );
    }
  }
}

// What of a wrong command line may be repeated: a password may stand in any word of one that has to do with passwords.

const HIDDEN = '(not shown)';
/** The last for a URL: it may have user and password in it. */
const ABOUT_SECRETS = /pas+w|user|secret|cred|token|@/i;

/**
 * The name of a flag that does not exist, without its value. `--etcd-passwordhunter2` and `--etcd-password:hunter2` have
 * theirs in the name, so such a name ends, for a reader, where "password" does.
 */
export function shownName(name: string): string {
  const [, word = name, rest = ''] = /^(.*?pas+w(?:ord|d)?)(.*)$/is.exec(name) ?? [];
  // …-file, or what was meant as that, tells nothing.
  const shown = rest === '' || /^[-_]f/i.test(rest) ? name : `${word}…`;
  return quote(name.length === 1 ? `-${shown}` : `--${shown}`);
}

/** A word, up to the value that may be in it. */
export function shownWord(word: string): string {
  const [before = ''] = word.split('=', 1);
  return quote(before === word ? word : `${before}=…`);
}

/** A value that its flag does not allow. An endpoint that got in the place of another flag's may have a password in it. */
export function shownValue(text: string): string {
  return text.includes('@') ? HIDDEN : quote(text);
}

/** Whether a word looks like a flag that has a password after its equals sign. */
export function holdsPassword(word: string): boolean {
  return /^--?[^=]*pas+w[^=]*=./is.test(word);
}

/**
 * The words after the flags. Where the command line is about a user or a password, only flags of the `known` names are
 * shown, and without their values.
 */
export function shownRest(
  argv: readonly string[],
  rest: readonly string[],
  known: ReadonlySet<string>,
): string {
  if (!argv.some((word) => ABOUT_SECRETS.test(word))) return rest.map(quote).join(' ');
  return rest
    .map((word) => {
      const [, name = ''] = /^--?([^=]*)/.exec(word) ?? [];
      return known.has(name) ? shownWord(word) : HIDDEN;
    })
    .join(' ');
}
