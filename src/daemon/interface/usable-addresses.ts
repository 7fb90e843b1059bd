import type { Family } from '../../ip/ip.ts';
import type { Link, LinkAddress } from '../../kernel/kernel.ts';
import type { HostNetwork } from './host-network.ts';

/**
 * The addresses of a link that peers could use, the best first: global before link-local, permanent before leased, and among
 * equals in the kernel's order (IPv4: the oldest first; IPv6: the newest first).
 *
 * Never: deprecated, loopback, multicast; of IPv6 also link-local (it says nothing without its link) and temporary
 * (privacy) addresses, which are gone in a day.
 */
export function usableAddresses(host: HostNetwork, link: Link, family: Family): readonly LinkAddress[] {
  return host.addresses
    .filter((address) => address.family === family && address.linkIndex === link.index && isUsable(address))
    .toSorted((a, b) => rank(a) - rank(b)); // Stable: equals stay in the kernel's order.
}

/** Whether an address may be chosen without having been asked for by itself. */
export function isUsable(address: LinkAddress): boolean {
  const { deprecated, temporary } = address;
  return !deprecated && !temporary && !isSpecial(address) && !(address.family === 6 && isLinkLocal(address));
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

/** Link-local or of another scope last; in each half, what will still be there tomorrow first. */
function rank(address: LinkAddress): number {
  const last = address.scope !== 'global' || isLinkLocal(address);
  return (last ? 2 : 0) + (address.permanent ? 0 : 1);
}
