import type { Clock, Random } from '../src/runtime/effects.ts';
import type { Link } from './etcd-watch.ts';

/** A request that was sent and not answered within its deadline. */
interface Sent {
  readonly giveUpAtMs: number;
  link(): Link;
  run(): void;
}

/** What was sent is lost at the latest with its connection. */
const lostAfterMs = 60_000;

/**
 * Writes that nobody was told the outcome of and that take effect later: those that lie in the socket of a frozen member or on
 * a broken way, and those that waited for a leader.
 */
export class LateWrites {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #sent = new Set<Sent>();
  #timers = new AbortController();
  #count = 0;

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#random = random;
  }

  /** How many took effect late. */
  get count(): number {
    return this.#count;
  }

  /** Whether the next one gets there at all, if not in time. */
  get survives(): boolean {
    return this.#random.next() < 0.6;
  }

  /** Runs it once its way is free again, if that is soon enough. */
  keep(link: () => Link, run: () => void): void {
    this.#sent.add({ giveUpAtMs: this.#clock.monotonic() + lostAfterMs, link, run });
  }

  /** Runs it after a while. */
  after(ms: number, run: () => void): void {
    void this.#clock.sleep(ms, this.#timers.signal).then(
      () => {
        this.#count++;
        run();
      },
      () => undefined,
    );
  }

  /** Ways may have become free. */
  nudge(): void {
    for (const sent of this.#sent) {
      const lost = this.#clock.monotonic() > sent.giveUpAtMs;
      if (!lost && sent.link() !== 'ok') continue;
      this.#sent.delete(sent);
      if (!lost) this.after(2_000 * this.#random.next() ** 2, () => sent.run());
    }
  }

  /** The members were made anew: nothing is on its way to them any more. */
  forget(): void {
    this.#sent.clear();
    this.#timers.abort();
    this.#timers = new AbortController();
  }
}
