import { canonicalAddress, type Family, type PerFamily, parseAddress, parseSubnet } from '../../ip/ip.ts';
import type { Link, LinkAddress } from '../../kernel/kernel.ts';
import { excerpt } from '../../runtime/texts.ts';
import { compileGoRegexp, type GoRegexp } from './go-regexp.ts';
import { describeHost, fieldOf, type HostNetwork, type WantedInterface } from './host-network.ts';

/** The interface peers reach this host by. */
export interface HostInterface {
  readonly name: string;
  readonly index: number;
  readonly mtu: number;
  /** Its addresses: the gateways of this host's subnets for all peers. Of each family that is on, and of no other. */
  readonly addresses: PerFamily<string>;
}

export type InterfaceChoice =
  /** `skipped`: why each element before the one that fits does not. */
  | { readonly chosen: HostInterface; readonly skipped: readonly string[] }
  /** `problem`: one line, what was tried and what exists; `why`: the same without "no usable interface". */
  | { readonly problem: string; readonly why: string };

/**
 * Chooses interface and addresses. An element of the wishes that fails is skipped, in favour of the next. `kept`: what a host
 * still has that has lost some of its addresses; then the choice is on the interface that has those, with them.
 */
export function chooseInterface(
  host: HostNetwork,
  wanted: WantedInterface,
  kept: PerFamily<string> = {},
): InterfaceChoice {
  const skipped: string[] = [];
  for (const candidate of candidates(host, wanted)) {
    const isText = typeof candidate === 'string';
    if (!isText && !holdsAll(host, candidate.link.index, kept)) continue;
    const choice = isText ? candidate : complete(host, wanted, candidate, kept);
    if (typeof choice !== 'string') return { chosen: choice, skipped };
    if (!skipped.includes(choice)) skipped.push(choice);
  }
  const tried = skipped.join('; ') || 'another interface would fit';
  const why = `${tried}. There are: ${describeHost(host, wanted.families)}`;
  return { problem: `no usable interface: ${why}`, why };
}

/** Whether a link has all these addresses, as far as is known for itself alone. */
export function holdsAll(host: HostNetwork, linkIndex: number, addresses: PerFamily<string>): boolean {
  return Object.values(addresses).every((text) =>
    host.addresses.some(
      ({ address, linkIndex: index, dadFailed }) => index === linkIndex && address === text && !dadFailed,
    ),
  );
}

/** An interface with an address of each family that is on, or why it has not. */
function complete(
  host: HostNetwork,
  wanted: WantedInterface,
  { link, addresses: asked }: Candidate,
  kept: PerFamily<string>,
): HostInterface | string {
  if (link.loopback) return `${link.name} is the loopback interface, which no peer can reach`;
  const addresses: { ipv4?: string; ipv6?: string } = {};
  for (const family of wanted.families) {
    const found = addressOf(host, wanted, { link, addresses: { ...asked, ...kept } }, family);
    if ('problem' in found) return found.problem;
    addresses[fieldOf(family)] = found.address;
  }
  return { name: link.name, index: link.index, mtu: link.mtu, addresses };
}

function addressOf(
  host: HostNetwork,
  wanted: WantedInterface,
  { link, addresses }: Candidate,
  family: Family,
): { readonly address: string } | { readonly problem: string } {
  const asked = addresses[fieldOf(family)];
  const own = asked ?? usableAddresses(host, link, family)[0]?.address;
  const given = wantedAddress(wanted, family);
  if (given === undefined) {
    if (own !== undefined) return { address: own };
    const why = host.addresses
      .filter((held) => held.family === family && held.linkIndex === link.index)
      .map((held) => `${held.address} is ${unusable(held)}`);
    const reasons = why.length > 0 ? ` (${why.join(', ')})` : '';
    return { problem: `interface ${link.name} has no usable IPv${family} address${reasons}` };
  }
  // flanneld compares --public-ip with what it chose, and takes --public-ipv6 as it is. An interface that was named by its
  // IPv6 address has no IPv4 address chosen yet.
  const free = family === 6 || (asked === undefined && addresses.ipv6 !== undefined);
  const held = host.addresses.find(({ address, linkIndex }) => address === given && linkIndex === link.index);
  const why = held && unsettled(held);
  if (why !== undefined) return { problem: `${given} of ${link.name} is ${why}` };
  const fits = own === given || (free && holdsAll(host, link.index, { [fieldOf(family)]: given }));
  if (fits) return { address: given };
  const flag = family === 4 ? '--public-ip' : '--public-ipv6';
  const what = `${flag}=${given} is not the address of ${link.name}${own === undefined ? '' : ` (${own})`}`;
  return { problem: `${what}, and host-gw works through no NAT: ${whoHas(host, link, given, flag)}` };
}

