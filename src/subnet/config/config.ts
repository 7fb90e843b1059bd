import { addressBits, type Family, formatAddress, type Subnet, subnetAt } from '../../ip/ip.ts';
import { messageOf } from '../../runtime/errors.ts';
import { excerpt } from '../../runtime/texts.ts';
import { foldKey, JsonError, type JsonField, jsonFields, jsonString } from './json.ts';
import {
  addressAt,
  booleanAt,
  type ConfigKey,
  type ConfigValues,
  type ConfigWarning,
  invalid,
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
  /** One sentence each: unknown keys with the nearest known name, repeated keys, bits beyond a length. */
  readonly warnings: readonly string[];
}

/** Hosts take their subnets from these: all of `subnetLength` from `min` to `max`, both included. */
export interface PoolConfig {
  readonly network: Subnet;
  readonly subnetLength: number;
  readonly min: Subnet;
  readonly max: Subnet;
}

/**
 * Parses the JSON text of `<prefix>/config`. The rules are flannel's (its Go decoder: keys in any case, the
 * last of several spellings counts, numbers in plain digits), except that SubnetMin above SubnetMax and a
 * backend other than host-gw are errors here.
 *
 * Throws NetworkConfigError for the first fault, and nothing else.
 */
export function parseNetworkConfig(text: string): NetworkConfig {
  const { config, faults } = readNetworkConfig(text);
  if (config === undefined) throw faults[0];
  return config;
}

/** All that a text says: a configuration where it has no fault, else every fault that can be told apart. */
export interface ReadConfig {
  readonly config?: NetworkConfig;
  readonly faults: readonly NetworkConfigError[];
  readonly warnings: readonly ConfigWarning[];
}

/** As {@link parseNetworkConfig}, and returns all faults. A fault that follows from another is left out. */
export function readNetworkConfig(text: string): ReadConfig {
  const faults = new Faults();
  const members = faults.attempt(() => membersOf(text));
  if (members === undefined) return { faults: faults.all, warnings: [] };
  const given = readValues(members);
  const enableIPv4 = faults.attempt(() => booleanAt(given, 'EnableIPv4', true)) ?? true;
  const enableIPv6 = faults.attempt(() => booleanAt(given, 'EnableIPv6', false)) ?? false;
  const enableNFTables = faults.attempt(() => booleanAt(given, 'EnableNFTables', false)) ?? false;
  // A value of the wrong type is an error also in a family that is off, as it is to flanneld.
  const settings4 = readPool(given, 4, faults);
  const settings6 = readPool(given, 6, faults);
  faults.attempt(() => checkBackend(given));
  if (!enableIPv4 && !enableIPv6 && !faults.has('EnableIPv6')) {
    const message = 'EnableIPv4 is false and EnableIPv6 is not true: at least one family must be on';
    const remedy = 'Leave EnableIPv4 out, or add "EnableIPv6": true.';
    faults.add(new NetworkConfigError('FAMILY', 'EnableIPv4', message, remedy));
  }
  const ipv4 = enableIPv4 ? resolvePool(settings4, faults) : undefined;
  const ipv6 = enableIPv6 ? resolvePool(settings6, faults) : undefined;
  const { warnings } = given;
  if (faults.all.length > 0) return { faults: faults.all, warnings };
  const config = {
    ...(ipv4 && { ipv4 }),
    ...(ipv6 && { ipv6 }),
    enableNFTables,
    warnings: warnings.map(({ text: warning }) => warning),
  };
  return { config, faults: [], warnings };
}

/** The faults found so far, in the order in which they are looked for. */
class Faults {
  readonly all: NetworkConfigError[] = [];

  /** What `read` returns; undefined when it throws a fault, which is noted. */
  attempt<T>(read: () => T): T | undefined {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof NetworkConfigError)) throw error;
      this.all.push(error);
      return undefined;
    }
  }

  add(fault: NetworkConfigError): void {
    this.all.push(fault);
  }

  /** Whether the value of this key is known to be wrong. */
  has(wanted: string): boolean {
    return this.all.some(({ key }) => key === wanted);
  }
}

