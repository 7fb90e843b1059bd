import type { Clock } from '../../runtime/effects.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { type KeyValue, RegistryError } from '../registry/registry.ts';
import type { Lease } from './lease.ts';
import { familiesText, type LeaseOptions, type OwnLease } from './own-lease.ts';
import { rewrite } from './renew.ts';

/** Who has not answered by then does not live. */
export const probeMs = 2_000;
/** When the key is looked at again after it was put, in ms from then. A daemon that lives answers in a few round trips. */
const looksMs = [250, 750, probeMs];

/**
 * Finds out whether a host that lives holds a lease, by putting its key again as it is: a daemon that sees its own key put by
 * somebody else puts it once more (see AddressDefence). flanneld does not: a lease that a live flanneld holds looks like one
 * that was left behind.
 *
 * `quiet`: nobody answered in two seconds. `changed`: the key is not as it was read; read again. Of two hosts that probe one
 * key at once the first to write takes the other's probe for an answer. Rejects with RegistryError.
 */
export async function probe(
  options: LeaseOptions & { readonly clock: Clock },
  lease: Lease,
  signal: AbortSignal,
): Promise<'answered' | 'quiet' | 'changed'> {
  const { key, rawValue: value, leaseId } = lease;
  options.log.info(
    { event: 'lease-probed', key },
    `the lease ${key} carries this host's address, but may be another's: waiting two seconds for its holder to answer`,
  );
  const modRevision = await putAgain(options, lease, signal);
  if (modRevision === 'gone') return 'quiet';
  if (modRevision === undefined) return 'changed';
  let waitedMs = 0;
  for (const lookMs of looksMs) {
    await options.clock.sleep(lookMs - waitedMs, signal);
    waitedMs = lookMs;
    const kv = (await options.registry.range({ key }, signal)).kvs[0];
    if (kv?.modRevision === modRevision) continue;
    // An earlier revision is that of a backup that was restored meanwhile.
    const answered = kv?.value === value && kv.lease === leaseId && kv.modRevision > modRevision;
    return answered ? 'answered' : 'changed';
  }
  return 'quiet';
}

/**
 * Asks: puts the key of a lease again as it is. Resolves to its new revision; undefined when it changed meanwhile; `gone`: its etcd
 * lease is dead, so nobody has renewed it, and etcd is about to delete the key. Rejects with RegistryError.
 */
export async function putAgain(
  options: LeaseOptions,
  lease: Lease,
  signal: AbortSignal,
): Promise<number | 'gone' | undefined> {
  try {
    return await rewrite(options, lease, { value: lease.rawValue, lease: lease.leaseId }, signal);
  } catch (error) {
    if (error instanceof RegistryError && error.kind === 'LEASE_NOT_FOUND') return 'gone';
    throw error;
  }
}

/** Shorter than the two seconds a probe waits, so that also the second of two probes in a row is answered. */
const shortestIntervalMs = 500;
/** Two daemons that both think the key theirs answer one another's answers: after so many without a pause, ever more rarely. */
const answersInARow = 20;
const longestIntervalMs = 60_000;
const pauseMs = 10_000;
/** One who puts the key by hand, once or twice, is no other host. */
const reportedTouches = 3;
/**
 * One who was granted the lease and has another address now asks exactly twice, within this time (see acquireLease): it takes the first
 * answer for another asker's question. That host does not use our address, however often it is started.
 */
const pairMs = 5_000;
/** Without being touched for so long the key is thought to be left alone; longer than a refused prober waits. */
const quietMs = 30 * 60_000;

/**
 * Answers another host that asks, by putting our key again as it is, whether somebody holds it (see `probe`): by putting it
 * once more. When that goes on the operator is told: two hosts use one address.
 */
export class AddressDefence {
  readonly #clock: Clock;
  readonly #trouble: TroubleLog;
  #touches = 0;
  /** How many came with less than {@link pairMs} between each and the next, the last one among them. */
  #together = 0;
  #lastTouchMs = Number.NEGATIVE_INFINITY;
  #answeredAtMs = Number.NEGATIVE_INFINITY;
  #intervalMs = shortestIntervalMs;
  #inARow = 0;
  #owed = false;

  constructor(clock: Clock, trouble: TroubleLog) {
    this.#clock = clock;
    this.#trouble = trouble;
  }

  /** When the key is to be looked at again for its sake, on the monotonic clock. */
  get dueMs(): number {
    if (this.#owed) return this.#answeredAtMs + this.#intervalMs;
    return this.#touches > 0 ? this.#lastTouchMs + quietMs : Number.POSITIVE_INFINITY;
  }

  /**
   * `kv` is our key as just read. Resolves to the revision up to which it is known: that of the answer, if one was due.
   * Rejects with RegistryError.
   */
  async answer(options: LeaseOptions, own: OwnLease, kv: KeyValue, signal: AbortSignal): Promise<number> {
    const nowMs = this.#clock.monotonic();
    const untouched = kv.modRevision <= own.modRevision || kv.value !== own.value || kv.lease !== own.leaseId;
    if (untouched) {
      this.#owed = false;
      if (this.#touches > 0 && nowMs >= this.#lastTouchMs + quietMs) this.calm();
      return kv.modRevision;
    }
    // Later: the touch is still there to be seen then.
    this.#owed = true;
    if (nowMs < this.#answeredAtMs + this.#intervalMs) return own.modRevision;
    const { key, value } = own;
    const modRevision = await rewrite(options, kv, { value, lease: own.leaseId }, signal);
    this.#note(nowMs);
    options.log.info(
      { event: 'probe-answered', key },
      `answered a host that asked whether the lease ${key} is held`,
    );
    if (this.#touches >= reportedTouches) this.#report(options, key);
    return modRevision ?? own.modRevision;
  }

  #note(nowMs: number): void {
    this.#together = nowMs > this.#answeredAtMs + pairMs ? 1 : this.#together + 1;
    // Alone it counts. A second one takes that back, until a third shows that they were no pair.
    this.#touches += this.#together === 2 ? -1 : this.#together === 3 ? 3 : 1;
    const pause = nowMs > this.#answeredAtMs + 2 * this.#intervalMs + pauseMs;
    this.#inARow = pause ? 1 : this.#inARow + 1;
    if (pause) this.#intervalMs = shortestIntervalMs;
    else if (this.#inARow > answersInARow)
      this.#intervalMs = Math.min(2 * this.#intervalMs, longestIntervalMs);
    this.#owed = false;
    this.#answeredAtMs = nowMs;
    this.#lastTouchMs = nowMs;
  }

  #report({ addresses }: LeaseOptions, key: string): void {
    const address = familiesText(addresses);
    this.#trouble.report(
      'address-shared',
      `another host uses this host's address ${address}: it asks again and again for the lease ${key} of this host. ` +
        'Give one of them an address of its own with --iface=INTERFACE or --public-ip=ADDRESS',
      { key },
    );
  }

  /** The other host is known to be gone. */
  calm(): void {
    this.#touches = 0;
    this.#trouble.clear('address-shared', 'no other host asks for the lease of this host any more');
  }
}
