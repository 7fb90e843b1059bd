/** The headings of the help text, in its order. */
export const GROUPS = [
  'Options',
  'etcd',
  'Interface and address',
  'Lease',
  'Files',
  'Routes',
  'Firewall',
  'Health',
  'Log',
  'Help',
] as const;

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

/** A row of the table from which parsing, environment names, the help text and README's table all follow. */
export interface Flag<T> extends Setting<T> {
  readonly group: (typeof GROUPS)[number];
  /** What its value is, for the help text: `PATH`. None for a boolean that is switched on by its name alone. */
  readonly placeholder?: string;
  readonly describe: string;
}

/** The variable that stands for a flag: `FLANNELD_`, upper case, dashes as underscores. */
export function environmentName({ name }: Pick<Setting<unknown>, 'name'>): string {
  return `FLANNELD_${name.toUpperCase().replaceAll('-', '_')}`;
}

/** The flag as a user writes it: `--iface`, `-v`. */
export function flagName({ name }: Pick<Setting<unknown>, 'name'>): string {
  return name.length === 1 ? `-${name}` : `--${name}`;
}
