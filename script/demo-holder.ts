/**
 * A kept demo is a process in the background that holds its hosts: they end with it, and `--down` ends it. The command
 * the user sees relays its output until the hosts are up.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeLeftovers, sweep } from '../test/testbed/leftovers.ts';

const HOLDER_VARIABLE = 'FLANNELD_TS_DEMO_HOLDER';
const PID_FILE = 'holder.pid';

/** Whether this process is the one in the background. */
export function isHolder(): boolean {
  return process.env[HOLDER_VARIABLE] !== undefined;
}

/** Starts the same command as the holder; resolves to the exit code once the hosts are up or the holder has ended. */
export async function holdInBackground(): Promise<number> {
  const child = spawn(process.execPath, process.argv.slice(1), {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: { ...process.env, [HOLDER_VARIABLE]: '1' },
  });
  child.stdout?.pipe(process.stdout);
  child.stderr?.pipe(process.stderr);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal));
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => child.kill('SIGHUP'));
  return await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? 1));
    child.once('message', () => {
      resolve(0);
      child.unref();
      child.stdout?.destroy();
      child.stderr?.destroy();
    });
  });
}

/** Called by the holder when the hosts are up; `dir` is the demo's folder. From then on nobody reads its output. */
export function sayUp(dir: string): void {
  writeFileSync(join(dir, PID_FILE), `${process.pid}\n`);
  for (const stream of [process.stdout, process.stderr]) {
    stream.removeAllListeners('error').on('error', () => undefined);
  }
  process.removeAllListeners('disconnect');
  process.send?.('up', () => process.disconnect());
}

/** Takes down the kept demo `id`, or the only one; resolves to the exit code. */
export async function takeDown(family: string, id: string | undefined): Promise<number> {
  const kept = keptDemos(family);
  const chosen = id === undefined ? kept : kept.filter((demo) => demo.id === id);
  const [demo, another] = chosen;
  if (demo === undefined) {
    console.error(`script/demo: no kept demo${id === undefined ? '' : ` ${id}`}${list(kept)}`);
    return 1;
  }
  if (another !== undefined) {
    console.error(`script/demo: which one?${list(kept)}`);
    return 2;
  }
  console.log(`taking down ${demo.id}`);
  await endHolder(demo.pid);
  // A holder that was killed could not clean up.
  const left = await sweep(demo.id);
  if (left.length > 0) console.error(`could not be removed:\n${describeLeftovers(left)}`);
  return left.length === 0 ? 0 : 1;
}

interface KeptDemo {
  readonly id: string;
  readonly pid: number;
}

function keptDemos(family: string): readonly KeptDemo[] {
  return readdirSync(tmpdir()).flatMap((name) => {
    const id = /^(.+)-cluster-/.exec(name)?.[1];
    const file = join(tmpdir(), name, PID_FILE);
    if (id === undefined || !id.startsWith(family) || !existsSync(file)) return [];
    return [{ id, pid: Number.parseInt(readFileSync(file, 'utf8'), 10) }];
  });
}

const list = (demos: readonly KeptDemo[]): string =>
  demos.map(({ id }) => `\n  script/demo --down ${id}`).join('');

/** SIGTERM, and a while to clean up. A process id that means something else by now is left alone. */
async function endHolder(pid: number): Promise<void> {
  const deadline = performance.now() + 30_000;
  for (let asked = false; isHolderProcess(pid) && performance.now() < deadline; asked = true) {
    if (!asked) process.kill(pid, 'SIGTERM');
    await sleep(50);
  }
}

function isHolderProcess(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`${HOLDER_VARIABLE}=`);
  } catch {
    return false;
  }
}
