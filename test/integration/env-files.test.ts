import { existsSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { until } from '../testbed/netns.ts';
import { HEALTH, useBench } from './bench.ts';
import { runProgram } from './program.ts';

// The files other programs read, on a real disk, while others have their hands on them.

const bench = useBench({ flags: ['--iface=eth0', ...HEALTH] });
let subnetFile: string;
let dockerFile: string;
let wanted: readonly string[];

const contents = () =>
  [subnetFile, dockerFile].map((path) => (existsSync(path) ? readFileSync(path, 'utf8') : ''));
const repaired = () => bench.daemon.logs.filter(({ event }) => event === 'file-repaired').length;

beforeAll(async () => {
  await bench.daemon.start();
  subnetFile = bench.daemon.subnetFile;
  dockerFile = join(dirname(dirname(subnetFile)), 'docker_opts.env');
  wanted = contents();
  expect(wanted).toEqual([expect.stringContaining('FLANNEL_SUBNET='), expect.stringContaining('--bip=')]);
});

afterEach(async () => {
  const { status, body } = await bench.ask('readyz');
  expect([status, body]).toEqual([200, 'flanneld is ready']);
});

/** Longer than an event takes, far shorter than the periodic check. */
const soon = () =>
  until(
    async () => contents().join() === wanted.join(),
    3_000,
    () => contents().join(),
  );

test('a file that is removed is written again at once', async () => {
  const before = repaired();
  rmSync(subnetFile);
  await soon();
  rmSync(dockerFile);
  await soon();
  await until(async () => repaired() === before + 2, 3_000, 'it is not logged');
});

test('a file that another program replaces, as a second daemon does, is written again at once', async () => {
  const theirs = join(dirname(subnetFile), 'theirs');
  writeFileSync(theirs, 'FLANNEL_SUBNET=10.244.220.1/24\n');
  renameSync(theirs, subnetFile);
  await soon();
});

test('a symbolic link is replaced when it leads nowhere', async () => {
  rmSync(dockerFile);
  symlinkSync('/nowhere/at/all', dockerFile);
  await soon();
});

test('a folder that is removed comes back with the file and the status socket', async () => {
  // In one step: emptied file by file it is never empty.
  const lost = `${dirname(subnetFile)}-lost`;
  renameSync(dirname(subnetFile), lost);
  rmSync(lost, { recursive: true });
  await soon();
  // Another one than before, that has to be watched as well.
  rmSync(subnetFile);
  await soon();
  const status = async () => (await runProgram({ ...bench.daemon.options, argv: ['status'] })).code;
  await until(async () => (await status()) === 0, 12_000, 'the status socket does not come back');
});

test('each repair is counted', async () => {
  const { body } = await bench.ask('metrics');
  const counts = [...body.matchAll(/^flannel_file_repairs_total\{file="(\S+)"\} (\d+)$/gm)];
  expect(counts.map(([, file, count]) => `${file} ${count}`).toSorted()).toEqual([
    'docker_opts.env 2',
    'subnet.env 4',
  ]);
  await until(
    async () => repaired() === 6,
    3_000,
    () => bench.daemon.process.tail(),
  );
});
