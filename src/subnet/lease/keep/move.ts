import type { PerFamily } from '../../../ip/ip.ts';
import type { Clock } from '../../../runtime/effects.ts';
import type { TroubleLog } from '../../../runtime/trouble.ts';
import { type KeyValue, listRange } from '../../registry/registry.ts';
import { carriesAny, formatLeaseValue, type Lease, parseLease } from '../lease.ts';
import { familiesText, type LeaseOptions, type OwnLease } from '../own-lease.ts';
import { type AddressUse, probeMs, putAgain } from '../probe.ts';

/** Each probe is a write that all hosts see, so a host that answers gets the next one later each time. */
const firstRefusalMs = 60_000;
const longestRefusalMs = 600_000;

/** Fewer writes of our own than this take effect late within this time. */
const lateWrites = 4;
const lateWritesMs = 60_000;

/** A lease in the way of the move, and the probe of its holder. */
interface Asked {
  /** As it was before the probe. */
  readonly lease: Lease;
  /** The revision of the probe. */
  readonly modRevision: number;
  readonly answered: boolean;
  /** How many probes in a row had an answer. */
  readonly refusals: number;
  /** On the monotonic clock: wait for the answer until then, or after an answer, for the next probe. */
  readonly untilMs: number;
}

interface MoveParts extends Pick<LeaseOptions, 'addresses'> {
  readonly clock: Clock;
  readonly trouble: TroubleLog;
}

/** The addresses that the lease is to name, and whether at once; see {@link Move.next}. */
export interface NextMove {
  readonly target: PerFamily<string>;
  readonly atOnce: boolean;
}

/** The addresses in this host's lease, and its new ones when they change while it holds a lease. */
export class Move {
  readonly #parts: MoveParts;
  #asked: Asked | undefined;
  #addresses: PerFamily<string>;
  #target: PerFamily<string> | undefined;
  /**
   * Every value that this host has written, or may have: an unanswered write can take effect long after
   * another one, and a restored etcd has an old one again.
   */
  readonly #written = new Set<string>();
  /** The last values that another host may have put, and when this host found them. */
  readonly #found: { readonly value: string; readonly atMs: number }[] = [];
  /** A value that came back after each correction. */
  #yieldedTo: string | undefined;

  constructor(parts: MoveParts) {
    this.#parts = parts;
    this.#addresses = parts.addresses;
    this.#written.add(formatLeaseValue(parts.addresses));
  }

