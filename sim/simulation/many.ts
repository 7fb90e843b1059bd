import { type ChildProcess, fork } from 'node:child_process';
import { availableParallelism } from 'node:os';
import type { Scenario } from './scenario.ts';

export interface ManyOptions {
  readonly scenarios: readonly Scenario[];
  readonly mutant?: string | undefined;
}

/** What a worker is told to run, and what it answers. */
export interface Work {
  readonly scenario: Scenario;
  readonly mutant?: string | undefined;
}
export interface Answer {
  readonly seed: number;
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
  const left = scenarios.values();
  const feed = (worker: ChildProcess, running: Set<number>): void => {
    while (running.size < batch) {
      const next = left.next();
      if (next.done) break;
      const task: Work = { scenario: next.value, mutant };
      running.add(next.value.seed);
      worker.send(task);
    }
    if (running.size === 0) worker.disconnect();
  };
  const work = async (): Promise<void> => {
    const worker = fork(new URL('worker.ts', import.meta.url));
    const running = new Set<number>();
    worker.on('message', ({ seed, failure }: Answer) => {
      running.delete(seed);
      if (failure !== undefined) {
        failed.push(seed);
        onFailure(seed, failure);
      }
      feed(worker, running);
    });
    feed(worker, running);
    await new Promise<void>((resolve) => worker.once('exit', () => resolve()));
    for (const seed of running) {
      failed.push(seed);
      onFailure(seed, 'its worker died');
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  return failed.toSorted((a, b) => a - b);
}
