import { systemClock } from '../../src/daemon/host/clock.ts';
import type {
  BlackholeRoute,
  GatewayRoute,
  Kernel,
  KernelEvent,
  KernelEvents,
  Route,
  RouteChange,
  RouteFinder,
  RouteSpec,
} from '../../src/kernel/kernel.ts';
import { SharedKernel } from '../../src/kernel/shared-kernel.ts';

/** What an operator does to a host, by hand; rejects when the kernel refuses. */
export interface Operator {
  linkIndex(name: string): Promise<number>;
  /** A new link with carrier, up, without addresses. */
  createLink(name: string): Promise<void>;
  deleteLink(name: string): Promise<void>;
  setLinkUp(name: string, up: boolean): Promise<void>;
  setCarrier(name: string, plugged: boolean): Promise<void>;
  addAddress(name: string, cidr: string): Promise<void>;
  removeAddress(name: string, cidr: string): Promise<void>;
  addRoute(mode: 'add' | 'append' | 'prepend' | 'replace', route: OperatorRoute): Promise<void>;
  deleteRoute(route: OperatorRoute): Promise<void>;
}

/** As the words of `ip route`: protocol boot and metric 0 (IPv6: 1024) when not given. */
export interface OperatorRoute {
  readonly dst: string;
  readonly gateway?: string;
  readonly dev?: string;
  readonly protocol?: number;
  readonly metric?: number;
  readonly blackhole?: boolean;
}

/** A host with `lo` and `eth0` (up, {@link HOST4}, {@link HOST6}). */
export interface KernelWorld {
  readonly operator: Operator;
  /** Another connection of a daemon; the world closes it. */
  open(): Kernel & RouteFinder;
  close(): Promise<void>;
}

export const HOST4 = '10.211.55.100/24';
export const HOST6 = 'fd00:55::100/64';
export const PROTOCOL = 102;

/** The first peers, the first one's subnet, and the host's own network as the kernel lists it. */
export const PEER = '10.211.55.101';
export const OTHER = '10.211.55.102';
export const THIRD = '10.211.55.103';
export const DST = '172.20.1.0/24';
export const CONNECTED = '10.211.55.0/24 proto 2 metric 0';

export type Connection = Kernel & RouteFinder;

/** A connection as the parts of one daemon share it; only `doctor` finds routes, by a connection of its own. */
export function shared(inner: Connection): Connection {
  const finder: RouteFinder = {
    routeFor: (...call) => inner.routeFor(...call),
    rules: (...call) => inner.rules(...call),
  };
  return Object.assign(new SharedKernel(inner, systemClock), finder);
}

/** A route as the daemon programs it, over eth0. */
export function spec(dst: string, gateway: string, over: Partial<GatewayRoute> = {}): GatewayRoute {
  const family = dst.includes(':') ? 6 : 4;
  const metric = family === 6 ? 1024 : 0;
  return { family, dst, metric, protocol: PROTOCOL, gateway, linkIndex: 0, ...over };
}

/** What a dump shows of it. */
export function routeOf(wanted: RouteSpec): Route {
  const { gateway, linkIndex, type = 'unicast', ...key } = wanted;
  const nexthop = gateway === undefined ? {} : { gateway, linkIndex };
  return { ...key, ...nexthop, tos: 0, type, scope: 0, special: false };
}

/** A blackhole route as the daemon programs it. */
export function blackhole(dst: string, metric: number, over: Partial<BlackholeRoute> = {}): BlackholeRoute {
  return { family: dst.includes(':') ? 6 : 4, type: 'blackhole', dst, metric, protocol: PROTOCOL, ...over };
}

/** Routes shortened for comparison: `172.20.1.0/24 via 10.211.55.101 proto 102 metric 0`. */
export function brief(route: Route): string {
  const via = route.gateway === undefined ? '' : ` via ${route.gateway}`;
  const kind = route.type === 'unicast' ? '' : ` ${route.type}`;
  return `${route.dst}${via} proto ${route.protocol} metric ${route.metric}${kind}${route.special ? ' special' : ''}`;
}

/** The events about routes, shortened: `+` added, `=` replaced, `>` appended, `-` removed. */
export function routeEvents(events: readonly KernelEvent[]): string[] {
  return events.flatMap((event) => {
    if (event.type === 'overflow') return ['overflow'];
    if (event.type !== 'route-added' && event.type !== 'route-removed') return [];
    if (event.route.dst.startsWith('fe80:')) return [];
    const added = event.type === 'route-added';
    const sign = added ? (event.replaced ? '=' : event.appended ? '>' : '+') : '-';
    return [`${sign} ${brief(event.route)}`];
  });
}

/** Collects events until the condition holds for all of them; rejects after 10 s. */
export async function collect(
  events: KernelEvents,
  enough: (events: readonly KernelEvent[]) => boolean,
): Promise<readonly KernelEvent[]> {
  const collected: KernelEvent[] = [];
  const deadline = AbortSignal.timeout(10_000);
  while (!enough(collected)) collected.push(...(await events.next(deadline)));
  return collected;
}

/** One host, one daemon's connection to it, subscribed; and the words the tests are written in. */
export class KernelFixture {
  readonly world: KernelWorld;
  readonly operator: Operator;
  readonly kernel: Kernel & RouteFinder;
  readonly events: KernelEvents;
  /** Index of eth0 at the start. */
  readonly eth0: number;

  private constructor(world: KernelWorld, kernel: Kernel & RouteFinder, events: KernelEvents, eth0: number) {
    this.world = world;
    this.operator = world.operator;
    this.kernel = kernel;
    this.events = events;
    this.eth0 = eth0;
  }

  static async of(world: KernelWorld): Promise<KernelFixture> {
    const kernel = world.open();
    return new KernelFixture(world, kernel, await kernel.subscribe(), await world.operator.linkIndex('eth0'));
  }

  /** A route as the daemon programs it, by default to the first peer over eth0. */
  ours(dst = DST, gateway = PEER, over: Partial<GatewayRoute> = {}): GatewayRoute {
    return spec(dst, gateway, { linkIndex: this.eth0, ...over });
  }

  /** The IPv4 routes, shortened. */
  async table(family: 4 | 6 = 4): Promise<string[]> {
    const routes = await this.kernel.routes(family);
    return routes.filter(({ dst }) => !dst.startsWith('fe80:') && dst !== '::1/128').map(brief);
  }

  /** What was told about routes since the last time. */
  async told(): Promise<string[]> {
    return routeEvents(await this.events.drain());
  }

  /** The IPv4 route events since the last time; links have news of their own, at any time. */
  async routeNews(): Promise<KernelEvent[]> {
    return (await this.events.drain()).filter((event) => 'route' in event && event.route.family === 4);
  }

  /** Resolves to `done`, `unknown` or the errno for each. */
  async apply(...changes: RouteChange[]): Promise<string[]> {
    const results = await this.kernel.apply(changes);
    return results.map((result) => (result.outcome === 'failed' ? result.errno : result.outcome));
  }

  /** Routes of ours that are there, and told of already. */
  async given(...routes: readonly RouteSpec[]): Promise<void> {
    for (const route of routes) await this.add(route);
    await this.events.drain();
  }

  add(route: RouteSpec): Promise<string[]> {
    return this.apply({ op: 'add', route });
  }

  replace(route: RouteSpec): Promise<string[]> {
    return this.apply({ op: 'replace', route });
  }

  remove(route: RouteSpec): Promise<string[]> {
    return this.apply({ op: 'remove', route });
  }
}
