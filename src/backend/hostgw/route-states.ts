import type { ChangeResult } from '../../kernel/kernel.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { BackendStatus, PeerRoute, Reason } from '../backend.ts';
import { capped, outsideText, refusedText, routeFaults } from '../faults.ts';
import type { DesiredRoute } from './claims.ts';
import type { DesiredRoutes } from './desired.ts';
import type { Plan, PlannedChange } from './plan-input.ts';

type Known = Pick<PeerRoute, 'state' | 'reason' | 'sinceMs'>;

/** What was done about each cause, for the operator. */
const words: Readonly<Record<string, string>> = {
  missing: 'added',
  wrong: 'corrected',
  adopt: 'adopted from flanneld',
  foreign: "put in place of another program's",
  stale: 'removed',
  'stale-legacy': "removed, flanneld's",
  shadowed: 'withdrawn',
};

/** The state of each peer's route, for status and log. It follows the plans; nothing is decided by it. */
export class RouteStates {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #activity: Activity | undefined;
  /** Until the route is installed: one that is only being tried again is as stuck as before. One that is repaired stays installed. */
  readonly #known = new Map<string, Known>();
  readonly #refusedLeases = new Map<string, string>();
  readonly #outsideLeases = new Set<string>();

  constructor(clock: Clock, log: Logger, activity?: Activity) {
    this.#clock = clock;
    this.#log = log;
    this.#activity = activity;
  }

  /** The states of all that is desired. */
  of(desired: DesiredRoutes): Omit<BackendStatus, 'syncedAtMs'> {
    const routes = [...desired.dsts].map((dst) => desired.get(dst)).filter((route) => route !== undefined);
    return {
      peers: routes.map((route) => this.#peer(route)),
      refused: [...desired.refused].map(([key, reason]) => ({ key, reason })),
      outside: this.#routedOutside(desired),
    };
  }

  #peer({ dst, gateway, key }: DesiredRoute): PeerRoute {
    const known = this.#known.get(dst) ?? { state: 'pending', sinceMs: this.#clock.now() };
    return { key, dst, gateway, ...known };
  }

  #routedOutside({ outside }: DesiredRoutes): BackendStatus['outside'] {
    return outside.filter(({ dst }) => this.#known.get(dst)?.state === 'installed');
  }

  /** Takes in what a plan said about `dsts`; one line names those that are stuck for a new reason. */
  notePlan(dsts: Iterable<string>, planned: Plan, isDesired: (dst: string) => boolean): void {
    for (const dst of planned.installed) this.#note(dst, 'installed');
    const fresh = [
      ...this.#noteStuck('parked', planned.parked),
      ...this.#noteStuck('conflict', planned.conflicts),
    ];
    for (const dst of dsts) {
      if (!isDesired(dst)) this.#known.delete(dst);
      else if (!this.#known.has(dst)) this.#note(dst, 'pending');
    }
    if (fresh.length === 0) return;
    const conflicts = fresh.filter(({ state }) => state === 'conflict').length;
    this.#log.warn(
      { event: 'routes-stuck', parked: fresh.length - conflicts, conflicts },
      [...routeFaults(fresh, 'own'), ...routeFaults(fresh, 'peer')].join('; '),
    );
  }

  /** Logs the leases with routes that lead out of the network, once each. */
  noteOutside(desired: DesiredRoutes): void {
    const outside = this.#routedOutside(desired);
    const keys = new Set(outside.map(({ key }) => key));
    const fresh = outside.filter(({ key }) => !this.#outsideLeases.has(key));
    for (const key of this.#outsideLeases) if (!keys.has(key)) this.#outsideLeases.delete(key);
    for (const { key } of fresh) this.#outsideLeases.add(key);
    if (fresh.length === 0) return;
    this.#log.warn({ event: 'leases-outside', count: fresh.length }, outsideText(fresh).join('; '));
  }

  /** Logs leases that ask for a route they cannot get, once each. */
  noteRefused(refused: ReadonlyMap<string, string>): void {
    const fresh = [...refused].filter(([key, reason]) => this.#refusedLeases.get(key) !== reason);
    for (const key of this.#refusedLeases.keys()) if (!refused.has(key)) this.#refusedLeases.delete(key);
    if (fresh.length === 0) return;
    for (const [key, reason] of fresh) this.#refusedLeases.set(key, reason);
    const texts = refusedText(fresh.map(([key, reason]) => ({ key, reason })));
    this.#log.warn({ event: 'leases-not-routed', count: fresh.length }, texts.join('; '));
  }

  /** One line per batch: what was sent, by cause, and what failed. None when all failed: then they are stuck. */
  logChanges(changes: readonly PlannedChange[], results: readonly ChangeResult[]): void {
    const counts: Record<string, number> = {};
    const named: string[] = [];
    changes.forEach((change, index) => {
      const failed = results[index]?.outcome === 'failed';
      const cause = failed ? 'failed' : this.#causeOf(change);
      counts[cause] = (counts[cause] ?? 0) + 1;
      const sign = change.op === 'add' ? '+' : change.op === 'replace' ? '~' : '-';
      const { dst, gateway } = change.route;
      if (!failed) named.push(sign + (gateway === undefined ? `blackhole ${dst}` : `${dst} via ${gateway}`));
    });
    for (const [cause, count] of Object.entries(counts)) this.#activity?.count('route-change', cause, count);
    if (named.length === 0) return;
    const level = counts['repaired'] === undefined ? 'info' : 'warn';
    const tally = Object.entries(counts)
      .map(([cause, count]) => `${count} ${words[cause] ?? cause}`)
      .join(', ');
    this.#log[level]({ event: 'routes-changed', ...counts }, `routes changed (${tally}): ${list(named)}`);
  }

  #causeOf({ cause, route }: PlannedChange): string {
    return cause === 'missing' && this.#known.get(route.dst)?.state === 'installed' ? 'repaired' : cause;
  }

  #noteStuck(
    state: 'parked' | 'conflict',
    now: ReadonlyMap<string, Reason>,
  ): readonly { readonly dst: string; readonly state: string; readonly reason: Reason }[] {
    return [...now].flatMap(([dst, reason]) =>
      this.#note(dst, state, reason) ? [{ dst, state, reason }] : [],
    );
  }

  /** Whether that is new. */
  #note(dst: string, state: Known['state'], reason?: Reason): boolean {
    const before = this.#known.get(dst);
    if (before?.state === state && before.reason?.text === reason?.text) return false;
    const sinceMs = before?.state === state ? before.sinceMs : this.#clock.now();
    this.#known.set(dst, { state, sinceMs, ...(reason && { reason }) });
    return true;
  }
}

function list(items: readonly string[]): string {
  return capped(items, (rest) => `${rest} more`).join(', ');
}
