import type { Activity } from '../../../runtime/activity.ts';
import type { Clock, LogFields, Logger, Random } from '../../../runtime/effects.ts';
import type { Wake } from '../../../runtime/wake.ts';
import { stuckWithEtcdMs } from '../../registry/registry.ts';
import type { OwnLease } from '../own-lease.ts';

/** How often to read the wall clock: a timer alone would oversleep a suspended VM (flannel #29). */
const wallClockCheckMs = 30_000;
/** NTP slews by some seconds a day; a wall clock set back by more than this no longer shows a suspension. */
const setBackMs = 60_000;
/** A reservation needs no renewal. This often, the daemon checks beside the watch that it is still ours. */
const reservationCheckMs = 3_600_000;
/** A renewal comes early by a random part of the interval, up to this: hosts that started together must not renew together. */
const earlierBy = 0.1;
/** The name of the renewing loop. */
export const RENEWAL_LOOP = 'lease';

/**
 * How long to wait at most before the next keepalive, in milliseconds: a third of the TTL without the margin, so that
 * two may fail and the third still comes before the margin begins. A margin of more than a third of the TTL
 * counts as that third, or the daemon would renew a lease of hardly longer TTL without a pause.
 */
export function renewIntervalMs(ttlSeconds: number, renewMarginMs: number): number {
  const ttlMs = ttlSeconds * 1000;
  return Math.max(500, Math.floor((ttlMs - Math.min(renewMarginMs, ttlMs / 3)) / 3));
}

export interface ScheduleOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** Hears of each round of the renewing loop. */
  readonly activity?: Activity;
  /** Renew early enough that this much of the lease is left, in milliseconds. */
  readonly renewMarginMs: number;
}

/** One moment on both clocks. */
export interface Moment {
  readonly wallMs: number;
  readonly monotonicMs: number;
}

/**
 * When to renew this host's lease. It reads both clocks: the wall clock runs on while a VM is suspended, the
 * monotonic one when somebody sets the wall clock back. After both, neither is right: renew at once.
 */
export class RenewalSchedule {
  readonly #options: ScheduleOptions;
  #due: Moment = { wallMs: 0, monotonicMs: 0 };
  /** How far ahead of the monotonic clock the wall clock was at the last renewal. */
  #aheadMs = 0;
  /** Wall-clock time, ms; Infinity for a reservation. */
  #expiresAtMs = 0;
  /** The log says that the margin is too long for this TTL. */
  #loggedTtlSeconds = 0;

  constructor(options: ScheduleOptions) {
    this.#options = options;
  }

  /** When the lease expires unless the daemon renews it: wall-clock ms; Infinity for a reservation. */
  get expiresAtMs(): number {
    return this.#expiresAtMs;
  }

  now(): Moment {
    return { wallMs: this.#options.clock.now(), monotonicMs: this.#options.clock.monotonic() };
  }

  /** Notes a renewal; `asked`: when this host sent the request that gave the lease its TTL. */
  renewed({ leaseId, ttlSeconds }: OwnLease, asked: Moment): void {
    const reservation = leaseId === '0';
    if (!reservation) this.#logCut(ttlSeconds);
    const longestMs = reservation
      ? reservationCheckMs
      : renewIntervalMs(ttlSeconds, this.#options.renewMarginMs);
    const intervalMs = longestMs * (1 - earlierBy * this.#options.random.next());
    this.#aheadMs = asked.wallMs - asked.monotonicMs;
    this.#due = { wallMs: asked.wallMs + intervalMs, monotonicMs: asked.monotonicMs + intervalMs };
    this.#expiresAtMs = reservation ? Number.POSITIVE_INFINITY : asked.wallMs + ttlSeconds * 1000;
  }

  #logCut(ttlSeconds: number): void {
    if (this.#options.renewMarginMs <= (ttlSeconds * 1000) / 3 || ttlSeconds === this.#loggedTtlSeconds)
      return;
    this.#loggedTtlSeconds = ttlSeconds;
    this.#options.log.info(
      { event: 'renew-margin-cut', ttlS: ttlSeconds },
      `renewing the lease of ${ttlSeconds} s at least ${Math.round(ttlSeconds / 3)} s before it expires: ` +
        `the renew margin of ${Math.round(this.#options.renewMarginMs / 1000)} s exceeds a third of the TTL`,
    );
  }

  /**
   * Waits until the next renewal is due by either clock, until `wake` reports a change of our key, or until
   * `soonerMs` on the monotonic clock.
   */
  async untilDue(wake: Wake, soonerMs: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      this.#options.activity?.round(RENEWAL_LOOP, stuckWithEtcdMs);
      const { wallMs, monotonicMs } = this.now();
      if (wallMs - monotonicMs < this.#aheadMs - setBackMs) return;
      const leftMs = Math.min(
        soonerMs - monotonicMs,
        this.#due.wallMs - wallMs,
        this.#due.monotonicMs - monotonicMs,
        wallClockCheckMs,
      );
      if (leftMs <= 0 || (await wake.waitAtMost(this.#options.clock, Math.ceil(leftMs), signal))) return;
    }
  }

  /** The state of a lease that the daemon cannot renew, its key `gone` or not; the same at each attempt. */
  timeLeft(gone: boolean): { readonly text: string; readonly fields: LogFields } {
    if (gone) return { text: 'its key is gone from etcd, another host may take the subnet', fields: {} };
    if (this.#expiresAtMs === Number.POSITIVE_INFINITY)
      return { text: 'it is a reservation and does not expire', fields: {} };
    const leftS = Math.round((this.#expiresAtMs - this.#options.clock.now()) / 1000);
    const text = leftS > 0 ? 'it has not expired yet' : 'it has expired; another host may take the subnet';
    return { text, fields: { leftS } };
  }
}
