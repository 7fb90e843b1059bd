import { spawn } from 'node:child_process';
import { lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** What each world calls an architecture. */
export const ARCHITECTURES = {
  amd64: { node: 'x64', rpm: 'x86_64' },
  arm64: { node: 'arm64', rpm: 'aarch64' },
} as const;

/** By Debian's name. */
export type Arch = keyof typeof ARCHITECTURES;

/** What is being made. */
export interface Release {
  /** The project's folder. */
  readonly root: string;
  /** A folder that is removed in the end. */
  readonly work: string;
  readonly out: string;
  readonly version: string;
  readonly description: string;
  /** Without compression. */
  readonly fast: boolean;
  /** The time of all files, in seconds since 1970. */
  readonly time: number;
}

/** Runs a program; resolves to its standard output, rejects with all it said. */
export async function run(
  [program = '', ...args]: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<string> {
  return await new Promise((done, fail) => {
    const child = spawn(program, args, {
      env: { ...process.env, LC_ALL: 'C', ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let said = '';
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
      said += chunk.toString();
    });
    child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    child.once('error', fail);
    child.once('close', (code) => {
      if (code === 0) done(stdout.trim());
      else fail(new Error(`${program} ${args.join(' ').slice(0, 200)} failed (${code}): ${said.slice(-4000)}`));
    });
  });
}

/** Gives a whole folder the one time that the release has. */
export async function setTime(folder: string, { time }: Release): Promise<void> {
  await run(['find', folder, '-exec', 'touch', '--no-dereference', `--date=@${time}`, '{}', '+']);
}

/** All files and links below a folder, as absolute paths of the host they are for, sorted. */
export function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((path) => !lstatSync(join(folder, path)).isDirectory())
    .map((path) => `/${path}`)
    .toSorted();
}

/** A folder of the host and those below it. `root` is where / is. */
export function foldersBelow(root: string, folder: string): string[] {
  const below = readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((path) => join(folder, path))
    .filter((path) => lstatSync(join(root, path)).isDirectory());
  return [folder, ...below].toSorted();
}

/** The versions of glibc and of the C++ library that these programs ask for, as their symbols say: `2.28` and `3.4.21`. */
export function librariesNeeded(programs: readonly string[]): { readonly glibc: string; readonly glibcxx: string } {
  const text = programs.map((file) => readFileSync(file, 'latin1')).join('\0');
  const newest = (prefix: string) => {
    const found = text.matchAll(new RegExp(`\\0${prefix}_([0-9.]+)(?=\\0)`, 'g'));
    return [...found].map(([, version = '']) => version).toSorted(byNumbers).at(-1) ?? '';
  };
  return { glibc: newest('GLIBC'), glibcxx: newest('GLIBCXX') };
}

function byNumbers(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

/** A version as Debian and Fedora sort it: `1.0.0-rc.1` comes before `1.0.0`. */
export const packageVersion = (version: string): string => version.replace('-', '~');
