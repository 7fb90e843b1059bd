import process from 'node:process';
import { expect, test } from 'vitest';
import { PREFIX } from '../testbed/cluster.ts';
import { quoted } from '../testbed/commands.ts';
import { PROGRAM } from '../testbed/daemon.ts';
import { onHost } from '../testbed/host.ts';
import { RunningProcess } from '../testbed/process.ts';
import { ENDPOINT, useBench } from './bench.ts';

const COMMAND = [PROGRAM, '--iface=eth0', `--etcd-endpoints=${ENDPOINT}`, `--etcd-prefix=${PREFIX}`];
/** A level, in colour. */
const INFO = '\u001b[32mINFO\u001b[39m';

const bench = useBench();

/** Starts the program, with nothing said about the log's format, and waits until it is ready. */
async function start(argv: readonly string[], env = {}): Promise<RunningProcess> {
  const command = onHost(bench.daemon.options, argv);
  const child = new RunningProcess(command, { env: { PATH: process.env['PATH'], ...env } });
  bench.onClose(async () => void (await child.stop('SIGKILL')));
  await child.waitFor((lines) => lines.find((line) => line.includes('ready: subnet')), 30_000, 'ready');
  return child;
}

test.each([
  ['', {}],
  [', also of a process that inherited JOURNAL_STREAM, but not the journal', { JOURNAL_STREAM: '9:1' }],
])('in a pipe every line of the log is JSON, on standard error%s', async (_, env) => {
  const child = await start(COMMAND, env);
  expect(await child.stop('SIGTERM', 5_000)).toEqual({ code: 0, signal: null });
  expect(child.stdout).toEqual([]);
  for (const line of child.stderr) {
    expect(JSON.parse(line)).toMatchObject({ level: expect.any(String), msg: expect.any(String) });
  }
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
