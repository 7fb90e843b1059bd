import type { Subnet } from '../src/ip/ip.ts';
import type { Event071, Lease071 } from './flannel-071-store.ts';

/** A route by way of a gateway, over the host's link. */
export interface Route071 {
  /** `10.5.2.0/24` */
  readonly dst: string;
  readonly gateway: string;
}

/** The main routing table. What the kernel refuses rejects. */
export interface RouteTable071 {
  /** The routes of all protocols that have a gateway, in the kernel's order. */
  list(): Promise<readonly Route071[]>;
  /** As `ip route add DST via GW dev LINK`: protocol boot. */
  add(route: Route071): Promise<void>;
  /** As `ip route del DST via GW dev LINK`: of any protocol. */
  delete(route: Route071): Promise<void>;
}

/** The leases that flannel has heard of. It makes removals complete, of which etcd tells only the key. */
export class Heard071 {
  readonly #own: Subnet;
  #leases: Lease071[] = [];

  /** `own` is this host's subnet, whose lease never counts. */
  constructor(own: Subnet) {
    this.#own = own;
  }

  /** What a new list changes. A lease whose PublicIP is another one than before does not count as changed. */
  reset(leases: readonly Lease071[]): readonly RouteChange071[] {
    const listed = leases.filter(({ subnet }) => !this.#isOwn(subnet));
    const has = (some: readonly Lease071[], { subnet }: Lease071) =>
      some.some((one) => isSame(one.subnet, subnet));
    const added = listed.filter((lease) => !has(this.#leases, lease)).map((lease) => ({ added: lease }));
    const removed = this.#leases.filter((lease) => !has(listed, lease)).map((lease) => ({ removed: lease }));
    this.#leases = listed;
    return [...added, ...removed];
  }

  /** What an event changes; a removal of what it never heard of changes nothing. */
  update(event: Event071): readonly RouteChange071[] {
    const subnet = 'added' in event ? event.added.subnet : event.removed;
    if (this.#isOwn(subnet)) return [];
    const before = this.#leases.find((lease) => isSame(lease.subnet, subnet));
    this.#leases = this.#leases.filter((lease) => lease !== before);
    if ('removed' in event) return before === undefined ? [] : [{ removed: before }];
    this.#leases.push(event.added);
    return [event];
  }

  #isOwn(subnet: Subnet): boolean {
    return isSame(subnet, this.#own);
  }
}

/** A lease whose route has to come, or to go. */
export type RouteChange071 = { readonly added: Lease071 } | { readonly removed: Lease071 };

/** The routes of the host-gw backend. */
export class Routes071 {
  readonly #table: RouteTable071;
  readonly #log: (line: string) => void;
  /** What the check every ten seconds puts back. */
  #wanted: Route071[] = [];

  constructor(table: RouteTable071, log: (line: string) => void) {
    this.#table = table;
    this.#log = log;
  }

  async apply(changes: readonly RouteChange071[]): Promise<void> {
    for (const change of changes) {
      const { subnet, publicIp, backendType } = 'added' in change ? change.added : change.removed;
      if (backendType !== 'host-gw') this.#log(`Ignoring non-host-gw subnet: type=${backendType}`);
      else if ('added' in change) await this.#add({ dst: subnet.text, gateway: publicIp });
      else await this.#remove({ dst: subnet.text, gateway: publicIp });
    }
  }

  /** Puts back what is missing. */
  async check(): Promise<void> {
    const present = await this.#table.list();
    for (const route of this.#wanted) {
      if (present.some((one) => isSameRoute(one, route))) continue;
      if (await this.#tries('recovering', route, () => this.#table.add(route)))
        this.#log(`Route recovered ${route.dst} : ${route.gateway}`);
    }
  }

  async #add(route: Route071): Promise<void> {
    this.#log(`Subnet added: ${route.dst} via ${route.gateway}`);
    const [first] = (await this.#table.list()).filter(({ dst }) => dst === route.dst);
    if (first === undefined) {
      if (!(await this.#tries('adding', route, () => this.#table.add(route)))) return;
    } else if (first.gateway !== route.gateway) {
      this.#log(`Replacing existing route to ${route.dst} via ${first.gateway}`);
      // It asks the kernel to delete the new route, which is not there, and gives up: the old one stays.
      if (!(await this.#tries('deleting', route, () => this.#table.delete(route)))) return;
      if (!(await this.#tries('adding', route, () => this.#table.add(route)))) return;
    } else this.#log(`Route to ${route.dst} via ${route.gateway} already exists, skipping.`);
    if (!this.#wanted.some((one) => isSameRoute(one, route))) this.#wanted.push(route);
  }

  async #remove(route: Route071): Promise<void> {
    this.#log(`Subnet removed: ${route.dst}`);
    if (!(await this.#tries('deleting', route, () => this.#table.delete(route)))) return;
    this.#wanted = this.#wanted.filter((one) => !isSameRoute(one, route));
  }

  /** Whether the kernel did it. */
  async #tries(doing: string, { dst, gateway }: Route071, act: () => Promise<void>): Promise<boolean> {
    try {
      await act();
      return true;
    } catch (error) {
      this.#log(`Error ${doing} route to ${dst} via ${gateway}: ${String(error)}`);
      return false;
    }
  }
}

function isSame(a: Subnet, b: Subnet): boolean {
  return a.text === b.text;
}

function isSameRoute(a: Route071, b: Route071): boolean {
  return a.dst === b.dst && a.gateway === b.gateway;
}
