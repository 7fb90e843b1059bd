import { migrate, type Report, type Stopped } from '../migrate/migrate.ts';
import type { Left, OnlyInV3, Row, What } from '../migrate/plan.ts';
import { configRemedies, conflictRemedy, nothingText } from '../migrate/remedies.ts';
import { oldStoreText, type Sides } from '../migrate/snapshot.ts';
import type { Clock } from '../runtime/effects.ts';
import { explanationOf } from '../runtime/errors.ts';
import { aligned, counted, oneLine, plural } from '../runtime/texts.ts';
import { V2Error } from '../subnet/etcd-v2/store.ts';
import { configKey } from '../subnet/keys.ts';
import { duration } from './status.ts';

export interface MigrateParts extends Sides {
  /** URLs with commas between, for messages. */
  readonly toEndpoints: string;
  readonly dryRun: boolean;
  readonly clock: Pick<Clock, 'now'>;
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
}

/**
 * Copies the leases and the configuration of a network from etcd's v2 store to its v3 store (see {@link migrate}), and prints a row
 * for each lease and the time until which all hosts have to use v3.
 *
 * Resolves to the exit code: 0 when all is in v3; 1 when an operator has to decide (a conflict, a configuration that differs or cannot be
 * used), there is nothing to copy, or etcd did not do it. Rejects only with `signal.reason`.
 */
export async function runMigrate(parts: MigrateParts, signal: AbortSignal): Promise<0 | 1> {
  const { dryRun, err } = parts;
  const result = await migrate(parts, { dryRun }, signal);
  if ('stopped' in result) err(stoppedText(parts, result));
  else if ('nothingAt' in result) err(nothingText(parts.from.endpoints, result));
  else return tell(parts, result);
  return 1;
}

function tell(parts: MigrateParts, { config, rows, onlyInV3 }: Report): 0 | 1 {
  const { from, to, dryRun, out, err } = parts;
  const say = (line: string) => out(oneLine(line));
  say(`from the v2 store at ${from.endpoints}, under ${from.prefix}`);
  say(`to the v3 store at ${parts.toEndpoints}, under ${to.prefix}`);
  const words = dryRun ? { ...resultWords, copied: 'to copy' } : resultWords;
  const table = rows.length === 0 ? [''] : ['', ...aligned(cellsOf(rows, words)), ''];
  for (const line of table) say(line);
  const counts = (Object.keys(words) as What[]).flatMap((what) => {
    const count = rows.filter((row) => row.what === what).length;
    return count === 0 ? [] : [`${count} ${words[what]}`];
  });
  say(`leases: ${counts.length === 0 ? 'none in the v2 store' : counts.join(', ')}`);
  const configText = config.what === 'copied' ? words.copied : configWords[config.what];
  say(`configuration ${configKey(to.prefix)}: ${configText}${config.why === '' ? '' : `: ${config.why}`}`);
  for (const line of onlyInV3Lines(onlyInV3)) say(line);
  for (const line of deadlineLines(rows, parts.clock)) say(line);
  if (dryRun) say('dry run: nothing was written');
  const conflicts = rows.filter(({ what }) => what === 'conflict').length;
  const unfinished = rows.some(({ what }) => what === 'unfinished');
  if (conflicts > 0)
    err(
      `${counted(conflicts, 'lease is', 'leases are')} in conflict and nothing was done about ${plural(conflicts, 'it', 'them')}. ` +
        `${conflictRemedy}. Then run this again`,
    );
  if (config.needsOperator) err(`${configRemedies[config.what]}. Then run this again`);
  return conflicts > 0 || unfinished || config.needsOperator ? 1 : 0;
}

const resultWords: Readonly<Record<What, string>> = {
  copied: 'copied',
  there: 'already there',
  conflict: 'in conflict',
  skipped: 'skipped',
  unfinished: 'not finished',
};

type ConfigWhat = Report['config']['what'];

const configWords: Readonly<Record<ConfigWhat, string>> = {
  copied: 'copied',
  there: 'already there',
  missing: 'not in the v2 store',
  differs: 'not copied, v3 has another one',
  refused: 'not copied',
};

function cellsOf(
  rows: readonly Row[],
  words: Readonly<Record<What, string>>,
): readonly (readonly string[])[] {
  return [
    ['SUBNET', 'HOST', 'LEFT IN V2', 'LEFT IN V3', 'RESULT', 'WHY'],
    ...rows.map(({ subnet, host, left, leftInV3, what, why }) => [
      subnet,
      host === '' ? '-' : host,
      leftText(left),
      leftInV3 === undefined ? '-' : leftText(leftInV3),
      words[what],
      why,
    ]),
  ];
}

/** More would push the table off the screen. */
const mostNamed = 5;

function onlyInV3Lines(only: readonly OnlyInV3[]): readonly string[] {
  if (only.length === 0) return [];
  const named = only.slice(0, mostNamed).map(({ subnet, host }) => `${subnet} of ${host}`);
  const more = only.length > mostNamed ? ` and ${only.length - mostNamed} more` : '';
  return [`only in v3: ${named.join(', ')}${more}. Hosts that use the v2 store have no route there`];
}

/**
 * A host that uses v3 does not renew its lease in v2 any more. It may have stopped right before a renewal, so the hosts that still use v2
 * may lose their route to it as soon as the shortest lease there ends.
 */
function deadlineLines(rows: readonly Row[], clock: Pick<Clock, 'now'>): readonly string[] {
  const ends = rows.flatMap(({ left, what, subnet, host }) => {
    const isInBoth = what === 'copied' || what === 'there';
    return isInBoth && left !== 'reservation' ? [{ left, subnet, host }] : [];
  });
  const [first] = ends.toSorted((a, b) => a.left - b.left);
  if (first === undefined) return [];
  const until = new Date(clock.now() + first.left * 1000).toISOString().replace('T', ' ').slice(0, 19);
  return [
    `deadline: ${duration(first.left)}, until ${until} UTC, for all hosts to use v3. ` +
      `${first.subnet} of ${first.host} ends first: a host that uses v3 does not renew its lease in v2`,
  ];
}

export function leftText(left: Left): string {
  return left === 'reservation' ? left : duration(left);
}

function stoppedText(parts: MigrateParts, { stopped, copied }: Stopped): string {
  const done =
    copied === 0 ? '' : ` ${counted(copied, 'lease', 'leases')} had been copied before; run this again.`;
  return `${storeFault(parts, stopped)}${done}`;
}

/** Which of the two stores failed, why, and what can be done. */
export function storeFault(
  { from, toEndpoints }: Pick<MigrateParts, 'from' | 'toEndpoints'>,
  stopped: Stopped['stopped'],
): string {
  if (stopped instanceof V2Error) {
    const elsewhere =
      stopped.kind === 'NOT_SERVED' ? ' If the leases are in another etcd: --from-endpoints=URL.' : '';
    return `the v2 store cannot be read: ${oldStoreText(stopped)}${elsewhere}`;
  }
  // The v2 store was read before, so that this is an etcd.
  if (stopped.kind === 'NOT_ETCD' && from.endpoints === toEndpoints) {
    const remedy =
      'Its v2 API answers: etcd 2 has no v3 API. Update it to 3.3 or later, or name another etcd: --etcd-endpoints';
    return `the v3 store cannot be used: ${stopped.message}. ${remedy}`;
  }
  return `the v3 store cannot be used: ${explanationOf(stopped)}`;
}
