import { type BackoffPolicy, backoffMs } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import { messageOf } from '../runtime/errors.ts';
import type { Logger } from '../runtime/logger.ts';
import { retryForever } from '../runtime/retry.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { Wake } from '../runtime/wake.ts';
import { type AcquireOptions, acquireLease, take } from './acquire.ts';
import { parseLeaseValue } from './lease.ts';
import type { LeaseUpdate } from './lease-watch.ts';
import { type OwnLease, PoolExhaustedError, renewIntervalMs } from './own-lease.ts';
import { type KeyValue, RegistryError } from './registry.ts';
import { subnetKeyRange } from './subnet-key.ts';

export interface LeaseManagerOptions extends AcquireOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  /** Renew early enough that this much of the lease is always left, in milliseconds. */
  readonly renewMarginMs: number;
}

/** `contested`: another host owns our subnet now; never overwritten, this host goes on and the operator is told. */
export type LeaseState = 'acquiring' | 'held' | 'lost' | 'contested';

const acquirePolicy: BackoffPolicy = { initialMs: 200, maxMs: 10_000 };
const renewPolicy: BackoffPolicy = { initialMs: 500, maxMs: 15_000 };
const contestedPolicy: BackoffPolicy = { initialMs: 1_000, maxMs: 60_000 };
/** The wall clock is looked at this often: a timer alone would oversleep a suspended VM (flannel #29). */
const wallClockCheckMs = 30_000;
/** A reservation needs no renewal; that it is still ours is looked at now and then, beside the watch. */
const reservationCheckMs = 3_600_000;

/** Gets this host's lease and keeps it: renews, notices when it is gone or changed, takes the same subnet again. */
export class LeaseManager {
  readonly #options: LeaseManagerOptions;
  readonly #wake = new Wake();
  #lease: OwnLease | undefined;
  #state: LeaseState = 'acquiring';
  #expiresAtMs = 0;
  /** Wall-clock times, ms: when our key was last seen to be ours, and when it is to be looked at again. */
  #checkedAtMs = 0;
  #dueAtMs = 0;

  constructor(options: LeaseManagerOptions) {
    this.#options = options;
  }

  get state(): LeaseState {
    return this.#state;
  }

  /** The lease, as last seen; undefined until {@link LeaseManager.acquire} has resolved. */
  get lease(): OwnLease | undefined {
    return this.#lease;
  }

  /** Wall-clock time (ms since the epoch) at which etcd drops the lease unless it is renewed; Infinity for a reservation. */
  get expiresAtMs(): number {
    return this.#lease?.leaseId === '0' ? Number.POSITIVE_INFINITY : this.#expiresAtMs;
  }

