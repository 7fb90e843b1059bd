import { formatAddress, type Subnet } from '../ip/ip.ts';
import type { NetworkConfig, PoolConfig } from './config.ts';

/** What each part of a configuration is, in words; absent parts are off. */
function partsOf(config: NetworkConfig): ReadonlyMap<string, string> {
  const { ipv4, ipv6, enableNFTables } = config;
  return new Map([
    ...(ipv4 === undefined ? [['EnableIPv4', 'false'] as const] : poolParts(ipv4, '')),
    ...(ipv6 === undefined ? [['EnableIPv6', 'false'] as const] : poolParts(ipv6, 'IPv6')),
    ['EnableNFTables', String(enableNFTables)],
  ]);
}

function poolParts(pool: PoolConfig, prefix: string): readonly (readonly [string, string])[] {
  return [
    [pool.network.family === 4 ? 'EnableIPv4' : 'EnableIPv6', 'true'],
    [`${prefix}Network`, pool.network.text],
    [`${prefix}SubnetLen`, String(pool.subnetLength)],
    [`${prefix}SubnetMin`, startOf(pool.min)],
    [`${prefix}SubnetMax`, startOf(pool.max)],
  ];
}

/** As a configuration names a subnet: another length alone is told of by its own key. */
function startOf({ family, first }: Subnet): string {
  return formatAddress(family, first);
}

/**
 * What is different between two configurations, one entry per key such as `SubnetLen 24 → 25`; empty when they mean the
 * same, however they are written. Defaults are compared as the values they stand for.
 */
export function configChanges(before: NetworkConfig, after: NetworkConfig): readonly string[] {
  const old = partsOf(before);
  const now = partsOf(after);
  const keys = new Set([...old.keys(), ...now.keys()]);
  return [...keys]
    .filter((key) => old.get(key) !== now.get(key))
    .map((key) => `${key} ${old.get(key) ?? '(none)'} → ${now.get(key) ?? '(none)'}`);
}
