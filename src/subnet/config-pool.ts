import { addressBits, type Family, formatAddress, type Subnet, subnetAt } from '../ip/ip.ts';
import { NetworkConfigError } from './config-error.ts';
import type { ConfigKey } from './config-values.ts';

/** The subnets that hosts take theirs from: those of `subnetLength` from `min` to `max`, both included. */
export interface PoolConfig {
  readonly network: Subnet;
  readonly subnetLength: number;
  readonly min: Subnet;
  readonly max: Subnet;
}

/** What the configuration says about one family; what it does not say is undefined. */
export interface PoolSettings {
  readonly network: Subnet | undefined;
  /** What a message about a missing network adds: a key that may have been meant. */
  readonly missingHint: string;
  readonly subnetLength: number | undefined;
  readonly min: bigint | undefined;
  readonly max: bigint | undefined;
}

/** One family's keys and limits. */
export interface PoolRules {
  readonly family: Family;
  readonly networkKey: ConfigKey;
  readonly lengthKey: ConfigKey;
  readonly minKey: ConfigKey;
  readonly maxKey: ConfigKey;
  /** The length when none is given and the network holds at least four such subnets. */
  readonly usualLength: number;
  /** A subnet needs four addresses: its own two, the bridge, a container. */
  readonly longestSubnet: number;
  readonly example: string;
}

export const ipv4Rules: PoolRules = {
  family: 4,
  networkKey: 'Network',
  lengthKey: 'SubnetLen',
  minKey: 'SubnetMin',
  maxKey: 'SubnetMax',
  usualLength: 24,
  longestSubnet: 30,
  example: '10.5.0.0/16',
};

export const ipv6Rules: PoolRules = {
  family: 6,
  networkKey: 'IPv6Network',
  lengthKey: 'IPv6SubnetLen',
  minKey: 'IPv6SubnetMin',
  maxKey: 'IPv6SubnetMax',
  usualLength: 64,
  longestSubnet: 126,
  example: 'fc00:5::/48',
};

/** flannel wants room for four subnets: the first is not given out by default, and one or two hosts are no cluster. */
const splitBits = 2;

/** The pool that the settings describe, defaults filled in. Throws NetworkConfigError when they do not fit one another. */
export function resolvePool(rules: PoolRules, settings: PoolSettings): PoolConfig {
  const { family } = rules;
  const network = requireNetwork(rules, settings);
  const subnetLength = resolveLength(rules, network, settings.subnetLength);
  const size = 1n << BigInt(addressBits(family) - subnetLength);
  const boundary = (key: ConfigKey, given: bigint | undefined, fallback: bigint): Subnet => {
    if (given !== undefined) checkBoundary(rules, key, given, network, subnetLength);
    return subnetAt(family, given ?? fallback, subnetLength);
  };
  // The first subnet is left out by default: its bridge would carry the network's own address.
  const min = boundary(rules.minKey, settings.min, network.first + size);
  const max = boundary(rules.maxKey, settings.max, network.last - size + 1n);
  if (min.first > max.first) throw minAboveMax(rules, settings, min, max);
  return { network, subnetLength, min, max };
}

function requireNetwork(rules: PoolRules, { network, missingHint }: PoolSettings): Subnet {
  const key = rules.networkKey;
  const remedy = `Add the range that containers get addresses from, e.g. "${key}": "${rules.example}".`;
  if (network === undefined) {
    const why = rules.family === 4 ? 'unless "EnableIPv4": false' : 'with "EnableIPv6": true';
    throw new NetworkConfigError(
      'MISSING',
      key,
      `${key} is missing${missingHint}: it is required ${why}`,
      remedy,
    );
  }
  // flannel takes 0.0.0.0/0 for "not given".
  if (network.length === 0) {
    throw new NetworkConfigError(
      'RANGE',
      key,
      `${key} is ${network.text}: it cannot be all addresses there are`,
      remedy,
    );
  }
  return network;
}

function resolveLength(rules: PoolRules, network: Subnet, given: number | undefined): number {
  const { lengthKey: key, networkKey, usualLength, longestSubnet } = rules;
  const shortest = network.length + splitBits;
  if (shortest > longestSubnet) {
    const message = `${networkKey} is ${network.text}: it must be /${longestSubnet - splitBits} or larger, to hold four subnets`;
    throw new NetworkConfigError(
      'LENGTH',
      networkKey,
      message,
      `Choose a larger network, e.g. "${rules.example}".`,
    );
  }
  if (given === undefined) return shortest <= usualLength ? usualLength : shortest;
  const remedy = `Choose a length from ${shortest} to ${longestSubnet}, or leave ${key} out.`;
  if (given > longestSubnet) {
    throw new NetworkConfigError(
      'LENGTH',
      key,
      `${key} is ${given}: it must be at most ${longestSubnet}`,
      remedy,
    );
  }
  if (given < shortest) {
    const rule = `it must be at least ${shortest}, so that ${networkKey} ${network.text} holds four subnets`;
    throw new NetworkConfigError('LENGTH', key, `${key} is ${given}: ${rule}`, remedy);
  }
  return given;
}

function checkBoundary(
  rules: PoolRules,
  key: ConfigKey,
  given: bigint,
  network: Subnet,
  subnetLength: number,
): void {
  const text = formatAddress(rules.family, given);
  if (given < network.first || given > network.last) {
    const message = `${key} is ${text}: it must lie inside ${rules.networkKey} ${network.text}`;
    throw new NetworkConfigError(
      'RANGE',
      key,
      message,
      `Choose an address of ${network.text}, or leave ${key} out.`,
    );
  }
  const aligned = subnetAt(rules.family, given, subnetLength);
  if (aligned.first !== given) {
    const message = `${key} is ${text}: it must be the first address of a /${subnetLength} subnet (${rules.lengthKey})`;
    const nearest = formatAddress(rules.family, aligned.first);
    throw new NetworkConfigError(
      'BOUNDARY',
      key,
      message,
      `Use ${nearest}, the start of the subnet it lies in.`,
    );
  }
}

function minAboveMax(rules: PoolRules, settings: PoolSettings, min: Subnet, max: Subnet): NetworkConfigError {
  const named = (key: ConfigKey, given: bigint | undefined, subnet: Subnet): string =>
    `${key} ${formatAddress(rules.family, subnet.first)}${given === undefined ? ' (the default)' : ''}`;
  const minText = named(rules.minKey, settings.min, min);
  const maxText = named(rules.maxKey, settings.max, max);
  const key = settings.min === undefined ? rules.maxKey : rules.minKey;
  const message = `${minText} is above ${maxText}: no subnet lies between them`;
  return new NetworkConfigError('ORDER', key, message, `Set ${rules.minKey} to ${rules.maxKey} or below.`);
}
