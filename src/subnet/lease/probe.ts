import type { Clock } from '../../runtime/effects.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { type KeyValue, RegistryError } from '../registry/registry.ts';
import type { Lease } from './lease.ts';
import { familiesText, type LeaseOptions, type OwnLease, rewrite } from './own-lease.ts';

/*
 * Two hosts may have one address: behind NAT, or as copies of one machine. Over etcd a host asks whether a
 * running host holds a lease by putting the lease's key again as it is (`probe`). A daemon that sees somebody
 * else put its key puts it once more (`AddressDefence`). flanneld does not answer: its lease looks like one
 * that was left behind. The link itself may show the other host, too (`AddressUse`).
 */

/** What the link shows of other hosts with our address; the conflict may cut a host off from etcd. */
export interface AddressUse {
  /** The MAC address of the other host, as far as it is known. */
  readonly rival: string | undefined;
  /** Whether the link was asked for our present IPv4 address, and no other host has it. */
  readonly alone: boolean;
  /** Resolves once `rival` is known as far as it can be. */
  looked(signal: AbortSignal): Promise<void>;
  /** Resolves when `rival` is not `seen`, at once or later. */
  changed(seen: string | undefined, signal: AbortSignal): Promise<void>;
}

/** A holder that has not answered by then does not run. */
export const probeMs = 2_000;
/** When to read the key after the put, in ms from the put. A running daemon answers in a few round trips. */
const looksMs = [250, 750, probeMs];

/**
 * Asks whether a running host holds a lease. `quiet`: nobody answered in two seconds. `changed`: somebody
 * changed the key meanwhile; read again. Of two hosts that probe one key at once the first to write takes the
 * other's probe for an answer. Rejects with RegistryError.
 */
export async function probe(
  options: LeaseOptions & { readonly clock: Clock },
  lease: Lease,
  signal: AbortSignal,
): Promise<'answered' | 'quiet' | 'changed'> {
  const { key, rawValue: value, leaseId } = lease;
  options.log.info(
    { event: 'lease-probed', key },
    `lease ${key} carries this host's address, but may belong to another host: ` +
      'waiting two seconds for its holder to answer',
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
    // An earlier revision comes from a backup, restored meanwhile.
    const answered = kv?.value === value && kv.lease === leaseId && kv.modRevision > modRevision;
    return answered ? 'answered' : 'changed';
  }
  return 'quiet';
}

/**
 * Puts the key of a lease again as it is. Resolves to the new revision; undefined when somebody changed the
 * key; `gone` when its etcd lease is dead, so that etcd is about to delete it. Rejects with RegistryError.
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

/** Shorter than the two seconds of a probe, so that the second of two probes in a row gets an answer, too. */
const shortestIntervalMs = 500;
/** Two daemons that claim one key answer each other's answers. After this many in a row they slow down. */
const answersInARow = 20;
const longestIntervalMs = 60_000;
const pauseMs = 10_000;
/** An operator may put the key by hand, once or twice. */
const reportedTouches = 3;
/**
 * A host that was granted the lease and has another address now asks exactly twice, within this time (see
 * acquireLease): it takes the first answer for another probe. That host does not use our address.
 */
const pairMs = 5_000;
/** After this long without a put nobody asks for the key any more; a refused prober comes back sooner. */
const quietMs = 30 * 60_000;

/** Answers each probe of our key by putting the key again, and reports a host that keeps asking. */
export class AddressDefence {
  readonly #parts: { readonly clock: Clock; readonly trouble: TroubleLog };
  #touches = 0;
  /** How many of the last touches came with less than {@link pairMs} between each and the next. */
  #together = 0;
  #answeredAtMs = Number.NEGATIVE_INFINITY;
  #intervalMs = shortestIntervalMs;
  #inARow = 0;
  #owed = false;

  constructor(parts: { readonly clock: Clock; readonly trouble: TroubleLog }) {
    this.#parts = parts;
  }

  /** When to read the key again for the defence, on the monotonic clock. */
  get dueMs(): number {
    if (this.#owed) return this.#answeredAtMs + this.#intervalMs;
    return this.#touches > 0 ? this.#answeredAtMs + quietMs : Number.POSITIVE_INFINITY;
  }

  /**
   * Answers if `kv`, our key as just read, shows a probe. Resolves to the revision up to which this host
   * knows the key: that of the answer, if one was due. Rejects with RegistryError.
   */
  async answer(options: LeaseOptions, own: OwnLease, kv: KeyValue, signal: AbortSignal): Promise<number> {
    const nowMs = this.#parts.clock.monotonic();
    const untouched = kv.modRevision <= own.modRevision || kv.value !== own.value || kv.lease !== own.leaseId;
    if (untouched) {
      this.#owed = false;
      if (this.#touches > 0 && nowMs >= this.#answeredAtMs + quietMs) this.calm();
      return kv.modRevision;
    }
    // Too soon. The key still shows the touch later.
    this.#owed = true;
    if (nowMs < this.#answeredAtMs + this.#intervalMs) return own.modRevision;
    const { key, value } = own;
    const modRevision = await rewrite(options, kv, { value, lease: own.leaseId }, signal);
    this.#note(nowMs);
    const text = `answered a host that asked whether somebody holds lease ${key}`;
    options.log.info({ event: 'probe-answered', key }, text);
    if (this.#touches >= reportedTouches) {
      const address = familiesText(options.addresses);
      this.#parts.trouble.report(
        'address-shared',
        `another host uses this host's address ${address}: it keeps asking for lease ${key} of this host. ` +
          'Give one of the two an address of its own with --iface=INTERFACE or --public-ip=ADDRESS',
        { key },
      );
    }
    return modRevision ?? own.modRevision;
  }

  #note(nowMs: number): void {
    this.#together = nowMs > this.#answeredAtMs + pairMs ? 1 : this.#together + 1;
    // A single touch counts. A second one takes that back, until a third shows that they were no pair.
    this.#touches += this.#together === 2 ? -1 : this.#together === 3 ? 3 : 1;
    const pause = nowMs > this.#answeredAtMs + 2 * this.#intervalMs + pauseMs;
    this.#inARow = pause ? 1 : this.#inARow + 1;
    if (pause) this.#intervalMs = shortestIntervalMs;
    else if (this.#inARow > answersInARow)
      this.#intervalMs = Math.min(2 * this.#intervalMs, longestIntervalMs);
    this.#owed = false;
    this.#answeredAtMs = nowMs;
  }

  /** Notes that the other host is gone. */
  calm(): void {
    this.#touches = 0;
    this.#together = 0;
    this.#parts.trouble.clear('address-shared', 'no other host asks for the lease of this host any more');
  }
}
