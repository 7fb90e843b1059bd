import {
  canonicalAddress,
  containsSubnet,
  type Family,
  parseAddress,
  parseSubnet,
  type Subnet,
} from '../../ip/ip.ts';
import { FlannelError } from '../../runtime/errors.ts';
import { counted, excerpt, nearestTo } from '../../runtime/texts.ts';
import { foldKey, type JsonField, jsonString } from './json.ts';

const configKeys = [
  'Network',
  'SubnetLen',
  'SubnetMin',
  'SubnetMax',
  'IPv6Network',
  'IPv6SubnetLen',
  'IPv6SubnetMin',
  'IPv6SubnetMax',
  'EnableIPv4',
  'EnableIPv6',
  'EnableNFTables',
  'Backend',
] as const;

export type ConfigKey = (typeof configKeys)[number];

const byFoldedName = new Map<string, ConfigKey>(configKeys.map((key) => [foldKey(key), key]));
/** A text of a megabyte may hold very many unknown keys. */
const maxUnknownKeys = 8;

/** The internet does not route these (RFC 1918, 6598, 2544). A site's own IPv6 addresses are often public. */
const privateNetworks = [
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '100.64.0.0/10',
  '198.18.0.0/15',
].flatMap((text) => parseSubnet(text) ?? []);

/** What the members of a configuration say. */
export interface ConfigValues {
  /** The values of the known keys that are given, as they are written. */
  readonly values: ReadonlyMap<ConfigKey, string>;
  /** The first few unknown keys, as they are written. */
  readonly unknown: readonly string[];
  readonly warnings: ConfigWarning[];
}

/** Something odd about a key that leaves the configuration usable, in one sentence. */
export interface ConfigWarning {
  /** As it is written; absent for what is about several. */
  readonly key?: string;
  readonly text: string;
}

/**
 * Sorts out the members of a configuration. Of several spellings of one key the last counts; `null` counts as
 * not given (Go's decoder leaves a number or a boolean as it was).
 */
export function readValues(fields: readonly JsonField[]): ConfigValues {
  const values = new Map<ConfigKey, string>();
  const repeated = new Set<ConfigKey>();
  const unknown = new Set<string>();
  for (const { key, raw } of fields) {
    const name = byFoldedName.get(foldKey(key));
    if (name === undefined) unknown.add(key);
    else if (raw !== 'null') {
      if (values.has(name)) repeated.add(name);
      values.set(name, raw);
    }
  }
  const named = [...unknown].slice(0, maxUnknownKeys);
  const warnings = named.map((key): ConfigWarning => {
    const nearest = nearestKey(key);
    const hint = nearest === undefined ? '' : `; did you mean ${nearest}?`;
    return { key, text: `unknown key "${excerpt(key, 60)}" is ignored${hint}` };
  });
  if (unknown.size > maxUnknownKeys) {
    const more = counted(unknown.size - maxUnknownKeys, 'more unknown key is', 'more unknown keys are');
    warnings.push({ text: `${more} ignored` });
  }
  for (const key of repeated) {
    const last = excerpt(values.get(key) ?? '');
    warnings.push({ key, text: `${key} is given more than once: the last value, ${last}, counts` });
  }
  return { values, unknown: named, warnings };
}

/** The boolean at `key`; `fallback` when it is not given. Throws NetworkConfigError for any other value. */
export function booleanAt({ values }: ConfigValues, key: ConfigKey, fallback: boolean): boolean {
  const raw = values.get(key);
  if (raw === undefined) return fallback;
  if (raw === 'true' || raw === 'false') return raw === 'true';
  const remedy = `Write "${key}": true or "${key}": false.`;
  throw invalid('TYPE', key, raw, 'it must be true or false, without quotes', remedy);
}

/** The prefix length at `key`; undefined when absent or 0. `24.0` and `"24"` are errors, as in Go. */
export function lengthAt({ values }: ConfigValues, key: ConfigKey): number | undefined {
  const raw = values.get(key);
  if (raw === undefined || raw === '0') return undefined;
  if (/^[1-9]\d*$/.test(raw)) return Number(raw);
  const remedy = `Write it like "${key}": 24, without quotes.`;
  throw invalid('TYPE', key, raw, 'it must be a whole number of bits in plain digits', remedy);
}

