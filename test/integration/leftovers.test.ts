import { existsSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { hierarchies } from '../testbed/cgroups.ts';
import { describeLeftovers, leftovers, settledLeftovers, sweep } from '../testbed/leftovers.ts';
import { RunningProcess, runToEnd } from '../testbed/process.ts';
import { newRunId, RUN_VARIABLE, runId } from '../testbed/run.ts';

const run = `${runId()}-${newRunId('sweep')}`;
const kinds = () => leftovers(run).map(({ kind }) => kind);

async function sh(script: string): Promise<void> {
  const { exit, output } = await runToEnd(['sh', '-ec', script]);
  if (exit.code !== 0) throw new Error(output);
}

afterEach(async () => {
  await sweep(run);
});

it('finds nothing of a run that has made nothing, or of one whose name only begins alike', async () => {
  const sibling = `${run}0`;
  mkdirSync(join(tmpdir(), `${sibling}-x`));
  try {
    expect(leftovers(run)).toEqual([]);
  } finally {
    await sweep(sibling);
  }
  expect(existsSync(join(tmpdir(), `${sibling}-x`))).toBe(false);
});

it('finds and removes processes, control groups, mounts, namespaces and folders', async () => {
  const folder = join(tmpdir(), `${run}-folder`);
  const [hierarchy] = hierarchies();
  if (hierarchy === undefined) throw new Error('no control groups on this machine');
  mkdirSync(join(hierarchy, `${run}-group`, 'inside'), { recursive: true });
  await sh(`mkdir -p ${folder}/inside && mount -t tmpfs none ${folder}/inside && ip netns add ${run}-h0`);
  const marked = new RunningProcess(['sleep', '1000'], { env: { ...process.env, [RUN_VARIABLE]: run } });
  const inside = new RunningProcess(['ip', 'netns', 'exec', `${run}-h0`, 'sleep', '1001']);
  await expect.poll(() => kinds().filter((kind) => kind === 'process').length).toBe(2);
  expect(new Set(kinds())).toEqual(new Set(['process', 'control group', 'mount', 'namespace', 'folder']));
  expect(describeLeftovers(leftovers(run))).toContain('sleep 1000');

  expect(await sweep(run)).toEqual([]);
  expect((await marked.exit).signal).toBe('SIGKILL');
  expect((await inside.exit).signal).toBe('SIGKILL');
  expect(existsSync(folder)).toBe(false);
});

it('gives a process that is just ending the time to do so', async () => {
  const child = new RunningProcess(['sleep', '0.3'], { env: { ...process.env, [RUN_VARIABLE]: run } });
  await expect.poll(kinds).toEqual(['process']);
  expect(await settledLeftovers(run)).toEqual([]);
  expect((await child.exit).code).toBe(0);
});
