import { addressBits, type Family, parseSubnet, type Subnet } from '../src/ip/ip.ts';
import { hasGateway, type Route, type RouteSpec, sameRoute } from '../src/kernel/kernel.ts';

/** How a route is put into the table: the NLM_F_* flags of the request, by the words of `ip route`. */
export type InsertMode = 'add' | 'append' | 'prepend' | 'replace';

/** What became of a request: an errno, or what listeners are told (nothing, for a replacement by the same). */
export type TableResult =
  | { readonly errno: string }
  | { readonly notify?: { readonly route: Route; readonly replaced: boolean; readonly appended: boolean } };

export interface RouteMatch {
  readonly dst: string;
  readonly metric?: number;
  readonly protocol?: number;
  readonly gateway?: string;
  readonly linkIndex?: number;
  readonly type?: Route['type'];
}

/** The routes of one destination, as they lie in the kernel: by tos, then by metric, then as they were put there. */
interface Bucket {
  readonly subnet: Subnet;
  routes: Route[];
}

/**
 * The main table of one family. Which of several routes with one key comes first, what a replacement hits and what a
 * removal takes is the kernel's (net/ipv4/fib_trie.c, net/ipv6/ip6_fib.c), checked by the contract tests on both.
 */
export class RouteTable {
  readonly #family: Family;
  readonly #buckets = new Map<string, Bucket>();
  /** Nexthops that IPv6 has merged into one route. */
  readonly #merged = new Map<Route, readonly Route[]>();
  /** The routes without a gateway; undefined when they must be gathered anew. */
  #direct: { readonly subnet: Subnet; readonly route: Route }[] | undefined;

  constructor(family: Family) {
    this.#family = family;
  }

