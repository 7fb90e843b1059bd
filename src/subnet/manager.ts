import type { Subnet } from '../ip/ip.ts';
import { type BackoffPolicy, backoffMs } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import { explanationOf } from '../runtime/errors.ts';
import { retryForever } from '../runtime/retry.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { Wake } from '../runtime/wake.ts';
import { type AcquireOptions, acquireLease } from './acquire.ts';
import { Grants } from './grants.ts';
import { keepKey } from './keep-key.ts';
import { parseLeaseValue } from './lease.ts';
import type { LeaseUpdate } from './lease-watch.ts';
import { type OwnLease, subnetsText } from './own-lease.ts';
import type { KeyValue } from './registry.ts';
import { type Moment, RenewalSchedule } from './renewal-schedule.ts';
import { formatSubnetKey } from './subnet-key.ts';
import { findOverlap, take } from './take.ts';

export interface LeaseManagerOptions extends Omit<AcquireOptions, 'grants'> {
  readonly clock: Clock;
  readonly trouble: TroubleLog;
  /** Renew early enough that this much of the lease is always left, in milliseconds. */
  readonly renewMarginMs: number;
}

/** `contested`: another host owns our subnet now; never overwritten, this host goes on and the operator is told. */
export type LeaseState = 'acquiring' | 'held' | 'lost' | 'contested';

const acquirePolicy: BackoffPolicy = { initialMs: 200, maxMs: 10_000 };
const renewPolicy: BackoffPolicy = { initialMs: 500, maxMs: 15_000 };
const contestedPolicy: BackoffPolicy = { initialMs: 1_000, maxMs: 60_000 };

/** Gets this host's lease and keeps it: renews, notices when it is gone or changed, takes the same subnet again. */
export class LeaseManager {
  readonly #options: LeaseManagerOptions & AcquireOptions;
  readonly #wake = new Wake();
  #lease: OwnLease | undefined;
  #state: LeaseState = 'acquiring';
  readonly #schedule: RenewalSchedule;

  constructor(options: LeaseManagerOptions) {
    this.#options = { ...options, grants: new Grants(options.registry, options.random) };
    this.#schedule = new RenewalSchedule(options.clock, options.renewMarginMs);
  }

  get state(): LeaseState {
    return this.#state;
  }

  /** The lease, as last seen; undefined until {@link LeaseManager.acquire} has resolved. */
  get lease(): OwnLease | undefined {
    return this.#lease;
  }

