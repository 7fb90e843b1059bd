import { containsAddress, type Family, overlaps, parseSubnet, type Subnet } from '../../ip/ip.ts';
import type { Lease } from '../../subnet/lease.ts';

/** A route some lease asks for. */
export interface DesiredRoute {
  readonly dst: string;
  readonly gateway: string;
  /** The etcd key it comes from. */
  readonly key: string;
}

/** One family's view of this host. */
export interface Self {
  /** This host's own subnet. */
  readonly subnet: Subnet;
  /** The address under which peers reach it. */
  readonly address: string;
}

/** What no lease, however well-formed, may take away from the host, and no gateway can be. */
const neverRouted: Readonly<Record<Family, readonly Subnet[]>> = {
  // This network, loopback, multicast and above.
  4: ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/3'].map(block),
  // Unspecified, loopback, IPv4 in IPv6's clothes and what else the first block holds; link-local; multicast.
  6: ['::/8', 'fe80::/10', 'ff00::/8'].map(block),
};

function block(text: string): Subnet {
  const subnet = parseSubnet(text);
  if (subnet === undefined) throw new RangeError(text);
  return subnet;
}

/**
 * The route a lease asks for on this host in the family of our subnet, or the reason why there is none. `ignore` is set for
 * what is in order (our own lease, another backend's, one without that family) and needs no mention.
 */
export function routeOfLease(
  lease: Lease,
  self: Self,
): { readonly route: DesiredRoute } | { readonly reason: string; readonly ignore: boolean } {
  const asked = askedRoute(lease, self.subnet);
  if ('reason' in asked) return asked;
  const reason = refusal(asked.subnet, asked.route.gateway, self);
  return reason === undefined ? { route: asked.route } : { reason, ignore: false };
}

/** The route a lease speaks of, whether this host can have it or not. */
function askedRoute(
  lease: Lease,
  own: Subnet,
):
  | { readonly route: DesiredRoute; readonly subnet: Subnet }
  | { readonly reason: string; readonly ignore: boolean } {
  const { subnets, value, key } = lease;
  const isIPv4 = own.family === 4;
  const subnet = isIPv4 ? subnets.ipv4 : subnets.ipv6;
  const gateway = isIPv4 ? value.publicIP : value.publicIPv6;
  if (subnet === undefined) return { reason: `it has no IPv${own.family} subnet`, ignore: true };
  if (subnet.text === own.text) return { reason: 'it is our own subnet', ignore: true };
  if (value.backendType !== 'host-gw') {
    return { reason: `its backend is ${JSON.stringify(value.backendType)}, not host-gw`, ignore: true };
  }
  if (gateway === undefined) return { reason: `it has no valid ${gatewayField(own.family)}`, ignore: false };
  return { route: { dst: subnet.text, gateway, key }, subnet };
}

/** Why the route cannot be had; undefined when it can. */
function refusal(subnet: Subnet, gateway: string, self: Self): string | undefined {
  const field = gatewayField(subnet.family);
  if (gateway === self.address) return `its ${field} ${gateway} is our own address`;
  if (overlaps(subnet, self.subnet)) return `it overlaps our own subnet ${self.subnet.text}`;
  if (containsAddress(subnet, self.address)) return `it contains our own address ${self.address}`;
  const never = neverRouted[subnet.family];
  const reserved = never.find((taken) => overlaps(taken, subnet));
  if (reserved) return `it overlaps ${reserved.text}, which is never routed`;
  if (containsAddress(subnet, gateway)) return `its ${field} ${gateway} lies inside it`;
  const useless = never.find((taken) => containsAddress(taken, gateway));
  // A link-local address, above all: it names a host only together with an interface.
  if (useless) return `its ${field} ${gateway} lies in ${useless.text}, where no gateway can be`;
  return undefined;
}

function gatewayField(family: Family): string {
  return family === 4 ? 'PublicIP' : 'PublicIPv6';
}

interface Claim {
  readonly route: DesiredRoute;
  readonly createRevision: number;
}

interface Refused {
  readonly reason: string;
  /** What it asks for, if it may have that under another address of ours. */
  readonly claim?: Claim;
}

/**
 * The desired routes, kept in step with the leases: one map keyed by destination, so that no old gateway can linger. When two
 * keys claim one destination (`10.5.1.0-24` and `10.5.1.0-24&fc00::-64`), the older key has it.
 */
export class DesiredRoutes {
  #self: Self;
  readonly #claims = new Map<string, Claim>();
  readonly #byDst = new Map<string, Claim[]>();
  readonly #refused = new Map<string, Refused>();

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
    return new Map([...this.#refused].map(([key, { reason }]) => [key, reason]));
  }

  /** Takes in that this host's address is another one; returns the destinations whose route is not as before. */
  moveTo(address: string): readonly string[] {
    this.#self = { ...this.#self, address };
    const claims = [...this.#claims.values()];
    for (const { claim } of this.#refused.values()) if (claim) claims.push(claim);
    return this.#rebuild(() => {
      for (const claim of claims) {
        const subnet = parseSubnet(claim.route.dst);
        if (subnet !== undefined) this.#claim(claim, subnet, new Set());
      }
    });
  }

  /** Replaces all leases; returns the destinations whose route is not as before. */
  replaceAll(leases: readonly Lease[]): readonly string[] {
    this.#refused.clear();
    return this.#rebuild((touched) => {
      for (const lease of leases) this.#put(lease, touched);
    });
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

  /** Empties the routes and has `fill` make them anew; returns the destinations whose route is not as before. */
  #rebuild(fill: (touched: Set<string>) => void): readonly string[] {
    const before = new Map([...this.#byDst.keys()].map((dst) => [dst, this.get(dst)?.gateway]));
    this.#claims.clear();
    this.#byDst.clear();
    const touched = new Set(before.keys());
    fill(touched);
    for (const dst of this.#byDst.keys()) touched.add(dst);
    return [...touched].filter((dst) => this.get(dst)?.gateway !== before.get(dst));
  }

  #put(lease: Lease, touched: Set<string>): void {
    const asked = askedRoute(lease, this.#self.subnet);
    if ('reason' in asked) {
      if (!asked.ignore) this.#refused.set(lease.key, { reason: asked.reason });
      return;
    }
    this.#claim({ route: asked.route, createRevision: lease.createRevision }, asked.subnet, touched);
  }

  #claim(claim: Claim, subnet: Subnet, touched: Set<string>): void {
    const { dst, gateway, key } = claim.route;
    const reason = refusal(subnet, gateway, this.#self);
    if (reason !== undefined) {
      this.#refused.set(key, { reason, claim });
      return;
    }
    this.#refused.delete(key);
    const claims = [...(this.#byDst.get(dst) ?? []), claim];
    if (claims.length > 1)
      claims.sort((a, b) => a.createRevision - b.createRevision || compare(a.route.key, b.route.key));
    this.#byDst.set(dst, claims);
    this.#claims.set(key, claim);
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