/** host-gw needs the public address on the interface: flanneld says "NAT" and exits. */
function whoHas(host: HostNetwork, link: Link, given: string, flag: string): string {
  const holders = host.addresses.filter(({ address }) => address === given).map(({ linkIndex }) => linkIndex);
  const holder = host.links.find(({ index }) => holders.includes(index));
  if (holder === undefined) return `no interface has it, so leave ${flag} out`;
  const where = holders.includes(link.index)
    ? `${link.name} has it as another address`
    : `${holder.name} has it`;
  return `${where}, so give --iface=${given}, or ${flag} without any --iface`;
}

/** An interface that fits what was asked for, and those of its addresses that were asked for by themselves. */
export interface Candidate {
  readonly link: Link;
  readonly addresses: PerFamily<string>;
}

/**
 * The interfaces that fit, in the order of preference; a text says why an element of the wishes yields none. Without
 * --iface, --iface-regex and --iface-can-reach: the holder of the public address, or else the default route's; otherwise
 * each of these in this order.
 */
export function* candidates(host: HostNetwork, wanted: WantedInterface): Generator<Candidate | string> {
  const { ifaces, ifaceRegexes, ifaceCanReach, families } = wanted;
  if (ifaces.length === 0 && ifaceRegexes.length === 0 && ifaceCanReach === undefined) {
    const address = wantedAddress(wanted, 4) ?? wantedAddress(wanted, 6);
    yield address === undefined ? byDefaultRoute(host, families) : byAddress(host, families, address);
    return;
  }
  for (const element of ifaces) yield byElement(host, families, element);
  for (const pattern of ifaceRegexes) {
    if (pattern === '') yield byDefaultRoute(host, families);
    else yield* byRegex(host, families, pattern);
  }
  if (ifaceCanReach !== undefined) yield byReach(host, ifaceCanReach);
}

/** --public-ip or --public-ipv6, in canonical text; undefined when not given or when the family is off. */
export function wantedAddress(wanted: WantedInterface, family: Family): string | undefined {
  const given = family === 4 ? wanted.publicIP : wanted.publicIPv6;
  if (given === undefined || !wanted.families.includes(family)) return undefined;
  return canonicalAddress(given) ?? given;
}

function byElement(host: HostNetwork, families: readonly Family[], element: string): Candidate | string {
  if (element === '') return byDefaultRoute(host, families);
  if (parseAddress(element) !== undefined) return byAddress(host, families, element);
  const link =
    host.links.find(({ name }) => name === element) ??
    host.links.find(({ altNames }) => altNames?.includes(element));
  if (link !== undefined) return { link, addresses: {} };
  const labelled = host.addresses.find(({ label }) => label === element);
  const holder = host.links.find(({ index }) => index === labelled?.linkIndex);
  if (labelled === undefined || holder === undefined) return `there is no interface ${excerpt(element)}`;
  return (
    `${excerpt(element)} is the label of the address ${labelled.address} of ${holder.name}, not an interface: ` +
    `use --iface=${labelled.address} or --iface=${holder.name}`
  );
}