  /** Gets the lease, trying for ever; rejects only with `signal.reason`. */
  async acquire(signal: AbortSignal): Promise<OwnLease> {
    const { clock, random, trouble, log, subnetsPrefix, addresses } = this.#options;
    const publicIP = addresses.ipv4;
    const onFailure = (error: unknown) =>
      trouble.report(
        'lease',
        `no lease for ${publicIP} under ${subnetsPrefix} yet: ${explanationOf(error)}`,
        { error },
      );
    let asked = this.#schedule.now();
    try {
      const lease = await retryForever(
        { clock, random, policy: acquirePolicy, onFailure },
        signal,
        (inner) => {
          asked = this.#schedule.now();
          return acquireLease(this.#options, inner);
        },
      );
      trouble.clear('lease', 'a lease could be had');
      this.#hold(lease, asked);
      const { origin, leaseId, ttlSeconds } = lease;
      const subnet = subnetsText(lease.subnets);
      log.info(
        { event: 'lease-acquired', subnet, publicIP, origin, leaseId, ttlSeconds },
        `${origin === 'reused' ? 'reusing' : 'acquired'} subnet ${subnet}` +
          (leaseId === '0' ? ' (a reservation)' : ''),
      );
      return lease;
    } finally {
      if (signal.aborted) await this.#tidy();
    }
  }

  /** Told of every update of the lease watch: a change of our own key is looked into at once, not at the next renewal. */
  observe(update: LeaseUpdate): void {
    const own = this.#lease;
    if (own === undefined) return;
    const known = update.type === 'snapshot' ? update.leases : update.put;
    const seen = known.find(({ key }) => key === own.key);
    const gone = update.type === 'snapshot' || update.removed.includes(own.key);
    if (seen === undefined ? gone : seen.rawValue !== own.value || seen.leaseId !== own.leaseId) {
      this.#wake.wake();
    } else if (this.#state === 'contested' && update.type === 'delta' && update.removed.length > 0) {
      // What was in our way may be gone.
      this.#wake.wake();
    }
  }

  /** Renews and guards the lease until `signal` aborts, then rejects with its reason. Nothing else ends it. */
  async run(signal: AbortSignal): Promise<never> {
    const { clock, random, trouble } = this.#options;
    try {
      for (let failures = 0; ; ) {
        signal.throwIfAborted();
        if (failures === 0) await this.#schedule.untilDue(this.#wake, signal);
        if (await this.#attempt(signal)) {
          failures = 0;
          trouble.clear('renewal', 'the lease could be renewed');
          continue;
        }
        const policy = this.#state === 'contested' ? contestedPolicy : renewPolicy;
        await this.#wake.waitAtMost(clock, backoffMs(policy, failures++, random), signal);
      }
    } finally {
      await this.#tidy();
    }
  }

  /** Whether all is well with our key. */
  async #attempt(signal: AbortSignal): Promise<boolean> {
    const { trouble } = this.#options;
    const own = this.#lease;
    if (own === undefined) throw new RangeError('acquire comes before run');
    try {
      return await this.#check(own, signal);
    } catch (error) {
      signal.throwIfAborted();
      const { text, fields } = this.#schedule.timeLeft();
      trouble.report(
        'renewal',
        `the lease ${own.key} could not be renewed; ${text}: ${explanationOf(error)}`,
        { key: own.key, ...fields, error },
      );
      return false;
    }
  }

