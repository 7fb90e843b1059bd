import type { PerFamily } from '../../../ip/ip.ts';
import type { Clock } from '../../../runtime/effects.ts';
import type { TroubleLog } from '../../../runtime/trouble.ts';
import { type KeyValue, listRange } from '../../registry/registry.ts';
import type { AddressUse } from '../acquire/options.ts';
import { carriesAny, formatLeaseValue, type Lease, parseLease } from '../lease.ts';
import { familiesText, type LeaseOptions, type OwnLease } from '../own-lease.ts';
import { probeMs, putAgain } from '../probe.ts';

/** A host that is asked again and again is told by it, and each time is a write that all hosts see. */
const firstRefusalMs = 60_000;
const longestRefusalMs = 600_000;

/** So many writes of our own do not take effect late within this time. */
const lateWrites = 4;
const lateWritesMs = 60_000;

/** A lease in the way of the move, whose holder was asked whether it lives. */
interface Asked {
  /** As it was asked for. */
  readonly lease: Lease;
  /** The revision of the question. */
  readonly modRevision: number;
  readonly answered: boolean;
  /** How often it was answered in a row. */
  readonly refusals: number;
  /** On the monotonic clock: until then an answer is waited for, or when it was answered, no other question is asked. */
  readonly untilMs: number;
}

/** See {@link Move.next}. */
export interface NextMove {
  readonly target: PerFamily<string>;
  readonly atOnce: boolean;
}

/** The addresses of this host, and those it is to have from now on when they change while it holds a lease. */
export class Move {
  readonly #clock: Clock;
  readonly #trouble: TroubleLog;
  #asked: Asked | undefined;
  #addresses: PerFamily<string>;
  #target: PerFamily<string> | undefined;
  /**
   * Every value that this host has written, or may have: an unanswered write can take effect long after another one, and an etcd that
   * is restored has an old one again.
   */
  readonly #written = new Set<string>();
  /** When values were found that another host may have put. */
  readonly #found: { readonly value: string; readonly atMs: number }[] = [];
  /** One that came back however often it was put right. */
  #yieldedTo: string | undefined;

  constructor(clock: Clock, trouble: TroubleLog, addresses: PerFamily<string>) {
    this.#clock = clock;
    this.#trouble = trouble;
    this.#addresses = addresses;
    this.#written.add(formatLeaseValue(addresses));
  }