  /**
   * Whether this host may have written a value in its key. Nobody else puts a key on an etcd lease granted
   * here (`granted`). On another, a host that has had the same addresses may write it, repeatedly.
   */
  wrote(value: string, granted: boolean): boolean {
    if (!this.#written.has(value) || granted) return this.#written.has(value);
    if (this.#comesBack(value)) this.#written.delete(value);
    return this.#written.has(value);
  }

  /**
   * Whether it is in vain to correct a value that this host has not written, and that names another host in
   * one family alone; counts this time. Two hosts with one IPv4 address but two IPv6 ones would never stop.
   */
  yieldsTo(value: string): boolean {
    if (value !== this.#yieldedTo && this.#comesBack(value)) this.#yieldedTo = value;
    return value === this.#yieldedTo;
  }

  /** Notes that this host found a value, and tells whether it did so too often for one late write. */
  #comesBack(value: string): boolean {
    const nowMs = this.#parts.clock.monotonic();
    this.#found.push({ value, atMs: nowMs });
    if (this.#found.length > lateWrites) this.#found.shift();
    const [first] = this.#found;
    const often = this.#found.length === lateWrites && this.#found.every((one) => one.value === value);
    return often && first !== undefined && nowMs - first.atMs < lateWritesMs;
  }

  /** The addresses that, as far as is known, etcd holds. */
  get addresses(): PerFamily<string> {
    return this.#addresses;
  }

  get underWay(): boolean {
    return this.#target !== undefined;
  }

  /** Starts a move; returns whether the addresses are new. Throws RangeError when a family comes or goes. */
  to(addresses: PerFamily<string>): boolean {
    for (const family of ['ipv4', 'ipv6'] as const) {
      if ((addresses[family] === undefined) !== (this.#addresses[family] === undefined))
        throw new RangeError(`a lease cannot gain or lose a family while it is held: ${family}`);
    }
    const value = formatLeaseValue(addresses);
    if (value === formatLeaseValue(this.#target ?? this.#addresses)) return false;
    const back = value === formatLeaseValue(this.#addresses);
    this.#target = back ? undefined : addresses;
    this.#asked = undefined;
    if (back) this.#parts.trouble.clear('address', 'this host has its former address again');
    return true;
  }

  /** Uses the new addresses: for the next lease, or because the lease names them. */
  settle(): void {
    this.#addresses = this.#target ?? this.#addresses;
    this.#target = undefined;
    this.#asked = undefined;
    this.#written.add(formatLeaseValue(this.#addresses));
  }

  /**
   * The new addresses, and whether the lease gets them at once, or only when somebody asks for our key. The
   * latter when another host seems to hold a lease with one of the new addresses: this host probes that
   * lease, and reads its key in the next calls (`dueMs` says when). It reports an answer, and another host on
   * the link with the address. Two hosts that exchange their addresses wait for each other: the first that is
   * asked moves. Undefined when there is no move, or another one than when it began to ask etcd: whoever starts
   * a move has it looked at again. Rejects with RegistryError.
   */
  async next(
    options: LeaseOptions & { readonly addressUse?: AddressUse },
    own: OwnLease,
    signal: AbortSignal,
  ): Promise<NextMove | undefined> {
    const target = this.#target;
    if (target === undefined) return undefined;
    this.#written.add(formatLeaseValue(target));
    const { kvs } = await listRange(options.registry, options.subnetsPrefix, signal);
    if (this.#target !== target) return undefined;
    const other = this.#otherHolder(options, target, own, kvs);
    // The link knows IPv4 only, and only once it was asked.
    const use = target.ipv6 === this.#addresses.ipv6 ? options.addressUse : undefined;
    const rival = use?.rival !== undefined;
    const alone = other === undefined || use?.alone === true;
    const atOnce = alone || (!rival && (await this.#isLeftBehind(options, other, signal)));
    if (this.#target !== target) return undefined;
    if (atOnce) this.#parts.trouble.clear('address', 'no other host has the address');
    else if (rival || this.#asked?.answered === true) {
      const { key } = other;
      const { endpoint } = options.registry;
      this.#parts.trouble.report(
        'address',
        `the address of this host is ${familiesText(target)}` +
          ` now, but another host that is running holds the lease ${key} under it: peers still route ` +
          `${familiesText(own.subnets)} to ${familiesText(this.#addresses)}. Give one of the two hosts ` +
          `another address; if the other host is gone: etcdctl --endpoints=${endpoint} del '${key}'`,
        { key, endpoint },
      );
    }
    return { target, atOnce };
  }

  /** When to look for the answer of the lease's holder, on the monotonic clock; Infinity without a probe. */
  get dueMs(): number {
    return this.#asked?.untilMs ?? Number.POSITIVE_INFINITY;
  }

  /** Whether a change of this key matters to the move. */
  waitsFor(key: string): boolean {
    return this.#target !== undefined && this.#asked?.lease.key === key;
  }

  /** A lease with an address that is new to this host, not granted here. */
  #otherHolder(
    { grants, subnetsPrefix }: LeaseOptions,
    target: PerFamily<string>,
    own: OwnLease,
    kvs: readonly KeyValue[],
  ): Lease | undefined {
    const { ipv4, ipv6 } = this.#addresses;
    const changed = {
      ...(target.ipv4 !== undefined && target.ipv4 !== ipv4 && { ipv4: target.ipv4 }),
      ...(target.ipv6 !== undefined && target.ipv6 !== ipv6 && { ipv6: target.ipv6 }),
    };
    for (const kv of kvs) {
      if (kv.key === own.key || grants.isOurs(kv.lease)) continue;
      const parsed = parseLease(subnetsPrefix, kv);
      if ('lease' in parsed && carriesAny(changed, parsed.lease)) return parsed.lease;
    }
    return undefined;
  }

  async #isLeftBehind(options: LeaseOptions, other: Lease, signal: AbortSignal): Promise<boolean> {
    const nowMs = this.#parts.clock.monotonic();
    const { key, rawValue, leaseId } = other;
    const asked = this.#asked;
    const same =
      asked?.lease.key === key && asked.lease.rawValue === rawValue && asked.lease.leaseId === leaseId;
    if (!same || (asked.answered && nowMs >= asked.untilMs)) {
      options.log.info(
        { event: 'lease-probed', key },
        `asking whether a running host holds lease ${key}, which names the new address of this host`,
      );
      const target = this.#target;
      const modRevision = await putAgain(options, other, signal);
      if (modRevision === 'gone' || this.#target !== target) return modRevision === 'gone';
      const refusals = same ? asked.refusals : 0;
      this.#asked =
        modRevision === undefined
          ? undefined
          : { lease: other, modRevision, answered: false, refusals, untilMs: nowMs + probeMs };
      return false;
    }
    // An earlier revision comes from a backup, restored meanwhile.
    if (!asked.answered && other.modRevision <= asked.modRevision) return nowMs >= asked.untilMs;
    if (!asked.answered) {
      const waitMs = Math.min(firstRefusalMs * 2 ** asked.refusals, longestRefusalMs);
      this.#asked = { ...asked, answered: true, refusals: asked.refusals + 1, untilMs: nowMs + waitMs };
    }
    return false;
  }

  /** Notes that etcd confirmed `value` in our key; returns the former addresses when that ends a move. */
  confirmed(value: string): PerFamily<string> | undefined {
    if (this.#target === undefined || value !== formatLeaseValue(this.#target)) return undefined;
    const before = this.#addresses;
    this.settle();
    this.#parts.trouble.clear('address', 'the lease carries the new address');
    return before;
  }
}
