import type { Outcome } from './simulate.ts';

/** Log lines that are shown of a failure. */
const shownLines = 40;

/** What went wrong, in few enough lines to be read: the setting, the events, the end of the log. */
export function describeFailure({ scenario, violation, log }: Outcome): string {
  const { events, ...setting } = scenario;
  const at = (ms: number) => `${(ms / 1000).toFixed(3).padStart(9)} s`;
  const shown = events.filter(({ atMs }) => atMs <= (violation?.atMs ?? 0));
  return [
    `seed ${scenario.seed}: ${violation?.invariant ?? 'nothing is wrong'}`,
    `${at(violation?.atMs ?? 0)}  ${violation?.text ?? ''}`,
    `setting: ${JSON.stringify(setting)}`,
    'events:',
    ...shown.map(({ atMs, kind, host, forMs, dice }) => {
      return `${at(atMs)}  h${host} ${kind}, for ${(forMs / 1000).toFixed(3)} s (dice ${dice})`;
    }),
    'log:',
    ...log
      .split('\n')
      .slice(-shownLines)
      .map((line) => `  ${line.slice(0, 240)}`),
  ].join('\n');
}
