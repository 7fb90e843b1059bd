import { addressBits, type Family, parseAddress } from '../ip/ip.ts';
import { excerpt } from '../runtime/texts.ts';
import { UnreadableError } from './iptables-save.ts';
import type { FoundRule } from './rules.ts';

/** A rule in one of our tables; `key` is its text in nft's language where we know how to write it. */
export interface NftRule extends FoundRule {
  readonly handle: number;
}

export interface NftChain {
  /** `filter forward 0 accept`: what it is hooked to; empty for a chain that is not. */
  readonly hook: string;
  readonly rules: readonly NftRule[];
}

/** A table by its chains. */
export type NftTable = ReadonlyMap<string, NftChain>;

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

/** The items that `nft -j` printed. Throws {@link UnreadableError}. */
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

/** One test or verdict in nft's language; what is never part of a rule of ours stays JSON. */
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
