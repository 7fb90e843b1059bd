import { canonicalAddress, type Family, type PerFamily } from '../../ip/ip.ts';
import type { Kernel, Link, LinkAddress, Route, RouteLookup } from '../../kernel/kernel.ts';

/** What the kernel says about itself, to choose from. */
export interface HostNetwork {
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  /** Routes of the main table, of the families that are on. */
  readonly routes: PerFamily<readonly Route[]>;
  /** How the kernel reaches the address of --iface-can-reach; undefined: not asked for, or no route. */
  readonly reach?: RouteLookup | undefined;
  /** The addresses that the lease of this host names; absent: none is known to be its own. */
  readonly leased?: PerFamily<string>;
}

/** What the operator asked for, as the flags of these names say, and what the network needs. */
export interface WantedInterface {
  /** Names or addresses, in order; '' stands for the default route's interface. */
  readonly ifaces: readonly string[];
  /** Go's syntax, checked, in order; '' as for names. */
  readonly ifaceRegexes: readonly string[];
  readonly ifaceCanReach?: string | undefined;
  readonly publicIP?: string | undefined;
  readonly publicIPv6?: string | undefined;
  /** The families that the network configuration has on; at least one. An address of each is needed, and of no other. */
  readonly families: readonly Family[];
}

/** Reads all that a choice needs. Rejects as {@link Kernel} does. */
export async function readHostNetwork(
  kernel: Kernel,
  wanted: WantedInterface,
  signal: AbortSignal,
): Promise<HostNetwork> {
  const links = await kernel.links(signal);
  const addresses = await kernel.addresses(signal);
  const ipv4 = wanted.families.includes(4) ? { ipv4: await kernel.routes(4, signal) } : {};
  const ipv6 = wanted.families.includes(6) ? { ipv6: await kernel.routes(6, signal) } : {};
  const target = canonicalAddress(wanted.ifaceCanReach ?? '');
  const reach = target === undefined ? undefined : await kernel.routeTo(target, signal);
  return { links, addresses, routes: { ...ipv4, ...ipv6 }, reach };
}

/** The field of {@link PerFamily} for a family. */
export function fieldOf(family: Family): 'ipv4' | 'ipv6' {
  return family === 4 ? 'ipv4' : 'ipv6';
}

/** Links but loopback with their addresses of these families, for the operator: `eth0 (10.1.0.5/24), eth1 (…, down)`. */
export function describeHost(host: HostNetwork, families: readonly Family[]): string {
  const none = families.length === 1 ? `no IPv${families[0]} address` : 'no address';
  const names = host.links
    .filter(({ loopback }) => !loopback)
    .map(({ name, index, up }) => {
      const addresses = host.addresses
        .filter(({ family, linkIndex }) => families.includes(family) && linkIndex === index)
        .map((held) => `${held.address}/${held.prefixLength}${held.dadFailed ? ' duplicate' : ''}`);
      return `${name} (${addresses.join(' ') || none}${up ? '' : ', down'})`;
    });
  return names.join(', ') || 'no interfaces but loopback';
}
