import type { Flag } from './flag.ts';
import type { Settings } from './settings.ts';
import { flags } from './table.ts';
import { boolean } from './values.ts';

/** `cleanup`: what is to be removed. */
export interface CleanupOptions {
  readonly routes: boolean;
  readonly routeProtocol: number;
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

/** The flags of `cleanup`. */
export const cleanupFlags: readonly Flag<unknown>[] = [routesToo, flags.routeProtocol, flags.help];

/** Reads them. Throws UsageError. */
export function cleanupOptions(settings: Settings): CleanupOptions {
  return { routes: settings.value(routesToo), routeProtocol: settings.value(flags.routeProtocol) };
}
