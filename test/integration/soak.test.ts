import { expect, test } from 'vitest';
import { soak } from '../soak/soak.ts';

const MINUTES = Number(process.env['SOAK_MINUTES'] ?? 2);

test(
  'a cluster under faults and changes is whole again after each, and its daemons hold no more than before',
  async () => {
    const lines: string[] = [];
    const { signal } = new AbortController();
    const seed = Number(process.env['PROPERTY_SEED'] ?? 1);
    const { rounds, made } = await soak({
      minutes: MINUTES,
      seed,
      say: (line) => lines.push(line),
      signal,
    }).catch((error: unknown) => {
      // Reports leave causes out.
      throw new Error(`seed ${seed}: ${String(error)}\n${lines.join('\n')}`, { cause: error });
    });
    expect(rounds).toBeGreaterThan(2);
    expect([...made.values()].reduce((sum, count) => sum + count, 0)).toBeGreaterThan(rounds);
  },
  (MINUTES + 4) * 60_000,
);
