import type { PerFamily } from '../ip/ip.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import type { AddressUse } from './acquire-options.ts';
import { carriesAny } from './holder.ts';
import { formatLeaseValue, parseLease } from './lease.ts';
import { listRange } from './list.ts';
import { familiesText, type LeaseOptions, type OwnLease } from './own-lease.ts';

/** The addresses of this host, and those it is to have from now on when they change while it holds a lease. */
export class Move {
  readonly #trouble: TroubleLog;
  #addresses: PerFamily<string>;
  #target: PerFamily<string> | undefined;
  /**
   * Every value that this host has written, or may have: an unanswered write can take effect long after another one, and an etcd that
   * is restored has an old one again.
   */
  readonly written = new Set<string>();

  constructor(trouble: TroubleLog, addresses: PerFamily<string>) {
    this.#trouble = trouble;
    this.#addresses = addresses;
    this.written.add(formatLeaseValue(addresses));
  }

  /** The addresses in use: those that etcd is known to hold. */
  get addresses(): PerFamily<string> {
    return this.#addresses;
  }

  get underWay(): boolean {
    return this.#target !== undefined;
  }

  /** Whether that is news. Throws RangeError when it is not one address for each family there was one for. */
  to(addresses: PerFamily<string>): boolean {
    for (const family of ['ipv4', 'ipv6'] as const) {
      if ((addresses[family] === undefined) !== (this.#addresses[family] === undefined))
        throw new RangeError(`a lease cannot gain or lose a family while it is held: ${family}`);
    }
    const value = formatLeaseValue(addresses);
    if (value === formatLeaseValue(this.#target ?? this.#addresses)) return false;
    const back = value === formatLeaseValue(this.#addresses);
    this.#target = back ? undefined : addresses;
    if (back) this.#trouble.clear('address', 'the address is as it was');
    return true;
  }

  /** Without a lease there is nothing to move: the new addresses are simply used. */
  settle(): void {
    this.#addresses = this.#target ?? this.#addresses;
    this.#target = undefined;
    this.written.add(formatLeaseValue(this.#addresses));
  }

  /**
   * The target, unless another key carries one of its addresses: that is reported, but for an IPv4 address that no other host on the
   * link has: the key was left behind. Rejects with RegistryError.
   */
  async next(
    options: LeaseOptions & { readonly addressUse?: AddressUse },
    own: OwnLease,
    signal: AbortSignal,
  ): Promise<PerFamily<string> | undefined> {
    const target = this.#target;
    if (target === undefined) return undefined;
    const { ipv4, ipv6 } = this.#addresses;
    const changed = {
      ...(target.ipv4 === undefined || target.ipv4 === ipv4 ? {} : { ipv4: target.ipv4 }),
      ...(target.ipv6 === undefined || target.ipv6 === ipv6 ? {} : { ipv6: target.ipv6 }),
    };
    const { registry, subnetsPrefix, addressUse } = options;
    const { kvs } = await listRange(registry, subnetsPrefix, signal);
    const other = kvs.find((kv) => {
      const parsed = kv.key === own.key ? undefined : parseLease(subnetsPrefix, kv);
      return parsed !== undefined && 'lease' in parsed && carriesAny(changed, parsed.lease);
    });
    if (other !== undefined && changed.ipv6 === undefined) await addressUse?.looked(signal);
    const leftBehind = changed.ipv6 === undefined && addressUse?.alone === true;
    if (other === undefined || leftBehind) {
      this.#trouble.clear('address', 'no other host has the address');
      this.written.add(formatLeaseValue(target));
      return target;
    }
    this.#trouble.report(
      'address',
      `the address of this host is ${familiesText(target)} now, but ${other.key} carries it already: peers still route ` +
        `${familiesText(own.subnets)} to ${familiesText(this.#addresses)}. Give one of the two hosts another address; if the ` +
        `other one is gone: etcdctl --endpoints=${registry.endpoint} del '${other.key}'`,
      { key: other.key, endpoint: registry.endpoint },
    );
    return undefined;
  }

  /** The key holds `value`, as etcd confirmed; returns the addresses before when that ends a move. */
  confirmed(value: string): PerFamily<string> | undefined {
    if (this.#target === undefined || value !== formatLeaseValue(this.#target)) return undefined;
    const before = this.#addresses;
    this.settle();
    this.#trouble.clear('address', 'the lease carries the new address');
    return before;
  }
}
