import type { Wrappers } from '../host.ts';
import type { Scenario } from './scenario.ts';
import { type Outcome, simulate } from './simulate.ts';

/** Runs it may take: a scenario has some hundred events at most. */
const mostRuns = 250;

/**
 * Leaves out of a scenario whatever it still fails without: halves of the events first, then ever smaller parts, then the
 * time after the last. What is left breaks the same invariant, at best by one event or two.
 */
export async function shrink(failed: Outcome, wrappers: Wrappers = {}): Promise<Outcome> {
  let best = failed;
  let runs = 0;
  const attempt = async (scenario: Scenario): Promise<boolean> => {
    if (runs++ >= mostRuns) return false;
    const outcome = await simulate(scenario, wrappers);
    if (outcome.violation?.invariant !== failed.violation?.invariant) return false;
    best = outcome;
    return true;
  };
  const without = (from: number, count: number): Scenario => {
    return { ...best.scenario, events: best.scenario.events.toSpliced(from, count) };
  };
  for (
    let size = Math.ceil(best.scenario.events.length / 2);
    size >= 1;
    size = size > 1 ? Math.ceil(size / 2) : 0
  ) {
    for (let from = best.scenario.events.length - size; from > -size; from -= size) {
      const start = Math.max(0, from);
      if (start < best.scenario.events.length) await attempt(without(start, size));
    }
  }
  const { scenario } = best;
  const lastMs = Math.max(0, ...scenario.events.map(({ atMs, forMs }) => atMs + forMs));
  await attempt({ ...scenario, minutes: Math.min(scenario.minutes, Math.ceil(lastMs / 60_000) + 1) });
  for (const simpler of [{ ipv6: false }, { fragmentEvents: 0 }, { kernelLatencyMs: 0 }]) {
    await attempt({ ...best.scenario, ...simpler });
  }
  return best;
}