  /** Reads our key and renews it, or takes it again. Whoever owns it shows in the key only, not in a lease that lives. */
  async #check(own: OwnLease, signal: AbortSignal): Promise<boolean> {
    const { registry, grants, log, addresses } = this.#options;
    const asked = this.#schedule.now();
    const kv = (await registry.range({ key: own.key }, signal)).kvs[0];
    if (kv === undefined) return await this.#retake(own, signal);
    const holder = parseLeaseValue(kv.value)?.publicIP;
    if (holder !== undefined && holder !== addresses.ipv4) return await this.#contested(own, kv, signal);
    if (grants.isUnused(kv.lease) && (await this.#gaveWay(own, kv, signal))) return false;
    grants.use(kv.lease);
    const kept = await keepKey(this.#options, kv, signal);
    if (kept === undefined) return false;
    if (kept.leaseId !== own.leaseId) {
      // An operator may make a reservation of our key, or give it another lease. Both are respected.
      const fields = { event: 'lease-changed', key: own.key, before: own.leaseId, after: kept.leaseId };
      log.warn(fields, `the own lease ${own.key} hangs on another etcd lease now`);
      grants.release(own.leaseId);
    }
    this.#hold({ ...own, ...kept }, asked);
    await grants.revokeUnused(signal);
    return true;
  }

  /** A key of ours that was never confirmed, because an answer was lost: does it overlap an older one? Then it goes. */
  async #gaveWay(own: OwnLease, kv: KeyValue, signal: AbortSignal): Promise<boolean> {
    const older = await findOverlap(this.#options, ipv4Of(own), signal, kv.createRevision);
    if (older !== undefined) await this.#contested(own, older, signal);
    return older !== undefined;
  }

  /**
   * Our key is gone (deleted, revoked, expired): the same subnet again, if nobody else has it. Routes stay as they are. The
   * lease it had serves again when it still lives; only a dead one is replaced.
   */
  async #retake(own: OwnLease, signal: AbortSignal): Promise<boolean> {
    const { registry, grants, log, addresses, leaseTtlSeconds, subnetsPrefix } = this.#options;
    if (this.#state === 'held') {
      this.#state = 'lost';
      log.warn(
        { event: 'lease-lost', key: own.key },
        `the own lease ${own.key} is gone from etcd; taking it again`,
      );
    }
    // Also a key that is still on its way from an attempt before.
    await grants.revokeUnused(signal);
    // A look first: to put the key and give way again, at every attempt, would make all hosts change their routes.
    const still = this.#state === 'contested' && (await findOverlap(this.#options, ipv4Of(own), signal));
    if (still) return await this.#contested(own, still, signal);
    const asked = this.#schedule.now();
    const lives = own.leaseId === '0' ? 0 : (await registry.leaseKeepAlive(own.leaseId, signal)).ttlSeconds;
    // Until the key is confirmed the lease counts as unused.
    if (lives > 0) grants.own(own.leaseId);
    const granted =
      lives > 0 ? { id: own.leaseId, ttlSeconds: lives } : await grants.grant(leaseTtlSeconds, signal);
    const outcome = await take(this.#options, ipv4Of(own), granted.id, signal);
    if (outcome === 'taken') {
      grants.use(granted.id);
      const key = formatSubnetKey(subnetsPrefix, ipv4Of(own));
      const { id: leaseId, ttlSeconds } = granted;
      this.#hold({ ...own, key, leaseId, ttlSeconds, origin: 'retaken' }, asked);
      return true;
    }
    const [inTheWay] = outcome;
    // Gone by now, or put by another program of this host: look again.
    if (inTheWay === undefined || parseLeaseValue(inTheWay.value)?.publicIP === addresses.ipv4) return false;
    return await this.#contested(own, inTheWay, signal);
  }

  /** Notes that `kv`, another host's key, has our subnet, and gives back the lease we had for it. */
  async #contested(own: OwnLease, kv: KeyValue, signal: AbortSignal): Promise<false> {
    const { trouble, grants, registry } = this.#options;
    this.#state = 'contested';
    const holder = parseLeaseValue(kv.value)?.publicIP ?? 'a host that cannot be told';
    trouble.report(
      'contested',
      `subnet ${subnetsText(own.subnets)} of this host now belongs to ${holder} (${kv.key}): peers route it there. ` +
        `Stop one of the two hosts, or: etcdctl --endpoints=${registry.endpoint} del '${kv.key}'. It is never overwritten here`,
      { key: kv.key, holder, endpoint: registry.endpoint },
    );
    if (kv.lease !== own.leaseId) grants.release(own.leaseId);
    await grants.revokeUnused(signal);
    return false;
  }

  /** When stopping. We may be stopped with the key just taken again: peers' routes to our containers hang on it. */
  async #tidy(): Promise<void> {
    const { clock, grants, log, subnetsPrefix } = this.#options;
    const lease = this.#lease;
    await grants.tidy(clock, log, lease && formatSubnetKey(subnetsPrefix, ipv4Of(lease)));
  }

  /** `asked`: when the request was sent that gave the lease its TTL. */
  #hold(lease: OwnLease, asked: Moment): void {
    const { trouble, log } = this.#options;
    if (this.#state === 'lost') {
      log.info({ event: 'lease-held', key: lease.key }, `subnet ${subnetsText(lease.subnets)} is ours again`);
    }
    trouble.clear('contested', `subnet ${subnetsText(lease.subnets)} is ours again`);
    this.#lease = lease;
    this.#state = 'held';
    this.#schedule.renewed(lease, asked);
  }
}

function ipv4Of({ subnets }: OwnLease): { readonly ipv4: Subnet } {
  if (subnets.ipv4 === undefined) throw new RangeError('there is no IPv4 subnet');
  return { ipv4: subnets.ipv4 };
}
