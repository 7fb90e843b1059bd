import type { Files } from '../../runtime/effects.ts';
import { systemReason } from '../../runtime/errors.ts';
import { type Environment, UsageError } from './settings.ts';

/** What the service's unit gives the daemon, for commands that are to look where it looks. */
export interface ServiceSettings {
  /** The files there are, the one that wins last. */
  readonly paths: readonly string[];
  readonly env: Environment;
  /** The words of FLANNEL_OPTIONS. */
  readonly argv: readonly string[];
}

/** EnvironmentFile= of the unit, in its order. */
const environmentFiles = ['/etc/sysconfig/flanneld', '/etc/default/flanneld'];

/** Undefined when there is none of the files. Rejects with {@link UsageError} for one that cannot be read. */
export async function readServiceSettings(
  files: Pick<Files, 'readText'>,
): Promise<ServiceSettings | undefined> {
  const env: Record<string, string> = {};
  const paths: string[] = [];
  for (const path of environmentFiles) {
    const text = await files.readText(path).catch((error: unknown) => {
      throw new UsageError('BAD_VALUE', `${path} cannot be read: ${systemReason(error)}`);
    });
    if (text === undefined) continue;
    paths.push(path);
    Object.assign(env, Object.fromEntries(parseEnvironmentFile(text)));
  }
  if (paths.length === 0) return undefined;
  return { paths, env, argv: splitWords(env['FLANNEL_OPTIONS'] ?? '') };
}

/**
 * As systemd reads one: comments; quotes where a value begins, or right behind others; after that they are as good as any character; a
 * backslash before what is to be taken as it is. A line without "=" is skipped.
 */
export function parseEnvironmentFile(text: string): ReadonlyMap<string, string> {
  const variables = new Map<string, string>();
  const assignment =
    /^[ \t]*([A-Za-z_]\w*)[ \t]*=((?:[ \t]*(?:'[^']*'|"(?:[^"\\]|\\[^])*"))*)[ \t]*((?:\\[^]|[^\\\n])*)/;
  let rest = text.replaceAll('\r\n', '\n');
  while (rest !== '') {
    const found = /^[ \t]*[#;]/.test(rest) ? null : assignment.exec(rest);
    const [all, name, quoted = '', bare = ''] = found ?? /^[^\n]*/.exec(rest) ?? [''];
    const parts = quoted.match(/'[^']*'|"(?:[^"\\]|\\[^])*"/g) ?? [];
    if (name !== undefined)
      variables.set(name, parts.map(unquote).join('') + bare.trimEnd().replaceAll(/\\\n|\\([^])/g, '$1'));
    rest = rest.slice(all.length).replace(/^[^\n]*\n?/, '');
  }
  return variables;
}

/** As systemd splits `$FLANNEL_OPTIONS` in a command: at blanks, outside of quotes. */
export function splitWords(text: string): readonly string[] {
  const words = text.match(/(?:'[^']*'|"(?:[^"\\]|\\[^])*"|\\[^]|[^\s'"\\]|['"\\])+/g) ?? [];
  return words.map(unquote);
}

function unquote(text: string): string {
  return text.replaceAll(
    /'([^']*)'|"((?:[^"\\]|\\[^])*)"|\\\n|\\([^])/g,
    (_, single?: string, double?: string, escaped?: string) =>
      single ?? double?.replaceAll(/\\\n/g, '').replaceAll(/\\(["\\`$])/g, '$1') ?? escaped ?? '',
  );
}
