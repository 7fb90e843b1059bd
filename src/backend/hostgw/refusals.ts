import type { ChangeResult } from '../../kernel/kernel.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Random } from '../../runtime/random.ts';
import type { LinkState, PlannedChange } from './plan.ts';

/** Nothing tells when a gateway beyond our view becomes reachable, so it is tried again now and then. */
const slowRetryMs = 60_000;
/** Lack of memory and the like pass quickly. */
const quickRetryMs = 1_000;

/**
 * Routes the kernel refused, held back until a link or address changes or a slow retry is due: a peer off this link is not
 * asked for ten times a second.
 */
export class Refusals {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #reasons = new Map<string, string>();
  readonly #retryAtMs = new Map<string, number>();
  /** Answers in a row, by destination, that contradicted the mirror: looking again helps once, not for ever. */
  readonly #puzzling = new Map<string, number>();

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#random = random;
  }

  /** Why each route that is held back was refused, by destination. */
  get reasons(): ReadonlyMap<string, string> {
    return this.#reasons;
  }

  /** Monotonic ms of the next retry; Infinity when none is due. */
  get retryAtMs(): number {
    let next = Number.POSITIVE_INFINITY;
    for (const atMs of this.#retryAtMs.values()) next = Math.min(next, atMs);
    return next;
  }

  /** Takes in that the kernel refused `change`. `look-again`: its answer shows that the mirror is wrong. */
  judge(
    change: PlannedChange,
    result: Extract<ChangeResult, { outcome: 'failed' }>,
    link: LinkState,
  ): 'held' | 'look-again' {
    const { dst, gateway } = change.route;
    const contradicts = result.errno === 'EEXIST' || result.errno === 'ESRCH';
    if (contradicts && this.#puzzle(dst) === 1) return 'look-again';
    if (change.op === 'remove') return 'held';
    const unreachable = result.errno === 'ENETUNREACH' || result.errno === 'EHOSTUNREACH';
    // Down, gone and off link all give ENETUNREACH: the link table tells them apart.
    const reason = unreachable
      ? (link.problem ?? `unreachable: gateway ${gateway} is not on link`)
      : `the kernel refused it: ${result.errno}${result.message ? ` (${result.message})` : ''}`;
    this.#hold(dst, reason, unreachable || result.errno === 'EINVAL' ? slowRetryMs : quickRetryMs);
    return 'held';
  }

  /**
   * Takes in that the kernel accepted a route. When {@link Refusals.settled} does not follow, mirror and kernel disagree:
   * the second time asks to look again, the fourth holds the route back, so that it is not sent over and over.
   */
  accepted(dst: string): 'fine' | 'look-again' {
    const times = this.#puzzle(dst);
    if (times >= 4) this.#hold(dst, 'the kernel accepts it but does not show it', slowRetryMs);
    return times === 2 ? 'look-again' : 'fine';
  }

  #puzzle(dst: string): number {
    const times = (this.#puzzling.get(dst) ?? 0) + 1;
    this.#puzzling.set(dst, times);
    return times;
  }

  #hold(dst: string, reason: string, waitMs: number): void {
    this.#reasons.set(dst, reason);
    this.#retryAtMs.set(dst, this.#clock.monotonic() + waitMs * (0.9 + 0.2 * this.#random.next()));
  }

  /** The route is as wanted. */
  settled(dst: string): void {
    this.rearm(dst);
    this.#puzzling.delete(dst);
  }

  /** Lets one destination be tried again. */
  rearm(dst: string): void {
    this.#reasons.delete(dst);
    this.#retryAtMs.delete(dst);
  }

  /** Lets all be tried again; returns them. */
  rearmAll(): readonly string[] {
    const dsts = [...this.#reasons.keys()];
    this.#reasons.clear();
    this.#retryAtMs.clear();
    return dsts;
  }

  /** Lets those be tried again whose time has come; returns them. */
  takeDue(): readonly string[] {
    const nowMs = this.#clock.monotonic();
    const due = [...this.#retryAtMs].filter(([, atMs]) => atMs <= nowMs).map(([dst]) => dst);
    for (const dst of due) this.rearm(dst);
    return due;
  }
}
