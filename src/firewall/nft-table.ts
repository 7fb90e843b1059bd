import { addressBits, type Family, parseAddress } from '../ip/ip.ts';
import { excerpt } from '../runtime/texts.ts';
import { UnreadableError } from './iptables-save.ts';
import {
  type AddressMatch,
  type FoundRule,
  planChain,
  planChainRemoval,
  type Rule,
  unmasqueradedMark,
  type WantedChain,
} from './rules.ts';

/** A rule in one of our tables; `key` is its text in nft's language as far as we can write it. */
interface NftRule extends FoundRule {
  readonly handle: number;
}

interface NftChain {
  /** `filter forward 0 accept`: its hook; empty for a chain without one. */
  readonly hook: string;
  readonly rules: readonly NftRule[];
}

/** Chains by name. */
type NftTable = ReadonlyMap<string, NftChain>;

export type Json = { readonly [key: string]: unknown };

/** Reads the output of `nft -j list table FAMILY NAME`. Throws {@link UnreadableError}. */
export function parseNftTable(output: string): NftTable {
  const chains = new Map<string, { hook: string; rules: NftRule[] }>();
  for (const item of itemsOf(output)) {
    const chain = asJson(item['chain']);
    const rule = asJson(item['rule']);
    if (chain !== undefined) chains.set(asText(chain['name']), { hook: hookOf(chain), rules: [] });
    if (rule !== undefined) chains.get(asText(rule['chain']))?.rules.push(readRule(rule));
  }
  return chains;
}

/** The items in nft's JSON. Throws {@link UnreadableError}. */
export function itemsOf(output: string): readonly Json[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(output);
  } catch {
    parsed = undefined;
  }
  const items = asJson(parsed)?.['nftables'];
  if (Array.isArray(items)) return items.map((item: unknown) => asJson(item) ?? {});
  throw new UnreadableError(`nft printed no table: ${excerpt(output)}`);
}

function hookOf({ type, hook, prio, policy }: Json): string {
  return hook === undefined ? '' : [type, hook, prio, policy].map(asText).join(' ');
}

function readRule(rule: Json): NftRule {
  const subnets: string[] = [];
  const parts = asList(rule['expr']).map((item) => expressionText(asJson(item) ?? {}, subnets));
  return { handle: Number(rule['handle']), key: parts.join(' '), subnets };
}

/** One test or verdict in nft's language. Anything that our rules never contain stays JSON. */
function expressionText(expression: Json, subnets: string[]): string {
  const match = asJson(expression['match']);
  let text: string | undefined;
  if (match !== undefined) text = addressText(match, subnets) ?? markText(match);
  else if ('accept' in expression) text = 'accept';
  else if ('return' in expression) text = 'return';
  else if ('masquerade' in expression) text = masqueradeText(expression['masquerade']);
  return text ?? JSON.stringify(expression);
}

function addressText({ op, left, right }: Json, subnets: string[]): string | undefined {
  const payload = asJson(asJson(left)?.['payload']);
  const protocol = asText(payload?.['protocol']);
  const subnet = subnetText(right, protocol === 'ip6' ? 6 : 4);
  if (payload === undefined || subnet === undefined) return undefined;
  subnets.push(subnet);
  return [protocol, asText(payload['field']), ...(op === '==' ? [] : [asText(op)]), subnet].join(' ');
}

function markText({ op, left, right }: Json): string | undefined {
  const [meta, mask] = asList(asJson(left)?.['&']);
  if (asJson(asJson(meta)?.['meta'])?.['key'] !== 'mark') return undefined;
  return `meta mark & ${asText(mask)} ${asText(op)} ${asText(right)}`;
}

/** nft prints a single address without its length. */
function subnetText(value: unknown, family: Family): string | undefined {
  const prefix = asJson(asJson(value)?.['prefix']);
  if (prefix !== undefined) return `${asText(prefix['addr'])}/${asText(prefix['len'])}`;
  return typeof value === 'string' && parseAddress(value) !== undefined
    ? `${value}/${addressBits(family)}`
    : undefined;
}

/** The flags are a word, a list of words, or absent. */
function masqueradeText(options: unknown): string | undefined {
  if (options === null) return 'masquerade';
  const { flags, ...more } = asJson(options) ?? {};
  const random = [flags].flat().map(asText).join() === 'fully-random';
  return random && Object.keys(more).length === 0 ? 'masquerade fully-random' : undefined;
}

export function asJson(value: unknown): Json | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined;
}

export function asList(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? (value as unknown[]) : [];
}

