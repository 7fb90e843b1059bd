import { bridgeAddress, containsSubnet, type PerFamily, type Subnet } from '../../ip/ip.ts';
import type { Link, LinkAddress } from '../../kernel/kernel.ts';
import type { PoolConfig } from '../../subnet/config.ts';
import { type ConnectedNetwork, connectedNetworks } from './host-networks.ts';

/** Docker's bridge: its address comes from our files. */
export const bridgeName = 'docker0';
/** That of the CNI plugin, made from subnet.env as well. */
export const cniBridgeName = 'cni0';

export interface PoolOverlapOptions {
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  /** Subnets of this host, now or before: the networks of its bridges are in order. */
  readonly own: readonly PerFamily<Subnet>[];
  /** The interface that peers reach this host by, where no subnet of its own can be. */
  readonly interfaceIndex: number;
}

export interface PoolOverlap {
  readonly problem: string;
  readonly remedy: string;
}

/**
 * The networks of this host that lie in the range that subnets are leased from (flannel #611): once a peer has that subnet,
 * what this host sends there is lost, SSH included. The network as a whole may overlap. A bridge with an old subnet of this
 * host is another matter: it has to be given the new one, and must not keep the daemon from telling which that is.
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
        remedy: 'Set SubnetMin and SubnetMax so that they leave it out, or choose another Network.',
      }));
  });
}

function isContainerBridge({ linkName, subnet, address }: ConnectedNetwork, pool: PoolConfig): boolean {
  if (linkName === bridgeName) return true;
  const isLeased = subnet.length === pool.subnetLength && address === bridgeAddress(subnet);
  return linkName === cniBridgeName && isLeased;
}
