import { canonicalAddress, type Family, type PerFamily, parseAddress } from '../../ip/ip.ts';
import type { Link, LinkAddress } from '../../kernel/kernel.ts';
import { excerpt } from '../../runtime/excerpt.ts';
import { compileGoRegexp, type GoRegexp, GoRegexpError } from './go-regexp.ts';
import { fieldOf, type HostNetwork, type WantedInterface } from './host-network.ts';
import { isLinkLocal, isUsable, unsettled, usableAddresses } from './usable-addresses.ts';

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
  const regexp = compile(pattern);
  if (typeof regexp === 'string') {
    yield regexp;
    return;
  }
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

function compile(pattern: string): GoRegexp | string {
  try {
    return compileGoRegexp(pattern);
  } catch (error) {
    if (!(error instanceof GoRegexpError)) throw error;
    return `--iface-regex=${excerpt(pattern)} cannot be used: ${error.message}`;
  }
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
