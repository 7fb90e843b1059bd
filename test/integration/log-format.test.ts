import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import process from 'node:process';
import { expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { quoted } from '../testbed/commands.ts';
import { PROGRAM } from '../testbed/daemon.ts';
import { onHost } from '../testbed/host.ts';
import { until } from '../testbed/netns.ts';
import { RunningProcess, runToEnd } from '../testbed/process.ts';
import { ENDPOINT, useBench } from './bench.ts';

const COMMAND = [
  process.execPath,
  PROGRAM,
  '--iface=eth0',
  `--etcd-endpoints=${ENDPOINT}`,
  `--etcd-prefix=${PREFIX}`,
];
/** A level, in colour. */
const INFO = '\u001b[32mINFO\u001b[39m';

const bench = useBench();

/** Starts the program, with nothing said about the log's format, and waits until it is ready. */
async function start(argv: readonly string[]): Promise<RunningProcess> {
  const place = { dir: join(bench.dir, 'host'), namespace: bench.host.namespace };
  const child = new RunningProcess(onHost(place, argv), { env: { PATH: process.env['PATH'] } });
  bench.onClose(async () => void (await child.stop('SIGKILL')));
  await child.waitFor((lines) => lines.find((line) => line.includes('ready: subnet')), 30_000, 'ready');
  return child;
}

test('in a pipe every line of the log is JSON, on standard error', async () => {
  const child = await start(COMMAND);
  expect(await child.stop('SIGTERM', 5_000)).toEqual({ code: 0, signal: null });
  expect(child.stdout).toEqual([]);
  for (const line of child.stderr) {
    expect(JSON.parse(line)).toMatchObject({ level: expect.any(String), msg: expect.any(String) });
  }
});

/** Runs the program with a file for its standard error that systemd would call the journal; resolves to its lines. */
async function inJournal(name: string, argv: readonly string[], stream = '$(stat -Lc %d:%i /dev/stderr)') {
  const file = join(bench.dir, `journal-${name}`);
  const shell = ['sh', '-c', `exec 2>${file}; export JOURNAL_STREAM=${stream}; exec "$@"`, 'sh'];
  const place = { dir: join(bench.dir, 'host'), namespace: bench.host.namespace };
  const child = new RunningProcess(onHost(place, [...shell, ...argv]));
  bench.onClose(async () => void (await child.stop('SIGKILL')));
  const lines = () => (existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1) : []);
  const ready = () => !child.running || lines().some((line) => line.includes('ready: subnet'));
  await until(ready, 30_000, () => lines().join('\n'));
  if (child.running) await child.stop('SIGTERM', 5_000);
  return lines();
}

test('in the journal every line is text with its priority', async () => {
  const lines = await inJournal('text', [...COMMAND, '-logtostderr']);
  expect(lines.filter((line) => !/^<[3467]>[^{<\s]/.test(line))).toEqual([]);
  expect(lines).toContainEqual(expect.stringMatching(/^<4>ignored, .*--logtostderr$/));
  expect(lines).toContainEqual(expect.stringMatching(/^<6>ready: subnet 172\.20\./));
});

test('wrong usage is an error in the journal', async () => {
  expect(await inJournal('usage', [...COMMAND, 'statsu'])).toEqual([
    expect.stringMatching(/^<3>flanneld-ts: argument \d is neither a flag nor a command/),
  ]);
});

test('a process that inherited JOURNAL_STREAM, but not the journal, writes JSON', async () => {
  const lines = await inJournal('inherited', COMMAND, '9:1');
  for (const line of lines) expect(JSON.parse(line)).toMatchObject({ level: expect.any(String) });
});

test('the process is called flanneld-ts, and keeps its flags in the process list', async () => {
  const child = await start(COMMAND);
  expect(readFileSync(`/proc/${child.pid}/comm`, 'utf8')).toBe('flanneld-ts\n');
  expect(readFileSync(`/proc/${child.pid}/cmdline`, 'utf8').split('\0')).toContain(`--etcd-prefix=${PREFIX}`);
  const { stdout } = await runToEnd(['pgrep', 'flanneld']);
  expect(stdout.split('\n')).toContain(String(child.pid));
  await child.stop('SIGTERM', 5_000);
});

test('on a terminal the log is for people', async () => {
  // util-linux: runs the command on a terminal of its own and copies to standard output what is shown there. Told to stop
  // it would show nothing more, so the program itself is told; should script be killed, the program goes with it.
  const command = `echo "pid $$"; exec setpriv --pdeathsig KILL -- ${quoted(...COMMAND)}`;
  const child = await start(['script', '-qec', command, '/dev/null']);
  const pid = Number(/^pid (\d+)/.exec(child.stdout[0] ?? '')?.[1]);
  expect(pid).toBeGreaterThan(1);
  process.kill(pid, 'SIGTERM');
  expect(await child.exit).toEqual({ code: 0, signal: null });
  for (const message of ['ready: subnet 172.20.', 'stopping as asked']) {
    expect(child.stdout.filter((line) => line.includes(message))).toEqual([expect.stringContaining(INFO)]);
  }
  expect(child.stdout.filter((line) => line.startsWith('{'))).toEqual([]);
});
