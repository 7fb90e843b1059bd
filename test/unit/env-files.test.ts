import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import type { SimCluster, SimHost } from '../../sim/cluster.ts';
import { SimLog } from '../../sim/log.ts';
import { SeededRandom } from '../../sim/random.ts';
import { EnvFiles } from '../../src/daemon/env-files.ts';
import { nodeFiles } from '../../src/daemon/host/files.ts';
import { Activity } from '../../src/runtime/activity.ts';
import type { Files } from '../../src/runtime/effects.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { tempDir } from '../testbed/run.ts';
import { makeCluster } from './sim-worlds.ts';

// subnet.env and docker_opts.env while the daemon runs: others remove and change them.

const SUBNET = '/run/flannel/subnet.env';
const DOCKER = '/run/docker_opts.env';

let cluster: SimCluster;
let host: SimHost;

beforeEach(async () => {
  cluster = makeCluster({ seed: 1, hosts: 1 });
  host = cluster.host(0);
  host.start();
  await cluster.clock.until('ready', () => host.readiness.ready, 60_000);
});

const repairs = (name: string) => host.state?.activity.counts('file-repair').get(name) ?? 0;

describe.each([
  [SUBNET, 'subnet.env'],
  [DOCKER, 'docker_opts.env'],
])('%s', (path, name) => {
  it.each<[string, () => unknown]>([
    ['removed', () => host.files.remove(path)],
    ['replaced', () => host.files.writeAtomic(path, 'FLANNEL_SUBNET=10.244.220.1/24\n', 0o644)],
    ['emptied in place', () => host.files.writeInPlace(path, '')],
    ['removed with everything in /run', () => host.files.clear()],
  ])('is written again at once when it is %s', async (_, act) => {
    const before = host.files.peek(path);
    expect(before).toBeDefined();
    await act();
    await cluster.clock.advance(100);
    expect(host.files.peek(path)).toBe(before);
    expect(host.files.modeOf(path)).toBe(0o644);
    expect(repairs(name)).toBe(1);
    const said = cluster.log.events('file-repaired').filter(({ fields }) => fields['path'] === path);
    expect(said.map(({ message }) => message)).toEqual([
      `another program removed or changed ${path}; wrote it again`,
    ]);
    expect(host.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
  });

  it('is written again within the periodic check when nothing tells of it', async () => {
    const before = host.files.peek(path);
    host.files.spoil(path, 'half');
    await cluster.clock.advance(11_000);
    expect(host.files.peek(path)).toBe(before);
  });

  it('is not fought over with a program that keeps changing it, and says so', async () => {
    const { clock } = cluster;
    const theirs = 'FLANNEL_SUBNET=10.244.220.1/24\n';
    let fighting = true;
    const stop = host.files.watch(path, () => {
      if (fighting && host.files.peek(path) !== theirs) void host.files.writeAtomic(path, theirs, 0o644);
    });
    await host.files.writeAtomic(path, theirs, 0o644);
    await clock.advance(60_000);
    expect(repairs(name)).toBeGreaterThanOrEqual(5);
    expect(repairs(name)).toBeLessThan(12);
    expect(host.readiness.ready).toBe(false);
    expect(host.readiness.reasons.join()).toContain(`another program keeps removing or changing ${path}`);
    expect(cluster.log.lines.filter(({ message }) => message.includes(path)).length).toBeLessThan(15);
    fighting = false;
    await clock.until('over', () => host.readiness.ready, 120_000);
    expect(host.files.peek(path)).not.toBe(theirs);
    stop();
  });
});

it('the files are left alone once the daemon has stopped', async () => {
  expect(host.files.watched).toBe(2);
  await host.stop();
  expect(host.files.watched).toBe(0);
  host.files.remove(SUBNET);
  await cluster.clock.advance(60_000);
  expect(host.files.peek(SUBNET)).toBeUndefined();
});

it('files that are as they should be are not written again', async () => {
  const { writes } = host.files;
  await cluster.clock.advance(600_000);
  expect(host.files.writes).toBe(writes);
  expect(cluster.log.events('file-repaired')).toEqual([]);
});

/** What is said of a subnet.env that cannot be written. */
async function complaint(subnetFile: string, files: Files = nodeFiles): Promise<string> {
  const clock = new VirtualClock();
  const log = new SimLog(clock).of('host');
  const trouble = new TroubleLog(clock, log);
  const parts = { files, clock, log, trouble, random: new SeededRandom(1), activity: new Activity(clock) };
  const envFiles = new EnvFiles({
    ...parts,
    subnetFile,
    dockerOptsKey: 'DOCKER_OPTS',
  });
  const controller = new AbortController();
  const said = new Promise<void>((resolve) => {
    trouble.onChange = resolve;
  });
  const kept = envFiles.keep({ mtu: 1500, ipMasq: false }, () => {}, controller.signal).catch(() => {});
  await said;
  controller.abort();
  await kept;
  return trouble.current.join();
}

describe('what mends a file that cannot be written', () => {
  let folder: string;

  beforeEach(() => {
    folder = tempDir('env-files');
  });

  afterEach(() => rmSync(folder, { recursive: true }));

  it('is the removal of a folder in its place', async () => {
    const path = join(folder, 'subnet.env');
    mkdirSync(path);
    expect(await complaint(path)).toMatch(
      new RegExp(`EISDIR.*\\. Remove the folder ${path}, or choose another path than ${path}\\.$`),
    );
  });

  it('is the removal of a file in the place of a folder above it', async () => {
    const file = join(folder, 'flannel');
    writeFileSync(file, '');
    for (const path of [join(file, 'subnet.env'), join(file, 'below', 'subnet.env')])
      expect(await complaint(path)).toMatch(
        new RegExp(`ENOTDIR.*\\. ${file} is no folder: remove it, or choose`),
      );
  });

  it.each([
    [
      'ENOSPC',
      /\. Free space there \(df \/run\/flannel; df -i \/run\/flannel\), or choose another path than /,
    ],
    ['EROFS', /\. Mount the file system of \/run\/flannel writable, or choose another path than /],
    ['EACCES', /\. Make its folder writable for this process, or choose another path than /],
  ])('is another thing for each reason: %s', async (code, remedy) => {
    host.files.writeError = code;
    host.files.remove(SUBNET);
    expect(await complaint(SUBNET, host.files)).toMatch(remedy);
  });
});
