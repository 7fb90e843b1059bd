import type { Flag } from './flag.ts';
import type { Settings } from './settings.ts';
import { flags } from './table.ts';
import { boolean } from './values.ts';

/** `cleanup`: what is to be removed. */
export interface CleanupOptions {
  readonly routes: boolean;
  readonly routeProtocol: number;
  /** Of the daemon that must not run; those of other daemons may lie beside it. */
  readonly subnetFile: string;
  /** Although a daemon runs. */
  readonly force: boolean;
  readonly dryRun: boolean;
}

const routesToo = {
  name: 'routes',
  group: 'Options',
  describe: 'remove the routes too',
  fallback: 'false',
  parse: boolean,
  boolean: true,
  noEnvironment: true,
} satisfies Flag<boolean>;

const force = {
  name: 'force',
  group: 'Options',
  describe: 'remove them although a daemon runs, which puts its own back',
  fallback: 'false',
  parse: boolean,
  boolean: true,
  noEnvironment: true,
} satisfies Flag<boolean>;

/** Of every command that changes something. */
export const dryRun = {
  name: 'dry-run',
  group: 'Options',
  describe: 'say what would be done, and change nothing',
  fallback: 'false',
  parse: boolean,
  boolean: true,
  noEnvironment: true,
} satisfies Flag<boolean>;

/** The flags of `cleanup`. */
export const cleanupFlags: readonly Flag<unknown>[] = [
  routesToo,
  force,
  dryRun,
  { ...flags.subnetFile, group: 'Options', describe: "the daemon's --subnet-file" },
  flags.routeProtocol,
  flags.help,
];

/** Reads them. Throws UsageError. */
export function cleanupOptions(settings: Settings): CleanupOptions {
  return {
    routes: settings.value(routesToo),
    routeProtocol: settings.value(flags.routeProtocol),
    subnetFile: settings.value(flags.subnetFile),
    force: settings.value(force),
    dryRun: settings.value(dryRun),
  };
}
