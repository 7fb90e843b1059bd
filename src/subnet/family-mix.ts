import type { PerFamily } from '../ip/ip.ts';
import type { Logger } from '../runtime/logger.ts';
import type { LeaseUpdate } from './lease-watch.ts';
import { parseSubnetKey } from './subnet-key.ts';

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
    if (this.#warned) return;
    this.#ipv4Only.clear();
    this.#dual.clear();
    for (const key of keys) this.#add(key);
    if (on.ipv4 !== undefined) (on.ipv6 === undefined ? this.#ipv4Only : this.#dual).add("this host's");
    this.#warnIfMixed();
  }

  observe(update: LeaseUpdate): void {
    if (this.#warned) return;
    if (update.type === 'snapshot') return this.list(update.leases.map(({ key }) => key));
    for (const key of update.removed) {
      this.#ipv4Only.delete(key);
      this.#dual.delete(key);
    }
    for (const { key } of update.put) this.#add(key);
    this.#warnIfMixed();
  }

  #add(key: string): void {
    const subnets = parseSubnetKey(this.#subnetsPrefix, key);
    if (subnets?.ipv4 === undefined) return;
    (subnets.ipv6 === undefined ? this.#ipv4Only : this.#dual).add(key);
  }

  #warnIfMixed(): void {
    const [ipv4Only] = this.#ipv4Only;
    const [dual] = this.#dual;
    if (ipv4Only === undefined || dual === undefined) return;
    this.#warned = true;
    const fields = { event: 'mixed-families', ipv4Only: this.#ipv4Only.size, dualStack: this.#dual.size };
    this.#ipv4Only.clear();
    this.#dual.clear();
    this.#log.warn(
      fields,
      `there are leases of IPv4 alone (${ipv4Only}) and of both families (${dual}): a flanneld without IPv6 crashes when it ` +
        'sees the latter, one with IPv6 may crash when it sees the former. Move every host from flanneld to this program ' +
        'before EnableIPv6 is turned on, or turn it off again',
    );
  }
}
