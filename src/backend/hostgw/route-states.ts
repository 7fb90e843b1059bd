import type { ChangeResult } from '../../kernel/kernel.ts';
import type { Activity } from '../../runtime/activity.ts';
import type { Logger } from '../../runtime/logger.ts';
import { counted } from '../../runtime/plural.ts';
import type { BackendStatus, PeerRoute } from '../backend.ts';
import type { DesiredRoute } from './claims.ts';
import type { DesiredRoutes } from './desired.ts';
import type { Plan, PlannedChange } from './plan-input.ts';

/** A line of log names at most this many routes; the counts tell the rest. */
const namedPerLine = 5;

interface Stuck {
  readonly state: 'parked' | 'conflict';
  readonly reason: string;
}

/** What was done about each cause, for the operator. */
const words: Readonly<Record<string, string>> = {
  missing: 'added',
  wrong: 'put right',
  adopt: 'adopted from flanneld',
  foreign: "put in place of another program's",
  stale: 'removed',
  'stale-legacy': "of flanneld's removed",
  shadowed: 'given way',
};

/** The state of each peer's route, for status and log. It follows the plans; nothing is decided by it. */
export class RouteStates {
  readonly #log: Logger;
  readonly #activity: Activity | undefined;
  readonly #installed = new Set<string>();
  /** Until the route is installed: one that is only being tried again is as stuck as before. */
  readonly #stuck = new Map<string, Stuck>();
  readonly #refusedLeases = new Map<string, string>();

  constructor(log: Logger, activity?: Activity) {
    this.#log = log;
    this.#activity = activity;
  }

  /** The states of all that is desired. */
  of(desired: DesiredRoutes): Omit<BackendStatus, 'syncedAtMs'> {
    const routes = [...desired.dsts].map((dst) => desired.get(dst)).filter((route) => route !== undefined);
    const peers = routes.map((route) => this.#peer(route));
    const problems = peers
      .filter(({ state }) => state !== 'installed')
      .map(
        ({ dst, gateway, state, reason }) =>
          `${dst} via ${gateway} is ${state}${reason ? `: ${reason}` : ''}`,
      );
    return { peers, problems, refused: [...desired.refused].map(([key, reason]) => ({ key, reason })) };
  }

  #peer({ dst, gateway, key }: DesiredRoute): PeerRoute {
    const stuck = this.#stuck.get(dst);
    if (stuck !== undefined) return { key, dst, gateway, ...stuck };
    return { key, dst, gateway, state: this.#installed.has(dst) ? 'installed' : 'pending' };
  }

  /** Takes in what a plan said about `dsts`; one line names those that are stuck for a new reason. */
  notePlan(dsts: Iterable<string>, planned: Plan, isDesired: (dst: string) => boolean): void {
    for (const dst of planned.installed) {
      this.#installed.add(dst);
      this.#stuck.delete(dst);
    }
    for (const dst of dsts) {
      if (isDesired(dst)) continue;
      this.#installed.delete(dst);
      this.#stuck.delete(dst);
    }
    const fresh = [
      ...this.#noteStuck('parked', planned.parked),
      ...this.#noteStuck('conflict', planned.conflicts),
    ];
    if (fresh.length === 0) return;
    const conflicts = fresh.filter(([, { state }]) => state === 'conflict').length;
    const named = fresh.map(([dst, { reason }]) => `${dst}: ${reason}`);
    this.#log.warn(
      { event: 'routes-stuck', parked: fresh.length - conflicts, conflicts },
      `${counted(fresh.length, 'route')} cannot be programmed now: ${list(named)}`,
    );
  }

  /** Logs leases that ask for a route they cannot get, once each. */
  noteRefusedLeases(refused: ReadonlyMap<string, string>): void {
    const fresh = [...refused].filter(([key, reason]) => this.#refusedLeases.get(key) !== reason);
    for (const key of this.#refusedLeases.keys()) if (!refused.has(key)) this.#refusedLeases.delete(key);
    if (fresh.length === 0) return;
    for (const [key, reason] of fresh) this.#refusedLeases.set(key, reason);
    const named = fresh.map(([key, reason]) => `${key}: ${reason}`);
    this.#log.warn(
      { event: 'leases-not-routed', count: fresh.length },
      `${counted(fresh.length, 'lease is', 'leases are')} not routed: ${list(named)}`,
    );
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
    return cause === 'missing' && this.#installed.has(route.dst) ? 'repaired' : cause;
  }

  #noteStuck(state: Stuck['state'], now: ReadonlyMap<string, string>): [string, Stuck][] {
    const fresh: [string, Stuck][] = [];
    for (const [dst, reason] of now) {
      this.#installed.delete(dst);
      const known = this.#stuck.get(dst);
      if (known?.state === state && known.reason === reason) continue;
      this.#stuck.set(dst, { state, reason });
      fresh.push([dst, { state, reason }]);
    }
    return fresh;
  }
}

function list(items: readonly string[]): string {
  const rest = items.length - namedPerLine;
  return items.slice(0, namedPerLine).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}
