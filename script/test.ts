/**
 * Runs every check and every test and counts them. Each static check counts as one test. All steps run, whatever failed
 * before; what a step leaves behind on the machine is removed, and is a failure of its own. A test that is skipped fails the run.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import type { JsonTestResults } from 'vitest/node';
import { describeLeftovers, settledLeftovers, sweep } from '../test/testbed/leftovers.ts';
import { newRunId, RUN_VARIABLE, runId } from '../test/testbed/run.ts';

interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

interface Step {
  readonly name: string;
  readonly command: readonly string[];
  /** Whether vitest runs in it and counts its tests; otherwise the step is one check. */
  readonly suite?: boolean;
}

/** A step's counts and what failed in it: a line each, repeated at the end, where whoever reads only the last lines finds it. */
interface Outcome extends Counts {
  readonly failures: readonly string[];
}

interface Result extends Outcome {
  readonly name: string;
  readonly seconds: number;
}

const root = join(import.meta.dirname, '..');
/** A run takes some thirteen minutes on two cores. One that hangs is a failed run, and says where. */
const TIME_LIMIT_MS = 40 * 60_000;

const npm = (script: string): readonly string[] => ['npm', 'run', '--silent', script];
const steps: readonly Step[] = [
  { name: 'format', command: npm('format') },
  { name: 'lint', command: npm('lint') },
  { name: 'typecheck', command: npm('typecheck') },
  { name: 'knip', command: npm('knip') },
  { name: 'shellcheck', command: ['shellcheck', '--external-sources', ...shellScripts()] },
  // Not while a demo of the same folder looks whether it has to build.
  { name: 'build', command: ['flock', root, ...npm('build')] },
  { name: 'unit', command: npm('test:unit'), suite: true },
  { name: 'simulation', command: npm('test:simulation'), suite: true },
  { name: 'contract', command: npm('test:contract'), suite: true },
  { name: 'integration', command: npm('test:integration'), suite: true },
  { name: 'interop', command: npm('test:interop'), suite: true },
  { name: 'e2e', command: npm('test:e2e'), suite: true },
];

process.env[RUN_VARIABLE] = newRunId('ft');
let current: ChildProcess | undefined;
let stoppedBy: NodeJS.Signals | 'time limit' | undefined;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop(signal));
const timer = setTimeout(() => stop('time limit'), TIME_LIMIT_MS);
// Not named after the run: it is no leftover of a step.
const reports = mkdtempSync(join(tmpdir(), 'flanneld-ts-reports-'));
process.exitCode = await main(process.argv.slice(2));
rmSync(reports, { recursive: true });
clearTimeout(timer);

async function main(names: readonly string[]): Promise<number> {
  const unknown = names.find((name) => !steps.some((step) => step.name === name));
  if (unknown !== undefined) {
    console.error(
      `script/test: no step '${unknown}'; there are: ${steps.map((step) => step.name).join(' ')}`,
    );
    return 2;
  }
  console.log(`run ${runId()}: what it makes on this machine carries that name`);
  const results: Result[] = [];
  for (const step of steps) {
    if (stoppedBy !== undefined) break;
    if (names.length === 0 || names.includes(step.name)) results.push(await runStep(step));
  }
  return summarize(results);
}

function summarize(results: readonly Result[]): number {
  const width = Math.max(...results.map(({ name }) => name.length));
  console.log('\nsummary');
  for (const { name, seconds, passed, failed, skipped } of results) {
    const verdict = failed + skipped === 0 ? 'ok  ' : 'FAIL';
    const counts = `${passed} passed, ${failed} failed, ${skipped} skipped`;
    console.log(`  ${verdict}  ${name.padEnd(width)}  ${seconds.toFixed(1).padStart(6)} s  ${counts}`);
  }
  for (const { name, failures } of results) for (const line of failures) console.log(`  ${name}: ${line}`);
  if (stoppedBy !== undefined) console.log(`  stopped by ${stoppedBy}: not all steps have run`);
  const total = (key: keyof Counts) => results.reduce((sum, result) => sum + result[key], 0);
  console.log(`${total('passed')} passed, ${total('failed')} failed, ${total('skipped')} skipped`);
  if (stoppedBy === 'SIGINT') return 130;
  if (stoppedBy === 'SIGTERM') return 143;
  // What does not run holds nobody to anything.
  return stoppedBy === undefined && total('failed') + total('skipped') === 0 ? 0 : 1;
}

