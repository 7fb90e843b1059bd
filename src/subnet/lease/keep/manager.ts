import type { PerFamily } from '../../../ip/ip.ts';
import { explanationOf } from '../../../runtime/errors.ts';
import { type BackoffPolicy, FailureCount, retryForever } from '../../../runtime/retry.ts';
import { excerpt } from '../../../runtime/texts.ts';
import type { TroubleLog } from '../../../runtime/trouble.ts';
import { firstOf, untilAborted, Wake } from '../../../runtime/wake.ts';
import { parseSubnetKey } from '../../keys.ts';
import { type KeyValue, stuckWithEtcdMs } from '../../registry/registry.ts';
import { type AcquireOptions, acquireLease } from '../acquire/acquire.ts';
import { overlapsKey } from '../acquire/claim.ts';
import { Grants } from '../grants.ts';
import { holderText, type Lease } from '../lease.ts';
import {
  AddressInUseError,
  familiesText,
  type LeaseState,
  leaseFaults,
  type OwnLease,
} from '../own-lease.ts';
import { Exhaustion } from '../pool.ts';
import { AddressDefence } from '../probe.ts';
import type { LeaseUpdate } from '../watch/reader.ts';
import { changesOf, FamilyMix } from '../watch/reader.ts';
import { Move } from './move.ts';
import { renewOrReclaim } from './own-key.ts';
import { type Moment, RENEWAL_LOOP, RenewalSchedule, type ScheduleOptions } from './schedule.ts';

export interface LeaseManagerOptions
  extends Omit<AcquireOptions, 'grants' | 'theirs' | 'exhaustion' | 'mix'>,
    ScheduleOptions {
  /** Those of an earlier manager, so that none is lost; absent: new ones. */
  readonly grants?: Grants;
  readonly trouble: TroubleLog;
}

const acquirePolicy: BackoffPolicy = { initialMs: 200, maxMs: 10_000 };
/** Each probe is a write that all hosts see, and that makes the other host report it, too. */
const addressInUsePolicy: BackoffPolicy = { initialMs: 60_000, maxMs: 600_000 };
const renewPolicy: BackoffPolicy = { initialMs: 500, maxMs: 15_000 };
const contestedPolicy: BackoffPolicy = { initialMs: 1_000, maxMs: 60_000 };
/** The log shows no more of a key that somebody else has put. */
const longestKey = 160;

/** Gets this host's lease and keeps it: renews it, and takes the same subnets again after a loss. */
export class LeaseManager {
  readonly #options: LeaseManagerOptions & AcquireOptions;
  readonly #wake = new Wake();
  readonly #schedule: RenewalSchedule;
  readonly #defence: AddressDefence;
  readonly #move: Move;
  #lease: OwnLease | undefined;
  #state: Exclude<LeaseState, 'moving'> = 'acquiring';

