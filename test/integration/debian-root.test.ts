import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { runToEnd } from '../testbed/process.ts';
import { tempDir } from '../testbed/run.ts';

const root = join(import.meta.dirname, '../..');
const dir = tempDir('debian-root');
const cache = join(dir, 'a cache');
const counter = join(dir, 'debootstrap.log');
const checkouts = [join(dir, 'a checkout'), join(dir, 'another')] as const;

/** What takes minutes and the network: a Debian, and an npm in it. */
const TOOLS = {
  debootstrap: `echo made >>'${counter}'; mkdir -p "$3/etc/apt/apt.conf.d" "$3/usr/local/bin"`,
  npm: 'echo http://registry.example/',
};

beforeAll(() => {
  for (const checkout of checkouts) {
    mkdirSync(join(checkout, 'test/testbed'), { recursive: true });
    for (const name of ['debian-root.ts', 'process.ts'])
      copyFileSync(join(root, 'test/testbed', name), join(checkout, 'test/testbed', name));
    copyFileSync(join(root, 'package.json'), join(checkout, 'package.json'));
    const node = join(checkout, `node_modules/node-linux-${process.arch}`);
    mkdirSync(join(node, 'bin'), { recursive: true });
    writeFileSync(join(node, 'package.json'), '{ "version": "24.0.0" }');
    // As `npm ci` leaves it under such a umask.
    writeFileSync(join(node, 'bin/node'), '', { mode: 0o700 });
  }
  mkdirSync(join(dir, 'bin'));
  for (const [name, script] of Object.entries(TOOLS)) {
    writeFileSync(join(dir, 'bin', name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(dir, 'bin', name), 0o755);
  }
});

afterAll(() => rmSync(dir, { recursive: true }));

/** The file with the root that a checkout is given, asked for with a umask as strict as can be. */
async function rootOf(checkout: string, recipe: object): Promise<string> {
  const script = `const { debianRoot } = await import(process.argv[1]);
console.log(await debianRoot(JSON.parse(process.argv[2])));`;
  const node = [process.execPath, '--input-type=module', '-e', script];
  const argv = [...node, join(checkout, 'test/testbed/debian-root.ts'), JSON.stringify(recipe)];
  const env = { ...process.env, FLANNELD_TS_CACHE: cache, PATH: `${dir}/bin:${process.env['PATH']}` };
  const { exit, stdout, output } = await runToEnd(['sh', '-c', 'umask 077; exec "$@"', 'sh', ...argv], {
    env,
  });
  expect(exit.code, output).toBe(0);
  return stdout.trim();
}

const files = () => readdirSync(cache).filter((name) => name !== 'lock');

it('two checkouts that ask at the same time are given one and the same file, made once', async () => {
  const recipe = { name: 'with-node', packages: [], withNode: true };
  const given = await Promise.all([...checkouts, ...checkouts].map((checkout) => rootOf(checkout, recipe)));
  expect(new Set(given).size).toBe(1);
  expect(files()).toHaveLength(2);
  expect(readFileSync(counter, 'utf8')).toBe('made\n');
  const { stdout } = await runToEnd(['tar', '-tvf', given[0] ?? '']);
  expect(stdout).toMatch(/^drwxr-xr-x \S+ .* \.\/$/m);
  expect(stdout).toMatch(/^-rwxr-xr-x \S+ .* \.\/usr\/local\/bin\/node$/m);
  expect(stdout).toMatch(/^-rw-r--r-- \S+ .* \.\/etc\/apt\/apt\.conf\.d\/99machine$/m);
});

it('another recipe of the same name leaves it alone; what nobody has used for a month goes', async () => {
  const first = await rootOf(checkouts[0], { name: 'plain', packages: [] });
  const other = await rootOf(checkouts[1], { name: 'plain', packages: [], withNode: true });
  expect(other).not.toBe(first);
  expect(existsSync(first)).toBe(true);
  const lastMonth = new Date(Date.now() - 40 * 86_400_000);
  for (const file of [first, other]) utimesSync(file, lastMonth, lastMonth);
  expect(await rootOf(checkouts[0], { name: 'plain', packages: [] })).toBe(first);
  expect(existsSync(first)).toBe(true);
  expect(existsSync(other)).toBe(false);
});