/** Runs one step in a process group of its own, then looks for what it has left on the machine. */
async function runStep(step: Step): Promise<Result> {
  const started = performance.now();
  console.log(`\n== ${step.name}`);
  const report = join(reports, `${step.name}.json`);
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  const code = await runCommand(step.suite ? [...step.command, '--', ...reporters] : step.command);
  const outcome = step.suite ? suiteOutcome(report, code) : checkOutcome(code);
  const left = await settledLeftovers(runId());
  if (left.length > 0 && stoppedBy === undefined) console.log(`left behind:\n${describeLeftovers(left)}`);
  const stuck = await sweep(runId());
  if (stuck.length > 0) console.log(`could not be removed:\n${describeLeftovers(stuck)}`);
  const clean = (left.length === 0 && stuck.length === 0) || stoppedBy !== undefined;
  return {
    ...outcome,
    failed: outcome.failed + (clean ? 0 : 1),
    failures: clean ? outcome.failures : [...outcome.failures, `left behind: ${describeLeftovers(left)}`],
    name: step.name,
    seconds: (performance.now() - started) / 1000,
  };
}

function checkOutcome(code: number): Outcome {
  return code === 0
    ? { passed: 1, failed: 0, skipped: 0, failures: [] }
    : { passed: 0, failed: 1, skipped: 0, failures: [`exit code ${code}`] };
}

/** What vitest counted. A run that fails without a failed test (a file that does not load, an unhandled error) is one failure. */
function suiteOutcome(file: string, code: number): Outcome {
  let outcome: Outcome = { passed: 0, failed: 0, skipped: 0, failures: [] };
  try {
    const report = JSON.parse(readFileSync(file, 'utf8')) as JsonTestResults;
    outcome = {
      passed: report.numPassedTests,
      failed: report.numFailedTests,
      skipped: report.numPendingTests + report.numTodoTests,
      failures: failuresOf(report),
    };
  } catch {
    // No report: the runner itself has failed, and its exit code says so.
  }
  const empty = outcome.passed + outcome.failed + outcome.skipped === 0;
  if ((code === 0 || outcome.failed > 0) && !empty) return outcome;
  return {
    ...outcome,
    failed: outcome.failed + 1,
    failures: [...outcome.failures, `vitest ended with exit code ${code}`],
  };
}

function failuresOf({ testResults }: JsonTestResults): string[] {
  return testResults.flatMap(({ name, status, message, assertionResults }) => {
    const failed = assertionResults.filter((test) => test.status === 'failed');
    const where = relative(root, name);
    if (failed.length === 0) {
      const notRun = assertionResults.filter((test) => test.status !== 'passed');
      const skipped = notRun.map(({ fullName }) => `${where}: ${fullName.trim()}: skipped`);
      return status === 'failed' ? [`${where}: ${firstLines(message)}`] : skipped;
    }
    return failed.map(
      ({ fullName, failureMessages }) =>
        `${where}: ${fullName.trim()}: ${firstLines(failureMessages?.[0] ?? '')}`,
    );
  });
}

function firstLines(message: string): string {
  return message.split('\n').slice(0, 4).join(' | ').slice(0, 600);
}

async function runCommand(command: readonly string[]): Promise<number> {
  const [program, ...argv] = command;
  // A group of its own: Ctrl-C comes to this process alone, which ends the step in order and cleans up after it.
  const child = spawn(program ?? '', argv, {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
    detached: true,
  });
  current = child;
  return await new Promise<number>((resolve) => {
    child.once('error', (error) => {
      console.error(error.message);
      resolve(127);
    });
    child.once('close', (code) => resolve(code ?? 1));
  }).finally(() => {
    current = undefined;
  });
}

function stop(why: NodeJS.Signals | 'time limit'): void {
  if (stoppedBy !== undefined) return;
  stoppedBy = why;
  console.log(`\nstopping (${why}), removing what this run has made`);
  const pid = current?.pid;
  if (pid === undefined) return;
  process.kill(-pid, 'SIGTERM');
  setTimeout(() => {
    if (current?.pid === pid) process.kill(-pid, 'SIGKILL');
  }, 5_000).unref();
}

/** Every POSIX shell script of the project, told by its first line. */
function shellScripts(): string[] {
  return ['.ci', 'packaging', 'script', 'systemd']
    .flatMap((folder) => readdirSync(join(root, folder), { withFileTypes: true, recursive: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => readFileSync(path, 'utf8').startsWith('#!/bin/sh'));
}
