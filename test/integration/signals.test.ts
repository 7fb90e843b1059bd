import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { quoted } from '../testbed/commands.ts';
import { PROGRAM } from '../testbed/daemon.ts';
import { onHost } from '../testbed/host.ts';
import { until } from '../testbed/netns.ts';
import { RunningProcess } from '../testbed/process.ts';
import { useBench } from './bench.ts';

/** Nobody listens there: the daemon says so and waits. */
const NO_ETCD = 'http://127.0.0.1:9';

describe('a signal that is no stop', () => {
  const bench = useBench();
  let terminal: RunningProcess | undefined;
  let inTerminal: number | undefined;

  afterEach(async () => {
    if (terminal?.running) await terminal.stop('SIGKILL');
    if (inTerminal !== undefined && isAlive(inTerminal)) process.kill(inTerminal, 'SIGKILL');
  });

  it.each([
    ['SIGUSR1', 'SIGUSR1 is ignored'],
    ['SIGUSR2', 'SIGUSR2 is ignored'],
    [
      'SIGHUP',
      'SIGHUP is ignored: flags and environment are read at the next start; changed certificate and password files are picked up without a signal',
    ],
  ] as const)('%s changes nothing, and the daemon says so', async (signal, text) => {
    const daemon = bench.makeDaemon(signal, { endpoints: NO_ETCD });
    daemon.launch();
    await daemon.waitForLog('trouble');
    daemon.process.signal(signal);
    const { msg } = await daemon.waitForLog(({ event }) => event === 'signal-ignored');
    expect(msg).toBe(text);
    // Node's answer to SIGUSR1 is a debugger on port 9229, open to every user of the host.
    expect(await bench.host.exec('ss', '-Hltn')).not.toContain(':9229');
    expect(await daemon.stop()).toEqual({ code: 0, signal: null });
  });

  it('SIGHUP stops a daemon whose terminal is gone', async () => {
    const command = `echo "pid $$"; exec ${quoted(PROGRAM)} --etcd-endpoints=${NO_ETCD}`;
    const file = join(bench.dir, 'typescript');
    terminal = new RunningProcess(onHost(bench.daemon.options, ['script', '-qefc', command, file]));
    inTerminal = await terminal.waitFor(
      (lines) => lines.map((line) => Number(/^pid (\d+)/.exec(line)?.[1])).find((pid) => pid > 0),
      10_000,
      'the daemon’s process id',
    );
    await terminal.waitFor(
      (lines) => lines.find((line) => line.includes('waiting for etcd')),
      30_000,
      'the daemon waits for etcd',
    );
    const pid = inTerminal;
    await terminal.stop('SIGKILL');
    await until(() => !isAlive(pid), 5_000, 'the daemon lives on without its terminal');
  });
});

function isAlive(pid: number): boolean {
  return existsSync(`/proc/${pid}`);
}
