import { describe, expect, it } from 'vitest';
import { mutants } from '../../sim/simulation/mutants.ts';
import { scenarioOf } from '../../sim/simulation/scenario.ts';
import { shrink } from '../../sim/simulation/shrink.ts';
import { type Outcome, simulate } from '../../sim/simulation/simulate.ts';
import { describeFailure } from '../../sim/simulation/trace.ts';

/** How many seeds a mutant may survive. */
const seeds = 100;

/** The first of the seeds under which the broken part is noticed, tried from `guess` on. */
async function find(name: string, guess: number): Promise<Outcome | undefined> {
  const others = Array.from({ length: seeds }, (_, i) => 1 + i).filter((seed) => seed !== guess);
  for (const seed of [guess, ...others]) {
    const outcome = await simulate(scenarioOf(seed), mutants.get(name)?.());
    if (outcome.violation !== undefined) return outcome;
  }
  return undefined;
}

/** Which seed noticed each when this was written, so as not to try all that do not: the invariants are what counts. */
const table: readonly (readonly [mutant: string, seed: number, invariant: RegExp])[] = [
  ['the watch loses an event', 5, /^7 a lost watch loses nothing/],
  ['the watch does not tell of deletions', 2, /^7 a lost watch loses nothing/],
  ['a fragment is taken for the whole', 36, /^1, 7, 8, 9 all is well/],
  ['the watch resumes after the newest header', 59, /^1, 7, 8, 9 all is well/],
  ['a stream that ended is not opened again', 1, /^1, 7, 8, 9 all is well/],
  ['a compaction is passed over', 677, /^7 a lost watch loses nothing/],
  ['a restore is not noticed', 544, /^1, 7, 8, 9 all is well/],
  ['a list is cut short', 1, /^2, 3 a desired destination/],
  ['a junk key empties the list', 1, /^2, 3 a desired destination/],
  ['a stream that ends takes all leases with it', 1, /^2, 3 a desired destination/],
  ['an error is an empty list', 9, /^2, 3 a desired destination/],
  ['another backend is routed to', 3, /^4 only leases make routes/],
  ['a subnet is taken without a condition', 4, /^8 another host's lease/],
  ['a renewal puts the key without a condition', 99, /^(?:1, 7, 8, 9 all is well|8 another host's lease)/],
  ['a renewal is not sent', 2, /^a lease is renewed/],
  ['a renewal grants another lease', 1, /^1, 7, 8, 9 all is well/],
  ['a reservation gets a lease', 48, /^a reservation stays one/],
  ['the link is not heard', 830, /^8 (?:another host's lease|no subnet has two owners)/],
  ['a replacement is a removal and an addition', 1, /^2, 3 a desired destination/],
  ['nothing is ever removed', 2, /^7 a lost watch loses nothing/],
  ['a removal names the destination alone', 1, /^(?:2, 3 a desired destination|5 foreign routes)/],
  ['a route of the kernel counts as any other', 5, /^5 foreign routes/],
  ['lost events are not noticed', 5, /^10 silent flushes/],
  ['links and addresses are not heard of', 1, /^10 silent flushes/],
  ['removed routes are not heard of', 7, /^10 silent flushes/],
  ['dumps are cut short', 7, /^10 silent flushes/],
  ['all routes are sent again at every look', 1, /^1 a second pass/],
  ['the own subnet is routed, too', 1, /^6 never programmed/],
  ['the first look begins with an empty table', 1, /^2, 3 a desired destination/],
  ['a watch is never closed', 1, /^a stop takes 5 s/],
  ['routes go when the daemon ends', 1, /^2, 3 a desired destination/],
  ['files are not read', 114, /^9 a restart keeps/],
  ['files are thought to be as they were written', 46, /^(?:files are put right|1, 7, 8, 9 all is well)/],
  ['changes of files are not heard of', 46, /^files are put right/],
  ['forwarding is taken for on', 22, /^who passes no packets is not ready/],
  ['rules that drop are not seen', 246, /^who passes no packets is not ready/],
];

describe('the simulation finds what is broken on purpose', () => {
  it('knows all mutants', () => {
    expect(table.map(([mutant]) => mutant).toSorted()).toEqual([...mutants.keys()].toSorted());
    expect(mutants.size).toBeGreaterThanOrEqual(15);
  });

  it.each(table)('%s', async (mutant, guess, invariant) => {
    const outcome = await find(mutant, guess);
    expect(outcome?.violation?.invariant).toMatch(invariant);
  });

  it('makes the schedule of a failure short, and tells it', async () => {
    const mutant = mutants.get('a compaction is passed over')?.();
    const found = await find('a compaction is passed over', 677);
    if (found === undefined) throw new Error('not found');
    const short = await shrink(found, mutant);
    expect(short.violation?.invariant).toBe(found.violation?.invariant);
    expect(short.scenario.events.length).toBeLessThanOrEqual(6);
    const text = describeFailure(short);
    expect(text).toContain(`seed ${found.scenario.seed}: `);
    expect(text).toContain('cut watches and compact');
    expect(text.split('\n').length).toBeLessThan(80);
  });
});