function membersOf(text: string): readonly JsonField[] {
  try {
    return jsonFields(text);
  } catch (error) {
    const isEmpty = text.trim() === '';
    const why = isEmpty ? 'the key is empty' : excerpt(messageOf(error), 250);
    // No example beside a text that names a network: who stores the example changes the network.
    const remedy = isEmpty
      ? 'Store e.g. {"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}.'
      : ((error instanceof JsonError ? error.remedy : undefined) ??
        'Correct the text, and keep its Network.');
    throw new NetworkConfigError('SYNTAX', '', `it is not a JSON object: ${why}`, remedy, error);
  }
}

/** The type must be host-gw, in any case, as flannel looks backends up. */
function checkBackend(given: ConfigValues): void {
  const remedy = 'Set "Backend": {"Type": "host-gw"}; every host of the cluster must use the same backend.';
  const raw = given.values.get('Backend');
  if (raw === undefined) {
    const rule = 'flannel then means udp, and only host-gw is supported';
    const message = `Backend is missing${misspelt(given, 'Backend')}: ${rule}`;
    throw new NetworkConfigError('BACKEND', 'Backend', message, remedy);
  }
  if (!raw.startsWith('{')) throw invalid('TYPE', 'Backend', raw, 'it must be an object in braces', remedy);
  const isType = (field: JsonField) => foldKey(field.key) === 'type' && field.raw !== 'null';
  const type = jsonFields(raw).findLast(isType)?.raw;
  if (type === undefined) {
    const message = 'Backend.Type is missing: it must be host-gw';
    throw new NetworkConfigError('BACKEND', 'Backend.Type', message, remedy);
  }
  if (jsonString(type)?.toLowerCase() !== 'host-gw')
    throw invalid('BACKEND', 'Backend.Type', type, 'only "host-gw" is supported', remedy);
}

/** The keys of one family, and its limits. */
function rulesOf(family: Family) {
  const prefix = family === 4 ? '' : 'IPv6';
  return {
    family,
    networkKey: `${prefix}Network`,
    lengthKey: `${prefix}SubnetLen`,
    minKey: `${prefix}SubnetMin`,
    maxKey: `${prefix}SubnetMax`,
    /** The default, when the network holds at least four such subnets. */
    usualLength: family === 4 ? 24 : 64,
    /** A subnet needs four addresses: its own two, the bridge, a container. */
    longestSubnet: addressBits(family) - 2,
    example: family === 4 ? '10.5.0.0/16' : 'fc00:5::/48',
  } as const;
}

/** One family's settings, with its rules; those that the configuration does not give are undefined. */
type PoolSettings = ReturnType<typeof readPool>;

function readPool(given: ConfigValues, family: Family, faults: Faults) {
  const rules = rulesOf(family);
  return {
    ...rules,
    network: faults.attempt(() => networkAt(given, rules.networkKey, family)),
    missingHint: misspelt(given, rules.networkKey),
    subnetLength: faults.attempt(() => lengthAt(given, rules.lengthKey)),
    min: faults.attempt(() => addressAt(given, rules.minKey, family)),
    max: faults.attempt(() => addressAt(given, rules.maxKey, family)),
  };
}

/** flannel wants room for four subnets: it does not use the first, and two hosts are no cluster. */
const splitBits = 2;

