import { InvalidValue, UsageError } from './errors.ts';
import { environmentName, flagName, type Setting } from './flag.ts';
import type { GivenFlag } from './go-flags.ts';
import { shownValue } from './shown.ts';

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
