import { VirtualClock } from '../../sim/clock.ts';
import { SimEtcd, type SimEtcdOptions } from '../../sim/etcd.ts';
import { SimLog } from '../../sim/log.ts';
import { SeededRandom } from '../../sim/random.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { type Lease, parseLease } from '../../src/subnet/lease/lease.ts';
import { type LeaseUpdate, LeaseWatch } from '../../src/subnet/lease/watch/lease-watch.ts';
import {
  prefixEnd,
  type RangeRequest,
  type RangeResponse,
  type Registry,
  type ResponseHeader,
  type WatchBatch,
  type WatchRequest,
} from '../../src/subnet/registry/registry.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';

export const prefix = '/net/subnets/';

export const valueOf = (publicIP: string, publicIPv6?: string) =>
  `{"PublicIP":"${publicIP}","PublicIPv6":${publicIPv6 === undefined ? 'null' : `"${publicIPv6}"`},"BackendType":"host-gw"}`;

/** A registry whose headers and watches are seen through a lens; everything else goes to `inner`. */
export class LensRegistry implements Registry {
  readonly #inner: Registry;
  header: (header: ResponseHeader, kind: WatchBatch['kind'] | 'range') => ResponseHeader = (header) => header;
  beforeWatch: (request: WatchRequest) => void = () => {};
  onRange: (request: RangeRequest) => void = () => {};
  /** Told of every other unary call and its first argument, before it is made. */
  onCall: (call: string, argument: unknown) => void = () => {};

  constructor(inner: Registry) {
    this.#inner = inner;
  }

  get endpoint(): string {
    return this.#inner.endpoint;
  }

  async range(request: RangeRequest, signal?: AbortSignal): Promise<RangeResponse> {
    this.onRange(request);
    const response = await this.#inner.range(request, signal);
    return { ...response, header: this.header(response.header, 'range') };
  }

  async *watch(request: WatchRequest, signal: AbortSignal): AsyncGenerator<WatchBatch> {
    this.beforeWatch(request);
    for await (const batch of this.#inner.watch(request, signal))
      yield { ...batch, header: this.header(batch.header, batch.kind) };
  }

  txn: Registry['txn'] = (...args) => {
    this.onCall('txn', args[0]);
    return this.#inner.txn(...args);
  };
  leaseGrant: Registry['leaseGrant'] = (...args) => {
    this.onCall('leaseGrant', args[0]);
    return this.#inner.leaseGrant(...args);
  };
  leaseKeepAlive: Registry['leaseKeepAlive'] = (...args) => {
    this.onCall('leaseKeepAlive', args[0]);
    return this.#inner.leaseKeepAlive(...args);
  };
  leaseTimeToLive: Registry['leaseTimeToLive'] = (...args) => {
    this.onCall('leaseTimeToLive', args[0]);
    return this.#inner.leaseTimeToLive(...args);
  };
  leaseRevoke: Registry['leaseRevoke'] = (...args) => {
    this.onCall('leaseRevoke', args[0]);
    return this.#inner.leaseRevoke(...args);
  };
  close = (): void => this.#inner.close();
}

/** A lease watch with a consumer that keeps what it is told, on an etcd in memory. */
export class WatchHost {
  readonly clock = new VirtualClock();
  readonly etcd: SimEtcd;
  readonly log = new SimLog(this.clock);
  readonly trouble = new TroubleLog(this.clock, this.log.of('h0'));
  readonly registry: LensRegistry;
  readonly watch: LeaseWatch;
  readonly updates: LeaseUpdate[] = [];
  onDoubt: (heldBack: LeaseUpdate) => void = () => {};
  /** Told of an update before it is believed; may throw. */
  onUpdate: (update: LeaseUpdate) => void = () => {};
  /** What a consumer believes: raw values by key. */
  readonly believed = new Map<string, string>();
  readonly #stop = new AbortController();
  readonly #ended: Promise<unknown>;

  constructor(options: Partial<SimEtcdOptions> = {}, seed = 1, before: (host: WatchHost) => void = () => {}) {
    this.etcd = new SimEtcd({ clock: this.clock, ...options });
    this.registry = new LensRegistry(rotate(this.etcd.connect('h0')));
    this.watch = new LeaseWatch({
      registry: this.registry,
      clock: this.clock,
      random: new SeededRandom(seed),
      log: this.log.of('h0'),
      trouble: this.trouble,
      subnetsPrefix: prefix,
      onDoubt: (update) => this.onDoubt(update),
    });
    before(this);
    this.#ended = this.watch
      .run(this.#stop.signal, (update) => this.#take(update))
      .catch((error: unknown) => error);
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

  /** Ends it; resolves to what `run` rejected with. Nothing of it is left. */
  async stop(): Promise<unknown> {
    this.#stop.abort(new Error('stopped'));
    const reason = await this.#ended;
    this.registry.close();
    this.etcd.close();
    await this.clock.settle();
    return reason;
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
