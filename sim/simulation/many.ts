import { type ChildProcess, fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import type { Scenario } from './scenario.ts';

export interface ManyOptions {
  readonly scenarios: readonly Scenario[];
  readonly mutant?: string | undefined;
}

/** What a worker is told to run, and what it answers; by number, as several schedules may come of one seed. */
export interface Work {
  readonly number: number;
  readonly scenario: Scenario;
  readonly mutant?: string | undefined;
}
export interface Answer {
  readonly number: number;
  /** What did not hold; absent: everything did. */
  readonly failure?: string;
}

/** Seeds that a worker gets at a time: more would leave cores idle at the end. */
const batch = 4;

/** Runs many scenarios, one worker process to a core; tells of each failure as it comes. Resolves to the seeds that failed. */
export async function runMany(
  { scenarios, mutant }: ManyOptions,
  onFailure: (seed: number, failure: string) => void,
): Promise<readonly number[]> {
  const failed: number[] = [];
  const left = scenarios.entries();
  const feed = (worker: ChildProcess, running: Map<number, Scenario>): void => {
    while (running.size < batch) {
      const next = left.next();
      if (next.done) break;
      const [number, scenario] = next.value;
      const task: Work = { number, scenario, mutant };
      running.set(number, scenario);
      worker.send(task);
    }
    if (running.size === 0) worker.disconnect();
  };
  const work = async (): Promise<void> => {
    const worker = fork(new URL('worker.ts', import.meta.url));
    const running = new Map<number, Scenario>();
    const fail = (number: number, failure: string): void => {
      const seed = running.get(number)?.seed ?? 0;
      failed.push(seed);
      onFailure(seed, failure);
    };
    worker.on('message', ({ number, failure }: Answer) => {
      if (failure !== undefined) fail(number, failure);
      running.delete(number);
      feed(worker, running);
    });
    feed(worker, running);
    await new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    for (const number of running.keys()) fail(number, 'its worker died');
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  return failed.toSorted((a, b) => a - b);
}
