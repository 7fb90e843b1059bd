import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SimCluster, type SimHost } from '../../sim/cluster.ts';

// subnet.env and docker_opts.env while the daemon runs: others remove and change them.

const SUBNET = '/run/flannel/subnet.env';
const DOCKER = '/run/docker_opts.env';

let cluster: SimCluster;
let host: SimHost;

beforeEach(async () => {
  cluster = new SimCluster({ seed: 1, hosts: 1 });
  const [first] = cluster.hosts;
  if (first === undefined) throw new Error('no host');
  host = first;
  host.start();
  await cluster.clock.until('ready', () => host.readiness.ready, 60_000);
});

afterEach(() => cluster.close());

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

  it('is a reason for not being ready while it cannot be written again', async () => {
    const before = host.files.peek(path);
    host.files.remove(path);
    host.files.writeError = 'EROFS';
    await cluster.clock.advance(5_000);
    expect(host.readiness.reasons.join()).toContain(`${path} cannot be written: EROFS`);
    host.files.writeError = undefined;
    await cluster.clock.until('ready', () => host.readiness.ready, 20_000);
    expect(host.files.peek(path)).toBe(before);
  });
});

it('nothing is watched, written or read any more once the daemon has stopped', async () => {
  expect(host.files.watched).toBe(2);
  await host.stop();
  expect(host.files.watched).toBe(0);
  host.files.remove(SUBNET);
  await cluster.clock.advance(60_000);
  expect(host.files.peek(SUBNET)).toBeUndefined();
});

it('what lies there as it is to be is not written over and over', async () => {
  const { writes } = host.files;
  await cluster.clock.advance(600_000);
  expect(host.files.writes).toBe(writes);
  expect(cluster.log.events('file-repaired')).toEqual([]);
});
