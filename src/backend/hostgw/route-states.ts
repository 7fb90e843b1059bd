import type { ChangeResult } from '../../kernel/kernel.ts';
import type { Logger } from '../../runtime/logger.ts';
import type { PeerStatus } from '../backend.ts';
import type { Plan, PlannedChange } from './plan.ts';

/** A line of log names at most this many routes; the counts tell the rest. */
const namedPerLine = 5;

/** The state of each peer's route, for status and log. It follows the plans; nothing is decided by it. */
export class RouteStates {
  readonly #log: Logger;
  readonly #installed = new Set<string>();
  readonly #parked = new Map<string, string>();
  readonly #conflicts = new Map<string, string>();
  readonly #refusedLeases = new Set<string>();

  constructor(log: Logger) {
    this.#log = log;
  }

  peer(dst: string, gateway: string): PeerStatus {
    const parked = this.#parked.get(dst);
    if (parked !== undefined) return { dst, gateway, state: 'parked', reason: parked };
    const conflict = this.#conflicts.get(dst);
    if (conflict !== undefined) return { dst, gateway, state: 'conflict', reason: conflict };
    return { dst, gateway, state: this.#installed.has(dst) ? 'installed' : 'pending' };
  }

  /** Takes in what a plan said about `dsts`, and logs what became worse or better. */
  notePlan(dsts: Iterable<string>, planned: Plan, isDesired: (dst: string) => boolean): void {
    const installed = new Set(planned.installed);
    const freed: string[] = [];
    for (const dst of dsts) {
      if (installed.has(dst)) this.#installed.add(dst);
      else if (!isDesired(dst)) this.#installed.delete(dst);
      const wasStuck = this.#parked.has(dst) || this.#conflicts.has(dst);
      if (wasStuck && !planned.parked.has(dst) && !planned.conflicts.has(dst)) freed.push(dst);
    }
    this.#logNew('route-parked', 'waiting', planned.parked, this.#parked);
    this.#logNew('route-conflict', 'in conflict', planned.conflicts, this.#conflicts);
    for (const dst of freed) {
      this.#parked.delete(dst);
      this.#conflicts.delete(dst);
    }
    for (const dst of planned.parked.keys()) this.#installed.delete(dst);
    if (freed.length > 0) {
      this.#log.info(
        { event: 'route-unparked', count: freed.length },
        `can be programmed again: ${list(freed)}`,
      );
    }
  }

  /** Logs leases that ask for a route they cannot get, once each. */
  noteRefusedLeases(refused: ReadonlyMap<string, string>): void {
    for (const [key, reason] of refused) {
      if (this.#refusedLeases.has(key)) continue;
      this.#refusedLeases.add(key);
      this.#log.warn({ event: 'lease-not-routed', key, reason }, `lease ${key} is not routed: ${reason}`);
    }
    for (const key of this.#refusedLeases) if (!refused.has(key)) this.#refusedLeases.delete(key);
  }

  /** One line per batch: what was sent, by cause, and what failed. */
  logChanges(changes: readonly PlannedChange[], results: readonly ChangeResult[]): void {
    const counts: Record<string, number> = {};
    const named: string[] = [];
    let repaired = 0;
    changes.forEach((change, index) => {
      const result = results[index];
      if (result?.outcome === 'failed') {
        counts['failed'] = (counts['failed'] ?? 0) + 1;
        return;
      }
      const isRepair = change.cause === 'missing' && this.#installed.has(change.route.dst);
      if (isRepair) repaired++;
      const cause = isRepair ? 'repaired' : change.cause;
      counts[cause] = (counts[cause] ?? 0) + 1;
      const sign = change.op === 'add' ? '+' : change.op === 'replace' ? '~' : '-';
      named.push(`${sign}${change.route.dst} via ${change.route.gateway}`);
    });
    if (named.length === 0) return;
    const level = repaired > 0 ? 'warn' : 'info';
    const tally = Object.entries(counts)
      .map(([cause, count]) => `${count} ${cause}`)
      .join(', ');
    this.#log[level]({ event: 'routes-changed', ...counts }, `routes changed (${tally}): ${list(named)}`);
  }

  #logNew(event: string, word: string, now: ReadonlyMap<string, string>, known: Map<string, string>): void {
    const fresh = [...now].filter(([dst, reason]) => known.get(dst) !== reason);
    for (const [dst, reason] of fresh) known.set(dst, reason);
    if (fresh.length === 0) return;
    const named = fresh.map(([dst, reason]) => `${dst}: ${reason}`);
    this.#log.warn({ event, count: fresh.length }, `${fresh.length} routes are ${word}: ${list(named)}`);
  }
}

function list(items: readonly string[]): string {
  const rest = items.length - namedPerLine;
  return items.slice(0, namedPerLine).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}
