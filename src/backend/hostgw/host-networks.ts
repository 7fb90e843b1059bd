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

/** A network that this host has an address in. */
export interface ConnectedNetwork {
  readonly subnet: Subnet;
  /** With its length, e.g. `10.211.55.100/24`. */
  readonly address: string;
  readonly linkIndex: number;
  readonly linkName: string;
}

/**
 * The networks of one family that the host has addresses in, over whatever link, up or down; not loopback's own, nor IPv6's
 * link-local one, which every link has.
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

/** So many judgements are remembered at most. */
const maxRemembered = 100_000;

/** What this host has beside the cluster, in one family. */
export interface HostSide {
  /** Over links that are up. */
  readonly connected: readonly ConnectedNetwork[];
  /** Those of the default routes. */
  readonly gateways: readonly string[];
}

interface HostNetworksOptions extends HostSide {
  /** Where etcd is, as far as that is known. */
  readonly etcdAddresses: readonly string[];
  /** Whether it is a subnet as hosts lease them: then no other interface of this host may have an address in it. */
  readonly isLeasable: (subnet: Subnet) => boolean;
  /** The interface that peers reach this host by: what lies in its network is no subnet for anybody. */
  readonly linkIndex: number | undefined;
}

/**
 * What of this host no peer's lease may take away: the networks it is connected to, the way to everywhere else, the way to
 * etcd. A route for a part of one of these would win over the kernel's own.
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

/** A single address of this host, of which the kernel takes care whatever is routed around it. */
function isOneInside(own: Subnet, subnet: Subnet): boolean {
  return own.length === addressBits(own.family) && subnet.length < own.length && containsSubnet(subnet, own);
}

/** Docker's bridge: its address comes from our files. */
export const bridgeName = 'docker0';
/** That of the CNI plugin, made from subnet.env as well. */
export const cniBridgeName = 'cni0';

interface PoolOverlapOptions {
  readonly links: readonly Link[];
  readonly addresses: readonly LinkAddress[];
  /** Subnets of this host, now or before: the networks of its bridges are in order. */
  readonly own: readonly PerFamily<Subnet>[];
  /** The interface that peers reach this host by, where no subnet of its own can be. */
  readonly interfaceIndex: number;
}

interface PoolOverlap {
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
