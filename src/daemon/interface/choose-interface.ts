import { canonicalAddress, type PerFamily, parseAddress } from '../../ip/ip.ts';
import type { Link, LinkAddress, Route } from '../../kernel/kernel.ts';

/** What the kernel says about itself, to choose from. */
export interface HostNetwork {
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  /** Routes of the main table, IPv4. */
  readonly routes: readonly Route[];
}

/** The interface peers reach this host by. */
export interface HostInterface {
  readonly name: string;
  readonly index: number;
  readonly mtu: number;
  /** Its addresses: the gateways of this host's subnets for all peers. Of each family that is on, and of no other. */
  readonly addresses: PerFamily<string>;
}

export type InterfaceChoice =
  | { readonly chosen: HostInterface; readonly skipped: readonly string[] }
  /** `problem`: one line, what was tried and what exists. */
  | { readonly problem: string };

/**
 * Chooses interface and IPv4 address. `wanted` are interface names or addresses, in order; '' stands for the default
 * route's interface, and so does an empty list. An element that fails is skipped.
 */
export function chooseInterface(host: HostNetwork, wanted: readonly string[]): InterfaceChoice {
  const skipped: string[] = [];
  for (const element of wanted.length === 0 ? [''] : wanted) {
    const choice = chooseOne(host, element);
    if (typeof choice !== 'string') return { chosen: choice, skipped };
    skipped.push(choice);
  }
  return { problem: `no usable interface: ${skipped.join('; ')}. There are: ${describeLinks(host)}` };
}

function chooseOne(host: HostNetwork, element: string): HostInterface | string {
  if (element === '') return chooseByDefaultRoute(host);
  if (parseAddress(element)?.family === 4) {
    const address = canonicalAddress(element);
    const found = host.addresses.find((candidate) => candidate.address === address);
    const link = host.links.find(({ index }) => index === found?.linkIndex);
    if (found === undefined || link === undefined) return `no interface has the address ${element}`;
    return link.loopback
      ? onLoopback(link)
      : { name: link.name, index: link.index, mtu: link.mtu, addresses: { ipv4: found.address } };
  }
  const link = host.links.find(({ name }) => name === element);
  if (link?.loopback) return onLoopback(link);
  return link === undefined ? `there is no interface ${element}` : withAddress(host, link);
}

function chooseByDefaultRoute(host: HostNetwork): HostInterface | string {
  const defaults = host.routes
    .filter((route) => route.dst === '0.0.0.0/0' && route.type === 'unicast' && route.linkIndex !== undefined)
    .toSorted((a, b) => a.metric - b.metric);
  const link = host.links.find(({ index }) => index === defaults[0]?.linkIndex);
  if (link === undefined) return 'there is no default route to take the interface from (give --iface)';
  return withAddress(host, link);
}

function onLoopback(link: Link): string {
  return `${link.name} is the loopback interface, which no peer can reach`;
}

function withAddress(host: HostNetwork, link: Link): HostInterface | string {
  const usable = host.addresses.filter(
    ({ family, linkIndex, address, deprecated }) =>
      family === 4 && linkIndex === link.index && !deprecated && !address.startsWith('127.'),
  );
  // toSorted is stable, so the kernel's order (the oldest first) decides among equals.
  const [best] = usable.toSorted((a, b) => rank(a) - rank(b));
  if (best === undefined) return `interface ${link.name} has no usable IPv4 address`;
  return { name: link.name, index: link.index, mtu: link.mtu, addresses: { ipv4: best.address } };
}

/** Global before link-local, permanent before dynamic: what will still be there tomorrow. */
function rank(address: LinkAddress): number {
  const linkLocal = address.scope !== 'global' || address.address.startsWith('169.254.');
  return (linkLocal ? 2 : 0) + (address.permanent ? 0 : 1);
}

function describeLinks(host: HostNetwork): string {
  const names = host.links
    .filter(({ loopback }) => !loopback)
    .map(({ name, index, up }) => {
      const addresses = host.addresses
        .filter(({ family, linkIndex }) => family === 4 && linkIndex === index)
        .map(({ address, prefixLength }) => `${address}/${prefixLength}`);
      return `${name} (${addresses.join(' ') || 'no IPv4 address'}${up ? '' : ', down'})`;
    });
  return names.join(', ') || 'no interfaces but loopback';
}
