import {
  addressBits,
  bridgeAddress,
  containsAddress,
  containsSubnet,
  type Family,
  overlaps,
  type PerFamily,
  parseSubnet,
  type Subnet,
} from '../../ip/ip.ts';
import type { Link, LinkAddress } from '../../kernel/kernel.ts';
import type { PoolConfig } from '../../subnet/config/config.ts';
import type { Reason } from './status.ts';

/** A network in which this host has an address. */
export interface ConnectedNetwork {
  readonly subnet: Subnet;
  /** With its length, e.g. `10.211.55.100/24`. */
  readonly address: string;
  readonly linkIndex: number;
  readonly linkName: string;
}

/**
 * The networks of one family in which this host has addresses, on links that are up or down. Leaves out
 * loopback's, and IPv6's link-local one, which every link has.
 */
export function connectedNetworks(
  family: Family,
  links: Iterable<Link>,
  addresses: readonly LinkAddress[],
): readonly ConnectedNetwork[] {
  const names = new Map([...links].map(({ index, name }) => [index, name]));
  return addresses.flatMap(({ family: its, address, prefixLength, linkIndex, scope }) => {
    const text = `${address}/${prefixLength}`;
    const isOwn = its === family && scope !== 'host' && (family === 4 || scope !== 'link');
    const subnet = isOwn ? parseSubnet(text) : undefined;
    const linkName = names.get(linkIndex) ?? `link ${linkIndex}`;
    return subnet === undefined ? [] : [{ subnet, address: text, linkIndex, linkName }];
  });
}

/** Bounds the memory of judgements. */
const maxRemembered = 100_000;

/** This host's surroundings in one family, beside the cluster. */
export interface HostSide {
  /** On links that are up. */
  readonly connected: readonly ConnectedNetwork[];
  /** Gateways of the default routes. */
  readonly gateways: readonly string[];
  /** The interface that peers reach this host by. Its network is no subnet of the cluster. */
  readonly linkIndex: number | undefined;
}

interface HostNetworksOptions extends HostSide {
  /** Addresses of etcd, as far as they are known. */
  readonly etcdAddresses: readonly string[];
  /** Whether hosts lease subnets of this form. No other interface of this host may have an address in one. */
  readonly isLeasable: (subnet: Subnet) => boolean;
}

/**
 * Keeps leases away from this host's own networks, its default gateways and etcd. A route to a part of one of
 * these would win over the kernel's own route.
 */
export class HostNetworks {
  readonly #options: HostNetworksOptions;
  readonly #judged = new Map<string, Reason | undefined>();

  constructor(options: HostNetworksOptions) {
    this.#options = options;
  }

  /** Why no route may lead to `dst` (a CIDR); undefined when one may. */
  refusal(dst: string): Reason | undefined {
    const known = this.#judged.get(dst);
    if (known !== undefined || this.#judged.has(dst)) return known;
    const subnet = parseSubnet(dst);
    const reason = subnet && this.#judge(subnet);
    if (this.#judged.size >= maxRemembered) this.#judged.clear();
    this.#judged.set(dst, reason);
    return reason;
  }

  #judge(subnet: Subnet): Reason | undefined {
    const { connected, gateways, etcdAddresses, isLeasable, linkIndex } = this.#options;
    const taken = connected.find(({ subnet: own }) => overlaps(own, subnet) && !isOneInside(own, subnet));
    if (taken) {
      const isOwn = isLeasable(subnet) && taken.linkIndex !== linkIndex;
      return { text: connectedText(taken, subnet), fault: isOwn ? 'own' : 'peer' };
    }
    const gateway = gateways.find((address) => containsAddress(subnet, address));
    if (gateway !== undefined)
      return { text: `it contains ${gateway}, the gateway of the default route`, fault: 'peer' };
    const member = etcdAddresses.find((address) => containsAddress(subnet, address));
    if (member !== undefined)
      return { text: `it contains ${member}, the address of an etcd endpoint`, fault: 'peer' };
    return undefined;
  }
}

function connectedText({ subnet: own, address, linkName }: ConnectedNetwork, subnet: Subnet): string {
  return containsAddress(subnet, address.replace(/\/.*/, ''))
    ? `${linkName} of this host has an address in it (${address})`
    : `it overlaps ${own.text}, the network ${linkName} is connected to`;
}

/** A single address of this host: the kernel looks after it, whatever route surrounds it. */
function isOneInside(own: Subnet, subnet: Subnet): boolean {
  return own.length === addressBits(own.family) && subnet.length < own.length && containsSubnet(subnet, own);
}

/** Docker's bridge. Docker takes its address from our files. */
export const bridgeName = 'docker0';
/** The CNI plugin's bridge, which also follows subnet.env. */
export const cniBridgeName = 'cni0';

interface PoolOverlapOptions {
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  /** Subnets of this host, now or before: a bridge may have an address in them. */
  readonly own: readonly PerFamily<Subnet>[];
  /** The interface that peers reach this host by: it may not. */
  readonly interfaceIndex: number;
}

interface PoolOverlap {
  readonly problem: string;
  readonly remedy: string;
}

/**
 * Networks of this host inside the range that hosts lease subnets from (flannel #611). Once a peer has leased
 * that subnet, packets from this host to that network are lost, SSH included. A network may overlap the rest
 * of Network. A bridge with an old subnet of this host does not count: it will get the new subnet, and must
 * not stop the daemon from choosing one.
 */
export function poolOverlaps(
  { links, addresses, own, interfaceIndex }: PoolOverlapOptions,
  pools: PerFamily<PoolConfig>,
): readonly PoolOverlap[] {
  const isOwn = ({ subnet, linkIndex }: ConnectedNetwork) =>
    linkIndex !== interfaceIndex &&
    own.some(({ ipv4, ipv6 }) => [ipv4, ipv6].some((mine) => mine && containsSubnet(mine, subnet)));
  return [pools.ipv4, pools.ipv6].flatMap((pool): PoolOverlap[] => {
    if (pool === undefined) return [];
    const { min, max, network } = pool;
    return connectedNetworks(network.family, links, addresses)
      .filter(({ subnet }) => subnet.last >= min.first && subnet.first <= max.last)
      .filter((connected) => !isOwn(connected) && !isContainerBridge(connected, pool))
      .map(({ subnet, linkName }) => ({
        problem: `${subnet.text} of ${linkName} lies in the range that subnets are leased from, ${min.text} to ${max.text}`,
        remedy: 'Exclude it by SubnetMin and SubnetMax, or choose another Network.',
      }));
  });
}

function isContainerBridge({ linkName, subnet, address }: ConnectedNetwork, pool: PoolConfig): boolean {
  if (linkName === bridgeName) return true;
  const isLeased = subnet.length === pool.subnetLength && address === bridgeAddress(subnet);
  return linkName === cniBridgeName && isLeased;
}
