import type { Clock } from '../src/runtime/effects.ts';
import { TroubleLog } from '../src/runtime/trouble.ts';
import { firstOf } from '../src/runtime/wake.ts';
import { LeaseManager, type LeaseManagerOptions } from '../src/subnet/lease/keep/manager.ts';
import { familiesText } from '../src/subnet/lease/own-lease.ts';
import { LeaseWatch } from '../src/subnet/lease/watch/lease-watch.ts';
import { type KeyValue, prefixEnd } from '../src/subnet/registry/registry.ts';
import { rotate } from '../src/subnet/registry/rotation.ts';
import { VirtualClock } from './clock.ts';
import { SimEtcd, type SimEtcdOptions } from './etcd.ts';
import { poolOf, prefix } from './leases.ts';
import { LensRegistry } from './lens-registry.ts';
import { SimLog } from './log.ts';
import { SeededRandom } from './random.ts';

/** An etcd with what hosts keep there, on a virtual clock. */
export class LeaseWorld {
  readonly clock = new VirtualClock();
  readonly etcd: SimEtcd;
  readonly log = new SimLog(this.clock);
  readonly hosts: LeaseHost[] = [];

  constructor(options: Partial<SimEtcdOptions> = {}) {
    this.etcd = new SimEtcd({ clock: this.clock, ...options });
  }

  host(ip: string, options: LeaseHostOptions = {}, seed = 0): LeaseHost {
    const host = new LeaseHost(this, ip, this.hosts.length, options, seed);
    this.hosts.push(host);
    return host;
  }

  /** Puts a key under the prefix, on an etcd lease of a day or on the one given (`0`: none, a reservation); gives that lease. */
  put(name: string, value: string, lease = this.etcd.grant(86_400)): string {
    this.etcd.put(prefix + name, value, lease);
    return lease;
  }

  get kvs(): readonly KeyValue[] {
    return this.etcd.list(prefix, prefixEnd(prefix));
  }

  get keys(): readonly string[] {
    return this.kvs.map(({ key }) => key.slice(prefix.length));
  }

  /** Etcd leases that no key carries. */
  get idleLeases(): readonly string[] {
    const carried = new Set(this.kvs.map(({ lease }) => lease));
    return this.etcd.leaseIds.filter((id) => !carried.has(id));
  }

  /** Stops everything; true when nothing is left running. */
  async close(): Promise<boolean> {
    for (const host of this.hosts) await host.stop();
    this.etcd.close();
    await this.clock.settle();
    return this.clock.pending === 0 && this.etcd.watchers === 0;
  }
}

export type LeaseHostOptions = Partial<
  Pick<
    LeaseManagerOptions,
    'pools' | 'addresses' | 'addressUse' | 'hint' | 'hostIdentity' | 'leaseTtlSeconds' | 'renewMarginMs'
  >
> & {
  /** Default true: a lease watch tells the manager of changes. */
  readonly watch?: boolean;
  readonly clock?: Clock;
};

/** A host that gets a lease and keeps it, as the daemon does it. */
export class LeaseHost {
  readonly ip: string;
  readonly trouble: TroubleLog;
  options: LeaseHostOptions;
  /** For a test's own notes: this host was seen with another subnet than its first. */
  renumbered = false;
  readonly #world: LeaseWorld;
  readonly #name: string;
  readonly #random: SeededRandom;
  #run:
    | { manager: LeaseManager; registry: LensRegistry; stop: AbortController; ended: Promise<unknown> }
    | undefined;
  /** Set before a start: sees the registry of each run. */
  onStart: (registry: LensRegistry) => void = () => {};
  /** Told of each call to etcd and its first argument, before it is made. */
  onCall: (call: string, argument: unknown) => void = () => {};

  constructor(world: LeaseWorld, ip: string, index: number, options: LeaseHostOptions, seed: number) {
    this.#world = world;
    this.ip = ip;
    this.#name = `h${index}`;
    this.options = options;
    this.#random = new SeededRandom(seed * 1_000 + index + 1);
    this.trouble = new TroubleLog(world.clock, world.log.of(this.#name));
  }

  get name(): string {
    return this.#name;
  }

  get running(): boolean {
    return this.#run !== undefined;
  }

  get manager(): LeaseManager {
    if (this.#run === undefined) throw new Error(`${this.#name} is not running`);
    return this.#run.manager;
  }

  /** The subnet held, as text; undefined while there is none. */
  get held(): string | undefined {
    const { manager } = this.#run ?? {};
    return manager?.state === 'held' && manager.lease ? familiesText(manager.lease.subnets) : undefined;
  }

  start(): this {
    const { etcd, log, clock } = this.#world;
    const registry = new LensRegistry(rotate(etcd.connect(this.#name)));
    registry.onCall = (call, argument) => this.onCall(call, argument);
    this.onStart(registry);
    const parts = {
      registry,
      clock: this.options.clock ?? clock,
      random: this.#random,
      log: log.of(this.#name),
      trouble: this.trouble,
      subnetsPrefix: prefix,
    };
    const manager = new LeaseManager({
      ...parts,
      pools: { ipv4: poolOf('10.1.0.0/24', '10.1.255.0/24') },
      leaseTtlSeconds: 86_400,
      renewMarginMs: 3_600_000,
      addresses: { ipv4: this.ip },
      ...this.options,
    });
    const stop = new AbortController();
    const live = async (signal: AbortSignal): Promise<never> => {
      await manager.acquire(signal);
      const watch = new LeaseWatch(parts);
      return await firstOf(signal, (inner) => [
        manager.run(inner),
        ...(this.options.watch === false ? [] : [watch.run(inner, (update) => manager.observe(update))]),
      ]);
    };
    const ended = live(stop.signal).catch((error: unknown) => error);
    this.#run = { manager, registry, stop, ended };
    return this;
  }

  /** Starts it unless it runs, and waits until it holds a subnet. */
  async hold(withinMs = 60_000): Promise<this> {
    if (!this.running) this.start();
    await this.#world.clock.until(`${this.#name} holds a subnet`, () => this.held !== undefined, withinMs);
    return this;
  }

  /** Stops as a signal does; throws when that ends with anything but the reason, or takes longer than 5 s. */
  async stop(): Promise<void> {
    const run = this.#run;
    this.#run = undefined;
    if (run === undefined) return;
    const reason = new Error('stopped');
    run.stop.abort(reason);
    let outcome: unknown;
    void run.ended.then((error) => {
      outcome = error;
    });
    await this.#world.clock.until(`${this.#name} stops`, () => outcome !== undefined, 5_000);
    run.registry.close();
    if (outcome !== reason) throw outcome;
  }

  /** Ends as kill -9 does: what is on its way still arrives, and nothing is sent any more. */
  async crash(): Promise<void> {
    const run = this.#run;
    this.#run = undefined;
    if (run === undefined) return;
    run.registry.close();
    run.stop.abort(new Error('crashed'));
    await run.ended;
  }
}
