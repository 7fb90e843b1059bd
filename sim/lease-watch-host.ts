import { type Lease, parseLease } from '../src/subnet/lease/lease.ts';
import { LeaseWatch } from '../src/subnet/lease/watch/lease-watch.ts';
import type { LeaseUpdate } from '../src/subnet/lease/watch/reader.ts';
import { prefixEnd } from '../src/subnet/registry/registry.ts';
import { rotate } from '../src/subnet/registry/rotation.ts';
import { SimEtcd, type SimEtcdOptions } from './etcd.ts';
import { prefix } from './leases.ts';
import { LensRegistry } from './lens-registry.ts';
import { SimPart } from './part.ts';

/** A lease watch with a consumer that keeps what it is told, on an etcd in memory. */
export class WatchHost extends SimPart {
  readonly etcd: SimEtcd;
  readonly registry: LensRegistry;
  readonly watch: LeaseWatch;
  readonly updates: LeaseUpdate[] = [];
  onDoubt: (heldBack: LeaseUpdate) => void = () => {};
  /** Told of an update before it is believed; may throw. */
  onUpdate: (update: LeaseUpdate) => void = () => {};
  /** What a consumer believes: raw values by key. */
  readonly believed = new Map<string, string>();

  constructor(options: Partial<SimEtcdOptions> = {}, seed = 1, before: (host: WatchHost) => void = () => {}) {
    super(seed);
    this.etcd = new SimEtcd({ clock: this.clock, ...options });
    this.registry = new LensRegistry(rotate(this.etcd.connect('h0')));
    this.watch = new LeaseWatch({
      registry: this.registry,
      ...this.outside,
      subnetsPrefix: prefix,
      onDoubt: (update) => this.onDoubt(update),
    });
    before(this);
    this.begin((signal) => this.watch.run(signal, (update) => this.#take(update)));
    this.atEnd(() => this.registry.close());
    this.atEnd(() => this.etcd.close());
  }

  /** What a full list gives now. */
  get listed(): ReadonlyMap<string, string> {
    const leases = this.etcd
      .list(prefix, prefixEnd(prefix))
      .map((kv) => parseLease(prefix, kv))
      .flatMap((parsed): Lease[] => ('lease' in parsed ? [parsed.lease] : []));
    return new Map(leases.map(({ key, rawValue }) => [key, rawValue]));
  }

  get snapshots(): number {
    return this.updates.filter(({ type }) => type === 'snapshot').length;
  }

  #take(update: LeaseUpdate): void {
    this.onUpdate(update);
    this.updates.push(update);
    if (update.type === 'snapshot') {
      this.believed.clear();
      for (const { key, rawValue } of update.leases) this.believed.set(key, rawValue);
      return;
    }
    for (const { key, rawValue } of update.put) this.believed.set(key, rawValue);
    for (const key of update.removed) this.believed.delete(key);
  }
}
