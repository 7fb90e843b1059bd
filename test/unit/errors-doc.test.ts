import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

const root = join(import.meta.dirname, '../..');
const read = (file: string) => readFileSync(join(root, file), 'utf8');

/** The words of a union type, with what the constructor puts before them. */
function union(file: string, type: string, prefix = ''): readonly string[] {
  const [, words = ''] = new RegExp(`type ${type} =([^;]*);`).exec(read(file)) ?? [];
  return [...words.matchAll(/'([A-Z_]+)'/g)].map(([, word]) => prefix + word);
}

/** The codes that are given in so many letters, where an error is made or its class is. */
function literals(): readonly string[] {
  const made = /(?:new (?:CannotRun|Socket|Firewall)Error|super)\(\s*'([A-Z][A-Z_]{3,})'/g;
  const files = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' });
  return files
    .filter((file) => file.endsWith('.ts'))
    .flatMap((file) => [...read(`src/${file}`).matchAll(made)].map(([, code = '']) => code));
}

it('docs/errors.md lists every code once, and no other', () => {
  const codes = new Set([
    ...union('src/daemon/options/settings.ts', 'UsageErrorKind', 'USAGE_'),
    ...union('src/subnet/config/values.ts', 'ConfigErrorCode', 'CONFIG_'),
    ...union('src/subnet/registry/registry.ts', 'RegistryErrorCode', 'ETCD_'),
    ...union('src/subnet/etcd-v2/store.ts', 'V2ErrorKind', 'ETCD_V2_'),
    ...union('src/runtime/effects.ts', 'CommandErrorCode'),
    ...union('src/cli/output.ts', 'ComplaintCode'),
    ...literals(),
    'KERNEL_…',
    'ARP_…',
  ]);
  const listed = [...read('docs/errors.md').matchAll(/^\| `(\S+)` \|/gm)].map(([, code = '']) => code);
  expect(listed.toSorted()).toEqual([...codes].toSorted());
});
