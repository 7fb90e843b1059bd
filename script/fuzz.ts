/**
 * Property tests and simulated clusters on fresh seeds, in turn: `npm run fuzz -- --minutes 60 [FILE…]`. Of a failure it prints the
 * command that shows it again. With files it runs only the property tests in them. Exits 0 when all held, 1 when one failed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { parseArgs } from 'node:util';
import type { JsonTestResults } from 'vitest/node';
import { quoted } from '../test/testbed/commands.ts';
import { describeLeftovers, sweep } from '../test/testbed/leftovers.ts';
import { RUN_VARIABLE, runId } from '../test/testbed/run.ts';

const usage = `npm run fuzz -- --minutes N          every property test and the simulation, on fresh seeds
npm run fuzz -- --minutes N FILE…    only the property tests of these files`;
const STOPPED = 130;
const CLUSTERS = 200;

const isRoot = process.getuid?.() === 0;
/** Whoever has begun the run that this is a part of removes what it leaves. */
const isPart = (process.env[RUN_VARIABLE] ?? '') !== '';
const id = runId();
/** The project: npm makes its folder the current one. */
const root = process.cwd();
const failures: string[] = [];
const rounds = { properties: 0, clusters: 0 };
let current: ChildProcess | undefined;
let stopped = false;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => {
    stopped = true;
    if (current?.pid !== undefined) process.kill(-current.pid, 'SIGTERM');
  });
process.exitCode = await main();

async function main(): Promise<number> {
  let minutes: number;
  const all = propertyFiles();
  let files = isRoot ? all : all.filter((file) => !needsRoot(file));
  let simulation = true;
  try {
    const { values, positionals } = parseArgs({
      options: { minutes: { type: 'string' } },
      allowPositionals: true,
    });
    minutes = Number(values.minutes);
    if (!(minutes > 0)) throw new RangeError('--minutes takes a number above 0');
    const other = positionals.find((file) => !all.includes(file));
    if (other !== undefined) throw new RangeError(`no property test in ${other}`);
    if (positionals.length > 0) {
      files = positionals;
      simulation = false;
    }
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof TypeError)) throw error;
    console.error(`fuzz: ${error.message}\n${usage}`);
    return 2;
  }
  if (simulation && files.length < all.length)
    console.log(`fuzz: left out, as they need root: ${all.filter(needsRoot).join(', ')}`);
  const startedMs = performance.now();
  const over = () => stopped || performance.now() - startedMs > minutes * 60_000;
  do {
    await properties(files, randomInt(-(2 ** 31), 2 ** 31));
    if (simulation && !stopped) await clusters(randomInt(1, 999_000_000));
  } while (!over());
  // A test that was stopped, or killed for its time, cannot clean up.
  const left = isPart ? [] : await sweep(id);
  if (left.length > 0) console.log(`fuzz: could not be removed:\n${describeLeftovers(left)}`);
  console.log(
    `fuzz: ${((performance.now() - startedMs) / 1_000).toFixed(0)} s, ${files.length} files of property tests on ${rounds.properties} seeds each, ` +
      `${rounds.clusters} simulated clusters, ${failures.length} failed`,
  );
  for (const line of failures) console.log(`  ${line}`);
  if (failures.length > 0) return 1;
  return stopped ? STOPPED : 0;
}

/** Every test file with a property in it, as its path in the project. */
function propertyFiles(): string[] {
  return readdirSync(join(root, 'test'), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.test.ts'))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => {
      const text = readFileSync(path, 'utf8');
      // Both: a test of this program writes such files.
      return /^import fc from 'fast-check';$/m.test(text) && /\bfc\.assert\(/.test(text);
    })
    .map((path) => relative(root, path))
    .toSorted();
}

/** Whether the tests of a file work on real parts of the machine. */
function needsRoot(file: string): boolean {
  return !file.startsWith('test/unit/');
}

async function properties(files: readonly string[], seed: number): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'flanneld-ts-fuzz-'));
  const file = join(folder, 'report.json');
  const argv = ['run', ...files, '--reporter=json', `--outputFile=${file}`, '--testTimeout=120000'];
  const { code, output } = await run('vitest', argv, { PROPERTY_SEED: String(seed) });
  if (stopped) return rmSync(folder, { recursive: true });
  rounds.properties++;
  const report = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as JsonTestResults) : undefined;
  rmSync(folder, { recursive: true });
  const found = report === undefined ? [] : propertyFailures(report, seed);
  if (code !== 0 && found.length === 0) {
    console.log(output);
    fail(`PROPERTY_SEED=${seed} npx vitest run ${files.join(' ')}`, `vitest ended with exit code ${code}`);
  }
}

/** Prints every failure of a run with the command that shows it again; returns those commands. */
function propertyFailures({ testResults }: JsonTestResults, roundSeed: number): string[] {
  return testResults.flatMap(({ name, status, message, assertionResults }) => {
    const file = relative(root, name);
    const failed = assertionResults.filter((test) => test.status === 'failed');
    if (failed.length === 0 && status === 'failed')
      return [fail(`PROPERTY_SEED=${roundSeed} npx vitest run ${file}`, message)];
    return failed.map(({ fullName, failureMessages }) => {
      const text = failureMessages?.join('\n') ?? '';
      const [, seed = String(roundSeed), path] = /seed: (-?\d+), path: "([\d:]+)"/.exec(text) ?? [];
      const variables = `PROPERTY_SEED=${seed}${path === undefined ? '' : ` PROPERTY_PATH=${path}`}`;
      return fail(`${variables} npx vitest run ${file} -t ${quoted(`^${escaped(fullName)}$`)}`, text);
    });
  });
}

async function clusters(from: number): Promise<void> {
  const { code, output } = await run(process.execPath, [
    'sim/run.ts',
    '--seeds',
    String(CLUSTERS),
    '--from',
    String(from),
  ]);
  if (stopped) return;
  rounds.clusters += CLUSTERS;
  const failed = [...output.matchAll(/^seed (\d+): (.*)$/gm)];
  for (const [, seed, text = ''] of failed) fail(`npm run sim -- --seed ${seed}`, text);
  if (code !== 0 && failed.length === 0)
    fail(`npm run sim -- --seeds ${CLUSTERS} --from ${from}`, `it ended with exit code ${code}\n${output}`);
}

/** Says at once what failed, and keeps the command for the end. */
function fail(command: string, text: string): string {
  failures.push(command);
  console.log(`FAILED  ${command}\n${text}\n`);
  return command;
}

function run(
  command: string,
  argv: readonly string[],
  variables: NodeJS.ProcessEnv = {},
): Promise<{ readonly code: number; readonly output: string }> {
  return new Promise((resolve) => {
    // A group of its own: Ctrl-C comes to this process alone, which ends the whole group.
    const child = spawn(command, argv, {
      cwd: root,
      env: { ...process.env, ...variables },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    current = child;
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (chunk: string) => {
        output += chunk;
      });
    child.once('error', (error) => resolve({ code: 127, output: error.message }));
    child.once('close', (code) => resolve({ code: code ?? 1, output }));
  });
}

/** The text as a pattern. */
function escaped(text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}
