import type { Answer, Work } from './many.ts';
import { mutants } from './mutants.ts';
import { simulate } from './simulate.ts';

// One worker of a run of many seeds: takes its work, one after the other, from its parent.

let busy: Promise<void> = Promise.resolve();
process.on('message', (work: Work) => {
  busy = busy.then(() => run(work));
});

async function run({ number, scenario, mutant }: Work): Promise<void> {
  const wrappers = mutant === undefined ? {} : mutants.get(mutant)?.();
  const { violation } = await simulate(scenario, wrappers);
  const answer: Answer =
    violation === undefined
      ? { number }
      : { number, failure: `${violation.invariant}: ${violation.text.slice(0, 300)}` };
  process.send?.(answer);
}