export function asText(value: unknown): string {
  return typeof value === 'string' || typeof value === 'number' ? String(value) : '';
}

/** Our chains in nftables mode, with flanneld's names, hooks and priorities. */
const nftChains = {
  forward: { hook: 'filter forward 0 accept', comment: 'chain to accept flannel traffic' },
  postrtg: { hook: 'nat postrouting 100 accept', comment: 'chain to masquerade flannel traffic' },
} as const;

type NftChainName = keyof typeof nftChains;

const names: readonly NftChainName[] = ['forward', 'postrtg'];

/** The chains that one network wants in our table. */
export type WantedNftTable = { readonly [name in NftChainName]?: WantedChain };

/** `ip flannel-ipv4` or `ip6 flannel-ipv6`. */
export function nftTableName(family: Family): string {
  return family === 4 ? 'ip flannel-ipv4' : 'ip6 flannel-ipv6';
}

/**
 * The script for `nft -f -` that gives our table the rules of one network; undefined when it has them.
 * `found`: undefined without a table. The script removes rules by their handles, so the kernel refuses the
 * whole if another program has changed one since. With nothing wanted it removes the network's rules (all
 * with `network` undefined), and the table when no other network uses it.
 */
export function planNftTable(
  found: NftTable | undefined,
  wanted: WantedNftTable,
  family: Family,
  network: string | undefined,
): string | undefined {
  const table = nftTableName(family);
  const unwanted = names.filter((name) => wanted[name] === undefined);
  const removals = unwanted.map((name) => planNftRemoval(found?.get(name), `${table} ${name}`, network));
  const nothing = unwanted.length === names.length;
  if (nothing && found === undefined) return undefined;
  const script = [
    ...(found === undefined ? [`add table ${table} { comment "rules for flannel"; }`] : []),
    ...names.flatMap((name) => {
      const chain = wanted[name];
      return chain === undefined ? [] : planNftChain(found?.get(name), chain, table, name, network ?? '');
    }),
    ...removals.flatMap(({ lines }) => lines),
    ...(nothing && removals.every(({ all }) => all) ? [`delete table ${table}`] : []),
  ];
  return script.length === 0 ? undefined : `${script.join('\n')}\n`;
}

function planNftChain(
  found: NftChain | undefined,
  wanted: WantedChain,
  table: string,
  name: NftChainName,
  network: string,
): readonly string[] {
  const { hook, comment } = nftChains[name];
  const place = `${table} ${name}`;
  const keys = { shared: wanted.shared.map(nftText), own: wanted.own.map(nftText) };
  const usable = found?.hook === hook ? found : undefined;
  const change = planChain(usable?.rules ?? [], keys, network);
  const [type, hookName, priority, policy] = hook.split(' ');
  const create = `add chain ${place} { type ${type} hook ${hookName} priority ${priority}; policy ${policy}; comment "${comment}"; }`;
  return [
    ...(found !== undefined && usable === undefined ? [`flush chain ${place}`, `delete chain ${place}`] : []),
    ...(usable === undefined ? [create] : []),
    ...change.remove.map(({ handle }) => `delete rule ${place} handle ${handle}`),
    ...change.prepend.toReversed().map((key) => `insert rule ${place} ${key}`),
    ...change.append.map((key) => `add rule ${place} ${key}`),
  ];
}

function planNftRemoval(
  found: NftChain | undefined,
  place: string,
  network: string | undefined,
): { readonly lines: readonly string[]; readonly all: boolean } {
  if (found === undefined) return { lines: [], all: true };
  const { remove, all } = planChainRemoval(found.rules, network);
  const lines = remove.map(({ handle }) => `delete rule ${place} handle ${handle}`);
  return { lines: all ? [...lines, `delete chain ${place}`] : lines, all };
}

/** The rule in nft's language, equal to the key of an {@link NftRule}. */
export function nftText({ marked, source, destination, verdict }: Rule): string {
  const mark = `meta mark & ${unmasqueradedMark} == ${unmasqueradedMark}`;
  const action = verdict === 'masquerade-random' ? 'masquerade fully-random' : verdict;
  return [
    ...(marked ? [mark] : []),
    ...address('saddr', source),
    ...address('daddr', destination),
    action,
  ].join(' ');
}

function address(field: string, match: AddressMatch | undefined): readonly string[] {
  if (match === undefined) return [];
  const protocol = match.subnet.includes(':') ? 'ip6' : 'ip';
  return [`${protocol} ${field} ${match.not ? '!= ' : ''}${match.subnet}`];
}
