import type { ChangeResult } from '../../kernel/kernel.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import type { DesiredRoute } from './claims.ts';
import type { DesiredRoutes } from './desired.ts';
import type { Plan, PlannedChange } from './plan.ts';
import { capped, type PeerRoute, type Reason, type RoutesStatus } from './status.ts';

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

  constructor(clock: Clock, log: Logger, activity?: Activity) {
    this.#clock = clock;
    this.#log = log;
    this.#activity = activity;
  }

  /** The states of all that is desired. */
  of(desired: DesiredRoutes): Omit<RoutesStatus, 'syncedAtMs'> {
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

  #routedOutside({ outside }: DesiredRoutes): RoutesStatus['outside'] {
    return outside.filter(({ dst }) => this.#known.get(dst)?.state === 'installed');
  }

  /** Takes in what a plan said about `dsts`. */
  notePlan(dsts: Iterable<string>, planned: Plan, isDesired: (dst: string) => boolean): void {
    for (const dst of planned.installed) this.#note(dst, 'installed');
    for (const [dst, reason] of planned.parked) this.#note(dst, 'parked', reason);
    for (const [dst, reason] of planned.conflicts) this.#note(dst, 'conflict', reason);
    for (const dst of dsts) {
      if (!isDesired(dst)) this.#known.delete(dst);
      else if (!this.#known.has(dst)) this.#note(dst, 'pending');
    }
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

  #note(dst: string, state: Known['state'], reason?: Reason): void {
    const before = this.#known.get(dst);
    if (before?.state === state && before.reason?.text === reason?.text) return;
    const sinceMs = before?.state === state ? before.sinceMs : this.#clock.now();
    this.#known.set(dst, { state, sinceMs, ...(reason && { reason }) });
  }
}

function list(items: readonly string[]): string {
  return capped(items, (rest) => `${rest} more`).join(', ');
}