  /** Gets the lease, trying for ever; rejects only with `signal.reason`. */
  async acquire(signal: AbortSignal): Promise<OwnLease> {
    const { clock, random, trouble, log } = this.#options;
    const onFailure = (error: unknown) => trouble.report('lease', `no lease yet: ${describe(error)}`);
    const lease = await retryForever({ clock, random, policy: acquirePolicy, onFailure }, signal, (inner) =>
      acquireLease(this.#options, inner),
    );
    trouble.clear('lease', 'a lease could be had');
    this.#hold(lease, clock.now());
    log.info(
      {
        event: 'lease-acquired',
        subnet: lease.subnet.text,
        publicIP: this.#options.publicIP,
        origin: lease.origin,
        leaseId: lease.leaseId,
        ttlSeconds: lease.ttlSeconds,
      },
      `${lease.origin === 'reused' ? 'reusing' : 'acquired'} subnet ${lease.subnet.text}` +
        (lease.leaseId === '0' ? ' (a reservation)' : ''),
    );
    return lease;
  }

  /** Told of every update of the lease watch: a change of our own key is looked into at once, not at the next renewal. */
  observe(update: LeaseUpdate): void {
    const own = this.#lease;
    if (own === undefined) return;
    if (update.type === 'snapshot') {
      const seen = update.leases.find((lease) => lease.key === own.key);
      if (seen?.rawValue !== own.value || seen.leaseId !== own.leaseId) this.#wake.wake();
      return;
    }
    const put = update.put.find((lease) => lease.key === own.key);
    if (
      put === undefined
        ? update.removed.includes(own.key)
        : put.rawValue !== own.value || put.leaseId !== own.leaseId
    ) {
      this.#wake.wake();
    }
  }

  /** Renews and guards the lease until `signal` aborts, then rejects with its reason. Nothing else ends it. */
  async run(signal: AbortSignal): Promise<never> {
    const { clock, random, trouble } = this.#options;
    for (let failures = 0; ; ) {
      signal.throwIfAborted();
      try {
        if (this.#state === 'held') await this.#untilDue(signal);
        await this.#check(signal);
        trouble.clear('renewal', 'the lease could be renewed');
      } catch (error) {
        signal.throwIfAborted();
        trouble.report('renewal', `the lease could not be renewed: ${describe(error)}; ${this.#timeLeft()}`);
      }
      if (this.#state === 'held' && this.#dueAtMs > clock.now()) {
        failures = 0;
        continue;
      }
      const policy = this.#state === 'contested' ? contestedPolicy : renewPolicy;
      await this.#wake.waitAtMost(clock, backoffMs(policy, failures++, random), signal);
    }
  }

  #timeLeft(): string {
    if (this.#lease?.leaseId === '0') return 'it is a reservation and does not expire';
    const leftS = Math.round((this.#expiresAtMs - this.#options.clock.now()) / 1000);
    return leftS > 0 ? `${leftS} s of it are left` : 'its time is over';
  }

  /** Waits until the next renewal is due by wall clock, or somebody touched our key. */
  async #untilDue(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    let woken = false;
    // A clock set back by hours must not put the renewal off by hours.
    while (!woken && clock.now() >= this.#checkedAtMs && clock.now() < this.#dueAtMs) {
      woken = await this.#wake.waitAtMost(
        clock,
        Math.min(this.#dueAtMs - clock.now(), wallClockCheckMs),
        signal,
      );
    }
  }

  /** Renews, then reads our key back: a lease that lives says nothing about who owns the key. */
  async #check(signal: AbortSignal): Promise<void> {
    const { registry, clock } = this.#options;
    const own = this.#lease;
    if (own === undefined) return;
    const askedAtMs = clock.now();
    let ttlSeconds = 0;
    if (own.leaseId !== '0') ttlSeconds = (await registry.leaseKeepAlive(own.leaseId, signal)).ttlSeconds;
    const { kvs } = await registry.range({ key: own.key }, signal);
    const kv = kvs[0];
    if (kv === undefined) await this.#retake(own, ttlSeconds, signal);
    else if (await this.#isOurs(own, kv, signal)) {
      const changed = kv.lease !== own.leaseId;
      // An operator may make a reservation of our key, or give it another lease. Both are respected, and renewed at once.
      if (changed) {
        const fields = { event: 'lease-changed', key: kv.key, before: own.leaseId, after: kv.lease };
        this.#options.log.warn(fields, `the own lease ${kv.key} was changed by somebody`);
      }
      this.#hold({ ...own, leaseId: kv.lease, ttlSeconds: changed ? 0 : ttlSeconds }, askedAtMs);
    }
  }

  /** Whether the key at our place is ours; a value that is ours in another shape is put right, guarded. */
  async #isOurs(own: OwnLease, kv: KeyValue, signal: AbortSignal): Promise<boolean> {
    const { registry, log, publicIP } = this.#options;
    const holder = parseLeaseValue(kv.value)?.publicIP;
    if (holder !== undefined && holder !== publicIP) {
      this.#contested(own, kv.key, holder);
      return false;
    }
    if (kv.value === own.value) return true;
    const { succeeded } = await registry.txn(
      {
        compare: [{ key: kv.key, target: 'mod', op: '=', value: kv.modRevision }],
        success: [{ op: 'put', key: kv.key, value: own.value, lease: kv.lease }],
      },
      signal,
    );
    if (succeeded) {
      log.warn(
        { event: 'lease-rewritten', key: kv.key, before: kv.value },
        'the value of the own lease was put right',
      );
    }
    return succeeded;
  }

  /**
   * Our key is gone (deleted, revoked, expired): the same subnet again, if nobody else has it. Routes stay as they are. The
   * lease it had serves again when it still lives; only a dead one is replaced.
   */
  async #retake(own: OwnLease, livesSeconds: number, signal: AbortSignal): Promise<void> {
    const { registry, log, leaseTtlSeconds, clock } = this.#options;
    if (this.#state === 'held') {
      this.#state = 'lost';
      log.warn(
        { event: 'lease-lost', key: own.key },
        `the own lease ${own.key} is gone from etcd; taking it again`,
      );
    }
    const askedAtMs = clock.now();
    const lives = livesSeconds > 0 && own.leaseId !== '0';
    const granted = lives
      ? { id: own.leaseId, ttlSeconds: livesSeconds }
      : await registry.leaseGrant(leaseTtlSeconds, signal);
    try {
      if ((await take(this.#options, own.subnet, granted.id, signal)) === 'taken') {
        this.#hold(
          { ...own, leaseId: granted.id, ttlSeconds: granted.ttlSeconds, origin: 'retaken' },
          askedAtMs,
        );
        return;
      }
    } catch (error) {
      // Being stopped in the middle: the key may be there already, and with it would go the peers' routes to our containers.
      if (!signal.aborted) await this.#revokeQuietly(granted.id);
      throw error;
    }
    await this.#revokeQuietly(granted.id);
    const { kvs } = await registry.range(subnetKeyRange(this.#options.subnetsPrefix, own.subnet), signal);
    const holder = kvs.map((kv) => parseLeaseValue(kv.value)?.publicIP).find((ip) => ip !== undefined);
    this.#contested(own, kvs[0]?.key ?? own.key, holder ?? 'a lease that overlaps it');
  }

  async #revokeQuietly(leaseId: string): Promise<void> {
    try {
      await this.#options.registry.leaseRevoke(leaseId);
    } catch (error) {
      this.#options.log.debug(
        { event: 'revoke-failed', leaseId, err: error },
        'an unused etcd lease could not be revoked',
      );
    }
  }

  #contested(own: OwnLease, key: string, holder: string): void {
    this.#state = 'contested';
    this.#options.trouble.report(
      'contested',
      `subnet ${own.subnet.text} of this host now belongs to ${holder} (${key}): peers route it there. ` +
        'Stop one of the two hosts, or delete that key; it is never overwritten here.',
      { key, holder },
    );
  }

  /** `renewedAtMs`: wall-clock time at which the request was sent that gave the lease its TTL. */
  #hold(lease: OwnLease, renewedAtMs: number): void {
    const { clock, trouble, log, renewMarginMs } = this.#options;
    if (this.#state === 'lost' || this.#state === 'contested') {
      log.info(
        { event: 'lease-held', subnet: lease.subnet.text },
        `subnet ${lease.subnet.text} is ours again`,
      );
    }
    this.#lease = lease;
    this.#state = 'held';
    this.#checkedAtMs = clock.now();
    const intervalMs =
      lease.leaseId === '0' ? reservationCheckMs : renewIntervalMs(lease.ttlSeconds, renewMarginMs);
    this.#dueAtMs = renewedAtMs + intervalMs;
    this.#expiresAtMs = renewedAtMs + lease.ttlSeconds * 1000;
    trouble.clear('contested', `subnet ${lease.subnet.text} is not contested any more`);
  }
}

function describe(error: unknown): string {
  const remedy =
    error instanceof RegistryError || error instanceof PoolExhaustedError ? error.remedy : undefined;
  return remedy === undefined ? messageOf(error) : `${messageOf(error)}. ${remedy}`;
}
