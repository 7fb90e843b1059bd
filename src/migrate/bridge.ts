import type { Clock, Logger, Random } from '../runtime/effects.ts';
import { explanationOf } from '../runtime/errors.ts';
import { FailureCount } from '../runtime/retry.ts';
import type { TroubleLog } from '../runtime/trouble.ts';
import { firstOf, Wake } from '../runtime/wake.ts';
import { V2Error, type V2Position, type V2Ttl } from '../subnet/etcd-v2/store.ts';
import { bridgeKey, configKey } from '../subnet/keys.ts';
import { prefixEnd, RegistryError } from '../subnet/registry/registry.ts';
import { withBridgeLock } from './bridge-lock.ts';
import { type ConfigOutcome, judgeConfig } from './config.ts';
import {
  type Guard,
  removeCopy,
  renewCopy,
  replaceCopy,
  type Written,
  writeConfig,
  writeCopy,
} from './copy.ts';
import { prefixesNear } from './migrate.ts';
import { type Action, copyTtlSeconds, type PairPlan, planPairs } from './pairs.ts';
import { nothingText } from './remedies.ts';
import { inBatches, oldStoreText, type Sides, v2ConfigKey } from './snapshot.ts';
import { type Skipped, Stores } from './stores.ts';

export interface BridgeParts extends Sides {
  /** Who this is, for the operator of a second bridge. */
  readonly owner: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly trouble: TroubleLog;
  /** Called when {@link Bridge.view} may have changed. */
  readonly onChange?: () => void;
  /** Called each time round, at least every minute while etcd answers in time. */
  readonly onRound?: () => void;
}

/** Where a bridge stands. */
export interface BridgeView extends Pick<PairPlan, 'onV2' | 'onV3' | 'conflicts' | 'orphans'> {
  /** Both stores are watched, and agree as far as this bridge can make them. */
  readonly inStep: boolean;
  /** Another bridge holds the lock: its owner. */
  readonly waitsFor: string | undefined;
  readonly config: ConfigOutcome | undefined;
  readonly skipped: readonly Skipped[];
  /** Writes since the start, by kind. */
  readonly writes: ReadonlyMap<Action['what'], number>;
}

/** Both stores are listed this often, which also notices what a watch does not tell: a dead connection, the time left in v2. */
const relistMs = 60_000;
/** After a write that another was faster than, unless its event comes first. */
const againMs = 1_000;
const backoff = { initialMs: 250, maxMs: 5_000 };

/**
 * Keeps the leases of etcd's v2 store and of its v3 store alike, in both directions, until the signal aborts: see planPairs for the rules.
 * It remembers nothing that it cannot read again, so it may be killed at any moment. A store that does not answer is waited for.
 */
export class Bridge {
  readonly #parts: BridgeParts;
  readonly #stores: Stores;
  readonly #writes = new Map<Action['what'], number>();
  #plan: PairPlan | undefined;
  #isFound = false;
  #inStep = false;
  #waitsFor: string | undefined;
  #config: ConfigOutcome | undefined;

  constructor(parts: BridgeParts) {
    this.#parts = parts;
    this.#stores = new Stores(parts, parts.clock);
  }

  get view(): BridgeView {
    const { onV2 = 0, onV3 = 0, conflicts = [], orphans = [] } = this.#plan ?? {};
    return {
      onV2,
      onV3,
      conflicts,
      orphans,
      inStep: this.#inStep,
      waitsFor: this.#waitsFor,
      config: this.#config,
      skipped: this.#stores.skipped,
      writes: this.#writes,
    };
  }

  /** Rejects with `signal.reason`, and with an error that is neither etcd's. */
  async run(signal: AbortSignal): Promise<never> {
    const { to, clock, owner, random } = this.#parts;
    const failures = new FailureCount();
    const lock = { registry: to.registry, key: bridgeKey(to.prefix), owner, clock };
    for (;;) {
      const startedMs = clock.monotonic();
      this.#parts.onRound?.();
      try {
        const onWait = (holder: string) => this.#wait(holder);
        await withBridgeLock({ ...lock, onWait }, signal, (guard, inner) =>
          this.#hold(guard, failures, inner).finally(() => this.#leaveStep()),
        );
      } catch (error) {
        signal.throwIfAborted();
        this.#fail(error);
      }
      if (clock.monotonic() - startedMs > relistMs) failures.reset();
      await clock.sleep(failures.waitMs(backoff, random), signal);
    }
  }

