import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
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
