import type { Kernel, KernelEvent, Link, LinkAddress, Route } from '../../kernel/kernel.ts';

/** What one event means for whoever plans. */
export interface MirrorChange {
  /** Destinations whose routes changed. */
  readonly dsts: ReadonlySet<string>;
  /** The mirror may differ from the kernel: dump everything again. */
  readonly stale: boolean;
}

/** What the kernel holds: links, addresses and the main table's routes of IPv4, as dumps and events told. */
export interface KernelSnapshot {
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  readonly routes: readonly Route[];
}

/** Dumps what a {@link Mirror} holds. Subscribe before, and apply the events since then after. */
export async function dumpKernel(kernel: Kernel, signal: AbortSignal): Promise<KernelSnapshot> {
  // Links and addresses first: a route can only be explained by a link that is known.
  const links = await kernel.links(signal);
  const addresses = await kernel.addresses(signal);
  const routes = await kernel.routes(4, signal);
  return { links, addresses, routes };
}

/**
 * The kernel's state as last told. Fed by dumps and events only, never by what was sent.
 *
 * The kernel drops routes without a word when a link goes down, loses its last address or is deleted; then only the link's
 * or address's own notification tells, and the mirror says that it is stale.
 */
export class Mirror {
  #links = new Map<number, Link>();
  #addresses: LinkAddress[] = [];
  readonly #routes = new Map<string, Route[]>();

  get(dst: string): readonly Route[] | undefined {
    return this.#routes.get(dst);
  }

  get dsts(): Iterable<string> {
    return this.#routes.keys();
  }

  linkNamed(name: string): Link | undefined {
    for (const link of this.#links.values()) if (link.name === name) return link;
    return undefined;
  }

  /** All addresses of this host, of both families. */
  get ownAddresses(): ReadonlySet<string> {
    return new Set(this.#addresses.map(({ address }) => address));
  }

  /** Replaces everything by a dump. */
  reset(snapshot: KernelSnapshot): void {
    this.#links = new Map(snapshot.links.map((link) => [link.index, link]));
    this.#addresses = [...snapshot.addresses];
    this.#routes.clear();
    for (const route of snapshot.routes) this.#push(route);
  }

  /** Takes in one event; applying one that a dump has already seen changes nothing. */
  apply(event: KernelEvent): MirrorChange {
    switch (event.type) {
      case 'route-added':
        return this.#routeAdded(event);
      case 'route-removed':
        return this.#routeRemoved(event.route);
      case 'link-changed':
        return this.#linkChanged(event.link);
      case 'link-removed':
        this.#links.delete(event.linkIndex);
        return change({ stale: this.#hasRoutesOver(event.linkIndex) });
      case 'address-added':
        this.#forgetAddress(event.address);
        this.#addresses.push(event.address);
        return change({ stale: false });
      case 'address-removed':
        this.#forgetAddress(event.address);
        return change({ stale: this.#hasRoutesOver(event.address.linkIndex) });
      case 'overflow':
        return change({ stale: true });
    }
  }

  #routeAdded({ route, replaced, appended }: Extract<KernelEvent, { type: 'route-added' }>): MirrorChange {
    if (route.family !== 4) return change({});
    const routes = this.#routes.get(route.dst) ?? [];
    const sameKey = routes.filter((other) => other.tos === route.tos && other.metric === route.metric);
    const dsts = new Set([route.dst]);
    // Seen by a dump already; where among several of its key it was put, only another dump can tell now.
    if (sameKey.some((other) => sameRoute(other, route))) return change({ dsts, stale: sameKey.length > 1 });
    const others = routes.filter((other) => !sameKey.includes(other));
    const key = appended ? [...sameKey, route] : [route, ...(replaced ? sameKey.slice(1) : sameKey)];
    this.#routes.set(route.dst, [...key, ...others]);
    return change({ dsts });
  }

  #routeRemoved(route: Route): MirrorChange {
    if (route.family !== 4) return change({});
    const rest = (this.#routes.get(route.dst) ?? []).filter((other) => !sameRoute(other, route));
    if (rest.length === 0) this.#routes.delete(route.dst);
    else this.#routes.set(route.dst, rest);
    return change({ dsts: new Set([route.dst]) });
  }

  #linkChanged(link: Link): MirrorChange {
    const before = this.#links.get(link.index);
    this.#links.set(link.index, link);
    const same = before !== undefined && before.name === link.name && before.up === link.up;
    if (same) return change({});
    return change({ stale: !link.up && this.#hasRoutesOver(link.index) });
  }

  #hasRoutesOver(linkIndex: number): boolean {
    for (const routes of this.#routes.values()) {
      if (routes.some((route) => route.linkIndex === linkIndex || route.special)) return true;
    }
    return false;
  }

  #forgetAddress(address: LinkAddress): void {
    this.#addresses = this.#addresses.filter(
      (other) => other.linkIndex !== address.linkIndex || other.address !== address.address,
    );
  }

  #push(route: Route): void {
    const routes = this.#routes.get(route.dst);
    if (routes === undefined) this.#routes.set(route.dst, [route]);
    else routes.push(route);
  }
}

function change(part: Partial<MirrorChange>): MirrorChange {
  return { dsts: part.dsts ?? new Set(), stale: part.stale ?? false };
}

function sameRoute(a: Route, b: Route): boolean {
  return (
    a.dst === b.dst &&
    a.tos === b.tos &&
    a.metric === b.metric &&
    a.protocol === b.protocol &&
    a.type === b.type &&
    a.scope === b.scope &&
    a.gateway === b.gateway &&
    a.linkIndex === b.linkIndex &&
    a.source === b.source &&
    a.special === b.special
  );
}
