import { dirname, join } from 'node:path';
import type { Settings } from './command-line.ts';
import { UsageError } from './errors.ts';
import type { Flag } from './flag.ts';
import { flags } from './table.ts';
import { boolean } from './values.ts';

/** `status`: whom to ask, and how to show the answer. */
export interface StatusOptions {
  readonly socketPath: string;
  readonly json: boolean;
  readonly watch: boolean;
}

const json = {
  name: 'json',
  group: 'Options',
  describe: 'print JSON, one line each time',
  fallback: 'false',
  parse: boolean,
  boolean: true,
  noEnvironment: true,
} satisfies Flag<boolean>;

const watch = {
  name: 'watch',
  group: 'Options',
  describe: 'ask again every 2 seconds',
  fallback: 'false',
  parse: boolean,
  boolean: true,
  noEnvironment: true,
} satisfies Flag<boolean>;

/** By which a command finds the daemon of this host. */
export const daemonsPlace: readonly Flag<unknown>[] = [
  {
    ...flags.statusSocket,
    group: 'Options',
    describe: 'socket of the daemon (default: beside --subnet-file, .sock for .env)',
  },
  { ...flags.subnetFile, group: 'Options', describe: "the daemon's --subnet-file" },
];

/** The flags of `status`. */
export const statusFlags: readonly Flag<unknown>[] = [json, watch, ...daemonsPlace, flags.help];

/** Reads them. Throws {@link UsageError}. */
export function statusOptions(settings: Settings): StatusOptions {
  const socketPath = statusSocket(settings);
  if (socketPath === undefined) throw new UsageError('MISSING_VALUE', 'status needs a --status-socket');
  return { socketPath, json: settings.value(json), watch: settings.value(watch) };
}

/**
 * Where the daemon listens; undefined when it does not. By default the place follows from the subnet file, which two daemons on one
 * host never share. Throws {@link UsageError}.
 */
export function statusSocket(settings: Settings): string | undefined {
  if (settings.sourceOf(flags.statusSocket) !== undefined) return settings.optional(flags.statusSocket);
  const file = settings.value(flags.subnetFile);
  return join(dirname(file), `${file.slice(file.lastIndexOf('/') + 1).replace(/\.env$/, '')}.sock`);
}
