import { type Clock, type Logger, type Random, randomInt } from '../../runtime/effects.ts';
import { firstOf, unlessAborted } from '../../runtime/wake.ts';
import type { GrantedLease, Registry } from '../registry/registry.ts';

/** An id is a positive int64: 31 bits that tell the host, 32 that count from a random number. */
const identities = 2 ** 31;
const counters = 2 ** 32;

/** This many revoked leases are revoked again after a restore. */
const remembered = 16;

/** How long a stop may wait for etcd to revoke unused leases. */
const tidyLimitMs = 2_000;

/**
 * The etcd leases that this process was granted. It revokes those that no key carries: each would live for a
 * day, and a daemon that keeps restarting would pile them up.
 *
 * This class chooses the ids and notes them before it asks etcd, so that it can revoke a lease whose grant
 * was never confirmed. Only a crash between grant and use leaves one behind.
 */
export class Grants {
  readonly #registry: Registry;
  readonly #identity: number;
  #counter: number;
  readonly #unused = new Set<string>();
  readonly #used = new Set<string>();
  /** The revoked ones, the oldest first. */
  readonly #revoked = new Set<string>();
  /** Keys that may carry a lease that counts as unused. */
  readonly #doubtfulKeys = new Set<string>();
  /** Grants that etcd has not answered yet. */
  readonly #underWay = new Set<Promise<void>>();

  /** `hostIdentity`: see {@link Grants.isOurs}; absent: a random one, so only this process's ids are ours. */
  constructor(registry: Registry, random: Random, hostIdentity = randomInt(random, identities)) {
    this.#registry = registry;
    this.#identity = hostIdentity % identities;
    this.#counter = randomInt(random, counters);
  }

  /**
   * Whether a daemon with this host's identity was granted the lease. No other host has that number, so no
   * other host with our address took the lease.
   */
  isOurs(id: string): boolean {
    return BigInt(id) / BigInt(counters) === BigInt(this.#identity) && id !== '0';
  }

  /** Whether the lease was granted here and, as far as is known, no key of ours carries it. */
  isUnused(id: string): boolean {
    return this.#unused.has(id);
  }

  /** A new lease, unused so far. Rejects as the registry does. */
  async grant(ttlSeconds: number, signal: AbortSignal): Promise<GrantedLease> {
    const id = this.#nextId();
    this.#unused.add(id);
    // Without the signal: etcd would still grant the lease, perhaps only after its revocation.
    const granting = this.#registry.leaseGrant(ttlSeconds, undefined, id);
    const settled = Promise.allSettled([granting]).then(() => {
      this.#underWay.delete(settled);
    });
    this.#underWay.add(settled);
    return await unlessAborted(granting, signal);
  }

  /** Never the same id twice in a process, so that each late grant can be revoked by its own. */
  #nextId(): string {
    this.#counter = (this.#counter + 1) % counters;
    // An id of 0 would mean: choose one.
    if (this.#counter === 0 && this.#identity === 0) return this.#nextId();
    return String(BigInt(this.#identity) * BigInt(counters) + BigInt(this.#counter));
  }

  /** Notes that no known key carries this lease, of this run or an earlier one; `key` may still do so. */
  markUnused(id: string, key?: string): void {
    this.#unused.add(id);
    if (key !== undefined) this.#doubtfulKeys.add(key);
  }

  /** Notes that a key of ours carries this lease; ignores one that was not granted here. */
  markUsed(id: string): void {
    if (this.#unused.delete(id)) this.#used.add(id);
  }

  /** Notes that no key of ours carries this lease any more. One not granted here may be shared: it stays. */
  release(id: string): void {
    if (this.#used.delete(id)) this.#unused.add(id);
  }

  /** Takes a new list of all leases for a restore, which may bring back revoked leases. */
  reconsider(): void {
    for (const id of this.#revoked) this.#unused.add(id);
    this.#revoked.clear();
  }

  /** Revokes the unused leases, with unconfirmed keys that were put on them. Rejects as the registry does. */
  async revokeUnused(signal: AbortSignal): Promise<void> {
    for (const id of this.#unused) {
      await this.#registry.leaseRevoke(id, signal);
      this.#unused.delete(id);
      this.#revoked.add(id);
      const [oldest] = this.#revoked;
      if (oldest !== undefined && this.#revoked.size > remembered) this.#revoked.delete(oldest);
    }
  }

  /**
   * Revokes the unused leases before the process ends, as far as etcd answers within two seconds; never
   * rejects. A lease that `key` carries is in use, although its confirmation may be lost.
   */
  async revokeLeftovers(clock: Clock, log: Logger, key?: string): Promise<void> {
    if (this.#unused.size === 0) return;
    const revoke = async (signal: AbortSignal) => {
      // A grant without an answer is revoked, too, after it has had time to arrive.
      const answered = Promise.all(this.#underWay).then(() => undefined);
      await firstOf(signal, (inner) => [unlessAborted(answered, inner), clock.sleep(tidyLimitMs / 2, inner)]);
      for (const doubtful of new Set([...(key === undefined ? [] : [key]), ...this.#doubtfulKeys])) {
        const { kvs } = await this.#registry.range({ key: doubtful }, signal);
        for (const kv of kvs) this.markUsed(kv.lease);
      }
      await this.revokeUnused(signal);
    };
    try {
      const never = new AbortController().signal;
      await firstOf(never, (inner) => [revoke(inner), clock.sleep(tidyLimitMs, inner)]);
    } catch (error) {
      log.debug(
        { event: 'revoke-failed', error },
        'could not revoke an unused etcd lease: it expires by itself',
      );
    }
  }
}