  constructor(options: LeaseManagerOptions) {
    const { registry, random, hostIdentity } = options;
    const move = new Move(options);
    this.#options = {
      ...options,
      get addresses() {
        return move.addresses;
      },
      grants: options.grants ?? new Grants(registry, random, hostIdentity),
      theirs: new Map(),
      exhaustion: new Exhaustion(),
      mix: new FamilyMix(options),
    };
    this.#schedule = new RenewalSchedule(options);
    this.#defence = new AddressDefence(options);
    this.#move = move;
  }

  get state(): LeaseState {
    return this.#state === 'held' && this.#move.underWay ? 'moving' : this.#state;
  }

  /** The lease as last seen; undefined until {@link LeaseManager.acquire} has resolved. */
  get lease(): OwnLease | undefined {
    return this.#lease;
  }

  /** When the lease expires: wall-clock ms; Infinity for a reservation, undefined without a lease. */
  get expiresAtMs(): number | undefined {
    return this.#lease && this.#schedule.expiresAtMs;
  }

  /** The addresses in the lease, to which peers send. */
  get addresses(): PerFamily<string> {
    return this.#move.addresses;
  }

  /** Gets the lease, however long that takes; rejects only with `signal.reason`. */
  async acquire(signal: AbortSignal): Promise<OwnLease> {
    const { clock, random, log, trouble, addressUse, subnetsPrefix } = this.#options;
    let asked = this.#schedule.now();
    const policy = (error: unknown) =>
      error instanceof AddressInUseError ? addressInUsePolicy : acquirePolicy;
    let rival: string | undefined;
    const onFailure = (error: unknown) => {
      rival = addressUse?.rival;
      const host = `${familiesText(this.addresses)} under ${subnetsPrefix}`;
      trouble.report('lease', `no lease for ${host} yet: ${explanationOf(error)}`, { error });
    };
    // Try again at once when the other host is gone.
    const sooner = addressUse && { sooner: (inner: AbortSignal) => addressUse.changed(rival, inner) };
    try {
      const lease = await retryForever({ clock, random, policy, onFailure, ...sooner }, signal, (inner) => {
        asked = this.#schedule.now();
        this.#move.settle();
        return acquireLease(this.#options, inner);
      });
      trouble.clear('lease', 'lease acquired');
      this.#hold(lease, asked);
      const { subnets, origin, leaseId, ttlSeconds } = lease;
      const { ipv4: publicIP, ipv6: publicIPv6 } = this.addresses;
      const subnet = familiesText(subnets);
      const verb = origin === 'reused' ? 'reusing' : 'acquired';
      log.info(
        { event: 'lease-acquired', subnet, publicIP, publicIPv6, origin, leaseId, ttlSeconds },
        `${verb} subnet ${subnet}${leaseId === '0' ? ' (a reservation)' : ''}`,
      );
      return lease;
    } finally {
      if (signal.aborted) await this.#tidy();
    }
  }

  /**
   * Gives the lease this host's new addresses as soon as possible; the subnets stay. Until then {@link state}
   * is `moving`. Throws RangeError when a family comes or goes.
   */
  moveTo(addresses: PerFamily<string>): void {
    if (!this.#move.to(addresses)) return;
    const fields = { event: 'lease-moving', key: this.#lease?.key, addresses };
    if (this.state === 'moving') this.#options.log.info(fields, leaseFaults.moving);
    this.#wake.wake();
  }

  /** Takes in every update of the lease watch, and checks a change of our own key at once. */
  observe(update: LeaseUpdate): void {
    this.#options.mix.observe(update);
    if (update.type === 'snapshot') this.#options.grants.reconsider();
    const own = this.#lease;
    if (own === undefined) return;
    const { put, removed } = changesOf(update);
    const seen = put.find(({ key }) => key === own.key);
    const gone = update.type === 'snapshot' || removed.includes(own.key);
    const { subnetsPrefix } = this.#options;
    const isRival = (kv: Lease) => kv.key !== own.key && overlapsKey(subnetsPrefix, kv, own.subnets);
    const waiting = this.state === 'contested' || this.state === 'moving';
    const changed = seen && (seen.rawValue !== own.value || seen.leaseId !== own.leaseId);
    if (seen === undefined ? gone : changed || seen.modRevision > own.modRevision) this.#wake.wake();
    // A host that takes a part of our subnets has not seen our key: a restore may have removed it.
    else if (update.type === 'delta' && put.some(isRival)) this.#wake.wake();
    // The key in our way may be gone, or may have changed.
    else if (waiting && removed.length > 0) this.#wake.wake();
    else if (put.some(({ key }) => this.#move.waitsFor(key))) this.#wake.wake();
  }

  /** Checks our key at once, if there is one. */
  checkNow(): void {
    if (this.#lease !== undefined) this.#wake.wake();
  }

  /** Renews and guards the lease until `signal` aborts, then rejects with its reason; never resolves. */
  async run(signal: AbortSignal): Promise<never> {
    return await firstOf(signal, (inner) => [this.#keep(inner), this.#followRival(inner)]);
  }

  /** Forgets the probes of another host with our address when that host is gone from the link. */
  async #followRival(signal: AbortSignal): Promise<never> {
    const { addressUse } = this.#options;
    for (;;) {
      if (addressUse === undefined) return await untilAborted(signal);
      await addressUse.changed(addressUse.rival, signal);
      if (addressUse.rival === undefined) this.#defence.calm();
    }
  }

  async #keep(signal: AbortSignal): Promise<never> {
    const { activity, clock, random } = this.#options;
    try {
      const failures = new FailureCount();
      for (;;) {
        signal.throwIfAborted();
        activity?.round(RENEWAL_LOOP, stuckWithEtcdMs);
        if (failures.none) await this.#schedule.untilDue(this.#wake, this.#defence.dueMs, signal);
        const outcome = await this.#attempt(signal);
        if (outcome === 'well') {
          failures.reset();
          continue;
        }
        // Check rarely for another host's key, but soon for an etcd that may be back.
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

  /** `waits`: for another host's key; `failed`: etcd did not answer, or somebody changed the key. */
  async #attempt(signal: AbortSignal): Promise<'well' | 'waits' | 'failed'> {
    const own = this.#lease;
    if (own === undefined) throw new RangeError('acquire comes before run');
    try {
      if (await this.#check(own, signal)) return 'well';
      return this.state === 'contested' || this.state === 'moving' ? 'waits' : 'failed';
    } catch (error) {
      signal.throwIfAborted();
      const { text, fields } = this.#schedule.timeLeft(this.#state === 'lost');
      const message = `the lease ${own.key} could not be renewed; ${text}: ${explanationOf(error)}`;
      this.#options.trouble.report('renewal', message, { key: own.key, ...fields, error });
      return 'failed';
    }
  }

  /** Checks and renews our key; resolves to whether all is well with it. */
  async #check(own: OwnLease, signal: AbortSignal): Promise<boolean> {
    const asked = this.#schedule.now();
    const nextMove = await this.#move.next(this.#options, own, signal);
    const checked = await renewOrReclaim(
      {
        ...this.#options,
        defence: this.#defence,
        move: this.#move,
        nextMove,
        contested: this.#state === 'contested',
        onLost: () => this.#noteLost(own),
      },
      own,
      signal,
    );
    if (checked.result === 'contested') await this.#contested(own, checked.by, signal);
    if (checked.result === 'held') this.#hold(checked.lease, asked);
    // Even when the lease has another trouble.
    if (checked.result !== 'again')
      this.#options.trouble.clear('renewal', 'etcd answers for the lease again');
    return checked.result === 'held' && !this.#move.underWay;
  }

  #noteLost({ key }: OwnLease): void {
    if (this.#state !== 'held') return;
    this.#state = 'lost';
    this.#options.log.warn({ event: 'lease-lost', key }, leaseFaults.lost);
  }

  /** Notes that `kv`, another host's key, has our subnet, and gives back the lease we had for it. */
  async #contested(own: OwnLease, kv: KeyValue, signal: AbortSignal): Promise<void> {
    const { trouble, grants, addresses, subnetsPrefix, registry } = this.#options;
    const { endpoint } = registry;
    this.#state = 'contested';
    const holder = holderText(kv.value, kv.key === own.key ? addresses : {});
    const key = excerpt(kv.key, longestKey);
    // Others may have put any text there, a quote and a command of theirs included.
    const isPlain = parseSubnetKey(subnetsPrefix, kv.key) !== undefined;
    trouble.report(
      'contested',
      `subnet ${familiesText(own.subnets)} of this host now belongs to ${holder} (${key}): ` +
        'peers route it there. Stop one of the two hosts, or' +
        `${isPlain ? `: etcdctl --endpoints=${endpoint} del '${key}'` : ' delete that key'}. ` +
        "This daemon never overwrites another host's key",
      { key, holder, endpoint },
    );
    // A probe of that key now asks the other host.
    this.#defence.calm();
    if (kv.lease !== own.leaseId) grants.release(own.leaseId);
    await grants.revokeUnused(signal);
  }

  /** Cleans up at a stop. Spares a key that was just taken again: peers' routes depend on it. */
  async #tidy(): Promise<void> {
    const { grants, clock, log } = this.#options;
    await grants.revokeLeftovers(clock, log, this.#lease?.key);
  }

  /** Notes that this host holds `lease`; `asked`: when it sent the request that gave the lease its TTL. */
  #hold(lease: OwnLease, asked: Moment): void {
    const { trouble, log } = this.#options;
    const isBack = `this host holds subnet ${familiesText(lease.subnets)} again`;
    if (this.#state === 'lost') log.info({ event: 'lease-held', key: lease.key }, isBack);
    trouble.clear('contested', isBack);
    this.#lease = lease;
    this.#state = 'held';
    this.#schedule.renewed(lease, asked);
    const before = this.#move.confirmed(lease.value);
    if (before === undefined) return;
    // A host that shares the former address no longer shares one with this host.
    this.#defence.calm();
    const [from, to] = [familiesText(before), familiesText(this.#move.addresses)];
    const fields = { event: 'lease-moved', key: lease.key, before: from, after: to };
    log.info(fields, `this host's lease ${lease.key} now names ${to} instead of ${from}`);
  }
}
