import { InvalidValue, quote, UsageError } from './errors.ts';
import { environmentName, type Flag, flagName } from './flag.ts';
import type { GivenFlag } from './go-flags.ts';

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
  sourceOf(flag: Flag<unknown>): string | undefined {
    return this.#find(flag).at(-1)?.source;
  }

  /** The value, or undefined when it is given nowhere and has no default. */
  optional<T>(flag: Flag<T>): T | undefined {
    const found = this.#find(flag).at(-1);
    return found === undefined ? undefined : this.#parse(flag, found);
  }

  /** The value of a flag that has a default. */
  value<T>(flag: Flag<T> & { readonly fallback: string }): T {
    const found = this.#find(flag).at(-1);
    return this.#parse(flag, found ?? { text: flag.fallback, source: 'default' });
  }

  /** All values of a repeatable flag, in order. */
  list<T>(flag: Flag<T> & { readonly repeatable: true }): readonly T[] {
    return this.#find(flag).map((found) => this.#parse(flag, found));
  }

  #find(flag: Flag<unknown>): readonly Found[] {
    const written = this.#given.filter(({ name }) => name === flag.name);
    const last = written.at(-1);
    if (last !== undefined && !(flag.emptyIsAbsent && last.value === '')) {
      return written.map(({ value }) => ({ text: value, source: flagName(flag) }));
    }
    if (flag.noEnvironment) return [];
    for (const source of [environmentName(flag), ...(flag.sysconfig ?? [])]) {
      const text = this.#environment[source];
      if (text !== undefined && text !== '') return [{ text, source }];
    }
    return [];
  }

  #parse<T>(flag: Flag<T>, found: Found): T {
    try {
      return flag.parse(found.text);
    } catch (error) {
      if (!(error instanceof InvalidValue)) throw error;
      throw new UsageError(
        'BAD_VALUE',
        `${found.source} is ${error.shown ?? (flag.secret ? '(not shown)' : quote(found.text))}: it ${error.message}`,
      );
    }
  }
}
