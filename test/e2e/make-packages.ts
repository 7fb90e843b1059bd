import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runToEnd } from '../testbed/process.ts';

const PROJECT = join(import.meta.dirname, '../..');

/** The version that packages have by default. */
export const VERSION: string = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8')).version;

/** Runs script/package without compression; rejects with what it said. The time is any: tests need no git checkout. */
export async function makePackages(
  out: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  umask = '022',
): Promise<void> {
  const command = [join(PROJECT, 'script/package'), '--fast', `--out=${out}`, ...args];
  const argv = ['sh', '-ec', 'umask "$1"; shift; exec "$@"', 'sh', umask, ...command];
  const { exit, output } = await runToEnd(argv, {
    env: { ...process.env, SOURCE_DATE_EPOCH: '1700000000', ...env },
  });
  if (exit.code !== 0) throw new Error(`script/package: ${output}`);
}
