import type { Clock } from '../runtime/clock.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { rewrite } from './keep-key.ts';
import { familiesText, type LeaseOptions, type OwnLease } from './own-lease.ts';
import type { KeyValue } from './registry.ts';

/** Shorter than the two seconds a probe waits, so that also the second of two probes in a row is answered. */
const shortestIntervalMs = 500;
/** Two daemons that both think the key theirs answer one another's answers: after so many without a pause, ever more rarely. */
const answersInARow = 20;
const longestIntervalMs = 60_000;
const pauseMs = 10_000;
/** One who puts the key by hand, once or twice, is no other host. */
const reportedTouches = 3;
/** Without being touched for so long the key is thought to be left alone; longer than a refused prober waits. */
const quietMs = 30 * 60_000;

/**
 * Answers another host that asks, by putting our key again as it is, whether somebody holds it (see `probe`): by putting it
 * once more. When that goes on the operator is told: two hosts use one address.
 */
export class AddressDefence {
  readonly #clock: Clock;
  readonly #trouble: TroubleLog;
  #touches = 0;
  #lastTouchMs = Number.NEGATIVE_INFINITY;
  #answeredAtMs = Number.NEGATIVE_INFINITY;
  #intervalMs = shortestIntervalMs;
  #inARow = 0;
  #owed = false;

  constructor(clock: Clock, trouble: TroubleLog) {
    this.#clock = clock;
    this.#trouble = trouble;
  }

  /** When the key is to be looked at again for its sake, on the monotonic clock. */
  get dueMs(): number {
    if (this.#owed) return this.#answeredAtMs + this.#intervalMs;
    return this.#touches > 0 ? this.#lastTouchMs + quietMs : Number.POSITIVE_INFINITY;
  }

  /**
   * `kv` is our key as just read. Resolves to the revision up to which it is known: that of the answer, if one was due.
   * Rejects with RegistryError.
   */
  async answer(options: LeaseOptions, own: OwnLease, kv: KeyValue, signal: AbortSignal): Promise<number> {
    const nowMs = this.#clock.monotonic();
    const untouched = kv.modRevision <= own.modRevision || kv.value !== own.value || kv.lease !== own.leaseId;
    if (untouched) {
      this.#owed = false;
      if (this.#touches > 0 && nowMs >= this.#lastTouchMs + quietMs) this.calm();
      return kv.modRevision;
    }
    // Later: the touch is still there to be seen then.
    this.#owed = true;
    if (nowMs < this.#answeredAtMs + this.#intervalMs) return own.modRevision;
    const { key, value } = own;
    const modRevision = await rewrite(options, kv, { value, lease: own.leaseId }, signal);
    this.#note(nowMs);
    options.log.info(
      { event: 'probe-answered', key },
      `answered a host that asked whether the lease ${key} is held`,
    );
    if (this.#touches >= reportedTouches) this.#report(options, key);
    return modRevision ?? own.modRevision;
  }

  #note(nowMs: number): void {
    const pause = nowMs > this.#answeredAtMs + 2 * this.#intervalMs + pauseMs;
    this.#inARow = pause ? 1 : this.#inARow + 1;
    if (pause) this.#intervalMs = shortestIntervalMs;
    else if (this.#inARow > answersInARow)
      this.#intervalMs = Math.min(2 * this.#intervalMs, longestIntervalMs);
    this.#owed = false;
    this.#answeredAtMs = nowMs;
    this.#lastTouchMs = nowMs;
    this.#touches++;
  }

  #report({ addresses }: LeaseOptions, key: string): void {
    const address = familiesText(addresses);
    this.#trouble.report(
      'address-shared',
      `another host uses this host's address ${address}: it asks again and again for the lease ${key} of this host. ` +
        'Give one of them an address of its own with --iface=INTERFACE or --public-ip=ADDRESS',
      { key },
    );
  }

  /** The other host is known to be gone. */
  calm(): void {
    this.#touches = 0;
    this.#trouble.clear('address-shared', 'no other host asks for the lease of this host any more');
  }
}