  /** While the lock is held: session after session. */
  async #hold(guard: Guard, failures: FailureCount, signal: AbortSignal): Promise<void> {
    const { clock, random } = this.#parts;
    this.#waitsFor = undefined;
    for (;;) {
      this.#parts.onRound?.();
      try {
        if (await this.#session(guard, signal)) {
          failures.reset();
          continue;
        }
      } catch (error) {
        signal.throwIfAborted();
        this.#fail(error);
        this.#leaveStep();
      }
      await clock.sleep(failures.waitMs(backoff, random), signal);
    }
  }

  /** Lists both stores, and follows them for a while; resolves to whether it went well until then. */
  async #session(guard: Guard, signal: AbortSignal): Promise<boolean> {
    const { clock, trouble } = this.#parts;
    const v2 = await this.#stores.listV2(signal);
    trouble.clear('v2-store', 'the v2 store answers again');
    if (!(await this.#findNetwork(signal))) return false;
    const v3 = await this.#stores.listV3(signal);
    trouble.clear('v3-store', 'the v3 store answers again');
    this.#sayRestored('v2', v2.isSame);
    this.#sayRestored('v3', v3.isSame);
    const changed = new Wake();
    const wentWell = async (inner: AbortSignal) => {
      await clock.sleep(relistMs, inner);
      return true;
    };
    return await firstOf(signal, (inner) => [
      this.#watchV2(v2.position, changed, inner),
      this.#watchV3(v3.revision, changed, inner),
      this.#work(guard, changed, inner),
      wentWell(inner),
    ]);
  }

  /**
   * Whether v2 holds anything under the prefix, or has before. With a wrong prefix the bridge would see no host of v2, and copy leases of v3
   * to where none reads them.
   */
  async #findNetwork(signal: AbortSignal): Promise<boolean> {
    const { from, trouble } = this.#parts;
    const { v2, skipped } = this.#stores;
    const nothingAt = v2ConfigKey(from.prefix);
    this.#isFound ||=
      v2.length + skipped.length > 0 || (await from.store.get(nothingAt, signal)).node !== undefined;
    if (this.#isFound) trouble.clear('v2-network', 'the v2 store has a network now');
    else {
      const near = await prefixesNear(this.#parts, signal);
      trouble.report('v2-network', nothingText(from.endpoints, { nothingAt, near }));
    }
    return this.#isFound;
  }

  async #watchV2(position: V2Position, changed: Wake, signal: AbortSignal): Promise<false> {
    const { store } = this.#parts.from;
    for await (const event of store.watch(this.#stores.prefixes.v2.slice(0, -1), position, signal)) {
      this.#stores.tellV2(event);
      changed.wake();
    }
    return false;
  }

  async #watchV3(startRevision: number, changed: Wake, signal: AbortSignal): Promise<false> {
    const { v3: key } = this.#stores.prefixes;
    const request = { key, rangeEnd: prefixEnd(key), startRevision };
    for await (const batch of this.#parts.to.registry.watch(request, signal)) {
      this.#stores.tellV3(batch);
      if (batch.kind === 'events') changed.wake();
    }
    return false;
  }

  async #work(guard: Guard, changed: Wake, signal: AbortSignal): Promise<never> {
    const { clock } = this.#parts;
    const agesSeconds = new Map<string, number>();
    let isFirst = true;
    for (;;) {
      const stores = this.#stores;
      const isRenewalDue = (id: string, index: number) => stores.isRenewalDue(id, index);
      const { v2, v3, known } = stores;
      const plan = planPairs(stores.prefixes, { v2, v3, known, agesSeconds, isRenewalDue });
      stores.known = plan.known;
      this.#plan = plan;
      await inBatches(plan.askAges, async (id) => void agesSeconds.set(id, await this.#ageOf(id, signal)));
      let failed = 0;
      await inBatches(plan.actions, async (action) => {
        if (await this.#carryOut(action, guard, signal)) this.#tell(action);
        else failed += 1;
      });
      if (failed > 0) await changed.waitAtMost(clock, againMs, signal);
      if (failed > 0 || plan.actions.length + plan.askAges.length > 0) continue;
      // The configuration last: a daemon that waits for it would take a new subnet while its lease is not there yet.
      if (isFirst) await this.#copyConfig(guard, signal);
      isFirst = false;
      this.#inStep = true;
      this.#parts.onChange?.();
      await changed.wait(signal);
    }
  }

  /** Seconds since the etcd lease was renewed. */
  async #ageOf(id: string, signal: AbortSignal): Promise<number> {
    const left = await this.#parts.to.registry.leaseTimeToLive(id, signal);
    return left.ttlSeconds < 0 ? copyTtlSeconds : left.grantedTtlSeconds - left.ttlSeconds;
  }

  /** Resolves to false when somebody else has written the key meanwhile, whose event is on its way. */
  async #carryOut(action: Action, guard: Guard, signal: AbortSignal): Promise<boolean> {
    try {
      return await this.#write(action, guard, signal);
    } catch (error) {
      const isOvertaken =
        error instanceof V2Error && ['COMPARE_FAILED', 'EXISTS', 'NOT_FOUND'].includes(error.kind);
      if (isOvertaken) return false;
      throw error;
    }
  }

  async #write(action: Action, guard: Guard, signal: AbortSignal): Promise<boolean> {
    const stores = this.#stores;
    const { from, to } = this.#parts;
    const { registry } = to;
    switch (action.what) {
      case 'create-v3': {
        const { subnet, value, leaseId } = action;
        const copy = { value, leaseId, subnets: { ipv4: subnet } };
        return this.#noteWritten(await writeCopy(registry, stores.prefixes.v3, copy, signal, guard), action);
      }
      case 'replace-v3':
        return this.#noteWritten(await replaceCopy(registry, action.kv, action, signal, guard), action);
      case 'renew-v3':
        if (!(await renewCopy(registry, action.leaseId, signal))) return false;
        stores.noteRenewal(action.leaseId, action.index);
        return true;
      case 'remove-v3': {
        const { key, modRevision: revision } = action.kv;
        const goneAt = await removeCopy(registry, { key, revision }, signal, guard);
        if (goneAt !== undefined) stores.dropV3(key, goneAt);
        return goneAt !== undefined;
      }
      case 'create-v2':
        stores.noteV2(await from.store.create(action.key, action.value, ttlOf(action), signal));
        return true;
      case 'replace-v2': {
        const { key, modifiedIndex } = action.node;
        stores.noteV2(await from.store.replace(key, action.value, modifiedIndex, ttlOf(action), signal));
        return true;
      }
      case 'expire-v2': {
        const { key, value, modifiedIndex } = action.node;
        await from.store.expire(key, value, modifiedIndex, signal);
        stores.expiredV2(key, modifiedIndex);
        return true;
      }
    }
  }

  #noteWritten(
    written: Written | undefined,
    { value, leaseId: lease }: { readonly value: string; readonly leaseId: string },
  ): boolean {
    if (written === undefined) return false;
    const { key, revision } = written;
    this.#stores.noteV3({ key, value, lease, createRevision: revision, modRevision: revision });
    return true;
  }

  async #copyConfig(guard: Guard, signal: AbortSignal): Promise<void> {
    const { from, to } = this.#parts;
    const key = configKey(to.prefix);
    const { node } = await from.store.get(v2ConfigKey(from.prefix), signal);
    const { kvs } = await to.registry.range({ key }, signal);
    this.#config = judgeConfig(node?.value, kvs[0]?.value);
    if (this.#config.what !== 'copied' || node === undefined) return;
    if (await writeConfig(to.registry, key, node.value, signal, guard))
      this.#parts.log.info(
        { event: 'bridge-config', key },
        `copied the network configuration to ${key} in v3`,
      );
  }

  #tell(action: Action): void {
    const { what, subnet, host, why } = action;
    this.#writes.set(what, (this.#writes.get(what) ?? 0) + 1);
    const fields = { event: 'bridge', what, subnet: subnet.text, host };
    const isRenewal = what === 'renew-v3';
    this.#parts.log[isRenewal ? 'debug' : 'info'](fields, `${subnet.text} of ${host}: ${done[what]}: ${why}`);
  }

  #wait(holder: string): void {
    this.#parts.onRound?.();
    this.#parts.trouble.clear('v3-store', 'the v3 store answers again');
    if (this.#waitsFor === holder) return;
    this.#waitsFor = holder;
    this.#parts.log.info(
      { event: 'bridge-waits', holder },
      `another bridge (${holder}) is at work: this one waits until that one ends`,
    );
    this.#parts.onChange?.();
  }

  #fail(error: unknown): void {
    const { trouble } = this.#parts;
    if (error instanceof V2Error)
      trouble.report('v2-store', `the v2 store: ${oldStoreText(error)}`, { error });
    else if (error instanceof RegistryError)
      trouble.report('v3-store', `the v3 store: ${explanationOf(error)}`, { error });
    else throw error;
  }

  #leaveStep(): void {
    this.#inStep = false;
    this.#parts.onChange?.();
  }

  #sayRestored(store: 'v2' | 'v3', isSame: boolean): void {
    if (isSame) return;
    this.#parts.log.warn(
      { event: 'bridge-restored', store },
      `another ${store} store answers than before: etcd was restored, or the endpoints belong to two clusters. ` +
        'Leases that it lacks have not ended: their copies are left to end by themselves',
    );
  }
}

const done: Readonly<Record<Action['what'], string>> = {
  'create-v3': 'copied to v3',
  'replace-v3': 'written in v3',
  'renew-v3': 'renewed in v3',
  'remove-v3': 'removed from v3',
  'create-v2': 'copied to v2',
  'replace-v2': 'written in v2',
  'expire-v2': 'removed from v2',
};

function ttlOf({ isReservation }: { readonly isReservation: boolean }): V2Ttl {
  return isReservation ? 'permanent' : copyTtlSeconds;
}
