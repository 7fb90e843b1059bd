import { type Family, parseSubnet } from '../../ip/ip.ts';
import type { Link, LinkAddress } from '../../kernel/kernel.ts';
import { fieldOf, type HostNetwork } from './host-network.ts';

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
