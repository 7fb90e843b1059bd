import { containsAddress, overlaps, parseSubnet, type Subnet } from '../../ip/ip.ts';
import type { Lease } from '../../subnet/lease.ts';

/** A route some lease asks for. */
export interface DesiredRoute {
  readonly dst: string;
  readonly gateway: string;
  /** The etcd key it comes from. */
  readonly key: string;
}

export interface Self {
  /** This host's own subnet. */
  readonly subnet: Subnet;
  readonly publicIP: string;
}

/** No lease, however well-formed, may take these away from the host: this network, loopback, multicast and above. */
const neverRouted: readonly Subnet[] = ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/3'].map((text) => {
  const subnet = parseSubnet(text);
  if (subnet === undefined) throw new RangeError(text);
  return subnet;
});

/**
 * The route a lease asks for on this host, or the reason why there is none. `ignore` is set for what is in order (our own
 * lease, another backend's) and needs no mention.
 */
export function routeOfLease(
  lease: Lease,
  self: Self,
): { readonly route: DesiredRoute } | { readonly reason: string; readonly ignore: boolean } {
  const subnet = lease.subnets.ipv4;
  const gateway = lease.value.publicIP;
  if (subnet === undefined) return { reason: 'it has no IPv4 subnet', ignore: true };
  if (subnet.text === self.subnet.text) return { reason: 'it is our own subnet', ignore: true };
  if (lease.value.backendType !== 'host-gw') {
    return { reason: `its backend is ${JSON.stringify(lease.value.backendType)}, not host-gw`, ignore: true };
  }
  if (gateway === undefined) return { reason: 'it has no valid PublicIP', ignore: false };
  if (gateway === self.publicIP)
    return { reason: `its PublicIP ${gateway} is our own address`, ignore: false };
  if (overlaps(subnet, self.subnet))
    return { reason: `it overlaps our own subnet ${self.subnet.text}`, ignore: false };
  if (containsAddress(subnet, self.publicIP)) {
    return { reason: `it contains our own address ${self.publicIP}`, ignore: false };
  }
  const reserved = neverRouted.find((block) => overlaps(block, subnet));
  if (reserved) return { reason: `it overlaps ${reserved.text}, which is never routed`, ignore: false };
  if (containsAddress(subnet, gateway)) {
    return { reason: `its PublicIP ${gateway} lies inside it`, ignore: false };
  }
  return { route: { dst: subnet.text, gateway, key: lease.key } };
}

interface Claim {
  readonly route: DesiredRoute;
  readonly createRevision: number;
}

/**
 * The desired routes, kept in step with the leases: one map keyed by destination, so that no old gateway can linger. When two
 * keys claim one destination (`10.5.1.0-24` and `10.5.1.0-24&fc00::-64`), the older key has it.
 */
export class DesiredRoutes {
  readonly #self: Self;
  readonly #claims = new Map<string, Claim>();
  readonly #byDst = new Map<string, Claim[]>();
  readonly #refused = new Map<string, string>();

  constructor(self: Self) {
    this.#self = self;
  }

  get size(): number {
    return this.#byDst.size;
  }

  get dsts(): Iterable<string> {
    return this.#byDst.keys();
  }

  get(dst: string): DesiredRoute | undefined {
    return this.#byDst.get(dst)?.[0]?.route;
  }

  /** Leases that ask for a route they do not get, and why, by etcd key. */
  get refused(): ReadonlyMap<string, string> {
    return this.#refused;
  }

  /** Replaces all leases; returns the destinations whose route is not as before. */
  replaceAll(leases: readonly Lease[]): readonly string[] {
    const before = new Map([...this.#byDst.keys()].map((dst) => [dst, this.get(dst)?.gateway]));
    const touched = new Set(before.keys());
    this.#claims.clear();
    this.#byDst.clear();
    this.#refused.clear();
    for (const lease of leases) this.#put(lease, touched);
    return [...touched].filter((dst) => this.get(dst)?.gateway !== before.get(dst));
  }

  /** Applies changed and removed leases; returns the destinations whose route may not be as before. */
  apply(put: readonly Lease[], removed: readonly string[]): readonly string[] {
    const touched = new Set<string>();
    for (const key of removed) this.#remove(key, touched);
    for (const lease of put) {
      this.#remove(lease.key, touched);
      this.#put(lease, touched);
    }
    return [...touched];
  }

  #put(lease: Lease, touched: Set<string>): void {
    const asked = routeOfLease(lease, this.#self);
    if ('reason' in asked) {
      if (!asked.ignore) this.#refused.set(lease.key, asked.reason);
      return;
    }
    const claim = { route: asked.route, createRevision: lease.createRevision };
    const { dst } = asked.route;
    const claims = [...(this.#byDst.get(dst) ?? []), claim];
    if (claims.length > 1)
      claims.sort((a, b) => a.createRevision - b.createRevision || compare(a.route.key, b.route.key));
    this.#byDst.set(dst, claims);
    this.#claims.set(lease.key, claim);
    touched.add(dst);
  }

  #remove(key: string, touched: Set<string>): void {
    this.#refused.delete(key);
    const claim = this.#claims.get(key);
    if (claim === undefined) return;
    this.#claims.delete(key);
    const { dst } = claim.route;
    touched.add(dst);
    const rest = (this.#byDst.get(dst) ?? []).filter((other) => other !== claim);
    if (rest.length === 0) this.#byDst.delete(dst);
    else this.#byDst.set(dst, rest);
  }
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
