import { type RepairReport, type RepairRow, type RepairWhat, repairReservations } from '../migrate/repair.ts';
import { aligned, counted, oneLine, plural } from '../runtime/texts.ts';
import { leftText, type MigrateParts, storeFault } from './migrate.ts';

export interface RepairParts extends MigrateParts {
  /** Subnets whose reservations are to get a lease whatever v2 says: `10.5.1.0/24`. */
  readonly named: readonly string[];
}

/**
 * Gives etcd leases to the reservations that `etcdctl migrate` has made of leases (see {@link repairReservations}), and prints a row for
 * each reservation in v3.
 *
 * Resolves to the exit code: 0 when none is left that v2 knows as a lease, 1 when an operator has to decide or etcd did not do it.
 * Rejects only with `signal.reason`.
 */
export async function runRepair(parts: RepairParts, signal: AbortSignal): Promise<0 | 1> {
  const { dryRun, err } = parts;
  const named = new Set(parts.named);
  const result = await repairReservations(parts, { dryRun, named }, signal);
  if (!('stopped' in result)) return tell(parts, result);
  const { stopped, repaired } = result;
  const done =
    repaired === 0 ? '' : ` ${counted(repaired, 'reservation')} had been repaired before; run this again.`;
  err(`${storeFault(parts, stopped)}${done}`);
  return 1;
}

function tell(parts: RepairParts, { rows, others, keysInV2 }: RepairReport): 0 | 1 {
  const { from, to, dryRun, out, err } = parts;
  const say = (line: string) => out(oneLine(line));
  const read = keysInV2 === undefined ? 'which is not served' : counted(keysInV2, 'key');
  say(`reservations in the v3 store at ${parts.toEndpoints}, under ${to.prefix}`);
  say(`compared with the v2 store at ${from.endpoints}, under ${from.prefix}: ${read}`);
  const words = dryRun ? { ...resultWords, repaired: 'to repair' } : resultWords;
  const table = rows.length === 0 ? [''] : ['', ...aligned(cellsOf(rows, words)), ''];
  for (const line of table) say(line);
  const count = (what: RepairWhat) => rows.filter((row) => row.what === what).length;
  const counts = (Object.keys(words) as RepairWhat[]).flatMap((what) =>
    count(what) === 0 ? [] : [`${count(what)} ${words[what]}`],
  );
  say(`reservations: ${counts.length === 0 ? 'none in the v3 store' : counts.join(', ')}`);
  for (const { subnet, hasLease } of others)
    if (hasLease) say(`${subnet} is no reservation: it has an etcd lease`);
  if (count('kept') > 0)
    say(
      'kept: an operator may have made it. If it was a lease before etcdctl migrate: ' +
        'flanneld-ts migrate --repair --repair-subnet=SUBNET,…',
    );
  if (dryRun) say('dry run: nothing was written');
  const missing = others.filter(({ hasLease }) => !hasLease).map(({ subnet }) => subnet);
  const faults = [
    ...(count('conflict') === 0
      ? []
      : [
          `${counted(count('conflict'), 'reservation is', 'reservations are')} in conflict and nothing was done about ` +
            `${plural(count('conflict'), 'it', 'them')}: find out which host uses the subnet and remove the key of the other one: ` +
            'flanneld-ts lease release --force SUBNET in v3, ETCDCTL_API=2 etcdctl rm KEY in v2. Then run this again',
        ]),
    ...(missing.length === 0 ? [] : [`the v3 store has no key for ${missing.join(', ')}`]),
    ...(keysInV2 === undefined && parts.named.length === 0 && rows.length > 0
      ? [
          'etcd does not serve its v2 store, which would say what these reservations were, so nothing was repaired: ' +
            'start etcd 3.4 or 3.5 with --enable-v2=true, or name the subnets: --repair-subnet=SUBNET,…',
        ]
      : []),
  ];
  for (const fault of faults) err(oneLine(fault));
  return faults.length > 0 || count('unfinished') > 0 ? 1 : 0;
}

const resultWords: Readonly<Record<RepairWhat, string>> = {
  repaired: 'repaired',
  kept: 'kept',
  conflict: 'in conflict',
  unfinished: 'not finished',
};

function cellsOf(rows: readonly RepairRow[], words: Readonly<Record<RepairWhat, string>>) {
  return [
    ['SUBNET', 'HOST', 'LEFT IN V2', 'RESULT', 'WHY'],
    ...rows.map(({ subnet, host, left, what, why }) => [
      subnet,
      host === '' ? '-' : host,
      left === undefined ? '-' : leftText(left),
      words[what],
      why,
    ]),
  ];
}
