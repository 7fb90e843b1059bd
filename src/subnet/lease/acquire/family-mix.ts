import type { PerFamily } from '../../../ip/ip.ts';
import type { Logger } from '../../../runtime/effects.ts';
import { type LeaseSubnets, parseSubnetKey } from '../../keys.ts';
import type { LeaseUpdate } from '../watch/lease-watch.ts';

/**
 * Warns, once, when the cluster has leases with an IPv4 subnet alone beside leases with both: an IPv4-only flanneld crashes
 * when it sees a dual-stack key, and a dual-stack flanneld when it allocates and sees an IPv4-only one. Among hosts that all
 * run this program it does no harm, but nobody can tell from a key which program put it.
 */
export class FamilyMix {
  readonly #log: Logger;
  readonly #subnetsPrefix: string;
  readonly #ipv4Only = new Set<string>();
  readonly #dual = new Set<string>();
  #warned = false;

  constructor(log: Logger, subnetsPrefix: string) {
    this.#log = log;
    this.#subnetsPrefix = subnetsPrefix;
  }

  /** All keys there are, except that of this host, for which the families count that are on. */
  list(keys: readonly string[], on: PerFamily<unknown> = {}): void {
    const anyDual = on.ipv6 !== undefined || keys.some((key) => key.includes('&'));
    if (this.#warned || !anyDual) return;
    this.#clear();
    for (const key of keys) this.#add(key, parseSubnetKey(this.#subnetsPrefix, key));
    if (on.ipv4 !== undefined) (on.ipv6 === undefined ? this.#ipv4Only : this.#dual).add("this host's");
    this.#warnIfMixed();
  }

  observe(update: LeaseUpdate): void {
    if (this.#warned) return;
    if (update.type === 'snapshot') this.#clear();
    for (const key of update.type === 'snapshot' ? [] : update.removed) {
      this.#ipv4Only.delete(key);
      this.#dual.delete(key);
    }
    const known = update.type === 'snapshot' ? update.leases : update.put;
    for (const { key, subnets } of known) this.#add(key, subnets);
    this.#warnIfMixed();
  }

  #clear(): void {
    this.#ipv4Only.clear();
    this.#dual.clear();
  }

  #add(key: string, subnets: LeaseSubnets | undefined): void {
    if (subnets?.ipv4 === undefined) return;
    (subnets.ipv6 === undefined ? this.#ipv4Only : this.#dual).add(key);
  }

  #warnIfMixed(): void {
    const [ipv4Only] = this.#ipv4Only;
    const [dual] = this.#dual;
    if (ipv4Only === undefined || dual === undefined) return;
    this.#warned = true;
    const fields = { event: 'mixed-families', ipv4Only: this.#ipv4Only.size, dualStack: this.#dual.size };
    this.#clear();
    this.#log.warn(
      fields,
      `there are leases of IPv4 alone (${ipv4Only}) and of both families (${dual}): a flanneld without IPv6 crashes when it ` +
        'sees the latter, one with IPv6 may crash when it sees the former. Move every host from flanneld to this program ' +
        'before EnableIPv6 is turned on, or turn it off again',
    );
  }
}
