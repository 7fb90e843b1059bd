import type { PerFamily } from '../../../ip/ip.ts';
import type { Activity } from '../../../runtime/activity.ts';
import { explanationOf } from '../../../runtime/errors.ts';
import { type BackoffPolicy, FailureCount, retryForever } from '../../../runtime/retry.ts';
import { excerpt } from '../../../runtime/texts.ts';
import type { TroubleLog } from '../../../runtime/trouble.ts';
import { firstOf, untilAborted, Wake } from '../../../runtime/wake.ts';
import { parseSubnetKey } from '../../keys.ts';
import type { KeyValue } from '../../registry/registry.ts';
import { acquireLease } from '../acquire/acquire.ts';
import { overlapsKey } from '../acquire/claim.ts';
import type { AcquireOptions } from '../acquire/options.ts';
import { Exhaustion } from '../acquire/pool-exhausted.ts';
import { Grants } from '../grants.ts';
import { holderText, type Lease } from '../lease.ts';

import {
  AddressInUseError,
  familiesText,
  type LeaseOptions,
  type LeaseState,
  leaseFaults,
  type OwnLease,
} from '../own-lease.ts';
import { AddressDefence } from '../probe.ts';
import type { LeaseUpdate } from '../watch/lease-watch.ts';
import { changesOf, FamilyMix } from '../watch/reader.ts';
import { Move } from './move.ts';
import { renewOrReclaim } from './own-key.ts';
import { type Moment, RENEWAL_LOOP, RenewalSchedule, stuckMs } from './schedule.ts';

export interface LeaseManagerOptions
  extends Omit<AcquireOptions, 'grants' | 'theirs' | 'exhaustion' | 'mix'> {
  /** Those of a manager before this one, so that none is forgotten; absent: new ones. */
  readonly grants?: Grants;
  readonly trouble: TroubleLog;
  /** Told of each round of the loop that renews. */
  readonly activity?: Activity;
  /** Renew early enough that this much of the lease is always left, in milliseconds. */
  readonly renewMarginMs: number;
}

const acquirePolicy: BackoffPolicy = { initialMs: 200, maxMs: 10_000 };
/** Every probe is a write that all hosts see, and the other host is told by it, too. */
const addressInUsePolicy: BackoffPolicy = { initialMs: 60_000, maxMs: 600_000 };
const renewPolicy: BackoffPolicy = { initialMs: 500, maxMs: 15_000 };
const contestedPolicy: BackoffPolicy = { initialMs: 1_000, maxMs: 60_000 };
/** More of a key that somebody else has put is not logged. */
const longestKey = 160;

/** Gets this host's lease and keeps it: renews, notices when it is gone or changed, takes the same subnets again. */
export class LeaseManager {
  readonly #base: LeaseManagerOptions & AcquireOptions;
  readonly #wake = new Wake();
  readonly #schedule: RenewalSchedule;
  readonly #defence: AddressDefence;
  readonly #move: Move;
  #lease: OwnLease | undefined;
  #state: Exclude<LeaseState, 'moving'> = 'acquiring';

