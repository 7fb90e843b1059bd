import { HostGateway } from '../src/backend/hostgw/host-gateway.ts';
import { Reconciler } from '../src/backend/hostgw/reconciler.ts';
import type { Family, PerFamily, Subnet } from '../src/ip/ip.ts';
import type { Kernel, KernelEvent, KernelEvents, Route } from '../src/kernel/kernel.ts';
import type { Lease } from '../src/subnet/lease/lease.ts';
import { routeProtocol } from './host.ts';
import { SimKernel } from './kernel.ts';
import { dualLease, lease, subnet } from './leases.ts';
import { SimPart } from './part.ts';

/** What IPv6 tests write for what IPv4 tests write: networks that lie to each other as those do. */
const inIPv6: readonly (readonly [RegExp, string])[] = [
  [/^172\.20\.0\.0\/16$/, 'fc00::/32'],
  [/^172\.20\.(\d+)\.0\/24$/, 'fc00:0:$1::/64'],
  [/^172\.20\.(\d+)\.0\/22$/, 'fc00:0:$1::/62'],
  [/^172\.20\.(\d+)\.(\d+)\/24$/, 'fc00:0:$1::$2/64'],
  [/^172\.16\.0\.0\/12$/, 'fc00::/12'],
  [/^10\.211\.55\.(\d+)\/24$/, 'fd00:55::$1/64'],
  [/^10\.211\.55\.(\d+)\/32$/, 'fd00:55::$1/128'],
  [/^10\.211\.55\.(\d+)$/, 'fd00:55::$1'],
  [/^10\.44\.0\.(\d+)\/24$/, 'fd44::$1/64'],
  [/^10\.(\d+)\.0\.(\d+)$/, 'fd$1::$2'],
  [/^10\.(\d+)\.(\d+)\.0\/24$/, 'fd$1:$2::/64'],
  [/^192\.168\.(\d+)\.0\/24$/, 'fd99:$1::/64'],
  [/^0\.0\.0\.0\/0$/, '::/0'],
];

/** The address, CIDR or subnet of a family that stands for this one of IPv4. Throws for what has no counterpart. */
export function inFamily(family: Family, text: string): string {
  if (family === 4 || text.includes(':')) return text;
  const found = inIPv6.find(([pattern]) => pattern.test(text));
  if (found === undefined) throw new Error(`no IPv6 counterpart of ${text}`);
  return text.replace(found[0], found[1]);
}

/** A host with eth0, its kernel, and what keeps its routes. */
class RouteHost extends SimPart {
  readonly kernel: SimKernel;

  constructor(addresses: readonly string[], latencyMs = 1, seed = 1) {
    super(seed);
    this.kernel = new SimKernel({ clock: this.clock, latencyMs });
    this.kernel.createLink('eth0');
    for (const address of addresses) this.kernel.addAddress('eth0', address);
  }

  get eth0(): number {
    return this.kernel.link('eth0').index;
  }

  /** What the part under test knows the kernel by. */
  protected connect(): Kernel {
    const connection = this.kernel.open();
    this.atEnd(() => connection.close());
    return connection;
  }

  /** Our routes, `dst via gateway` or `blackhole dst`, sorted. */
  get own(): readonly string[] {
    return this.routes(({ protocol }) => protocol === routeProtocol);
  }

  /** The matching routes of the kernel, written so, sorted. */
  routes(matches: (route: Route) => boolean, families: readonly Family[] = [4, 6]): readonly string[] {
    const routes = families.flatMap((family) => this.kernel.routes(family));
    return routes.filter(matches).map(brief).toSorted();
  }
}

function brief({ dst, gateway, type }: Route): string {
  return type === 'blackhole' ? `blackhole ${dst}` : `${dst} via ${gateway}`;
}

export interface HostOptions {
  /** Default 4; what is written for IPv4 is then put into that family by {@link inFamily}. */
  readonly family?: Family;
  readonly seed?: number;
  /** How long a batch or a dump takes in the kernel. Default 1: a loop that never waits shows in the counters. */
  readonly latencyMs?: number;
  /** What stands between reconciler and kernel. */
  readonly wrap?: (kernel: Kernel) => Kernel;
}

/**
 * One host, 10.211.55.100/24 on eth0 with the subnet 172.20.100.0/24 (or the counterparts of another family), its kernel,
 * and the reconciler at work on it.
 */
export class ReconcilerHost extends RouteHost {
  readonly family: Family;
  readonly reconciler: Reconciler;
  #leases = new Map<string, Lease>();

  constructor({ family = 4, seed, latencyMs, wrap = (kernel) => kernel }: HostOptions = {}) {
    const own = (text: string) => inFamily(family, text);
    super([own('10.211.55.100/24')], latencyMs, seed);
    this.family = family;
    this.kernel.addRoute({ dst: own('0.0.0.0/0'), gateway: own('10.211.55.1'), linkIndex: this.eth0 });
    this.reconciler = new Reconciler({
      ...this.outside,
      kernel: wrap(this.connect()),
      self: { subnet: subnet(own('172.20.100.0/24')), address: own('10.211.55.100') },
      ownership: {
        protocol: routeProtocol,
        network: subnet(own('172.20.0.0/16')),
        subnetLength: family === 4 ? 24 : 64,
      },
      linkName: 'eth0',
      blackhole: false,
    });
  }

  start(): void {
    this.begin((signal) => this.reconciler.run(signal));
  }

