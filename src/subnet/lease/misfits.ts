import { containsSubnet, formatAddress, type Subnet } from '../../ip/ip.ts';
import type { NetworkConfig, PoolConfig } from '../config/config.ts';
import { parseSubnetKey } from '../keys.ts';
import type { KeyValue } from '../registry/registry.ts';
import { holderText } from './lease.ts';
import { fits } from './pool.ts';

/** A subnet that is leased and that no pool of a configuration has: its host takes another one at its next start. */
export interface Misfit {
  readonly key: string;
  readonly subnet: string;
  /** By its address. */
  readonly host: string;
  readonly why: string;
}

/** The leases that do not fit a configuration. `kvs`: all keys under the prefix; those that are no leases are left out. */
export function misfitsOf(
  leasesPrefix: string,
  kvs: readonly KeyValue[],
  config: NetworkConfig,
): readonly Misfit[] {
  return kvs.flatMap(({ key, value }) => {
    const subnets = parseSubnetKey(leasesPrefix, key) ?? {};
    return (['ipv4', 'ipv6'] as const).flatMap((family) => {
      const subnet = subnets[family];
      const pool = config[family];
      const why = subnet === undefined || pool === undefined ? undefined : misfitReason(pool, subnet);
      if (subnet === undefined || why === undefined) return [];
      return [{ key, subnet: subnet.text, host: holderText(value), why }];
    });
  });
}

/** Why a subnet is none of the pool's; undefined when it is one. */
export function misfitReason(pool: PoolConfig, subnet: Subnet): string | undefined {
  if (fits(pool, subnet)) return undefined;
  if (!containsSubnet(pool.network, subnet)) return `outside Network ${pool.network.text}`;
  if (subnet.length !== pool.subnetLength) return `a /${subnet.length}, SubnetLen is ${pool.subnetLength}`;
  const [min, max] = [pool.min, pool.max].map(({ family, first }) => formatAddress(family, first));
  return `outside SubnetMin ${min} to SubnetMax ${max}`;
}
