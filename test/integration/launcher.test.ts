import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { PROGRAM } from '../testbed/daemon.ts';
import { runToEnd } from '../testbed/process.ts';
import { useBench } from './bench.ts';

// What starts the program: a start-up snapshot belongs to one version of Node, and a host may have any.

const bench = useBench({ flags: ['--iface-regex=^eth', '--log-level=debug'] });

/** A folder with a node that says it is of this version, and is the one of this test. */
function withNode(version: string): string {
  const folder = join(bench.dir, version);
  mkdirSync(folder);
  const script = `#!/bin/sh\n[ "$1" != --version ] || { echo ${version}; exit; }\nexec '${process.execPath}' "$@"\n`;
  writeFileSync(join(folder, 'node'), script, { mode: 0o755 });
  return `${folder}:${process.env['PATH']}`;
}

test('the build makes a snapshot for the Node that runs it', () => {
  const snapshots = readdirSync(dirname(PROGRAM)).filter((name) => name.endsWith('.snapshot'));
  expect(snapshots).toEqual([expect.stringMatching(new RegExp(`^${process.version}-`))]);
});

test.each([
  ['with that Node the daemon starts from it', process.version, true],
  ['with any other Node it starts from the bundle', 'v20.19.2', false],
])('%s, says so at debug, and does its work', async (_, version, fromSnapshot) => {
  const daemon = bench.makeDaemon(`node-${version}`, {
    flags: bench.daemon.options.flags ?? [],
    env: { PATH: withNode(version) },
  });
  await daemon.start();
  expect(daemon.logs.find(({ event }) => event === 'started')).toMatchObject({
    level: 'debug',
    fromSnapshot,
  });
  expect(daemon.subnetEnv()).toHaveProperty('FLANNEL_SUBNET');
  await daemon.stop();
});

test('a symbolic link starts it, too', async () => {
  const link = join(bench.dir, 'flanneld');
  symlinkSync(PROGRAM, link);
  const { exit, stdout } = await runToEnd([link, '--version']);
  expect(exit.code).toBe(0);
  expect(stdout).toMatch(/^flanneld-ts \d/);
});

test('it reads no file that only lies where a package would look for its own', async () => {
  const library = join(bench.dir, 'prefix/lib/flanneld-ts');
  cpSync(dirname(PROGRAM), library, { recursive: true });
  mkdirSync(join(bench.dir, 'prefix/locales'));
  writeFileSync(join(bench.dir, 'prefix/locales/en.json'), 'not JSON');
  const env = { PATH: withNode('v20.19.1'), LC_ALL: 'C' };
  const { exit, output } = await runToEnd([join(library, 'flanneld-ts'), 'statsu'], { env });
  expect(output).toContain('Did you mean status?');
  expect(exit.code).toBe(2);
});

test('the snapshot does not know where it was built, so no package looks there', () => {
  const folder = dirname(PROGRAM);
  const [name = ''] = readdirSync(folder).filter((one) => one.endsWith('.snapshot'));
  expect(readFileSync(join(folder, name), 'latin1').includes(`file://${dirname(folder)}`)).toBe(false);
});
