import type { Random } from '../../runtime/effects.ts';
import { aligned, counted, excerpt, plural } from '../../runtime/texts.ts';
import type { LeaseRow } from '../../subnet/lease/overview.ts';
import type { KeyValue } from '../../subnet/registry/registry.ts';
import { askHolder, releaseKeys } from '../lease.ts';
import { askingEtcd, complain, type ExitCode, paint, printJson, wrapped } from '../output.ts';
import { duration } from '../status.ts';
import type { Answer } from './alive.ts';
import { type ClusterView, type LeaseParts, readCluster, shortDuration } from './cluster.ts';

export interface PruneParts extends LeaseParts {
  /** Leases that were renewed later than this are left alone. */
  readonly olderThanSeconds: number;
  /** Release them; otherwise it is only said which they are. */
  readonly yes: boolean;
  /** Although no host of the cluster answers here. */
  readonly force: boolean;
  readonly random: Random;
  /** Whether a host answers at its address. */
  readonly askHost: (address: string, signal: AbortSignal) => Promise<Answer | undefined>;
  /** Says that the daemon of this host runs and holds this key; undefined when it does not. */
  readonly heldHere: (kv: KeyValue) => string | undefined;
}

/** Why a lease is kept, or that it goes. */
type Verdict = 'answers' | 'holds' | 'changed' | 'gone' | 'released';

interface Judged {
  readonly row: LeaseRow;
  readonly verdict: Verdict;
  readonly text: string;
}

/** So many hosts are asked at once. */
const asked = 32;

/**
 * `lease prune`: releases the leases of hosts that have not renewed them for so long and answer nothing: no ping, no ARP, and with `yes`
 * no probe of the lease either, which writes its key. Never a reservation.
 *
 * A flanneld renews its lease once a day and answers no probe. So nothing is released where no host at all answers ping or ARP: this
 * machine may have no way to them.
 *
 * Resolves to the exit code: 0 nothing is to be pruned, or all of it was; 1 something is left (without `yes`, or somebody changed it);
 * 3 etcd cannot be asked. Rejects only with `signal.reason`.
 */
export async function pruneLeases(parts: PruneParts, signal: AbortSignal): Promise<ExitCode> {
  return await askingEtcd(parts, signal, async () => {
    const view = await readCluster(parts, signal);
    const old = view.rows.filter(
      ({ renewedSecondsAgo: ago }) => ago !== null && ago >= parts.olderThanSeconds,
    );
    const judged: Judged[] = [];
    for (let at = 0; at < old.length; at += asked)
      judged.push(
        ...(await Promise.all(old.slice(at, at + asked).map((row) => judge(parts, view, row, signal)))),
      );
    const gone = judged.filter(({ verdict }) => verdict === 'gone');
    const isBlind = gone.length > 0 && !parts.force && !(await seesAnyHost(parts, view, judged, signal));
    if (isBlind && parts.yes) {
      complain(
        parts,
        `${blindText}; nothing was released. Run this on a host of the cluster, or pass --force`,
        'BLIND',
      );
      return 1;
    }
    const released = parts.yes ? await release(parts, gone, signal) : new Set<string>();
    const results = judged.map((one) =>
      released.has(one.row.key) ? { ...one, verdict: 'released' as const, text: 'released' } : one,
    );
    print(parts, results, view.rows.length);
    if (isBlind && !parts.json) parts.err(blindText);
    return results.some(({ verdict }) => verdict === 'gone' || verdict === 'changed') ? 1 : 0;
  });
}

const blindText =
  'no host of the cluster answers ping or ARP here, so that nobody can tell from here which are gone';

