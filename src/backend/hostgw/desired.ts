import {
  containsAddress,
  containsSubnet,
  type Family,
  overlaps,
  parseAddress,
  type Subnet,
  subnetOf,
} from '../../ip/ip.ts';
import { excerpt } from '../../runtime/texts.ts';
import type { Lease } from '../../subnet/lease/lease.ts';
import { type Changed, type Claim, Claims, type DesiredRoute } from './claims.ts';
import type { OutsideRoute } from './status.ts';

/** This host as one family sees it. */
export interface Self {
  readonly subnet: Subnet;
  /** Peers reach this host at it. */
  readonly address: string;
  /** The cluster's network, if known: no subnet of a cluster is wider. */
  readonly network?: Subnet;
}

/** No lease may take these from the host, however well-formed it is, and no gateway lies in them. */
const neverRouted: Readonly<Record<Family, readonly Subnet[]>> = {
  // This network, loopback, multicast and above.
  4: ['0.0.0.0/8', '127.0.0.0/8', '224.0.0.0/3'].map(subnetOf),
  // Unspecified, loopback, IPv4 mapped into IPv6 and the rest of the first block; link-local; multicast.
  6: ['::/8', 'fe80::/10', 'ff00::/8'].map(subnetOf),
};

/**
 * The route that a lease asks for in the family of our subnet, or the reason why it asks for none. `ignore`:
 * the reason is in order (our own lease, a lease without that family) and needs no mention.
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

/** The value comes from etcd, where anybody may have written anything. */
function backendText(backendType: string): string {
  return backendType === '' ? 'missing' : excerpt(JSON.stringify(backendType), 40);
}

/** Why this host refuses the route; undefined when it does not. */
function refusal(subnet: Subnet, gateway: string, self: Self): string | undefined {
  const field = gatewayField(subnet.family);
  const { family, value } = parseAddress(gateway) ?? {};
  const holdsGateway = (block: Subnet) =>
    family === block.family && value !== undefined && block.first <= value && value <= block.last;
  if (gateway === self.address) return `its ${field} ${gateway} is our own address`;
  if (overlaps(subnet, self.subnet)) return `it overlaps our own subnet ${self.subnet.text}`;
  if (containsAddress(subnet, self.address)) return `it contains our own address ${self.address}`;
  const never = neverRouted[subnet.family];
  if (self.network !== undefined && subnet.length < self.network.length)
    return `it is wider than the network ${self.network.text}`;
  const reserved = never.find((taken) => overlaps(taken, subnet));
  if (reserved) return `it overlaps ${reserved.text}, which is never routed`;
  if (holdsGateway(subnet)) return `its ${field} ${gateway} lies inside it`;
  const useless = never.find(holdsGateway);
  // Above all a link-local address: it identifies a host only together with an interface.
  if (useless) return `its ${field} ${gateway} lies in ${useless.text}, where no gateway can be`;
  return undefined;
}

function gatewayField(family: Family): string {
  return family === 4 ? 'PublicIP' : 'PublicIPv6';
}

interface Refused {
  readonly reason: string;
  /** Set when another address of this host would allow the claim. */
  readonly claim?: Claim;
}

/**
 * The routes that the leases ask for. One map keyed by destination, so that no old gateway can linger. Where
 * leases overlap (`10.5.1.0-24` and `10.5.1.0-24&fc00::-64`, or one inside another) the oldest has its route.
 */
export class DesiredRoutes {
  #self: Self;
  readonly #claims = new Claims();
  readonly #refused = new Map<string, Refused>();
  /** By key: why a claim that an older one blocks is worth a mention. */
  readonly #outdone = new Map<string, string>();
  /** Undefined: not known since the leases changed. */
  #outside: readonly OutsideRoute[] | undefined;

  constructor(self: Self) {
    this.#self = self;
  }

  /** Peers reach this host at it. */
  get address(): string {
    return this.#self.address;
  }

  /** Routes to destinations outside the cluster's network. */
  get outside(): readonly OutsideRoute[] {
    const { network } = this.#self;
    if (network === undefined) return [];
    const { text } = network;
    this.#outside ??= [...this.#claims.granted.values()].flatMap(({ subnet, route: { key, dst } }) =>
      containsSubnet(network, subnet) ? [] : [{ key, dst, network: text }],
    );
    return this.#outside;
  }

  get count(): number {
    return this.#claims.granted.size;
  }

  get dsts(): Iterable<string> {
    return this.#claims.granted.keys();
  }

  get routes(): readonly DesiredRoute[] {
    return [...this.#claims.granted.values()].map(({ route }) => route);
  }

  get(dst: string): DesiredRoute | undefined {
    return this.#claims.granted.get(dst)?.route;
  }

  /** By etcd key: why a lease gets no route although it asks for one. */
  get refused(): ReadonlyMap<string, string> {
    const reasons = new Map(this.#outdone);
    for (const [key, { reason }] of this.#refused) reasons.set(key, reason);
    return reasons;
  }

  /** Takes over this host's new address; returns the destinations whose route has changed. */
  moveTo(address: string): readonly string[] {
    this.#self = { ...this.#self, address };
    const claims = [...this.#claims.all.values()];
    for (const { claim } of this.#refused.values()) if (claim) claims.push(claim);
    return this.#rebuild((changed) => {
      for (const claim of claims) this.#claim(claim, changed);
    });
  }

  /** Replaces all leases; returns the destinations whose route has changed. */
  replaceAll(leases: readonly Lease[]): readonly string[] {
    this.#refused.clear();
    return this.#rebuild((changed) => {
      for (const lease of leases) this.#put(lease, changed);
    });
  }

  /** Applies changed and removed leases; returns the destinations whose route may have changed. */
  apply(put: readonly Lease[], removed: readonly string[]): readonly string[] {
    this.#outside = undefined;
    const changed = { judged: new Set<string>(), touched: new Set<string>() };
    for (const key of removed) this.#remove(key, changed);
    for (const lease of put) this.#put(lease, changed);
    this.#note(changed.judged);
    return [...changed.touched];
  }

  /** Rebuilds all routes by `fill`; returns the destinations whose route has changed. */
  #rebuild(fill: (changed: Changed) => void): readonly string[] {
    const before = new Map(this.routes.map(({ dst, gateway }) => [dst, gateway]));
    this.#outside = undefined;
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

  /** Two keys of one host are in order when one of them has an IPv6 half: the host has its route. */
  #note(judged: ReadonlySet<string>): void {
    for (const key of judged) {
      const rival = this.#claims.rivalOf(key);
      const own = rival && this.#claims.all.get(key)?.route;
      if (rival === undefined || (own?.dst === rival.route.dst && own.gateway === rival.route.gateway))
        this.#outdone.delete(key);
      else this.#outdone.set(key, `it overlaps ${rival.route.dst} of the older lease ${rival.route.key}`);
    }
  }
}
