import { messageOf } from '../runtime/errors.ts';
import { excerpt } from '../runtime/excerpt.ts';
import { NetworkConfigError } from './config-error.ts';
import {
  ipv4Rules,
  ipv6Rules,
  type PoolConfig,
  type PoolRules,
  type PoolSettings,
  resolvePool,
} from './config-pool.ts';
import {
  addressAt,
  booleanAt,
  type ConfigValues,
  lengthAt,
  misspelt,
  networkAt,
  readValues,
} from './config-values.ts';
import { foldKey, JsonError, type JsonField, jsonFields, jsonString } from './json-fields.ts';

export { NetworkConfigError } from './config-error.ts';
export type { PoolConfig } from './config-pool.ts';

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

function membersOf(text: string): JsonField[] {
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
