import type { Clock } from '../../runtime/clock.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';

/** An interface that is taken down or configured anew has its address back by then. */
const patienceMs = 5_000;

export interface OwnAddressOptions {
  readonly clock: Clock;
  readonly trouble: TroubleLog;
  /** What the trouble is reported as. */
  readonly what: string;
}

/**
 * Tells when this host does not have the address any more that its lease names. Everything looks well then: its routes are
 * there and its lease is renewed, and what peers send its containers goes nowhere.
 */
export class OwnAddress {
  readonly #options: OwnAddressOptions;
  #address: string;
  #missingSinceMs: number | undefined;

  constructor(address: string, options: OwnAddressOptions) {
    this.#options = options;
    this.#address = address;
  }

  /** Takes in that the lease names another address now. */
  moveTo(address: string): void {
    this.#address = address;
    this.#missingSinceMs = undefined;
    this.#options.trouble.clear(this.#options.what, `the lease names ${address} now`);
  }

  /** Takes in which addresses this host has; to be called on changes and now and then. */
  look(addresses: ReadonlySet<string>): void {
    const { clock, trouble, what } = this.#options;
    const address = this.#address;
    if (addresses.has(address)) {
      this.#missingSinceMs = undefined;
      trouble.clear(what, `this host has ${address} again`);
      return;
    }
    this.#missingSinceMs ??= clock.monotonic();
    if (clock.monotonic() - this.#missingSinceMs < patienceMs) return;
    trouble.report(
      what,
      `this host no longer has ${address}, where its peers send what is for its containers: give it back, or ` +
        'give the host another one that its lease can move to',
    );
  }
}