  /** In the kernel's order: IPv4 by address and then the longer prefix first. IPv6's order between keys is not modelled. */
  list(): Route[] {
    const buckets = [...this.#buckets.values()].toSorted((a, b) => {
      if (a.subnet.first !== b.subnet.first) return a.subnet.first < b.subnet.first ? -1 : 1;
      return b.subnet.length - a.subnet.length;
    });
    return buckets.flatMap((bucket) => bucket.routes);
  }

  /** The routes of one destination, in the kernel's order. */
  at(dst: string): readonly Route[] {
    return [...(this.#buckets.get(dst)?.routes ?? [])];
  }

  insert(route: Route, mode: InsertMode): TableResult {
    const hadDirect = this.#buckets.get(route.dst)?.routes.some((r) => r.gateway === undefined) ?? false;
    if (hadDirect || route.gateway === undefined) this.#direct = undefined;
    return this.#family === 4 ? this.#insert4(route, mode) : this.#insert6(route, mode);
  }

  /** Removes the first route that has all the given fields, as DELROUTE does. Undefined: ESRCH. */
  remove(match: RouteMatch): Route | undefined {
    const routes = this.#buckets.get(match.dst)?.routes ?? [];
    const whole = routes.find((route) => matches(route, match));
    if (whole !== undefined) {
      this.#delete(whole);
      return whole;
    }
    const merged = routes.find((route) => this.#merged.get(route)?.some((hop) => matches(hop, match)));
    return merged && this.#removeHop(merged, match);
  }

  /** Removes all that fulfil the condition and returns them; tells nobody. */
  flush(condition: (route: Route) => boolean): Route[] {
    const gone = this.list().filter(condition);
    for (const route of gone) this.#delete(route);
    return gone;
  }

  /** Whether an address can be reached over this link without a gateway: by a route of scope link (IPv6: any without one). */
  isOnLink(address: bigint, linkIndex: number): boolean {
    this.#direct ??= this.#directRoutes();
    return this.#direct.some(({ subnet, route }) => {
      return route.linkIndex === linkIndex && subnet.first <= address && address <= subnet.last;
    });
  }

  /** The route in use for an address: of the longest prefix, the first. */
  find(address: bigint): Route | undefined {
    const holds = ({ subnet }: Bucket) => subnet.first <= address && address <= subnet.last;
    const buckets = [...this.#buckets.values()].filter(holds);
    return buckets.toSorted((a, b) => b.subnet.length - a.subnet.length)[0]?.routes[0];
  }

  #directRoutes(): { readonly subnet: Subnet; readonly route: Route }[] {
    const isDirect = (r: Route) => {
      return r.type === 'unicast' && r.gateway === undefined && (this.#family === 6 || r.scope >= 253);
    };
    return [...this.#buckets.values()].flatMap(({ subnet, routes }) => {
      return routes.filter(isDirect).map((route) => ({ subnet, route }));
    });
  }

  #insert4(route: Route, mode: InsertMode): TableResult {
    const routes = this.#routesAt(route.dst);
    const sameKey = routes.filter((r) => r.tos === route.tos && r.metric === route.metric);
    const [first] = sameKey;
    if (first === undefined) {
      const before = routes.findIndex((r) => comesAfter(r, route));
      routes.splice(before < 0 ? routes.length : before, 0, route);
      return { notify: { route, replaced: false, appended: false } };
    }
    if (mode === 'add') return { errno: 'EEXIST' };
    const equal = sameKey.find((r) => sameRoute(r, route));
    if (mode === 'replace') {
      if (equal === first) return {};
      // Behind a route of somebody else: the kernel does not bring it forward.
      if (equal !== undefined) return { errno: 'EEXIST' };
      routes[routes.indexOf(first)] = route;
      return { notify: { route, replaced: true, appended: false } };
    }
    if (equal !== undefined) return { errno: 'EEXIST' };
    const appended = mode === 'append';
    routes.splice(routes.indexOf(first) + (appended ? sameKey.length : 0), 0, route);
    return { notify: { route, replaced: false, appended } };
  }

  #insert6(route: Route, mode: InsertMode): TableResult {
    const routes = this.#routesAt(route.dst);
    const sameMetric = routes.filter((r) => r.metric === route.metric);
    if (sameMetric.length > 0 && mode === 'add') return { errno: 'EEXIST' };
    const peer = sameMetric.find((r) => hasGateway(r) === hasGateway(route));
    // Without one of its kind the first goes, whatever it is.
    const replaced = mode === 'replace' ? (peer ?? sameMetric[0]) : undefined;
    if (replaced !== undefined) {
      this.#merged.delete(replaced);
      routes[routes.indexOf(replaced)] = route;
      return { notify: { route, replaced: true, appended: false } };
    }
    const hops = sameMetric.flatMap((r) => this.#merged.get(r) ?? [r]);
    if (hops.some((hop) => hop.gateway === route.gateway && hop.linkIndex === route.linkIndex)) {
      return { errno: 'EEXIST' };
    }
    if (peer !== undefined && hasGateway(route)) {
      const merged = this.#merge(peer, [...(this.#merged.get(peer) ?? [peer]), route]);
      return { notify: { route: merged, replaced: false, appended: mode === 'append' } };
    }
    const before = routes.findIndex((r) => comesAfter(r, route));
    routes.splice(before < 0 ? routes.length : before, 0, route);
    return { notify: { route, replaced: false, appended: false } };
  }

  /** Puts the multipath route of `hops`, or the plain one of a single hop, in place of `old`. */
  #merge(old: Route, hops: readonly Route[]): Route {
    const [first] = hops;
    const routes = this.#routesAt(old.dst);
    const { gateway: _gateway, linkIndex: _linkIndex, ...rest } = first ?? old;
    const route: Route =
      first !== undefined && hops.length === 1 ? first : { ...rest, special: true, multipath: true };
    this.#merged.delete(old);
    if (hops.length > 1) this.#merged.set(route, hops);
    routes[routes.indexOf(old)] = route;
    return route;
  }

  #removeHop(merged: Route, match: RouteMatch): Route | undefined {
    const hops = this.#merged.get(merged) ?? [];
    const gone = hops.find((hop) => matches(hop, match));
    this.#merge(
      merged,
      hops.filter((hop) => hop !== gone),
    );
    return gone;
  }

  #routesAt(dst: string): Route[] {
    const found = this.#buckets.get(dst);
    if (found !== undefined) return found.routes;
    const subnet = parseSubnet(dst);
    if (subnet === undefined || subnet.family !== this.#family) throw new Error(`not a destination: ${dst}`);
    const bucket: Bucket = { subnet, routes: [] };
    this.#buckets.set(dst, bucket);
    return bucket.routes;
  }

  #delete(route: Route): void {
    const bucket = this.#buckets.get(route.dst);
    if (bucket === undefined) return;
    if (route.gateway === undefined) this.#direct = undefined;
    bucket.routes = bucket.routes.filter((r) => r !== route);
    this.#merged.delete(route);
    if (bucket.routes.length === 0) this.#buckets.delete(route.dst);
  }
}

/** The route a request of the daemon asks for. */
export function routeOfSpec({ gateway, linkIndex, type = 'unicast', ...spec }: RouteSpec): Route {
  const nexthop = gateway === undefined || linkIndex === undefined ? {} : { gateway, linkIndex };
  // IPv6 knows no metric 0: it means the default.
  const metric = spec.family === 6 && spec.metric === 0 ? 1024 : spec.metric;
  return { tos: 0, type, scope: 0, special: false, ...spec, metric, ...nexthop };
}

/** Destination with the host bits cleared; undefined when it is none of that family. */
export function destination(family: Family, dst: string): string | undefined {
  const subnet = parseSubnet(dst);
  return subnet?.family === family && subnet.length <= addressBits(family) ? subnet.text : undefined;
}

function comesAfter(other: Route, route: Route): boolean {
  return other.tos === route.tos ? other.metric > route.metric : other.tos < route.tos;
}

/** A metric of 0 in a removal does not mean metric 0: it means any. */
function matches(route: Route, match: RouteMatch): boolean {
  return (
    (!match.metric || match.metric === route.metric) &&
    (match.protocol === undefined || match.protocol === route.protocol) &&
    (match.gateway === undefined || match.gateway === route.gateway) &&
    (match.linkIndex === undefined || match.linkIndex === route.linkIndex) &&
    (match.type === undefined || match.type === route.type)
  );
}
