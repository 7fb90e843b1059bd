import { libc } from './libc.ts';

/**
 * Ends the process at once, without exit handlers. `process.exit` waits for libuv's threads, so that one call on a file
 * system that hangs would hold up the end for ever.
 */
export function exitNow(exitCode: number): void {
  libc()._exit(exitCode);
}
