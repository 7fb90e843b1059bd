import { expect } from 'vitest';
import { containsSubnet, type Family } from '../../src/ip/ip.ts';
import { NetworkConfigError, type PoolConfig, parseNetworkConfig } from '../../src/subnet/config/config.ts';

/** A configuration of these members with a good backend. */
export function withBackend(members: string): string {
  return `{${members}${members === '' ? '' : ','}"Backend":{"Type":"host-gw"}}`;
}

export function ipv4Pool(members: string): string {
  return describePool(parseNetworkConfig(withBackend(members)).ipv4);
}

export function ipv6Pool(members: string): string {
  return describePool(parseNetworkConfig(withBackend(members)).ipv6);
}

/** The error that parsing ends with; fails when it does not. */
export function failure(text: string): NetworkConfigError {
  try {
    parseNetworkConfig(text);
  } catch (error) {
    if (error instanceof NetworkConfigError) return error;
    throw error;
  }
  throw new Error(`accepted: ${text.slice(0, 200)}`);
}

export function expectPoolInvariants(pool: PoolConfig | undefined, family: Family, longest: number): void {
  if (pool === undefined) throw new Error('no pool');
  const { network, subnetLength, min, max } = pool;
  expect([network.family, min.family, max.family]).toEqual([family, family, family]);
  expect(subnetLength).toBeGreaterThanOrEqual(network.length + 2);
  expect(subnetLength).toBeLessThanOrEqual(longest);
  expect([min.length, max.length]).toEqual([subnetLength, subnetLength]);
  expect(containsSubnet(network, min) && containsSubnet(network, max)).toBe(true);
  expect(min.first <= max.first).toBe(true);
}

function describePool(pool: PoolConfig | undefined): string {
  return pool === undefined
    ? 'none'
    : `${pool.network.text}: /${pool.subnetLength} from ${pool.min.text} to ${pool.max.text}`;
}
