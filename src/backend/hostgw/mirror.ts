import { isDeepStrictEqual } from 'node:util';
import { addressBits, type Family } from '../../ip/ip.ts';
import { type KernelEvent, type Link, type LinkAddress, type Route, sameRoute } from '../../kernel/kernel.ts';
import type { DesiredRoute } from './claims.ts';
import { connectedNetworks, type HostSide } from './host-networks.ts';
import { mayBeRemoved, type Ownership } from './ownership.ts';
import { type LinkState, ownFault } from './plan.ts';
import type { Reason } from './status.ts';

interface MirrorChange {
  /** Their routes changed. */
  readonly dsts: readonly string[];
  /** The mirror may differ from the kernel: dump everything again. */
  readonly stale: boolean;
  /** Our interface, this host's addresses or its on-link networks changed: judge every gateway again. */
  readonly surroundings: boolean;
}

/** Links, addresses and the main table's routes of one family. */
export interface KernelSnapshot {
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  readonly routes: readonly Route[];
}

/**
 * The kernel's state by its dumps and events, never by what the daemon sent.
 *
 * Facts that complicate it (see test/contract/kernel-routes.ts and kernel-ipv6.ts):
 * - IPv4 drops routes without an event when a link goes down or disappears, or when an address goes. Only the
 *   event of the link or address tells, so the mirror calls itself stale.
 * - IPv6 sends an event for each route that goes. But a key with several routes, or a route with several
 *   gateways, comes out of a change in a way that only a dump shows: stale again.
 * - Routes without a gateway (fe80::/64 of every link) lie beside each other under one key, and are no reason
 *   to dump.
 * - A dump runs beside events. It may or may not have seen a change that an event reports meanwhile, so a
 *   change that both may have made is stale, too.
 * - The default routes decide which gateway leases must leave alone; other routes come by the thousand and do
 *   not.
 */
export class Mirror {
  readonly #linkName: string;
  readonly #ownership: Ownership;
  readonly #family: Family;
  #links = new Map<number, Link>();
  #addresses: LinkAddress[] = [];
  readonly #routes = new Map<string, Route[]>();
  readonly #removable = new Set<string>();
  #side: HostSide | undefined;
  #sideDoubtful = true;

  /** `linkName`: our interface. */
  constructor(linkName: string, ownership: Ownership) {
    this.#linkName = linkName;
    this.#ownership = ownership;
    this.#family = ownership.network.family;
  }

  get(dst: string): readonly Route[] | undefined {
    return this.#routes.get(dst);
  }

  /**
   * Destinations with a route that may have to go although no lease names it, and some where there was one. A full
   * table of other programs' routes has none of them.
   */
  get removable(): Iterable<string> {
    return this.#removable;
  }

  /** By name: an interface that is deleted and made again has another index. */
  get link(): LinkState {
    const name = this.#linkName;
    for (const link of this.#links.values()) {
      if (link.name !== name) continue;
      return link.up ? { index: link.index } : { index: link.index, problem: `interface ${name} is down` };
    }
    return { problem: `interface ${name} does not exist` };
  }

