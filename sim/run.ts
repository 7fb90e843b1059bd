import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type Measured, measureDays, measureEvents } from './load/scenarios.ts';
import { kindsTable, loadTable } from './load/table.ts';
import { keepSchedule } from './simulation/kept.ts';
import { runMany } from './simulation/many.ts';
import { mutants } from './simulation/mutants.ts';
import { scenarioOf } from './simulation/scenario.ts';
import { shrink } from './simulation/shrink.ts';
import { simulate } from './simulation/simulate.ts';
import { describeFailure } from './simulation/trace.ts';

/** Subnets and addresses are there for so many. */
const mostHosts = 30_000;
const defaultScale = '1000,5000,10000';
const usage = `npm run sim -- --seed N        one cluster; of a failure the shortest schedule is looked for and shown
npm run sim -- --seeds N       so many clusters, on all cores
npm run sim -- --scale [N,…]   the load on etcd of clusters of so many hosts (default ${defaultScale})
  --days N       how long they are at rest, and how long hosts come and go (default 1)
  --json FILE    all figures
  --from N       the first seed of --seeds (default 1)
  --hosts N, --minutes N       instead of what the seed says
  --mutant NAME  with a part broken on purpose: ${[...mutants.keys()].join(', ')}
  --log          the whole log of the one cluster
  --keep         the shortest schedule of the failure is added to sim/simulation/failed.json`;

const whole = (text: string | undefined, name: string): number | undefined => {
  if (text === undefined) return undefined;
  if (!/^[0-9]{1,9}$/.test(text) || Number(text) === 0)
    throw new RangeError(`--${name} takes a number above 0`);
  return Number(text);
};

process.exitCode = await main();

async function main(): Promise<number> {
  try {
    const { values } = parseArgs({
      args: withDefault(process.argv.slice(2), '--scale', defaultScale),
      options: {
        scale: { type: 'string' },
        days: { type: 'string' },
        json: { type: 'string' },
        seed: { type: 'string' },
        seeds: { type: 'string' },
        from: { type: 'string' },
        hosts: { type: 'string' },
        minutes: { type: 'string' },
        mutant: { type: 'string' },
        log: { type: 'boolean' },
        keep: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    });
    if (values.scale !== undefined)
      return await scale(sizesOf(values.scale), whole(values.days, 'days') ?? 1, values.json);
    const size = { hosts: whole(values.hosts, 'hosts'), minutes: whole(values.minutes, 'minutes') };
    const { mutant } = values;
    if (mutant !== undefined && !mutants.has(mutant)) throw new RangeError(`no mutant is called ${mutant}`);
    const seeds = whole(values.seeds, 'seeds');
    const seed = whole(values.seed, 'seed');
    if (values.help || (seeds === undefined) === (seed === undefined))
      throw new RangeError('--seed, --seeds or --scale');
    if (seeds !== undefined) return await many(whole(values.from, 'from') ?? 1, seeds, { ...size, mutant });
    return await one(seed ?? 1, { ...size, mutant, log: values.log === true, keep: values.keep === true });
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof TypeError)) throw error;
    console.error(`${error.message}\n${usage}`);
    return 2;
  }
}

/** The arguments, with a value behind an option that was given without one. */
function withDefault(args: readonly string[], option: string, value: string): string[] {
  return args.flatMap((arg, index) => {
    const next = args[index + 1];
    return arg === option && (next === undefined || next.startsWith('--')) ? [arg, value] : [arg];
  });
}

function sizesOf(text: string): readonly number[] {
  const sizes = text.split(',').map((size) => whole(size, 'scale') ?? 0);
  if (sizes.some((size) => size > mostHosts)) throw new RangeError(`--scale: at most ${mostHosts} hosts`);
  return sizes;
}

async function scale(sizes: readonly number[], days: number, json: string | undefined): Promise<number> {
  const measured: Measured[] = [];
  for (const hosts of sizes) {
    for (const measure of [measureEvents, (size: number) => measureDays(size, days)]) {
      console.error(`${hosts} hosts …`);
      measured.push(...(await measure(hosts)));
    }
  }
  console.log(`${loadTable(measured)}\n\n${kindsTable(measured)}`);
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(measured, undefined, 1)}\n`);
  return 0;
}

interface Options {
  readonly hosts: number | undefined;
  readonly minutes: number | undefined;
  readonly mutant: string | undefined;
}

async function one(
  seed: number,
  { mutant, log, keep, ...size }: Options & { readonly log: boolean; readonly keep: boolean },
): Promise<number> {
  const wrappers = mutant === undefined ? {} : mutants.get(mutant)?.();
  const scenario = scenarioOf(seed, size);
  const outcome = await simulate(scenario, wrappers);
  if (log) console.log(outcome.log);
  if (outcome.violation === undefined) {
    const { hosts, minutes, events } = scenario;
    console.log(
      `seed ${seed}: ${hosts} hosts, ${minutes} minutes, ${events.length} events: every invariant held`,
    );
    return 0;
  }
  console.log(`seed ${seed} failed: ${outcome.violation.invariant}; looking for a shorter schedule`);
  const short = await shrink(outcome, wrappers);
  console.log(describeFailure(short));
  if (keep) keepSchedule(short.scenario);
  return 1;
}

async function many(from: number, count: number, options: Options): Promise<number> {
  const started = process.hrtime.bigint();
  const said = (seed: number, text: string) => console.log(`seed ${seed}: ${text}`);
  const seeds = Array.from({ length: count }, (_, i) => from + i);
  const failed = await runMany(
    { ...options, scenarios: seeds.map((seed) => scenarioOf(seed, options)) },
    said,
  );
  const seconds = Number((process.hrtime.bigint() - started) / 1_000_000_000n);
  console.log(
    `${count} seeds in ${seconds} s, ${failed.length} failed${failed.length > 0 ? `: ${failed.join(' ')}` : ''}`,
  );
  return failed.length === 0 ? 0 : 1;
}
