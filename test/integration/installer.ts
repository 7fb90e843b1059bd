import { spawnSync } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

export const INSTALL = join(import.meta.dirname, '../../script/install');

export interface InstallRun {
  /** The folder that stands for /. */
  readonly destdir: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Default: this project's. */
  readonly script?: string;
}

/** Runs script/install with the Node that runs this. */
export function runInstall({ destdir, args = [], env = {}, script = INSTALL }: InstallRun) {
  const { status, stdout, stderr } = spawnSync(script, args, {
    env: { PATH: process.env['PATH'], DESTDIR: destdir, NODE: process.execPath, ...env },
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

/** All files, and folders that hold nothing: `644 path`, sorted. */
export function listInstalled(destdir: string): readonly string[] {
  return readdirSync(destdir, { recursive: true, encoding: 'utf8' })
    .map((path) => ({ path, status: statSync(join(destdir, path)) }))
    .filter(({ path, status }) => status.isFile() || readdirSync(join(destdir, path)).length === 0)
    .map(({ path, status }) => `${(status.mode & 0o777).toString(8)} ${path}`)
    .toSorted();
}
