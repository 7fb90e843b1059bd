import { parseSubnet, type Subnet } from '../src/ip/ip.ts';
import { KernelError, type Link, type LinkAddress, type Route } from '../src/kernel/kernel.ts';

/** The addresses of all links, in the kernel's order. */
export class AddressTable {
  #addresses: LinkAddress[] = [];

  /** IPv4 before IPv6, by link; IPv4 oldest first, IPv6 newest first. */
  list(): readonly LinkAddress[] {
    return this.#addresses.toSorted(byFamilyAndLink);
  }

  /** Those of one link, in the order they are held. */
  of(linkIndex: number): readonly LinkAddress[] {
    return this.#addresses.filter((address) => address.linkIndex === linkIndex);
  }

  has(text: string): boolean {
    return this.#addresses.some((address) => address.address === text);
  }

  add(address: LinkAddress): void {
    if (address.family === 4) this.#addresses.push(address);
    else this.#addresses.unshift(address);
  }

  /** In its place. */
  change(before: LinkAddress, after: LinkAddress): void {
    this.#addresses = this.#addresses.map((other) => (other === before ? after : other));
  }

  delete(address: LinkAddress): void {
    this.#addresses = this.#addresses.filter((other) => other !== address);
  }

  /** The address held with this text, length and link. */
  find(address: LinkAddress): LinkAddress | undefined {
    return this.sameSubnet(address).find((other) => other.address === address.address);
  }

  /** All addresses of the link in the subnet of this one. */
  sameSubnet(address: LinkAddress): readonly LinkAddress[] {
    const { text } = subnetOf(address);
    return this.of(address.linkIndex).filter((other) => subnetOf(other).text === text);
  }

  /** An IPv4 address that came after another of its subnet: it has no connected route, and goes when the first goes. */
  isSecondary(address: LinkAddress): boolean {
    return address.family === 4 && this.sameSubnet(address)[0]?.address !== address.address;
  }

  isBroadcast(value: bigint, linkIndex: number): boolean {
    const subnets = this.of(linkIndex)
      .filter((address) => address.family === 4)
      .map(subnetOf);
    return subnets.some((subnet) => subnet.length < 31 && subnet.last === value);
  }
}

function byFamilyAndLink(a: LinkAddress, b: LinkAddress): number {
  return a.family - b.family || a.linkIndex - b.linkIndex;
}

function subnetOf({ address, prefixLength }: LinkAddress): Subnet {
  const subnet = parseSubnet(`${address}/${prefixLength}`);
  if (subnet === undefined) throw new KernelError('EINVAL', `not an address: ${address}/${prefixLength}`);
  return subnet;
}

/** The address of this CIDR on a link. Throws {@link KernelError} EINVAL. */
export function addressOn(link: Link, cidr: string): LinkAddress {
  const address = cidr.slice(0, cidr.indexOf('/'));
  const subnet = parseSubnet(cidr);
  if (subnet === undefined) throw new KernelError('EINVAL', `not an address: ${cidr}`);
  return {
    family: subnet.family,
    linkIndex: link.index,
    address,
    prefixLength: subnet.length,
    scope: link.loopback ? 'host' : 'global',
    deprecated: false,
    temporary: false,
    permanent: true,
    tentative: false,
    dadFailed: false,
  };
}

/** The route that comes with an address; undefined for an IPv4 host address. */
export function connectedRoute(address: LinkAddress): Route | undefined {
  const { family, linkIndex } = address;
  const { text: dst, length } = subnetOf(address);
  if (family === 4 && length === 32) return undefined;
  const common = { family, dst, linkIndex, tos: 0, protocol: 2, type: 'unicast', special: false } as const;
  return family === 4
    ? { ...common, metric: 0, scope: 253, source: address.address }
    : { ...common, metric: 256, scope: 0 };
}
