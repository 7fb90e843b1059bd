import { readFileSync, writeFileSync } from 'node:fs';
import type { Scenario } from './scenario.ts';

/** An event as it is kept: `[atMs, kind, host, forMs, dice]`. */
type Row = readonly [number, string, number, number, number];
type Kept = Omit<Scenario, 'events'> & { readonly events: readonly Row[] };

const path = new URL('failed.json', import.meta.url);

function read(): readonly Kept[] {
  return JSON.parse(readFileSync(path, 'utf8')) as readonly Kept[];
}

/** Every schedule that a bug was found by, as short as it could be made. */
export function keptSchedules(): readonly Scenario[] {
  const event = ([atMs, kind, host, forMs, dice]: Row) => ({ atMs, kind, host, forMs, dice });
  return read().map((kept) => ({ ...kept, events: kept.events.map(event) }));
}

export function keepSchedule(scenario: Scenario): void {
  const events = scenario.events.map(
    ({ atMs, kind, host, forMs, dice }): Row => [atMs, kind, host, forMs, dice],
  );
  writeFileSync(path, `${JSON.stringify([...read(), { ...scenario, events }], null, 1)}\n`);
}