  constructor(options: LeaseManagerOptions) {
    const { registry, random, clock, trouble, log, hostIdentity, subnetsPrefix } = options;
    this.#base = {
      ...options,
      grants: options.grants ?? new Grants(registry, random, hostIdentity),
      theirs: new Map(),
      exhaustion: new Exhaustion(() => clock.monotonic()),
      mix: new FamilyMix(log, subnetsPrefix),
    };
    this.#schedule = new RenewalSchedule(clock, options.renewMarginMs, log, options.activity);
    this.#defence = new AddressDefence(clock, trouble);
    this.#move = new Move(clock, trouble, options.addresses);
  }

  get state(): LeaseState {
    return this.#state === 'held' && this.#move.underWay ? 'moving' : this.#state;
  }

  /** The lease, as last seen; undefined until {@link LeaseManager.acquire} has resolved. */
  get lease(): OwnLease | undefined {
    return this.#lease;
  }

  /** When the lease ends unless it is renewed: wall-clock ms; Infinity for a reservation, undefined without a lease. */
  get expiresAtMs(): number | undefined {
    return this.#lease && this.#schedule.expiresAtMs;
  }

  /** The addresses in the lease: where peers send to. */
  get addresses(): PerFamily<string> {
    return this.#move.addresses;
  }

  get #options(): LeaseManagerOptions & AcquireOptions {
    return { ...this.#base, addresses: this.#move.addresses };
  }

  /** Gets the lease, trying for ever; rejects only with `signal.reason`. */
  async acquire(signal: AbortSignal): Promise<OwnLease> {
    const { clock, random, trouble, addressUse } = this.#base;
    let asked = this.#schedule.now();
    const policy = (error: unknown) =>
      error instanceof AddressInUseError ? addressInUsePolicy : acquirePolicy;
    let rival: string | undefined;
    const onFailure = (error: unknown) => {
      rival = addressUse?.rival;
      this.#reportWaiting(error);
    };
    // When the other host is gone there is nothing to wait for any more.
    const sooner = addressUse && { sooner: (inner: AbortSignal) => addressUse.changed(rival, inner) };
    try {
      const lease = await retryForever({ clock, random, policy, onFailure, ...sooner }, signal, (inner) => {
        asked = this.#schedule.now();
        this.#move.settle();
        return acquireLease(this.#options, inner);
      });
      trouble.clear('lease', 'lease acquired');
      this.#hold(lease, asked);
      this.#logAcquired(lease);
      return lease;
    } finally {
      if (signal.aborted) await this.#tidy();
    }
  }

  /**
   * This host has other addresses now: the lease gets them as soon as may be, the subnets stay. Until then {@link state} is
   * `moving`. Throws RangeError when it is not one for each family there was one for.
   */
  moveTo(addresses: PerFamily<string>): void {
    if (!this.#move.to(addresses)) return;
    const fields = { event: 'lease-moving', key: this.#lease?.key, addresses };
    if (this.state === 'moving') this.#base.log.info(fields, leaseFaults.moving);
    this.#wake.wake();
  }

  /** Told of every update of the lease watch: a change of our own key is looked into at once, not at the next renewal. */
  observe(update: LeaseUpdate): void {
    this.#base.mix.observe(update);
    if (update.type === 'snapshot') this.#base.grants.reconsider();
    const own = this.#lease;
    if (own === undefined) return;
    const { put, removed } = changesOf(update);
    const seen = put.find(({ key }) => key === own.key);
    const gone = update.type === 'snapshot' || removed.includes(own.key);
    const { subnetsPrefix } = this.#base;
    const isRival = (kv: Lease) => kv.key !== own.key && overlapsKey(subnetsPrefix, kv, own.subnets);
    const waiting = this.state === 'contested' || this.state === 'moving';
    const changed = seen && (seen.rawValue !== own.value || seen.leaseId !== own.leaseId);
    if (seen === undefined ? gone : changed || seen.modRevision > own.modRevision) this.#wake.wake();
    // Who takes a part of our subnets has not seen our key: a restore that nothing tells of may have taken it.
    else if (update.type === 'delta' && put.some(isRival)) this.#wake.wake();
    // What was in our way may be gone, or has changed.
    else if (waiting && removed.length > 0) this.#wake.wake();
    else if (put.some(({ key }) => this.#move.waitsFor(key))) this.#wake.wake();
  }

  /** Renews and guards the lease until `signal` aborts, then rejects with its reason. Nothing else ends it. */
  async run(signal: AbortSignal): Promise<never> {
    return await firstOf(signal, (inner) => [this.#keep(inner), this.#followRival(inner)]);
  }

  /** What another host with our address has asked for over etcd is over when that host is. */
  async #followRival(signal: AbortSignal): Promise<never> {
    const { addressUse } = this.#base;
    for (;;) {
      if (addressUse === undefined) return await untilAborted(signal);
      await addressUse.changed(addressUse.rival, signal);
      if (addressUse.rival === undefined) this.#defence.calm();
    }
  }

  async #keep(signal: AbortSignal): Promise<never> {
    const { activity, clock, random } = this.#base;
    try {
      const failures = new FailureCount();
      for (;;) {
        signal.throwIfAborted();
        activity?.round(RENEWAL_LOOP, stuckMs);
        if (failures.none) await this.#schedule.untilDue(this.#wake, this.#defence.dueMs, signal);
        const outcome = await this.#attempt(signal);
        if (outcome === 'well') {
          failures.reset();
          continue;
        }
        // What another host does is looked at rarely; an etcd that is back is not to be waited for long.
        const policy = outcome === 'waits' ? contestedPolicy : renewPolicy;
        const waitMs = failures.waitMs(policy, random);
        const dueMs = Math.ceil(this.#move.dueMs - clock.monotonic());
        await this.#wake.waitAtMost(clock, dueMs > 0 ? Math.min(waitMs, dueMs) : waitMs, signal);
      }
    } finally {
      activity?.end(RENEWAL_LOOP);
      await this.#tidy();
    }
  }

  /** `waits`: for what another host has; `failed`: etcd could not be asked, or the key changed under our hands. */
  async #attempt(signal: AbortSignal): Promise<'well' | 'waits' | 'failed'> {
    const own = this.#lease;
    if (own === undefined) throw new RangeError('acquire comes before run');
    try {
      if (await this.#check(own, signal)) return 'well';
      return this.state === 'contested' || this.state === 'moving' ? 'waits' : 'failed';
    } catch (error) {
      signal.throwIfAborted();
      const { text, fields } = this.#schedule.timeLeft(this.#state === 'lost');
      this.#base.trouble.report(
        'renewal',
        `the lease ${own.key} could not be renewed; ${text}: ${explanationOf(error)}`,
        { key: own.key, ...fields, error },
      );
      return 'failed';
    }
  }

  /** Whether all is well with our key. */
  async #check(own: OwnLease, signal: AbortSignal): Promise<boolean> {
    const asked = this.#schedule.now();
    const nextMove = await this.#move.next(this.#options, own, signal);
    const checked = await renewOrReclaim(
      {
        ...this.#options,
        defence: this.#defence,
        nextMove,
        wrote: (value, granted) => this.#move.wrote(value, granted),
        yieldsTo: (value) => this.#move.yieldsTo(value),
        contested: this.#state === 'contested',
        onLost: () => this.#lost(own),
      },
      own,
      signal,
    );
    if (checked.result === 'contested') await this.#contested(own, checked.by, signal);
    if (checked.result === 'held') this.#hold(checked.lease, asked);
    // Also while another trouble keeps the lease from being as it should.
    if (checked.result !== 'again')
      this.#base.trouble.clear('renewal', 'etcd could be asked for the lease again');
    return checked.result === 'held' && !this.#move.underWay;
  }

  #lost({ key }: OwnLease): void {
    if (this.#state !== 'held') return;
    this.#state = 'lost';
    const fields = { event: 'lease-lost', key };
    this.#base.log.warn(fields, leaseFaults.lost);
  }

  /** Notes that `kv`, another host's key, has our subnet, and gives back the lease we had for it. */
  async #contested(own: OwnLease, kv: KeyValue, signal: AbortSignal): Promise<void> {
    const { trouble, grants } = this.#base;
    this.#state = 'contested';
    const { message, fields } = contestedReport(this.#options, own, kv);
    trouble.report('contested', message, fields);
    // Whoever asks for that key asks another host.
    this.#defence.calm();
    if (kv.lease !== own.leaseId) grants.release(own.leaseId);
    await grants.revokeUnused(signal);
  }

  /** When stopping. We may be stopped with the key just taken again: peers' routes to our containers hang on it. */
  async #tidy(): Promise<void> {
    await this.#base.grants.revokeLeftovers(this.#base.clock, this.#base.log, this.#lease?.key);
  }

  #reportWaiting(error: unknown): void {
    const host = `${familiesText(this.#move.addresses)} under ${this.#base.subnetsPrefix}`;
    this.#base.trouble.report('lease', `no lease for ${host} yet: ${explanationOf(error)}`, { error });
  }

  #logAcquired({ subnets, origin, leaseId, ttlSeconds }: OwnLease): void {
    const { ipv4, ipv6 } = this.#move.addresses;
    const subnet = familiesText(subnets);
    this.#base.log.info(
      { event: 'lease-acquired', subnet, publicIP: ipv4, publicIPv6: ipv6, origin, leaseId, ttlSeconds },
      `${origin === 'reused' ? 'reusing' : 'acquired'} subnet ${subnet}` +
        (leaseId === '0' ? ' (a reservation)' : ''),
    );
  }

  /** `asked`: when the request was sent that gave the lease its TTL. */
  #hold(lease: OwnLease, asked: Moment): void {
    const { trouble, log } = this.#base;
    const subnet = familiesText(lease.subnets);
    if (this.#state === 'lost')
      log.info({ event: 'lease-held', key: lease.key }, `subnet ${subnet} is ours again`);
    trouble.clear('contested', `subnet ${subnet} is ours again`);
    this.#lease = lease;
    this.#state = 'held';
    this.#schedule.renewed(lease, asked);
    const before = this.#move.confirmed(lease.value);
    if (before === undefined) return;
    // Who shares the former address shares none with this host any more.
    this.#defence.calm();
    const [from, to] = [familiesText(before), familiesText(this.#move.addresses)];
    const fields = { event: 'lease-moved', key: lease.key, before: from, after: to };
    log.info(fields, `the own lease ${lease.key} carries ${to} now, before ${from}`);
  }
}

/** What there is to say when `kv`, another host's key, has our subnet. */
function contestedReport(
  { registry, subnetsPrefix, addresses }: Pick<LeaseOptions, 'registry' | 'subnetsPrefix' | 'addresses'>,
  { key: ownKey, subnets }: OwnLease,
  kv: KeyValue,
): { readonly message: string; readonly fields: Readonly<Record<string, string>> } {
  const holder = holderText(kv.value, kv.key === ownKey ? addresses : {});
  const key = excerpt(kv.key, longestKey);
  // What others have put there might be anything, a quote and a command of theirs included.
  const isPlain = parseSubnetKey(subnetsPrefix, kv.key) !== undefined;
  const remedy = isPlain ? `: etcdctl --endpoints=${registry.endpoint} del '${key}'` : ' delete that key';
  return {
    message:
      `subnet ${familiesText(subnets)} of this host now belongs to ${holder} (${key}): peers route it there. ` +
      `Stop one of the two hosts, or${remedy}. This daemon never overwrites another host's key`,
    fields: { key, holder, endpoint: registry.endpoint },
  };
}
