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
   * Of each route that is wanted. One that is tried again keeps its state until it is installed. One under repair stays
   * installed. Routes that came to a state together share the object.
   */
  readonly #known = new Map<string, Known>();
  readonly #unsettled = new Set<string>();
  #last: Known | undefined;

  constructor(clock: Clock, log: Logger, activity?: Activity) {
    this.#clock = clock;
    this.#log = log;
    this.#activity = activity;
  }

  /** Destinations whose route is not installed. */
  get unsettled(): Iterable<string> {
    return this.#unsettled;
  }

  /** `all`: of all peers, and not only of those whose route is not installed: there may be thousands. */
  of(desired: DesiredRoutes, all: boolean): Omit<RoutesStatus, 'syncedAtMs'> {
    const unsettled = [...this.#unsettled].flatMap((dst) => desired.get(dst) ?? []);
    const peers = (all ? desired.routes : unsettled).flatMap(({ dst, gateway, key }) => {
      const known = this.#known.get(dst);
      return known === undefined ? [] : { key, dst, gateway, ...known };
    });
    return {
      counts: { peers: desired.count, routed: desired.count - unsettled.length },
      peers,
      refused: [...desired.refused].map(([key, reason]) => ({ key, reason })),
      outside: desired.outside.filter(({ dst }) => this.#known.get(dst)?.state === 'installed'),
    };
  }

  /** Notes at once whether a route is wanted at `dst`; the next plan says what becomes of it. */
  noteWish(dst: string, isDesired: boolean): void {
    if (!isDesired) this.#forget(dst);
    else if (!this.#known.has(dst)) this.#note(dst, 'pending');
  }

  /** Notes the outcome of a plan for `dsts`. */
  notePlan(dsts: Iterable<string>, { states }: Plan, isDesired: (dst: string) => boolean): void {
    for (const [dst, { state, reason }] of states) this.#note(dst, state, reason);
    for (const dst of dsts) this.noteWish(dst, isDesired(dst));
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
    const last = this.#last;
    const isAlike = last?.state === state && last.sinceMs === sinceMs && last.reason === reason;
    const known = isAlike ? last : { state, sinceMs, ...(reason && { reason }) };
    this.#last = known;
    this.#known.set(dst, known);
    if (state === 'installed') this.#unsettled.delete(dst);
    else this.#unsettled.add(dst);
  }

  #forget(dst: string): void {
    this.#known.delete(dst);
    this.#unsettled.delete(dst);
  }
}
