import type { EnvironmentFile, FoundUnit } from '../../cli/migrate-check/found.ts';
import { parseEnvironmentFile, splitWords } from '../options/service-settings.ts';

/** How a host's files are looked at. Nothing is written. */
export interface Folder {
  /** Undefined when there is none, or it may not be read. */
  readonly read: (path: string) => Promise<string | undefined>;
  /** The names in a folder; none when there is no such folder. */
  readonly list: (path: string) => Promise<readonly string[]>;
}

/** Where systemd looks for units; of files with one name the first counts. */
const unitFolders = [
  '/etc/systemd/system',
  '/run/systemd/system',
  '/usr/local/lib/systemd/system',
  '/usr/lib/systemd/system',
  '/lib/systemd/system',
];

/** Values by `Section.Name`, in their order; an empty one takes back those before it. */
type Assignments = ReadonlyMap<string, readonly string[]>;

/**
 * Reads a unit from its files, as systemd would when it reads them anew: no systemd has to run. Undefined when there is no such unit.
 */
export async function readUnit(folder: Folder, name: string): Promise<FoundUnit | undefined> {
  let main: { readonly path: string; readonly text: string } | undefined;
  const dropIns = new Map<string, string>();
  for (const place of unitFolders) {
    const path = `${place}/${name}`;
    const text = main === undefined ? await folder.read(path) : undefined;
    if (text !== undefined) main = { path, text };
    for (const one of await folder.list(`${path}.d`))
      if (one.endsWith('.conf') && !dropIns.has(one)) dropIns.set(one, `${path}.d/${one}`);
  }
  if (main === undefined) return undefined;
  const paths = [main.path];
  let text = main.text;
  // By name, whatever folder they are in.
  for (const [, path] of [...dropIns].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    paths.push(path);
    text += `\n${(await folder.read(path)) ?? ''}`;
  }
  const values = parseUnit(text);
  const all = (key: string) => values.get(`Service.${key}`) ?? [];
  const environmentFiles: EnvironmentFile[] = [];
  const env: Record<string, string> = {};
  for (const one of all('Environment')) Object.assign(env, variablesIn(one));
  // What a file says wins over Environment=.
  for (const one of all('EnvironmentFile')) {
    const path = one.replace(/^-/, '');
    const content = await folder.read(path);
    environmentFiles.push({ path, isOptional: one.startsWith('-'), exists: content !== undefined });
    Object.assign(env, Object.fromEntries(parseEnvironmentFile(content ?? '')));
  }
  const commands = (key: string) => all(key).map((command) => commandWords(command, env));
  return {
    name,
    paths,
    environmentFiles,
    start: commands('ExecStart'),
    startPost: commands('ExecStartPost'),
    env,
  };
}

/** Whether one unit requires another: by a link that `systemctl enable` makes, or in its own file. */
export async function requires(folder: Folder, unit: string, other: string): Promise<boolean> {
  for (const place of unitFolders) {
    if ((await folder.list(`${place}/${unit}.requires`)).includes(other)) return true;
    const text = await folder.read(`${place}/${unit}`);
    if (text === undefined) continue;
    const values = parseUnit(text).get('Unit.Requires') ?? [];
    if (values.some((value) => value.split(/\s+/).includes(other))) return true;
  }
  return false;
}

function parseUnit(text: string): Assignments {
  const values = new Map<string, string[]>();
  let section = '';
  // A comment in the middle of a continued line is left out, too.
  const lines = text
    .split('\n')
    .filter((line) => !/^\s*[#;]/.test(line))
    .join('\n')
    .replaceAll(/\\\r?\n/g, ' ')
    .split('\n');
  for (const line of lines) {
    section = /^\s*\[([^\]]+)\]/.exec(line)?.[1] ?? section;
    const [, name, value = ''] = /^\s*([A-Za-z]+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    if (name === undefined) continue;
    const key = `${section}.${name}`;
    values.set(key, value === '' ? [] : [...(values.get(key) ?? []), value]);
  }
  return values;
}

/** `Environment=A=b "C=d e"`. */
function variablesIn(text: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    splitWords(text).map((word) => [word.split('=', 1)[0] ?? '', word.slice(word.indexOf('=') + 1)]),
  );
}

/** The words of a command: `$NAME` alone becomes several, `${NAME}` a part of one. */
function commandWords(command: string, env: Readonly<Record<string, string>>): readonly string[] {
  // Before the program: whether its failure counts, whose rights it gets.
  return splitWords(command.replace(/^[-@:+!]+/, '')).flatMap((word) => {
    const [, name] = /^\$(\w+)$/.exec(word) ?? [];
    if (name !== undefined) return splitWords(env[name] ?? '');
    return [word.replaceAll(/\$\{(\w+)\}/g, (_, inner: string) => env[inner] ?? '')];
  });
}
