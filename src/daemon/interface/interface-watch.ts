import { isDeepStrictEqual } from 'node:util';
import type { PerFamily } from '../../ip/ip.ts';
import { concernsHost, type KernelEvent, type Link, type LinkAddress } from '../../kernel/kernel.ts';
import type { Logger } from '../../runtime/effects.ts';
import { familiesText } from '../../subnet/lease/own-lease.ts';
import { chooseInterface, type HostInterface, holdsAll } from './choose-interface.ts';
import { type HostNetwork, readHostNetwork, type WantedInterface } from './host-network.ts';
import { followHost, type HostWatching, interfaceLoop } from './wait.ts';

export interface InterfaceWatchOptions extends WantedInterface, HostWatching {
  readonly log: Logger;
  /** What was chosen at the start. */
  readonly host: HostInterface;
  /** Runs once a change has settled; must not throw. */
  onChange(next: HostInterface): void;
  /** Called with all links and addresses at each look; must not throw. */
  onLook?(links: readonly Link[], addresses: readonly LinkAddress[]): void;
}

/** Containers come and go with links of their own: no hurry. */
const spacingMs = 250;
/** An interface that is taken down, reconfigured or renewed by DHCP has its address back by then. */
const patienceMs = 5_000;
/** A link that is recreated, or whose address moves to a bridge, gets its settings one by one. */
const settleMs = 1_000;

/** What a look found, and since when it is so. */
interface Finding {
  readonly held: HostInterface | undefined;
  readonly sinceMs: number;
}

/**
 * Follows the interface that peers reach this host by: its MTU, name, index and addresses. An address that is there stays
 * the chosen one, also beside a better one or on another link (a bridge that eth0 became a port of). When it has been gone
 * for longer than a reconfiguration takes, and another one fits what was asked for, that one takes its place.
 */
export class InterfaceWatch {
  readonly #options: InterfaceWatchOptions;
  #host: HostInterface;
  #finding: Finding;

  constructor(options: InterfaceWatchOptions) {
    this.#options = options;
    this.#host = options.host;
    this.#finding = { held: options.host, sinceMs: options.clock.monotonic() };
  }

  /** The interface of the last change, or the one chosen at the start. */
  get host(): HostInterface {
    return this.#host;
  }

  /** Works until `signal` aborts; rejects only with its reason. */
  async run(signal: AbortSignal): Promise<never> {
    // Routes matter only to a choice.
    const matters = (event: KernelEvent) => this.#finding.held === undefined || concernsHost(event);
    const look = (inner: AbortSignal) => this.#look(inner);
    return await followHost<never>({ ...this.#options, ...interfaceLoop, spacingMs, matters, look }, signal);
  }

  async #look(signal: AbortSignal): Promise<{ againMs?: number }> {
    const { kernel, clock, trouble } = this.#options;
    const links = await kernel.links(signal);
    const network = { links, addresses: await kernel.addresses(signal), routes: {} };
    this.#options.onLook?.(links, network.addresses);
    const held = whereHeld(network, this.#host);
    const nowMs = clock.monotonic();
    if (!isDeepStrictEqual(held, this.#finding.held)) this.#finding = { held, sinceMs: nowMs };
    if (held !== undefined) trouble.clear('interface', `${familiesText(held.addresses)} is there again`);
    if (isDeepStrictEqual(held, this.#host)) return {};
    const leftMs = this.#finding.sinceMs + (held === undefined ? patienceMs : settleMs) - nowMs;
    if (leftMs > 0) return { againMs: leftMs };
    if (held === undefined) await this.#replace(signal);
    else this.#tell(held);
    return {};
  }

  /** Chooses again, as at the start; keeps the addresses that are left. */
  async #replace(signal: AbortSignal): Promise<void> {
    const { kernel, trouble } = this.#options;
    const network = await readHostNetwork(kernel, this.#options, signal);
    // It may have come back while that was read: the next look tells.
    if (whereHeld(network, this.#host) !== undefined) return;
    const kept = whatIsLeft(network, this.#host);
    const choice = chooseInterface(network, this.#options, kept);
    if ('chosen' in choice) {
      trouble.clear('interface', `interface ${choice.chosen.name} can be used`);
      return this.#tell(choice.chosen);
    }
    const gone = familiesText(without(this.#host.addresses, kept));
    const what = `${gone} is gone from ${this.#host.name}, and no other address can be used`;
    trouble.report('interface', `${what}: ${choice.why}`);
  }

  #tell(next: HostInterface): void {
    const previous = this.#host;
    this.#host = next;
    this.#finding = { held: next, sinceMs: this.#options.clock.monotonic() };
    const { name, mtu, addresses } = next;
    this.#options.log.warn(
      { event: 'interface-changed', interface: name, mtu, addresses },
      `the interface peers reach this host by has changed: ${differences(previous, next).join(', ')}`,
    );
    this.#options.onChange(next);
  }
}

/** The link that has all the addresses, as it is now; the same one if possible. */
function whereHeld(network: HostNetwork, host: HostInterface): HostInterface | undefined {
  const link = byLikeness(network, host).find(({ index }) => holdsAll(network, index, host.addresses));
  return link && { name: link.name, index: link.index, mtu: link.mtu, addresses: host.addresses };
}

/** Those addresses that are still there; together on one link, so those of one link at most. */
function whatIsLeft(network: HostNetwork, host: HostInterface): PerFamily<string> {
  const all = byLikeness(network, host).map(({ index }) =>
    Object.fromEntries(
      Object.entries(host.addresses).filter(([family, text]) => holdsAll(network, index, { [family]: text })),
    ),
  );
  return all.find((left) => Object.keys(left).length > 0) ?? {};
}

/** Links but loopback; first the one that was chosen, then one that has its name. */
function byLikeness({ links }: HostNetwork, host: HostInterface): readonly Link[] {
  const unlike = ({ index, name }: Link) => (index === host.index ? 0 : name === host.name ? 1 : 2);
  return links.filter(({ loopback }) => !loopback).toSorted((a, b) => unlike(a) - unlike(b));
}

function without(all: PerFamily<string>, some: PerFamily<string>): PerFamily<string> {
  return Object.fromEntries(Object.entries(all).filter(([family]) => !(family in some)));
}

function differences(previous: HostInterface, next: HostInterface): readonly string[] {
  const of = ({ name, index, mtu, addresses: { ipv4, ipv6 } }: HostInterface) => [
    ['name', name],
    ['index', index],
    ['MTU', mtu],
    ['IPv4 address', ipv4],
    ['IPv6 address', ipv6],
  ];
  const before = of(previous);
  return of(next).flatMap(([what, value], i) => {
    const old = before[i]?.[1];
    return old === value ? [] : [`${what} ${value ?? 'none'} instead of ${old ?? 'none'}`];
  });
}
