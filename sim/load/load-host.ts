import type { Clock, Logger, Random } from '../../src/runtime/effects.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { firstOf } from '../../src/runtime/wake.ts';
import { waitForConfig } from '../../src/subnet/config/source.ts';
import { ConfigWatch } from '../../src/subnet/config/watch.ts';
import { type LeaseSubnets, subnetsPrefix } from '../../src/subnet/keys.ts';
import { Grants } from '../../src/subnet/lease/grants.ts';
import { LeaseManager } from '../../src/subnet/lease/keep/manager.ts';
import { LeaseWatch } from '../../src/subnet/lease/watch/lease-watch.ts';
import type { KeyValue, Registry } from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { altered } from '../altered.ts';
import { prefix } from '../host.ts';
import { SimOldStore } from '../old-store.ts';

export interface LoadHostOptions {
  readonly name: string;
  readonly address: string;
  readonly clock: Clock;
  readonly random: Random;
  /** A number that no other host has. */
  readonly identity: number;
  /** Its ways to etcd's members; asked at each start. */
  readonly connect: () => readonly Registry[];
  /** Whether it remembers the lease of this key; its own it always does. */
  readonly remembers: (key: string) => boolean;
}

interface Run {
  readonly stop: AbortController;
  readonly registry: Registry;
  readonly ended: Promise<unknown>;
  manager?: LeaseManager;
  watch?: LeaseWatch;
}

const silent = () => undefined;
const noLog: Logger = { debug: silent, info: silent, warn: silent, error: silent };
const leasesPrefix = subnetsPrefix(prefix);

/**
 * Everything of a host that talks to etcd, put together as the daemon does it: the members and the loop that looks after them, the
 * configuration and its watch, the lease, the watch of all leases. It has no kernel, no firewall and no files. It forgets most
 * leases as soon as it has read them.
 */
export class LoadHost {
  readonly name: string;
  readonly #options: LoadHostOptions;
  #identity: number;
  /** Of its lease; also while it is down. */
  key: string | undefined;
  /** What subnet.env says. */
  #hint: LeaseSubnets | undefined;
  #run: Run | undefined;

  constructor(options: LoadHostOptions) {
    this.name = options.name;
    this.#options = options;
    this.#identity = options.identity;
  }

  /** Whether it has its lease, and the leases of all others. */
  get isUp(): boolean {
    return this.#run?.watch?.watching === true && this.#run.manager?.state === 'held';
  }

  start(): void {
    if (this.#run !== undefined) throw new Error(`${this.name} is running already`);
    const { clock, random, connect } = this.#options;
    const rotation = rotate(connect(), { leasesPrefix, clock, random });
    // To find its own lease a host needs no other. To choose a subnet it has to know all that are taken.
    const registry = this.key === undefined ? rotation : this.#forgetful(rotation);
    const stop = new AbortController();
    const ended = firstOf(stop.signal, (inner) => [
      rotation.run(clock, inner),
      // After this turn: what follows belongs to the run.
      Promise.resolve().then(() => this.#join(registry, inner)),
    ]).catch((error: unknown) => error);
    this.#run = { stop, registry, ended };
  }

  async #join(registry: Registry, signal: AbortSignal): Promise<void> {
    const { clock, random, address } = this.#options;
    const trouble = new TroubleLog(clock, noLog);
    const parts = { registry, clock, random, log: noLog, trouble, notices: trouble, etcdPrefix: prefix };
    const config = await waitForConfig({ ...parts, oldStore: new SimOldStore() }, signal);
    const manager = new LeaseManager({
      ...parts,
      grants: new Grants(registry, random, this.#identity),
      hostIdentity: this.#identity,
      subnetsPrefix: leasesPrefix,
      pools: config,
      addresses: { ipv4: address },
      leaseTtlSeconds: 86_400,
      renewMarginMs: 3_600_000,
      ...(this.#hint && { hint: this.#hint }),
    });
    if (this.#run !== undefined) this.#run.manager = manager;
    const isApplied = () => manager.lease !== undefined;
    await firstOf(signal, (inner) => [
      new ConfigWatch({ ...parts, config, isApplied }).run(inner),
      this.#keep(manager, parts, inner),
    ]);
  }

  async #keep(
    manager: LeaseManager,
    parts: { readonly registry: Registry; readonly trouble: TroubleLog },
    signal: AbortSignal,
  ): Promise<never> {
    const { clock, random } = this.#options;
    const { key, subnets } = await manager.acquire(signal);
    [this.key, this.#hint] = [key, subnets];
    const watch = new LeaseWatch({
      ...parts,
      clock,
      random,
      log: noLog,
      registry: this.#forgetful(parts.registry),
      subnetsPrefix: leasesPrefix,
      onDoubt: (update) => manager.observe(update),
      onReopened: () => manager.checkNow(),
    });
    if (this.#run !== undefined) this.#run.watch = watch;
    return await firstOf(signal, (inner) => [
      manager.run(inner),
      watch.run(inner, (update) => manager.observe(update)),
    ]);
  }

  /** Of a list only what this host remembers. */
  #forgetful(registry: Registry): Registry {
    const { remembers } = this.#options;
    const range: Registry['range'] = async (request, signal) => {
      const answer = await registry.range(request, signal);
      if (!request.key.startsWith(leasesPrefix) || request.rangeEnd === undefined) return answer;
      // The next page begins behind the last key of this one.
      const last = answer.more ? answer.kvs.at(-1)?.key : undefined;
      const isKept = ({ key }: KeyValue) => key === this.key || key === last || remembers(key);
      return { ...answer, kvs: answer.kvs.filter(isKept) };
    };
    return altered(registry, { range });
  }

  /** Stops the daemon as a signal does. */
  async stop(): Promise<void> {
    const run = this.#run;
    this.#run = undefined;
    if (run === undefined) return;
    const reason = new Error('stopped');
    run.stop.abort(reason);
    const outcome = await run.ended;
    run.registry.close();
    if (outcome !== reason) throw outcome;
  }

  /** The power is gone: nothing is left of the daemon, nor in /run. */
  async cutPower(): Promise<void> {
    await this.stop();
    this.#hint = undefined;
    this.#identity += 1_000_000;
  }
}
