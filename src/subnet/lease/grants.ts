import { type Clock, type Logger, type Random, randomInt } from '../../runtime/effects.ts';
import { firstOf, unlessAborted } from '../../runtime/wake.ts';
import type { Registry } from '../registry/registry.ts';

/** An id is a positive int64: 31 bits that tell the host, 32 that count from a random number. */
const identities = 2 ** 31;
const counters = 2 ** 32;

/** So many leases that were revoked are revoked again after a restore. */
const remembered = 16;

/** How long a stop may wait for etcd to take back what was granted for nothing. */
const tidyLimitMs = 2_000;

/**
 * The etcd leases this process was granted. Those that no key carries are revoked: left alone each lives for a day, and a
 * daemon that is started again and again piles them up.
 *
 * The ids are chosen here and noted before etcd is asked, so that also a lease can be revoked whose grant was never
 * confirmed. Only a crash between grant and use leaves one behind.
 */
export class Grants {
  readonly #registry: Registry;
  readonly #identity: number;
  #counter: number;
  readonly #unused = new Set<string>();
  readonly #used = new Set<string>();
  /** Those that were revoked, the oldest first. */
  readonly #revoked = new Set<string>();
  /** Keys that may carry a lease that counts as unused. */
  readonly #doubtfulKeys = new Set<string>();
  /** Grants that etcd has not answered yet. */
  readonly #underWay = new Set<Promise<void>>();

  /** `hostIdentity`: see {@link Grants.isOurs}; absent: a random one, so that none but this process's ids are ours. */
  constructor(registry: Registry, random: Random, hostIdentity = randomInt(random, identities)) {
    this.#registry = registry;
    this.#identity = hostIdentity % identities;
    this.#counter = randomInt(random, counters);
  }

  /**
   * Whether a lease was granted by a daemon with this host's identity. That is a number that no other host has: a lease
   * that carries it was not taken by another host with our address.
   */
  isOurs(id: string): boolean {
    return BigInt(id) / BigInt(counters) === BigInt(this.#identity) && id !== '0';
  }

  /** Whether it was granted here and no key of ours is known to carry it. */
  isUnused(id: string): boolean {
    return this.#unused.has(id);
  }

  /** A new lease, unused so far. Rejects as the registry does. */
  async grant(
    ttlSeconds: number,
    signal: AbortSignal,
  ): Promise<{ readonly id: string; readonly ttlSeconds: number }> {
    const id = this.#nextId();
    this.#unused.add(id);
    // Not cut off by the signal: etcd would carry out what it has received, perhaps only after the revocation that follows.
    const granting = this.#registry.leaseGrant(ttlSeconds, undefined, id);
    const settled = granting.then(
      () => undefined,
      () => undefined,
    );
    this.#underWay.add(settled);
    void settled.then(() => this.#underWay.delete(settled));
    return await unlessAborted(granting, signal);
  }

  /** Never the same twice in a process: what comes late of an earlier attempt is revoked by its own id. */
  #nextId(): string {
    this.#counter = (this.#counter + 1) % counters;
    // An id of 0 would mean: choose one.
    if (this.#counter === 0 && this.#identity === 0) return this.#nextId();
    return String(BigInt(this.#identity) * BigInt(counters) + BigInt(this.#counter));
  }

  /**
   * A lease of this host, perhaps granted to an earlier run, that no key of ours is known to carry any more; `key` may do so
   * still.
   */
  markUnused(id: string, key?: string): void {
    this.#unused.add(id);
    if (key !== undefined) this.#doubtfulKeys.add(key);
  }

  /** A key of ours carries this lease. No matter if it was not granted here. */
  markUsed(id: string): void {
    if (this.#unused.delete(id)) this.#used.add(id);
  }

  /** No key of ours carries this lease any more. One that was not granted here is left to expire: others may share it. */
  release(id: string): void {
    if (this.#used.delete(id)) this.#unused.add(id);
  }

  /** All leases were listed anew, perhaps after a restore: a backup brings back what was revoked since. */
  reconsider(): void {
    for (const id of this.#revoked) this.#unused.add(id);
    this.#revoked.clear();
  }

  /** Revokes what is unused, with any key that was put under it and never confirmed. Rejects as the registry does. */
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
   * Before the process ends: revokes what is unused, as far as etcd answers within two seconds; never fails. A lease
   * that `key` carries is in use, although we may not have heard so.
   */
  async revokeLeftovers(clock: Clock, log: Logger, key?: string): Promise<void> {
    if (this.#unused.size === 0) return;
    const revoke = async (signal: AbortSignal) => {
      // A grant whose answer is lost is revoked all the same, after the time in which one comes.
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
      log.debug({ event: 'revoke-failed', error }, 'an unused etcd lease is left to expire');
    }
  }
}