  /**
   * Whether this host may have written a value that is found in its key. Nobody else puts a key on an etcd lease that was granted here
   * (`granted`). On another, which was left behind once, so may a host that has had the same addresses: it does so again and again.
   */
  wrote(value: string, granted: boolean): boolean {
    if (!this.#written.has(value) || granted) return this.#written.has(value);
    if (this.#comesBack(value)) this.#written.delete(value);
    return this.#written.has(value);
  }

  /**
   * Whether to put a value right that this host has not written, and that names another one in one family alone, is in vain. Two hosts with
   * one IPv4 address, two IPv6 addresses and one key would correct one another at each answer of etcd, for ever.
   */
  yieldsTo(value: string): boolean {
    if (value !== this.#yieldedTo && this.#comesBack(value)) this.#yieldedTo = value;
    return value === this.#yieldedTo;
  }

  /** Whether a value is found once more, and too often for one that comes late. */
  #comesBack(value: string): boolean {
    const nowMs = this.#clock.monotonic();
    this.#found.push({ value, atMs: nowMs });
    if (this.#found.length > lateWrites) this.#found.shift();
    const [first] = this.#found;
    const often = this.#found.length === lateWrites && this.#found.every((one) => one.value === value);
    return often && first !== undefined && nowMs - first.atMs < lateWritesMs;
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
    this.#asked = undefined;
    if (back) this.#trouble.clear('address', 'the address is as it was');
    return true;
  }

  /** Without a lease there is nothing to move: the new addresses are simply used. */
  settle(): void {
    this.#addresses = this.#target ?? this.#addresses;
    this.#target = undefined;
    this.#asked = undefined;
    this.#written.add(formatLeaseValue(this.#addresses));
  }

  /**
   * Where to move, and whether at once, or only when somebody asks for our key. The latter when another host holds a lease under one
   * of the new addresses, as far as is known: that lease is put again as it is, and looked at in the calls that follow (`dueMs` says
   * when). Is it answered for, or does the link know of another host at the address, that is reported. Two hosts that exchange their
   * addresses wait for one another: the first to be asked moves. Rejects with RegistryError.
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
    const other = this.#otherHolder(options, target, own, kvs);
    // The link tells of IPv4, as far as it has been asked already.
    const use = target.ipv6 === this.#addresses.ipv6 ? options.addressUse : undefined;
    const rival = use?.rival !== undefined;
    const alone = other === undefined || use?.alone === true;
    const atOnce = alone || (!rival && (await this.#isLeftBehind(options, other, signal)));
    if (atOnce) this.#trouble.clear('address', 'no other host has the address');
    else if (rival || this.#asked?.answered === true) this.#report(options, target, own, other);
    return { target, atOnce };
  }

  /** When to look again whether the holder of the lease that is in the way has answered; on the monotonic clock. */
  get dueMs(): number {
    return this.#asked?.untilMs ?? Number.POSITIVE_INFINITY;
  }

  /** Whether a change of this key matters to the move. */
  waitsFor(key: string): boolean {
    return this.#target !== undefined && this.#asked?.lease.key === key;
  }

  /** A lease that carries an address which this host has got, and that was not granted here. */
  #otherHolder(
    { grants, subnetsPrefix }: LeaseOptions,
    target: PerFamily<string>,
    own: OwnLease,
    kvs: readonly KeyValue[],
  ): Lease | undefined {
    const { ipv4, ipv6 } = this.#addresses;
    const changed = {
      ...(target.ipv4 === undefined || target.ipv4 === ipv4 ? {} : { ipv4: target.ipv4 }),
      ...(target.ipv6 === undefined || target.ipv6 === ipv6 ? {} : { ipv6: target.ipv6 }),
    };
    for (const kv of kvs) {
      if (kv.key === own.key || grants.isOurs(kv.lease)) continue;
      const parsed = parseLease(subnetsPrefix, kv);
      if ('lease' in parsed && carriesAny(changed, parsed.lease)) return parsed.lease;
    }
    return undefined;
  }

  async #isLeftBehind(options: LeaseOptions, other: Lease, signal: AbortSignal): Promise<boolean> {
    const nowMs = this.#clock.monotonic();
    const { key, rawValue, leaseId } = other;
    const asked = this.#asked;
    const same =
      asked?.lease.key === key && asked.lease.rawValue === rawValue && asked.lease.leaseId === leaseId;
    if (!same || (asked.answered && nowMs >= asked.untilMs)) {
      options.log.info(
        { event: 'lease-probed', key },
        `asking whether a host that is running holds the lease ${key}, which names the new address of this host`,
      );
      const modRevision = await putAgain(options, other, signal);
      if (modRevision === 'gone') return true;
      const refusals = same ? asked.refusals : 0;
      this.#asked =
        modRevision === undefined
          ? undefined
          : { lease: other, modRevision, answered: false, refusals, untilMs: nowMs + probeMs };
      return false;
    }
    // An earlier revision is that of a backup that was restored meanwhile.
    if (!asked.answered && other.modRevision <= asked.modRevision) return nowMs >= asked.untilMs;
    if (!asked.answered) {
      const waitMs = Math.min(firstRefusalMs * 2 ** asked.refusals, longestRefusalMs);
      this.#asked = { ...asked, answered: true, refusals: asked.refusals + 1, untilMs: nowMs + waitMs };
    }
    return false;
  }

  #report({ registry }: LeaseOptions, target: PerFamily<string>, own: OwnLease, { key }: Lease): void {
    this.#trouble.report(
      'address',
      `the address of this host is ${familiesText(target)} now, but another host that is running holds the lease ${key} ` +
        `under it: peers still route ${familiesText(own.subnets)} to ${familiesText(this.#addresses)}. Give one of the two ` +
        `hosts another address; if the other one is gone: etcdctl --endpoints=${registry.endpoint} del '${key}'`,
      { key, endpoint: registry.endpoint },
    );
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
