import { describe, expect, it } from 'vitest';
import { keptSchedules } from '../../sim/simulation/kept.ts';
import { runMany } from '../../sim/simulation/many.ts';
import { scenarioOf } from '../../sim/simulation/scenario.ts';
import { simulate } from '../../sim/simulation/simulate.ts';

describe('whole clusters under faults', () => {
  it('keeps every invariant in 400 seeded schedules, and in every one that ever failed', async () => {
    const seeds = Array.from({ length: 400 }, (_, i) => 1 + i);
    const failures: string[] = [];
    await runMany(
      { scenarios: [...keptSchedules(), ...seeds.map((seed) => scenarioOf(seed))] },
      (seed, failure) => {
        failures.push(`npm run sim -- --seed ${seed}   # ${failure}`);
      },
    );
    expect(failures).toEqual([]);
  });

  it('keeps them in a big cluster', async () => {
    const { violation } = await simulate(scenarioOf(7, { hosts: 12, minutes: 10 }));
    expect(violation).toBeUndefined();
  });

  it('takes the same steps on every run of a seed, and others for another', async () => {
    const log = async (seed: number) => (await simulate(scenarioOf(seed))).log;
    const first = await log(11);
    expect(first).toContain('ready: subnet');
    expect(await log(11)).toBe(first);
    expect(await log(12)).not.toBe(first);
  });
});
