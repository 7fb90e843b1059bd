import type { Clock } from '../../runtime/clock.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';

/** An interface that is taken down or configured anew has its address back by then. */
const patienceMs = 5_000;

/**
 * Tells when this host does not have the address any more that its lease names. Everything looks well then: its routes are
 * there and its lease is renewed, and what peers send its containers goes nowhere.
 */
export class OwnAddress {
  readonly #options: { readonly clock: Clock; readonly trouble: TroubleLog; readonly publicIP: string };
  #missingSinceMs: number | undefined;

  constructor(options: { readonly clock: Clock; readonly trouble: TroubleLog; readonly publicIP: string }) {
    this.#options = options;
  }

  /** Takes in which addresses this host has; to be called on changes and now and then. */
  look(addresses: ReadonlySet<string>): void {
    const { clock, trouble, publicIP } = this.#options;
    if (addresses.has(publicIP)) {
      this.#missingSinceMs = undefined;
      trouble.clear('address', `this host has ${publicIP} again`);
      return;
    }
    this.#missingSinceMs ??= clock.monotonic();
    if (clock.monotonic() - this.#missingSinceMs < patienceMs) return;
    trouble.report(
      'address',
      `this host no longer has ${publicIP}, where its peers send what is for its containers: give it back, or restart ` +
        'the daemon to lease a subnet for the new address',
    );
  }
}
