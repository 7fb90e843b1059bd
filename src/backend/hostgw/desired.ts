import {
  containsAddress,
  containsSubnet,
  type Family,
  overlaps,
  parseSubnet,
  type Subnet,
} from '../../ip/ip.ts';
import { excerpt } from '../../runtime/texts.ts';
import type { Lease } from '../../subnet/lease/lease.ts';
import { type Changed, type Claim, Claims, type DesiredRoute } from './claims.ts';
import type { OutsideRoute } from './status.ts';

/** One family's view of this host. */
export interface Self {
  /** This host's own subnet. */
  readonly subnet: Subnet;
  /** The address under which peers reach it. */
  readonly address: string;
  /** The cluster's network, when it is known: no subnet of a cluster is wider. */
  readonly network?: Subnet;
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
 * The route that a lease asks for in the family of our subnet, whether this host can have it or not, or the reason why there is
 * none. `ignore` is set for what is in order (our own lease, one without that family) and needs no mention.
 */
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
    return { reason: `its backend is ${backendText(value.backendType)}, not host-gw`, ignore: false };
  }
  if (gateway === undefined) return { reason: `it has no valid ${gatewayField(own.family)}`, ignore: false };
  return { route: { dst: subnet.text, gateway, key }, subnet };
}

/** Anybody may have written anything there. */
function backendText(backendType: string): string {
  return backendType === '' ? 'missing' : excerpt(JSON.stringify(backendType), 40);
}

/** Why the route cannot be had; undefined when it can. */
function refusal(subnet: Subnet, gateway: string, self: Self): string | undefined {
  const field = gatewayField(subnet.family);
  if (gateway === self.address) return `its ${field} ${gateway} is our own address`;
  if (overlaps(subnet, self.subnet)) return `it overlaps our own subnet ${self.subnet.text}`;
  if (containsAddress(subnet, self.address)) return `it contains our own address ${self.address}`;
  const never = neverRouted[subnet.family];
  if (self.network !== undefined && subnet.length < self.network.length)
    return `it is wider than the network ${self.network.text}`;
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

interface Refused {
  readonly reason: string;
  /** What it asks for, if it may have that under another address of ours. */
  readonly claim?: Claim;
}

/**
 * The desired routes, kept in step with the leases: one map keyed by destination, so that no old gateway can linger. Of leases
 * that overlap (`10.5.1.0-24` and `10.5.1.0-24&fc00::-64`, or one in another's subnet) the older one has its route.
 */
export class DesiredRoutes {
  #self: Self;
  readonly #claims = new Claims();
  readonly #refused = new Map<string, Refused>();
  /** Keys of claims that an older one stands in the way of, and why that is worth a mention. */
  readonly #outdone = new Map<string, string>();

  constructor(self: Self) {
    this.#self = self;
  }

  get size(): number {
    return this.#claims.size;
  }

  /** The address under which peers reach this host. */
  get address(): string {
    return this.#self.address;
  }

  /** Routes that lead out of the network. */
  get outside(): readonly OutsideRoute[] {
    const { network } = this.#self;
    if (network === undefined) return [];
    const { text } = network;
    return [...this.#claims.grants].flatMap(({ subnet, route: { key, dst } }) =>
      containsSubnet(network, subnet) ? [] : [{ key, dst, network: text }],
    );
  }

  get dsts(): Iterable<string> {
    return this.#claims.dsts;
  }

  get routes(): readonly DesiredRoute[] {
    return [...this.#claims.grants].map(({ route }) => route);
  }

  get(dst: string): DesiredRoute | undefined {
    return this.#claims.granted(dst)?.route;
  }

  /** Leases that ask for a route they do not get, and why, by etcd key. */
  get refused(): ReadonlyMap<string, string> {
    const reasons = new Map(this.#outdone);
    for (const [key, { reason }] of this.#refused) reasons.set(key, reason);
    return reasons;
  }

  /** Takes in that this host's address is another one; returns the destinations whose route is not as before. */
  moveTo(address: string): readonly string[] {
    this.#self = { ...this.#self, address };
    const claims = [...this.#claims.all];
    for (const { claim } of this.#refused.values()) if (claim) claims.push(claim);
    return this.#rebuild((changed) => {
      for (const claim of claims) this.#claim(claim, changed);
    });
  }

  /** Replaces all leases; returns the destinations whose route is not as before. */
  replaceAll(leases: readonly Lease[]): readonly string[] {
    this.#refused.clear();
    return this.#rebuild((changed) => {
      for (const lease of leases) this.#put(lease, changed);
    });
  }

  /** Applies changed and removed leases; returns the destinations whose route may not be as before. */
  apply(put: readonly Lease[], removed: readonly string[]): readonly string[] {
    const changed = { judged: new Set<string>(), touched: new Set<string>() };
    for (const key of removed) this.#remove(key, changed);
    for (const lease of put) this.#put(lease, changed);
    this.#note(changed.judged);
    return [...changed.touched];
  }

  /** Empties the routes and has `fill` make them anew; returns the destinations whose route is not as before. */
  #rebuild(fill: (changed: Changed) => void): readonly string[] {
    const before = new Map(this.routes.map(({ dst, gateway }) => [dst, gateway]));
    this.#claims.clear();
    this.#outdone.clear();
    const changed = { judged: new Set<string>(), touched: new Set(before.keys()) };
    fill(changed);
    this.#note(changed.judged);
    return [...changed.touched].filter((dst) => this.get(dst)?.gateway !== before.get(dst));
  }

  #put(lease: Lease, changed: Changed): void {
    const asked = askedRoute(lease, this.#self.subnet);
    if (!('reason' in asked)) {
      const { route, subnet } = asked;
      this.#claim({ route, subnet, createRevision: lease.createRevision }, changed);
      return;
    }
    this.#remove(lease.key, changed);
    if (!asked.ignore) this.#refused.set(lease.key, { reason: asked.reason });
  }

  #claim(claim: Claim, changed: Changed): void {
    const { gateway, key } = claim.route;
    const reason = refusal(claim.subnet, gateway, this.#self);
    this.#refused.delete(key);
    if (reason === undefined) return this.#claims.put(claim, changed);
    this.#remove(key, changed);
    this.#refused.set(key, { reason, claim });
  }

  #remove(key: string, changed: Changed): void {
    this.#refused.delete(key);
    changed.judged.add(key);
    this.#claims.remove(key, changed);
  }

  /** Two keys of one host, one of which has an IPv6 half, are in order: it has its route. */
  #note(judged: ReadonlySet<string>): void {
    for (const key of judged) {
      const rival = this.#claims.rivalOf(key);
      const own = rival && this.#claims.claimOf(key)?.route;
      if (rival === undefined || (own?.dst === rival.route.dst && own.gateway === rival.route.gateway))
        this.#outdone.delete(key);
      else this.#outdone.set(key, `it overlaps ${rival.route.dst} of the older lease ${rival.route.key}`);
    }
  }
}
