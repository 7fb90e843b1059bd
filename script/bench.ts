/**
 * Measures the built program on this machine: `npm run bench [-- --quick] [--json FILE]`, as root. Prints one table as Markdown.
 * Beside it stand `ip -batch`, which is the kernel's own floor, and another flanneld if FLANNELD names one. The programs
 * take turns, so that what else the machine does falls on all of them.
 *
 * Two options measure something else: `--cluster N` the load of N daemons on one etcd, beside what the simulation counts for
 * as many; `--watchers` what etcd does for the watches of many hosts.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Compared, comparedTable, compareLoad, MOST_HOSTS } from '../test/bench/cluster-load.ts';
import type { Program } from '../test/bench/life.ts';
import { FLOOR, FULL, type Measured, Measurement, QUICK, quantile } from '../test/bench/measure.ts';
import { Stage } from '../test/bench/stage.ts';
import { measureWatchers } from '../test/bench/watchers.ts';
import { describeLeftovers, sweep } from '../test/testbed/leftovers.ts';
import { newRunId, RUN_VARIABLE, runId } from '../test/testbed/run.ts';

/** As shells have it for SIGINT. */
const STOPPED = 130;

const program = join(import.meta.dirname, '../dist/flanneld-ts');

process.exitCode = await main();

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean' },
      json: { type: 'string' },
      cluster: { type: 'string' },
      watchers: { type: 'boolean' },
    },
  });
  const hosts = values.cluster === undefined ? undefined : Number(values.cluster);
  if (hosts !== undefined && !(Number.isInteger(hosts) && hosts >= 1 && hosts <= MOST_HOSTS)) {
    console.error(`bench: --cluster takes a number of hosts from 1 to ${MOST_HOSTS}`);
    return 2;
  }
  if (!existsSync(program)) {
    console.error(`bench: ${program} is missing: npm run build`);
    return 2;
  }
  process.env[RUN_VARIABLE] = newRunId('bench');
  // Programs and namespaces end with this process; what lies in files is swept.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => void sweep(runId()).finally(() => process.exit(STOPPED)));
  const quick = values.quick === true;
  let code = 0;
  try {
    const { results, table } =
      hosts !== undefined
        ? await compareWithSimulation(hosts)
        : values.watchers === true
          ? { results: [], table: await measureWatchers((line) => console.error(line)) }
          : await compare(quick);
    const machine = describeMachine();
    console.log(`\n${machine}\n\n${table}`);
    if (values.json !== undefined)
      writeFileSync(values.json, `${JSON.stringify({ machine, results }, undefined, 1)}\n`);
  } catch (error) {
    console.error(error instanceof Error ? error.stack : error);
    code = 1;
  }
  const left = await sweep(runId());
  if (left.length > 0) console.error(`could not be removed:\n${describeLeftovers(left)}`);
  return left.length > 0 ? 1 : code;
}

async function compare(quick: boolean): Promise<{ results: readonly Measured[]; table: string }> {
  const programs = [ours(), ...theirs(process.env['FLANNELD'])];
  const results = await measure(programs, quick);
  return { results, table: tableOf(results, programs) };
}

async function compareWithSimulation(
  hosts: number,
): Promise<{ results: readonly Compared[]; table: string }> {
  const results = await compareLoad(hosts, (line) => console.error(line));
  return { results, table: comparedTable(results) };
}

async function measure(programs: readonly Program[], quick: boolean): Promise<readonly Measured[]> {
  const stage = await Stage.open();
  try {
    const measurement = new Measurement(stage, programs, quick ? QUICK : FULL, (line) => console.error(line));
    await measurement.run();
    return measurement.results;
  } finally {
    await stage.close();
  }
}

function ours(): Program {
  return {
    name: 'flanneld-ts',
    command: [program],
    flags: ['--docker-opts-file=FOLDER/docker_opts.env'],
    isNode: true,
  };
}

function theirs(path: string | undefined): readonly Program[] {
  if (path === undefined || path === '') return [];
  if (!existsSync(path)) throw new Error(`FLANNELD=${path}: there is no such file`);
  return [{ name: 'flanneld', command: [path], isSlow: true }];
}

function describeMachine(): string {
  const [cpu] = cpus();
  const etcd = execFileSync('etcd', ['--version'], { encoding: 'utf8' }).split('\n', 1)[0];
  const date = new Date().toISOString().slice(0, 10);
  return `${date}, ${cpus().length} cores (${cpu?.model.trim()}), Linux ${release()}, Node ${process.version}, ${etcd}`;
}

/** Medians, with the least and the most beside them where there are several values. */
function tableOf(results: readonly Measured[], programs: readonly Program[]): string {
  const names = [...programs.map(({ name }) => name), FLOOR];
  const rows = new Map<string, Map<string, string>>();
  for (const { row, unit, peers, program: name, values } of results) {
    const label = `${row}, N = ${peers} (${unit})`;
    const cells = rows.get(label) ?? new Map<string, string>();
    rows.set(label, cells);
    const text = (value: number) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
    const spread = values.length > 1 ? ` (${text(quantile(values, 0))} to ${text(quantile(values, 1))})` : '';
    cells.set(name, text(quantile(values, 0.5)) + spread);
  }
  const lines = [...rows].map(
    ([label, cells]) => `| ${label} | ${names.map((name) => cells.get(name) ?? '').join(' | ')} |`,
  );
  return [`| | ${names.join(' | ')} |`, `|---${'|---'.repeat(names.length)}|`, ...lines].join('\n');
}