  /**
   * Why the kernel cannot reach a gateway over our interface, and whose fault that is. The kernel has one
   * errno (IPv6: two) for an interface that is down, gone or in another network, so the interface's own state
   * decides. Peers reach us at `address`.
   */
  whyOffLink({ dst, gateway }: DesiredRoute, address: string): Reason {
    const { problem, index } = this.link;
    const name = this.#linkName;
    if (problem !== undefined) return ownFault(problem);
    if (!this.ownAddresses.has(address)) return ownFault(`${address} is gone from ${name}`);
    const networks = connectedNetworks(this.#family, this.#links.values(), this.#addresses)
      .filter(({ linkIndex }) => linkIndex === index)
      .map(({ subnet }) => subnet);
    const wide = networks.filter(({ length, family }) => length < addressBits(family));
    if (wide.length === 0) {
      const held = networks.map(({ text }) => text).join(' and ');
      return ownFault(
        `${name} has ${held} and no other address: this provider routes between hosts itself, and host-gw cannot work here`,
      );
    }
    const texts = wide.map(({ text }) => text);
    return {
      text: `${gateway} is not on ${name}'s network ${texts.join(' or ')}`,
      fault: 'peer',
      remedy: `host-gw needs all hosts on one L2 network. Move that host, or if it is gone: flanneld-ts lease release ${dst}`,
    };
  }

  /** Of both families. */
  get ownAddresses(): ReadonlySet<string> {
    return new Set(this.#addresses.map(({ address }) => address));
  }

  /** The same object until something in it changes. */
  get side(): HostSide {
    if (this.#side !== undefined && !this.#sideDoubtful) return this.#side;
    this.#sideDoubtful = false;
    const isUp = ({ linkIndex }: { readonly linkIndex: number }) => this.#links.get(linkIndex)?.up === true;
    const connected = connectedNetworks(this.#family, this.#links.values(), this.#addresses).filter(isUp);
    const defaults = this.#routes.get(this.#family === 4 ? '0.0.0.0/0' : '::/0') ?? [];
    const gateways = defaults.flatMap(({ gateway }) => gateway ?? []);
    const now = { connected, gateways, linkIndex: this.link.index };
    if (!isDeepStrictEqual(now, this.#side)) this.#side = now;
    return this.#side ?? now;
  }

  /** Whether these are the links and addresses that it shows, in the order of a dump. */
  isOf(links: readonly Link[], addresses: readonly LinkAddress[]): boolean {
    return (
      isDeepStrictEqual([...this.#links.values()], links) && isDeepStrictEqual(this.#addresses, addresses)
    );
  }

  /** Takes a dump, or its beginning. */
  reset({ links, addresses, routes }: KernelSnapshot): void {
    this.#links = new Map(links.map((link) => [link.index, link]));
    this.#addresses = [...addresses];
    this.#routes.clear();
    this.#removable.clear();
    this.add(routes);
  }

  /** Takes more routes of the dump: a part at a time, as there may be hundreds of thousands. */
  add(more: readonly Route[]): void {
    this.#sideDoubtful = true;
    for (const route of more) {
      this.#noteRemovable(route);
      const routes = this.#routes.get(route.dst);
      if (routes === undefined) this.#routes.set(route.dst, [route]);
      else routes.push(route);
    }
  }

  /** Applies one event. `overlapping`: it came during the last dump, which may have seen it or not. */
  apply(event: KernelEvent, overlapping = false): MirrorChange {
    const before = this.side;
    const told = this.#applyOne(event, overlapping);
    if ('route' in event && !event.route.dst.endsWith('/0')) return told;
    this.#sideDoubtful = true;
    return this.side === before ? told : { ...told, surroundings: true };
  }

  #applyOne(event: KernelEvent, overlapping: boolean): MirrorChange {
    switch (event.type) {
      case 'route-added':
        return this.#routeAdded(event, overlapping);
      case 'route-removed':
        return this.#routeRemoved(event.route);
      case 'link-changed':
        return this.#linkChanged(event.link.index, event.link);
      case 'link-removed':
        return this.#linkChanged(event.linkIndex, undefined);
      case 'address-added':
        return this.#addressAdded(event.address);
      case 'address-removed':
        return this.#addressRemoved(event.address);
      case 'overflow':
        return change({ stale: true, surroundings: true });
    }
  }

  #routeAdded(event: Extract<KernelEvent, { type: 'route-added' }>, overlapping: boolean): MirrorChange {
    const { route, replaced, appended } = event;
    if (route.family !== this.#family) return change({});
    const routes = this.#routes.get(route.dst) ?? [];
    const sameKey = routes.filter((other) => other.tos === route.tos && other.metric === route.metric);
    const dsts = [route.dst];
    const surroundings = this.#isOnOurLink(route);
    // A dump has seen the route already. Only another one shows its place among several of its key.
    if (sameKey.some((other) => sameRoute(other, route))) {
      return change({ dsts, stale: sameKey.length > 1, surroundings });
    }
    const others = routes.filter((other) => !sameKey.includes(other));
    const isUnclear = this.#family === 6 && (route.special || (replaced && sameKey.length > 1));
    const stale = sameKey.length > 0 && (overlapping || isUnclear);
    const key = appended ? [...sameKey, route] : [route, ...(replaced ? sameKey.slice(1) : sameKey)];
    this.#routes.set(route.dst, [...key, ...others]);
    this.#noteRemovable(route);
    // The route in its place may be newer than this event when the dump has seen both.
    return change({ dsts, stale, surroundings });
  }

  #routeRemoved(route: Route): MirrorChange {
    if (route.family !== this.#family) return change({});
    const routes = this.#routes.get(route.dst) ?? [];
    const index = routes.findIndex((other) => sameRoute(other, route));
    // IPv6 has no event for one gateway of several, or for a route whose source address went.
    const stale = this.#family === 6 && index < 0 && routes.length > 0;
    if (index >= 0) routes.splice(index, 1);
    if (routes.length === 0) this.#routes.delete(route.dst);
    return change({ dsts: [route.dst], stale });
  }

  /** `link`: its new state; undefined when it is gone. */
  #linkChanged(index: number, link: Link | undefined): MirrorChange {
    const before = this.link;
    const went = link === undefined || (this.#links.get(index)?.up === true && !link.up);
    if (link === undefined) this.#links.delete(index);
    else this.#links.set(index, link);
    const stale = went && this.#flushesSilently((route) => route.linkIndex === index);
    return change({ stale, surroundings: differs(before, this.link) });
  }

  #addressAdded(address: LinkAddress): MirrorChange {
    // The kernel reports a renewal by DHCP, too.
    const isNew = !this.#addresses.some((other) => sameAddress(other, address));
    if (isNew) this.#addresses.push(address);
    return change({ surroundings: isNew && this.#matters(address) });
  }

  #addressRemoved(address: LinkAddress): MirrorChange {
    this.#addresses = this.#addresses.filter((other) => !sameAddress(other, address));
    if (!this.#matters(address)) return change({});
    const stale = this.#flushesSilently(
      (route) => route.linkIndex === address.linkIndex || route.source === address.address,
    );
    return change({ stale, surroundings: true });
  }

  #noteRemovable(route: Route): void {
    if (mayBeRemoved(route, this.#ownership)) this.#removable.add(route.dst);
  }

  /** A link-local IPv6 address is nobody's gateway, and every container's link has one. */
  #matters({ family, scope }: LinkAddress): boolean {
    return family === this.#family && (family === 4 || scope !== 'link');
  }

  /** A network may be on link without an address: `ip route add 10.9.9.9 dev eth0`. */
  #isOnOurLink(route: Route): boolean {
    return (
      route.gateway === undefined && route.linkIndex !== undefined && route.linkIndex === this.link.index
    );
  }

  /** A route whose links we cannot see (multipath, nexthop object) may use any link. */
  #flushesSilently(matches: (route: Route) => boolean): boolean {
    if (this.#family === 6) return false;
    for (const routes of this.#routes.values()) {
      if (routes.some((route) => route.special || matches(route))) return true;
    }
    return false;
  }
}

function change(part: Partial<MirrorChange>): MirrorChange {
  return { dsts: [], stale: false, surroundings: false, ...part };
}

function differs(a: LinkState, b: LinkState): boolean {
  return a.index !== b.index || a.problem !== b.problem;
}

function sameAddress(a: LinkAddress, b: LinkAddress): boolean {
  return a.linkIndex === b.linkIndex && a.address === b.address && a.prefixLength === b.prefixLength;
}