/** The pool of these settings, with defaults; undefined where one of them is wrong or they contradict. */
function resolvePool(settings: PoolSettings, faults: Faults): PoolConfig | undefined {
  const { family, networkKey, lengthKey, minKey, maxKey } = settings;
  const network = faults.has(networkKey) ? undefined : faults.attempt(() => requireNetwork(settings));
  if (network === undefined) return undefined;
  const subnetLength = faults.has(lengthKey)
    ? undefined
    : faults.attempt(() => resolveLength(settings, network));
  for (const [key, address] of [
    [minKey, settings.min],
    [maxKey, settings.max],
  ] as const) {
    if (address === undefined || (network.first <= address && address <= network.last)) continue;
    const remedy = `Choose an address of ${network.text}, or leave ${key} out.`;
    const rule = `it must lie inside ${networkKey} ${network.text}`;
    faults.add(invalid('RANGE', key, formatAddress(family, address), rule, remedy));
  }
  if (subnetLength === undefined) return undefined;
  const boundary = (key: ConfigKey, given: bigint | undefined, fallback: bigint): Subnet => {
    const address = given ?? fallback;
    const subnet = subnetAt(family, address, subnetLength);
    if (subnet.first === address) return subnet;
    const rule = `it must be the first address of a /${subnetLength} subnet (${lengthKey})`;
    const remedy = `Use ${formatAddress(family, subnet.first)}, the start of the subnet it lies in.`;
    throw invalid('BOUNDARY', key, formatAddress(family, address), rule, remedy);
  };
  const size = 1n << BigInt(addressBits(family) - subnetLength);
  // The default leaves the first subnet out: its bridge would carry the network's own address.
  const bound = (key: ConfigKey, given: bigint | undefined, fallback: bigint) =>
    faults.has(key) ? undefined : faults.attempt(() => boundary(key, given, fallback));
  const min = bound(minKey, settings.min, network.first + size);
  const max = bound(maxKey, settings.max, network.last - size + 1n);
  if (min === undefined || max === undefined) return undefined;
  if (min.first <= max.first) return { network, subnetLength, min, max };
  const named = (key: ConfigKey, given: bigint | undefined, subnet: Subnet) =>
    `${key} ${formatAddress(family, subnet.first)}${given === undefined ? ' (the default)' : ''}`;
  const above = `${named(minKey, settings.min, min)} is above ${named(maxKey, settings.max, max)}`;
  const message = `${above}: no subnet lies between them`;
  const key = settings.min === undefined ? maxKey : minKey;
  faults.add(new NetworkConfigError('ORDER', key, message, `Set ${minKey} to ${maxKey} or below.`));
  return undefined;
}

function requireNetwork({ family, network, networkKey: key, missingHint, example }: PoolSettings): Subnet {
  const remedy = `Add the range that containers get addresses from, e.g. "${key}": "${example}".`;
  if (network === undefined) {
    const why = family === 4 ? 'unless "EnableIPv4": false' : 'with "EnableIPv6": true';
    const message = `${key} is missing${missingHint}: it is required ${why}`;
    throw new NetworkConfigError('MISSING', key, message, remedy);
  }
  // flannel takes 0.0.0.0/0 for "not given".
  if (network.length === 0)
    throw invalid('RANGE', key, network.text, 'it must not cover all addresses', remedy);
  return network;
}

function resolveLength(settings: PoolSettings, network: Subnet): number {
  const { lengthKey, networkKey, usualLength, longestSubnet, example, subnetLength: given } = settings;
  const shortest = network.length + splitBits;
  if (shortest > longestSubnet) {
    const rule = `it must be /${longestSubnet - splitBits} or larger, to hold four subnets`;
    throw invalid('LENGTH', networkKey, network.text, rule, `Choose a larger network, e.g. "${example}".`);
  }
  if (given === undefined) return shortest <= usualLength ? usualLength : shortest;
  if (given >= shortest && given <= longestSubnet) return given;
  const rule =
    given > longestSubnet
      ? `it must be at most ${longestSubnet}`
      : `it must be at least ${shortest}, so that ${networkKey} ${network.text} holds four subnets`;
  const remedy = `Choose a length from ${shortest} to ${longestSubnet}, or leave ${lengthKey} out.`;
  throw invalid('LENGTH', lengthKey, `${given}`, rule, remedy);
}