  /** All leases at once, as after a list: destination → PublicIP. */
  snapshot(leases: Readonly<Record<string, string>>): void {
    this.#leases = new Map(Object.entries(leases).map(([dst, ip]) => [this.in(dst), this.#lease(dst, ip)]));
    this.reconciler.update({ type: 'snapshot', leases: [...this.#leases.values()], revision: 1 });
  }

  put(dst: string, publicIP: string): void {
    const changed = this.#lease(dst, publicIP);
    this.#leases.set(this.in(dst), changed);
    this.reconciler.update({ type: 'delta', put: [changed], removed: [], revision: 2 });
  }

  remove(dst: string): void {
    const gone = this.#leases.get(this.in(dst)) ?? this.#lease(dst, '10.211.55.1');
    this.#leases.delete(this.in(dst));
    this.reconciler.update({ type: 'delta', put: [], removed: [gone.key], revision: 2 });
  }

  /** What the leases ask for: destination → gateway. */
  get wanted(): ReadonlyMap<string, string> {
    const gateway = ({ publicIP, publicIPv6 }: Lease['value']) => (this.family === 4 ? publicIP : publicIPv6);
    return new Map([...this.#leases].map(([dst, { value }]) => [dst, gateway(value) ?? '']));
  }

  /** The counterpart in this host's family. */
  in(text: string): string {
    return inFamily(this.family, text);
  }

  #lease(dst: string, publicIP: string): Lease {
    if (this.family === 4) return lease(dst, publicIP);
    return dualLease('0.0.0.0/0', this.in(dst), '0.0.0.0', this.in(publicIP));
  }

  override routes(matches: (route: Route) => boolean): readonly string[] {
    return super.routes(matches, [this.family]);
  }

  /** Installs the first routes and comes to rest. */
  async settled(leases: Readonly<Record<string, string>>): Promise<void> {
    this.start();
    this.snapshot(leases);
    await this.clock.advance(200);
  }

  state(dst: string): string {
    const peer = this.reconciler.status().peers.find((candidate) => candidate.dst === dst);
    if (peer === undefined) return 'absent';
    return peer.reason === undefined ? peer.state : `${peer.state}: ${peer.reason.text}`;
  }
}

export const peers = {
  '172.20.1.0/24': '10.211.55.101',
  '172.20.2.0/24': '10.211.55.102',
  '172.20.3.0/24': '10.211.55.103',
} as const;

/** What the kernel holds when all is well. */
export const meshed: readonly string[] = Object.entries(peers).map(([dst, ip]) => `${dst} via ${ip}`);

export const own4 = '172.20.100.0/24';
export const own6 = 'fc00:0:100::/64';
export const address4 = '10.211.55.100';
export const address6 = 'fd00:55::100';

export interface GatewayOptions {
  /** Which families the network has. Default both. */
  readonly families?: 'ipv4' | 'ipv6' | 'both';
  readonly blackhole?: boolean;
  /** What is done to the kernel before the start. */
  readonly before?: (kernel: SimKernel, eth0: number) => void;
}

/** One host with an address of each family on eth0, its kernel, and the backend at work on it. */
export class GatewayHost extends RouteHost {
  readonly backend: HostGateway;
  /** All that the kernel told since the start. */
  events: KernelEvents | undefined;

  constructor({ families = 'both', blackhole = false, before }: GatewayOptions = {}) {
    super([`${address4}/24`, `${address6}/64`]);
    before?.(this.kernel, this.eth0);
    const on = <T>(ipv4: T, ipv6: T): PerFamily<T> => ({
      ...(families === 'ipv6' ? {} : { ipv4 }),
      ...(families === 'ipv4' ? {} : { ipv6 }),
    });
    this.backend = new HostGateway({
      ...this.outside,
      kernel: this.connect(),
      subnets: on<Subnet>(subnet(own4), subnet(own6)),
      addresses: on(address4, address6),
      networks: on(
        { network: subnet('172.20.0.0/16'), subnetLength: 24 },
        { network: subnet('fc00::/32'), subnetLength: 64 },
      ),
      protocol: routeProtocol,
      linkName: 'eth0',
      blackhole,
    });
  }

  /** Starts with these leases and comes to rest. */
  async settled(...leases: Lease[]): Promise<void> {
    const events = await this.kernel.open().subscribe();
    this.events = events;
    this.atEnd(() => events.close());
    this.begin((signal) => this.backend.run(signal));
    this.backend.update({ type: 'snapshot', leases, revision: 1 });
    await this.rest();
    await this.backend.synced(AbortSignal.abort(new Error('not synced')));
  }

  async rest(): Promise<void> {
    await this.clock.advance(200);
  }

  async change(put: readonly Lease[], removed: readonly string[] = []): Promise<void> {
    this.backend.update({ type: 'delta', put, removed, revision: 2 });
    await this.rest();
  }

  /** What the kernel told about routes to `dst` since the last time. */
  async told(dst: string): Promise<readonly string[]> {
    const events = (await this.events?.drain()) ?? [];
    return events.flatMap((event) => routeNews(event, dst));
  }
}

function routeNews(event: KernelEvent, dst: string): string[] {
  if (event.type === 'route-removed') return event.route.dst === dst ? [`- ${brief(event.route)}`] : [];
  if (event.type !== 'route-added' || event.route.dst !== dst) return [];
  return [`${event.replaced ? '=' : '+'} ${brief(event.route)}`];
}
