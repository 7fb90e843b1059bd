import type { ChangeResult } from '../../kernel/kernel.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import type { DesiredRoute } from './claims.ts';
import type { DesiredRoutes } from './desired.ts';
import type { Plan, PlannedChange } from './plan.ts';
import { capped, type PeerRoute, type Reason, type RoutesStatus } from './status.ts';

type Known = Omit<PeerRoute, keyof DesiredRoute>;

/** What the daemon did for each cause. */
const words: Readonly<Record<string, string>> = {
  missing: 'added',
  wrong: 'corrected',
  adopt: 'adopted from flanneld',
  foreign: "replaced another program's",
  stale: 'removed',
  'stale-legacy': 'removed that flanneld left',
  shadowed: 'withdrawn',
};

/** The state of each peer's route, for status and log. It follows the plans and decides nothing. */
export class RouteStates {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #activity: Activity | undefined;
  /**
   * A route that is tried again keeps its state until it is installed. A route under repair stays installed.
   */
  readonly #known = new Map<string, Known>();

  constructor(clock: Clock, log: Logger, activity?: Activity) {
    this.#clock = clock;
    this.#log = log;
    this.#activity = activity;
  }

  of(desired: DesiredRoutes): Omit<RoutesStatus, 'syncedAtMs'> {
    return {
      peers: desired.routes.map(({ dst, gateway, key }) => {
        const known = this.#known.get(dst) ?? { state: 'pending', sinceMs: this.#clock.now() };
        return { key, dst, gateway, ...known };
      }),
      refused: [...desired.refused].map(([key, reason]) => ({ key, reason })),
      outside: desired.outside.filter(({ dst }) => this.#known.get(dst)?.state === 'installed'),
    };
  }

  /** Notes the outcome of a plan for `dsts`. */
  notePlan(dsts: Iterable<string>, { states }: Plan, isDesired: (dst: string) => boolean): void {
    for (const [dst, { state, reason }] of states) this.#note(dst, state, reason);
    for (const dst of dsts) {
      if (!isDesired(dst)) this.#known.delete(dst);
      else if (!this.#known.has(dst)) this.#note(dst, 'pending');
    }
  }

  /**
   * One line per batch: the changes by cause, and failures. No line when all failed: the status names these.
   */
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
    const list = capped(named, (rest) => `${rest} more`).join(', ');
    this.#log[level]({ event: 'routes-changed', ...counts }, `routes changed (${tally}): ${list}`);
  }

  #causeOf({ cause, route }: PlannedChange): string {
    return cause === 'missing' && this.#known.get(route.dst)?.state === 'installed' ? 'repaired' : cause;
  }

  #note(dst: string, state: Known['state'], reason?: Reason): void {
    const before = this.#known.get(dst);
    if (before?.state === state && before.reason?.text === reason?.text) return;
    const sinceMs = before?.state === state ? before.sinceMs : this.#clock.now();
    this.#known.set(dst, { state, sinceMs, ...(reason && { reason }) });
  }
}