/** The very address that was asked for, whatever its rank. */
function byAddress(host: HostNetwork, families: readonly Family[], text: string): Candidate | string {
  const family = parseAddress(text)?.family;
  if (family === undefined) return `${excerpt(text)} is no address`;
  if (!families.includes(family))
    return `${text} is of IPv${family}, which the network configuration has off`;
  const address = canonicalAddress(text);
  const holders = host.addresses.filter((held) => held.address === address);
  if (holders.some((held) => family === 6 && isLinkLocal(held)))
    return `${text} is link-local, so it does not say which host it is: take a global address`;
  const links = holders.flatMap(({ linkIndex }) => host.links.filter(({ index }) => index === linkIndex));
  const link = links.find(({ loopback }) => !loopback) ?? links[0];
  if (link === undefined || address === undefined) return `no interface has the address ${text}`;
  const why = holders.map(unsettled).find((reason) => reason !== undefined);
  if (why !== undefined) return `${text} of ${link.name} is ${why}`;
  return { link, addresses: { [fieldOf(family)]: address } };
}

/** That of the default route with the lowest metric; of both families it has to be the same. */
function byDefaultRoute(host: HostNetwork, families: readonly Family[]): Candidate | string {
  const found = families.map((family) => defaultRouteLink(host, family));
  const problem = found.find((link) => typeof link === 'string');
  if (problem !== undefined) return problem;
  const [link, other] = found.filter((each) => typeof each !== 'string');
  if (link === undefined) return 'no family is on';
  if (other !== undefined && other.index !== link.index) {
    return (
      `the default route is over ${link.name} for IPv${families[0]}, over ${other.name} for IPv${families[1]}: ` +
      'one interface has to serve both (give --iface)'
    );
  }
  return { link, addresses: {} };
}

function defaultRouteLink(host: HostNetwork, family: Family): Link | string {
  const dst = family === 4 ? '0.0.0.0/0' : '::/0';
  const defaults = (host.routes[fieldOf(family)] ?? [])
    .filter((route) => route.dst === dst && route.type === 'unicast')
    .toSorted((a, b) => a.metric - b.metric);
  const first = defaults.find(({ linkIndex }) => linkIndex !== undefined);
  const link = host.links.find(({ index }) => index === first?.linkIndex);
  if (link !== undefined) return link;
  return defaults.length > 0
    ? `the IPv${family} default route has several ways and so no interface of its own (give --iface)`
    : `there is no IPv${family} default route to take the interface from (give --iface)`;
}

/** First by address, over all interfaces in the order of their index, then by name. */
function* byRegex(
  host: HostNetwork,
  families: readonly Family[],
  pattern: string,
): Generator<Candidate | string> {
  const regexp = compileGoRegexp(pattern);
  const links = host.links.filter(({ loopback }) => !loopback).toSorted((a, b) => a.index - b.index);
  const byAddresses = links.flatMap((link) => matchingAddresses(host, families, link, regexp));
  const byName = links.filter(({ name }) => regexp.matches(name)).map((link) => ({ link, addresses: {} }));
  yield* byAddresses;
  yield* byName;
  if (byAddresses.length + byName.length > 0) return;
  const both = families.length > 1 ? ' (of an address of each family on one interface)' : '';
  yield `--iface-regex=${excerpt(pattern)} matches no address${both} and no name of an interface`;
}

/** The link with its best address of each family that matches; none when a family has no match. */
function matchingAddresses(
  host: HostNetwork,
  families: readonly Family[],
  link: Link,
  regexp: GoRegexp,
): readonly Candidate[] {
  const found = families.map((family) => ({
    family,
    match: usableAddresses(host, link, family).find(({ address }) => regexp.matches(address)),
  }));
  if (found.some(({ match }) => match === undefined)) return [];
  const addresses = Object.fromEntries(found.map(({ family, match }) => [fieldOf(family), match?.address]));
  return [{ link, addresses }];
}

/** The interface of the kernel's route to an address, with the address that packets leave by. */
function byReach(host: HostNetwork, target: string): Candidate | string {
  const { reach } = host;
  const shown = excerpt(target);
  if (parseAddress(target) === undefined) return `--iface-can-reach=${shown} is no address`;
  if (reach === undefined || reach.type === 'other')
    return `there is no route to ${shown} (--iface-can-reach)`;
  const link = host.links.find(({ index }) => index === reach.linkIndex);
  if (reach.type === 'local')
    return `${shown} is this host's own address, which says nothing (--iface-can-reach)`;
  if (link === undefined)
    return `the route to ${shown} (--iface-can-reach) is over an interface that is gone`;
  if (reach.source === undefined) return { link, addresses: {} };
  const source = host.addresses.find((held) => isHeld(held, link, reach.source));
  if (source === undefined) {
    return `packets to ${shown} (--iface-can-reach) leave ${link.name} by ${reach.source}, which is not its own (give --iface)`;
  }
  // A temporary IPv6 address is what the kernel prefers; its interface has a better one.
  return { link, addresses: isUsable(source) ? { [fieldOf(source.family)]: source.address } : {} };
}

