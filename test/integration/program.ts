import { existsSync, readdirSync } from 'node:fs';
import { PROGRAM } from '../testbed/daemon.ts';
import { type HostPlace, onHost, runFolder } from '../testbed/host.ts';
import { type Exit, RunningProcess } from '../testbed/process.ts';

export interface ProgramRun extends HostPlace {
  readonly argv: readonly string[];
  /** Commands that exec the program with other rights: `setpriv …`. */
  readonly through?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

export interface ProgramResult extends Exit {
  readonly stdout: readonly string[];
  readonly stderr: readonly string[];
}

/** Runs the program, from which an end of its own accord is expected; kills it, and rejects, when it goes on. */
export async function runProgram(run: ProgramRun): Promise<ProgramResult> {
  const { argv, through = [], env = {} } = run;
  const command = onHost(run, [...through, PROGRAM, ...argv]);
  const child = new RunningProcess(command, { env: { PATH: process.env['PATH'], ...env } });
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    child.signal('SIGKILL');
  }, 15_000);
  const exit = await child.exit.finally(() => clearTimeout(timer));
  if (late) throw new Error(`the program went on:\n${child.tail()}`);
  return { ...exit, stdout: child.stdout, stderr: child.stderr };
}

/** What there is in the host's /run. */
export function filesInRun(place: HostPlace): readonly string[] {
  return existsSync(runFolder(place)) ? readdirSync(runFolder(place), { recursive: true }).map(String) : [];
}