/** Whether a host answers: one of those judged, or one that has just renewed its lease. */
async function seesAnyHost(
  parts: PruneParts,
  view: ClusterView,
  judged: readonly Judged[],
  signal: AbortSignal,
): Promise<boolean> {
  if (judged.some(({ verdict }) => verdict === 'answers')) return true;
  const old = new Set(judged.map(({ row }) => row.key));
  const others = view.rows.filter(({ key }) => !old.has(key)).slice(0, asked);
  const addresses = others.flatMap(({ addresses: { ipv4, ipv6 } }) => ipv4 ?? ipv6 ?? []);
  const answers = await Promise.all(addresses.map((address) => parts.askHost(address, signal)));
  return answers.some((answer) => answer !== undefined);
}

async function judge(
  parts: PruneParts,
  view: ClusterView,
  row: LeaseRow,
  signal: AbortSignal,
): Promise<Judged> {
  const kv = view.kvs.find(({ key }) => key === row.key);
  const here = kv && parts.heldHere(kv);
  if (kv === undefined || here !== undefined)
    return { row, verdict: 'holds', text: 'kept: the daemon of this host holds it' };
  const address = row.addresses.ipv4 ?? row.addresses.ipv6;
  const answer = address === undefined ? undefined : await parts.askHost(address, signal);
  if (answer !== undefined) return { row, verdict: 'answers', text: `kept: answers ${answer}` };
  if (!parts.yes) return { row, verdict: 'gone', text: 'does not answer' };
  const holder = await askHolder({ ...parts, out: () => {} }, kv, signal);
  if (holder === 'answered') return { row, verdict: 'holds', text: 'kept: its daemon answers' };
  if (holder === 'changed')
    return { row, verdict: 'changed', text: 'kept: somebody else changed it meanwhile' };
  return { row, verdict: 'gone', text: 'does not answer' };
}

/** The keys that are gone now. The probe wrote them again, so they are read anew. */
async function release(
  parts: PruneParts,
  gone: readonly Judged[],
  signal: AbortSignal,
): Promise<ReadonlySet<string>> {
  if (gone.length === 0) return new Set();
  const now = await readCluster(parts, signal);
  const isStill = (kv: KeyValue) =>
    gone.some(({ row }) => row.key === kv.key && row.etcdLease === BigInt(kv.lease).toString(16));
  const quiet = { ...parts, force: false, out: () => {}, err: () => {} };
  const released = await releaseKeys(quiet, now.kvs.filter(isStill), signal);
  return new Set(released.map(({ key }) => key));
}

function print(parts: PruneParts, results: readonly Judged[], leases: number): void {
  const { olderThanSeconds, yes } = parts;
  if (parts.json) {
    const rows = results.map(({ row, verdict, text }) => ({
      key: row.key,
      subnets: row.subnets,
      addresses: row.addresses,
      renewedSecondsAgo: row.renewedSecondsAgo,
      verdict,
      text,
    }));
    printJson(parts, { olderThanSeconds, dryRun: !yes, leases, old: rows });
    return;
  }
  const rows = results.map(({ row, text }) => [
    row.subnets.ipv4 ?? row.subnets.ipv6 ?? excerpt(row.name, 30),
    row.addresses.ipv4 ?? row.addresses.ipv6 ?? '-',
    shortDuration(row.renewedSecondsAgo ?? 0),
    text,
  ]);
  const [head = '', ...lines] = aligned([['SUBNET', 'HOST', 'RENEWED', 'RESULT'], ...rows]);
  if (rows.length > 0) for (const line of [paint(parts, 'bold', head), ...lines]) parts.out(line);
  const gone = results.filter(({ verdict }) => verdict === 'gone').length;
  const released = results.filter(({ verdict }) => verdict === 'released').length;
  const old = `${results.length} of ${counted(leases, 'lease')} ${plural(results.length, 'was', 'were')} not renewed for ${duration(olderThanSeconds)}`;
  const outcome = yes
    ? `${released} released`
    : gone === 0
      ? 'nothing to release'
      : `${gone} would be released: run this again with --yes, which also asks each daemon by etcd`;
  for (const line of wrapped(`${old}; ${outcome}`, 0)) parts.out(line);
}