function isHeld(held: LinkAddress, link: Link, address: string | undefined): boolean {
  return held.linkIndex === link.index && held.address === address;
}

/**
 * The addresses of a link that peers could use, the best first: the one that this host's lease names, then global before
 * link-local, those of a network before host addresses (/32, /128: a cluster manager such as keepalived moves them from host to
 * host), the first of its network before those added to it later, permanent before leased, and among equals in the kernel's
 * order (IPv4: the oldest first; IPv6: the newest first).
 *
 * Never: see {@link unusable}.
 */
export function usableAddresses(host: HostNetwork, link: Link, family: Family): readonly LinkAddress[] {
  return host.addresses
    .filter((address) => address.family === family && address.linkIndex === link.index && isUsable(address))
    .toSorted((a, b) => rank(host, a) - rank(host, b)); // Stable: equals stay in the kernel's order.
}

/** Whether an address may be chosen without having been asked for by itself. */
export function isUsable(address: LinkAddress): boolean {
  return unusable(address) === undefined;
}

/**
 * Why an address is never chosen by itself; undefined: it may be. A temporary (privacy) IPv6 address is gone in a day, a link-local
 * one says nothing without its link, and the kernel does not use one that another host was found to have.
 */
export function unusable(address: LinkAddress): string | undefined {
  if (isSpecial(address)) return 'no address of a single host';
  if (address.family === 6 && isLinkLocal(address)) return 'link-local';
  return (
    unsettled(address) ?? (address.temporary ? 'temporary' : address.deprecated ? 'deprecated' : undefined)
  );
}

/** Why the kernel does not use an address (yet); undefined: it does. */
export function unsettled({ dadFailed, tentative }: LinkAddress): string | undefined {
  if (dadFailed) return 'in use by another host: duplicate address detection failed';
  return tentative ? 'still being checked for duplicates' : undefined;
}

/** IPv4: 169.254.0.0/16; IPv6: fe80::/10; or what the kernel holds for valid on the link alone. */
export function isLinkLocal({ address, scope }: LinkAddress): boolean {
  return scope === 'link' || /^(169\.254\.|fe[89ab][0-9a-f]:)/.test(address);
}

/** Loopback, multicast, and the addresses beyond, which no peer can send to. */
function isSpecial({ family, address }: LinkAddress): boolean {
  if (family === 6) return address === '::1' || address === '::' || address.startsWith('ff');
  const [first = 0] = address.split('.').map(Number);
  return first === 0 || first === 127 || first >= 224;
}

/** Link-local or of another scope last; then what may be on another host tomorrow, then what may be gone. */
function rank(host: HostNetwork, address: LinkAddress): number {
  const { family, scope, prefixLength, permanent } = address;
  if (host.leased?.[fieldOf(family)] === address.address) return -1;
  const last = scope !== 'global' || isLinkLocal(address);
  const hostAddress = prefixLength === (family === 4 ? 32 : 128);
  const floats = hostAddress || isSecondary(host, address);
  return (last ? 4 : 0) + (floats ? 2 : 0) + (permanent ? 0 : 1);
}

/** An IPv4 address that was added to the network of an older one. IPv6 knows no such order. */
function isSecondary(host: HostNetwork, address: LinkAddress): boolean {
  if (address.family !== 4) return false;
  const network = networkOf(address);
  const first = host.addresses.find(
    (other) => other.family === 4 && other.linkIndex === address.linkIndex && networkOf(other) === network,
  );
  return first !== undefined && first.address !== address.address;
}

function networkOf({ address, prefixLength }: LinkAddress): string {
  return parseSubnet(`${address}/${prefixLength}`)?.text ?? address;
}
