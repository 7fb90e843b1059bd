import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { describeLeftovers, leftovers, sweep } from '../testbed/leftovers.ts';
import { RunningProcess, runToEnd } from '../testbed/process.ts';
import { newRunId, RUN_VARIABLE, runId } from '../testbed/run.ts';

const DEMO = join(import.meta.dirname, '../../script/demo');
const DEADLINE_MS = 120_000;

/** Without root's id, but with root's access to files: the project may lie in a folder of root's. */
const asNobody = ['unshare', '--user', '--'];

/** A run of its own for each demo, inside this one: what it leaves can be told from everything else. */
let demoRun = '';
function environment(): NodeJS.ProcessEnv {
  demoRun = `${runId()}-${newRunId('e2e')}`;
  return { ...process.env, [RUN_VARIABLE]: demoRun };
}

const left = (): string => describeLeftovers(leftovers(demoRun));

afterEach(async () => {
  await sweep(demoRun);
});

describe('script/demo', () => {
  it('shows every step and six answered pings, exits 0, and leaves nothing', async () => {
    const { exit, output } = await runToEnd([DEMO], { env: environment() });
    expect(exit, output).toEqual({ code: 0, signal: null });
    expect(left()).toBe('');
    const steps = output.split('\n').flatMap((line) => /^ ?(\d+)\. /.exec(line)?.[1] ?? []);
    expect(steps.map(Number)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect(output.match(/: 64 bytes from 172\.20\.\d+\.2: seq=0 ttl=62 /g)).toHaveLength(6);
    expect(output.match(/FLANNEL_SUBNET=172\.20\.\d+\.1\/24/g)).toHaveLength(3);
    expect(
      output.match(/^ +172\.20\.\d+\.0 +10\.211\.55\.10[012] +255\.255\.255\.0 +UG .* eth0$/gm),
    ).toHaveLength(6);
  });

  it('--from-v2 moves three hosts from flannel 0.7.1, loses no ping, exits 0, and leaves nothing', async () => {
    const { exit, output } = await runToEnd([DEMO, '--from-v2'], { env: environment() });
    expect(exit, output).toEqual({ code: 0, signal: null });
    expect(left()).toBe('');
    const said = output.split('\n').flatMap((line) => /^ +the bridge says: (.*)$/.exec(line)?.[1] ?? []);
    const hostsOnV3 = said.map(
      (line) => /^\d hosts? on v2, (\d) on v3, 0 conflicts$/.exec(line)?.[1] ?? line,
    );
    expect(hostsOnV3.map(Number)).toEqual([0, 1, 0, 1, 2, 3]);
    expect(output).toMatch(/^ +leases in v2: none\n +leases in v3: 172\.\S+ {2}172\.\S+ {2}172\.\S+$/m);
    const pings = [...output.matchAll(/^ +(master|node-[12]) +(master|node-[12]) +(\d+) +0$/gm)];
    expect(new Set(pings.map(([, from, to]) => `${from} ${to}`)).size).toBe(6);
    for (const [line, , , sent] of pings) expect(Number(sent), line).toBeGreaterThan(20);
  });

  it.each([
    ['SIGINT', ' 2. ', [], 130],
    ['SIGTERM', ' 5. ', [], 143],
    ['SIGINT', ' 6. ', ['--keep'], 130],
    ['SIGINT', ' 8. ', [], 130],
    ['SIGTERM', '10. ', [], 143],
    ['SIGINT', ' 9. ', ['--from-v2'], 130],
  ] as const)(
    'leaves nothing when %s comes in the middle of step %s (%j)',
    async (signal, step, argv, code) => {
      const demo = new RunningProcess([DEMO, ...argv], { env: environment() });
      await demo.waitFor((lines) => lines.find((line) => line.startsWith(step)), DEADLINE_MS, `step ${step}`);
      expect(await demo.stop(signal, DEADLINE_MS), demo.tail()).toEqual({ code, signal: null });
      expect(left()).toBe('');
    },
  );

  it.each([[''], ['--keep']])(
    'leaves nothing when its reader goes away (%j)',
    async (argv) => {
      // The shell waits for both ends of the pipe.
      const piped = `{ "$0" ${argv}; echo "exit code $?" >&2; } | head -n 3`;
      const { output } = await runToEnd(['sh', '-c', piped, DEMO], { env: environment() });
      expect(output).toMatch(/^ 1\. /m);
      expect(output).not.toMatch(/^ 8\. /m);
      expect(output).toMatch(/^exit code 129$/m);
      expect(left()).toBe('');
    },
    DEADLINE_MS,
  );

  it('keeps the hosts when asked to, and takes them down', async () => {
    const env = environment();
    const kept = await runToEnd([DEMO, '--keep', '--hosts', '2'], { env });
    expect(kept.exit, kept.output).toEqual({ code: 0, signal: null });
    const hints = kept.output.split('\n').map((line) => line.trim());

    const hint = (pattern: RegExp) => hints.find((line) => pattern.test(line)) ?? '';
    const command = (line: string) => ['sh', '-c', line.replace(/^\S+ +sudo /, '')];

    const shell = `${hint(/^node-1 .* bash$/)} -c 'hostname; docker ps --quiet | wc -l; cat /run/flannel/subnet.env'`;
    expect((await runToEnd(command(shell))).output).toMatch(
      /^node-1\n1\nFLANNEL_NETWORK=172\.20\.0\.0\/16\n/,
    );
    expect((await runToEnd(command(hint(/^master +sudo docker/)))).output).toContain('busybox-on-master');

    const log =
      hint(/^node-1 +sudo tail -f /)
        .split(' ')
        .at(-1) ?? '';
    expect(readFileSync(log, 'utf8')).toMatch(/^\{.*"event":"ready".*\}$/m);

    const down =
      hint(/^sudo script\/demo --down /)
        .split(' ')
        .at(-1) ?? '';
    const taken = await runToEnd([DEMO, '--down', down], { env });
    expect(taken.exit, taken.output).toEqual({ code: 0, signal: null });
    expect(left()).toBe('');
  });

  it('takes down what is left of a kept demo whose process was killed', async () => {
    const env = environment();
    const kept = await runToEnd([DEMO, '--keep', '--hosts', '2'], { env });
    expect(kept.exit, kept.output).toEqual({ code: 0, signal: null });
    const holder = leftovers(demoRun).find(({ name }) => name.includes('script/demo.ts'));
    holder?.remove();
    const taken = await runToEnd([DEMO, '--down'], { env });
    expect(taken.exit, taken.output).toEqual({ code: 0, signal: null });
    expect(left()).toBe('');
  });

  it.each([
    [['--hosts', '1'], '--hosts 1: a number from 2 to 100 is wanted'],
    [['--hosts'], '--hosts : a number from 2 to 100 is wanted'],
    [['--keep', '--foo'], 'unknown option --foo'],
    [['--from-v2', '--keep'], '--from-v2 goes with no other option'],
    [['--hosts', '5', '--from-v2'], '--from-v2 goes with no other option'],
    [['extra'], "unexpected 'extra'"],
    [['--down', 'one', 'two'], "unexpected 'two'"],
  ])('refuses %j with one line and exit code 2, before it installs anything', async (argv, message) => {
    const demo = new RunningProcess([...asNobody, DEMO, ...argv], { env: environment() });
    expect((await demo.exit).code).toBe(2);
    expect(demo.lines).toEqual([`script/demo: ${message} (see script/demo --help)`]);
    expect(left()).toBe('');
  });

  it('tells its usage to anybody', async () => {
    const { exit, output } = await runToEnd([...asNobody, DEMO, '--help']);
    expect(exit.code).toBe(0);
    expect(output).toContain('Usage: sudo script/demo');
  });

  it('says in one line that it needs root', async () => {
    const { exit, output } = await runToEnd([...asNobody, DEMO]);
    expect(exit.code).not.toBe(0);
    expect(output).toMatch(/^script\/bootstrap: root is needed .*: sudo .*$/);
  });
});
