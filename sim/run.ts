import { parseArgs } from 'node:util';
import { keepSchedule } from './simulation/kept.ts';
import { runMany } from './simulation/many.ts';
import { mutants } from './simulation/mutants.ts';
import { scenarioOf } from './simulation/scenario.ts';
import { shrink } from './simulation/shrink.ts';
import { simulate } from './simulation/simulate.ts';
import { describeFailure } from './simulation/trace.ts';

const usage = `npm run sim -- --seed N        one cluster; of a failure the shortest schedule is looked for and shown
npm run sim -- --seeds N       so many clusters, on all cores
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
      options: {
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
    const size = { hosts: whole(values.hosts, 'hosts'), minutes: whole(values.minutes, 'minutes') };
    const { mutant } = values;
    if (mutant !== undefined && !mutants.has(mutant)) throw new RangeError(`no mutant is called ${mutant}`);
    const seeds = whole(values.seeds, 'seeds');
    const seed = whole(values.seed, 'seed');
    if (values.help || (seeds === undefined) === (seed === undefined))
      throw new RangeError('--seed or --seeds');
    if (seeds !== undefined) return await many(whole(values.from, 'from') ?? 1, seeds, { ...size, mutant });
    return await one(seed ?? 1, { ...size, mutant, log: values.log === true, keep: values.keep === true });
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof TypeError)) throw error;
    console.error(`${error.message}\n${usage}`);
    return 2;
  }
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