/** The network at `key` (host bits cleared, with a warning); undefined when it is not given. */
export function networkAt(
  { values, warnings }: ConfigValues,
  key: ConfigKey,
  family: Family,
): Subnet | undefined {
  const raw = values.get(key);
  if (raw === undefined) return undefined;
  const text = jsonString(raw);
  const network = text === undefined ? undefined : parseSubnet(text);
  if (text === undefined || network?.family !== family) {
    const remedy = `Write it like "${key}": "${family === 4 ? '10.5.0.0/16' : 'fc00:5::/48'}".`;
    throw invalid('TYPE', key, raw, `it must be an IPv${family} network in quotes, address/length`, remedy);
  }
  if (parseAddress(text.slice(0, text.indexOf('/')))?.value !== network.first)
    warnings.push({ key, text: `${key} ${text} has bits set beyond its length: taken as ${network.text}` });
  if (family === 4 && !privateNetworks.some((range) => containsSubnet(range, network)))
    warnings.push({
      key,
      text:
        `${key} ${network.text} has public addresses: ` +
        'hosts and containers of the cluster cannot reach these on the internet. ' +
        `Use a part of ${privateNetworks.map((range) => range.text).join(', ')} unless they are your own`,
    });
  return network;
}

/** The address at `key` as a number; undefined when absent or unspecified (0.0.0.0, ::). */
export function addressAt({ values }: ConfigValues, key: ConfigKey, family: Family): bigint | undefined {
  const raw = values.get(key);
  if (raw === undefined) return undefined;
  const text = jsonString(raw);
  const address = text === undefined ? undefined : parseAddress(text);
  if (address?.family === family) return address.value === 0n ? undefined : address.value;
  const bare = canonicalAddress((text ?? '').replace(/\/\d+$/, ''));
  const remedy =
    bare === undefined ? 'Give the first address of a subnet, without a length.' : `Write "${bare}".`;
  throw invalid('TYPE', key, raw, `it must be an IPv${family} address in quotes`, remedy);
}

/** The error for a value, shown as far as it fits a line, that breaks a rule. */
export function invalid(code: ConfigErrorCode, key: string, value: string, rule: string, remedy: string) {
  return new NetworkConfigError(code, key, `${key} is ${excerpt(value)}: ${rule}`, remedy);
}

/** For a message about a missing `key`: ` (but there is "Netwrok")`, or nothing without such a key. */
export function misspelt({ unknown }: ConfigValues, key: ConfigKey): string {
  for (const name of unknown) if (nearestKey(name) === key) return ` (but there is "${excerpt(name)}")`;
  return '';
}

/** The known name fewest edits away; undefined when more than half of the key would have to change. */
function nearestKey(key: string): ConfigKey | undefined {
  const folded = foldKey(key);
  if (folded.length > 40) return undefined;
  const nearest = nearestTo(folded, byFoldedName.keys(), () => Math.floor(folded.length / 2));
  return nearest === undefined ? undefined : byFoldedName.get(nearest);
}

/**
 * A network configuration that cannot be used. `message` names the key, its value and the rule it breaks;
 * `key` is the key's proper name, empty when the text as a whole is at fault. `code`:
 *
 * - CONFIG_SYNTAX: not a JSON object. CONFIG_TYPE: a value of the wrong kind.
 * - CONFIG_MISSING: a key that is required here. CONFIG_FAMILY: both families are off.
 * - CONFIG_LENGTH, CONFIG_RANGE, CONFIG_BOUNDARY, CONFIG_ORDER: the numbers do not fit one another.
 * - CONFIG_BACKEND: a backend other than host-gw.
 */
export class NetworkConfigError extends FlannelError {
  readonly key: string;

  constructor(code: ConfigErrorCode, key: string, message: string, remedy: string, cause?: unknown) {
    super(`CONFIG_${code}`, message, { remedy, cause });
    this.key = key;
  }
}

type ConfigErrorCode =
  | 'SYNTAX'
  | 'TYPE'
  | 'MISSING'
  | 'FAMILY'
  | 'LENGTH'
  | 'RANGE'
  | 'BOUNDARY'
  | 'ORDER'
  | 'BACKEND';
