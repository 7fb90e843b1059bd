import { addressBits, type Family, formatAddress, type Subnet, subnetAt } from '../../ip/ip.ts';
import { messageOf } from '../../runtime/errors.ts';
import { excerpt } from '../../runtime/texts.ts';
import { foldKey, JsonError, type JsonField, jsonFields, jsonString } from './json.ts';
import {
  addressAt,
  booleanAt,
  type ConfigKey,
  type ConfigValues,
  lengthAt,
  misspelt,
  NetworkConfigError,
  networkAt,
  readValues,
} from './values.ts';

export { NetworkConfigError } from './values.ts';

/** The cluster's network configuration, checked, with its defaults filled in. */
export interface NetworkConfig {
  /** Absent when IPv4 is off. */
  readonly ipv4?: PoolConfig;
  /** Absent when IPv6 is off. */
  readonly ipv6?: PoolConfig;
  readonly enableNFTables: boolean;
  /** What was tolerated, one sentence each: unknown keys with the nearest known name, repeated keys, bits beyond a length. */
  readonly warnings: readonly string[];
}

/**
 * Parses the JSON text of `<prefix>/config`. The rules are flannel's (its Go decoder: keys in any case, the last of several
 * spellings counts, numbers in plain digits), except that SubnetMin above SubnetMax and a backend other than host-gw are
 * errors here.
 *
 * Throws NetworkConfigError, for the first thing wrong, and nothing else.
 */
export function parseNetworkConfig(text: string): NetworkConfig {
  const given = readValues(membersOf(text));
  const { values, warnings } = given;
  const enableIPv4 = booleanAt(values, 'EnableIPv4', true);
  const enableIPv6 = booleanAt(values, 'EnableIPv6', false);
  const enableNFTables = booleanAt(values, 'EnableNFTables', false);
  // A value of the wrong kind is an error also in a family that is off, as it is to flanneld.
  const ipv4 = readPool(given, ipv4Rules);
  const ipv6 = readPool(given, ipv6Rules);
  checkBackend(values.get('Backend'), misspelt(given, 'Backend'));
  if (!enableIPv4 && !enableIPv6) {
    const message = 'EnableIPv4 is false and EnableIPv6 is not true: at least one family must be on';
    throw new NetworkConfigError(
      'FAMILY',
      'EnableIPv4',
      message,
      'Leave EnableIPv4 out, or add "EnableIPv6": true.',
    );
  }
  return {
    ...(enableIPv4 ? { ipv4: resolvePool(ipv4Rules, ipv4) } : {}),
    ...(enableIPv6 ? { ipv6: resolvePool(ipv6Rules, ipv6) } : {}),
    enableNFTables,
    warnings,
  };
}

function membersOf(text: string): readonly JsonField[] {
  try {
    return jsonFields(text);
  } catch (error) {
    // Whatever else JSON.parse throws, a stack or memory limit included, is the text's fault, too.
    const isEmpty = text.trim() === '';
    const why = isEmpty ? 'the key is empty' : excerpt(messageOf(error), 250);
    // An example would be another network, for the whole cluster, than the one that the text is meant to name.
    const remedy = isEmpty
      ? 'Store e.g. {"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}.'
      : ((error instanceof JsonError ? error.remedy : undefined) ??
        'Correct the text, and keep its Network.');
    const message = `it is not a JSON object: ${why}`;
    throw new NetworkConfigError('SYNTAX', '', message, remedy, error);
  }
}

function readPool(given: ConfigValues, rules: PoolRules): PoolSettings {
  const { values, warnings } = given;
  return {
    network: networkAt(values, rules.networkKey, rules.family, warnings),
    missingHint: misspelt(given, rules.networkKey),
    subnetLength: lengthAt(values, rules.lengthKey),
    min: addressAt(values, rules.minKey, rules.family),
    max: addressAt(values, rules.maxKey, rules.family),
  };
}

/** The type must be host-gw, in any case, as flannel looks backends up. */
function checkBackend(raw: string | undefined, missingHint: string): void {
  const remedy = 'Set "Backend": {"Type": "host-gw"}; every host of the cluster must use the same backend.';
  if (raw === undefined) {
    const message = `Backend is missing${missingHint}: flannel then means udp, and only host-gw is supported`;
    throw new NetworkConfigError('BACKEND', 'Backend', message, remedy);
  }
  if (!raw.startsWith('{')) {
    throw new NetworkConfigError(
      'TYPE',
      'Backend',
      `Backend is ${excerpt(raw)}: it must be an object in braces`,
      remedy,
    );
  }
  let type: string | undefined;
  for (const field of jsonFields(raw)) {
    if (foldKey(field.key) === 'type' && field.raw !== 'null') type = field.raw;
  }
  if (type === undefined) {
    throw new NetworkConfigError(
      'BACKEND',
      'Backend.Type',
      'Backend.Type is missing: it must be host-gw',
      remedy,
    );
  }
  if (jsonString(type)?.toLowerCase() !== 'host-gw') {
    const message = `Backend.Type is ${excerpt(type)}: only "host-gw" is supported`;
    throw new NetworkConfigError('BACKEND', 'Backend.Type', message, remedy);
  }
}

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
