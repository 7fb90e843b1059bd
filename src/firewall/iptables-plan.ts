import { type ForwardPosition, isRightIndex, jumpIndex } from './forward.ts';
import {
  commentOf,
  foundRule,
  jumpText,
  ruleKey,
  ruleText,
  textKey,
  unconditionalTarget,
} from './iptables-rule.ts';
import type { SavedRule, SavedTable } from './iptables-save.ts';
import type { WantedChain } from './rules.ts';

/** One of our chains: its table, the kernel's chain that leads to it, and the comment of its rules. */
export interface ChainPlace {
  readonly table: 'filter' | 'nat';
  readonly base: 'FORWARD' | 'POSTROUTING';
  readonly chain: string;
  readonly comment: string;
}

/** flanneld's names, so that either daemon finds the other's rules. */
export const forwardChain: ChainPlace = {
  table: 'filter',
  base: 'FORWARD',
  chain: 'FLANNEL-FWD',
  comment: 'flanneld forward',
};

export const masqueradeChain: ChainPlace = {
  table: 'nat',
  base: 'POSTROUTING',
  chain: 'FLANNEL-POSTRTG',
  comment: 'flanneld masq',
};

/**
 * The input for `iptables-restore --noflush` that makes a table as one network wants it; undefined when it is so already.
 *
 * Rules are removed by what they are and chains are made by `-N`: should another program have changed any of them since
 * the table was read, the kernel refuses the whole, and nothing is lost by it.
 */
export function planTable(
  saved: SavedTable,
  place: ChainPlace,
  wanted: WantedChain,
  network: string,
  position: ForwardPosition,
): string | undefined {
  const { chain, comment } = place;
  const texts = {
    shared: wanted.shared.map((rule) => ruleText(rule, comment)),
    own: wanted.own.map((rule) => ruleText(rule, comment)),
  };
  const textOf = new Map([...texts.shared, ...texts.own].map((text) => [textKey(text), text]));
  const keys = { shared: texts.shared.map(textKey), own: texts.own.map(textKey) };
  const found = (saved.get(chain)?.rules ?? []).map(foundRule);
  const change = planChain(found, keys, network);
  const text = (key: string) => textOf.get(key) ?? '';
  return restoreInput(place, [
    ...(saved.has(chain) ? [] : [`-N ${chain}`]),
    ...(change?.remove ?? []).map((rule) => `-D ${chain} ${rule.text}`),
    ...(change?.prepend ?? []).toReversed().map((key) => `-I ${chain} 1 ${text(key)}`),
    ...(change?.append ?? []).map((key) => `-A ${chain} ${text(key)}`),
    ...planBase(saved, place, network, position),
  ]);
}

/**
 * The input that removes one network's rules, and chain and jump when no other network uses them; with `network` undefined
 * those of all networks. Undefined when nothing is there.
 */
export function planTableRemoval(
  saved: SavedTable,
  place: ChainPlace,
  network: string | undefined,
): string | undefined {
  const { base, chain } = place;
  const found = (saved.get(chain)?.rules ?? []).map(foundRule);
  const { remove, all } = planChainRemoval(found, network);
  const baseRules = saved.get(base)?.rules ?? [];
  const leading = all ? baseRules.filter((rule) => isJump(rule, place)) : [];
  const stray = baseRules.filter((rule) => !leading.includes(rule) && isStray(rule, place, network));
  return restoreInput(place, [
    ...[...leading, ...stray].map((rule) => `-D ${base} ${rule.text}`),
    ...remove.map((rule) => `-D ${chain} ${rule.text}`),
    ...(all && saved.has(chain) && !isUsed(saved, chain, leading) ? [`-X ${chain}`] : []),
  ]);
}

/** Whether rules other than `leading` lead to the chain; the kernel then refuses to remove it. */
function isUsed(saved: SavedTable, chain: string, leading: readonly SavedRule[]): boolean {
  const leads = ({ words }: SavedRule) => words.includes(chain);
  return [...saved.values()].some(({ rules }) =>
    rules.some((rule) => leads(rule) && !leading.includes(rule)),
  );
}

/** One jump at the right place, and none of our rules beside it. */
function planBase(
  saved: SavedTable,
  place: ChainPlace,
  network: string,
  position: ForwardPosition,
): readonly string[] {
  const { base, chain, comment } = place;
  const rules = saved.get(base)?.rules ?? [];
  const stray = rules.filter((rule) => isStray(rule, place, network));
  const jumps = rules.filter((rule) => isJump(rule, place) && !stray.includes(rule));
  const others = rules.filter((rule) => !stray.includes(rule) && !jumps.includes(rule));
  const text = jumpText(chain, comment);
  const removals = stray.map((rule) => `-D ${base} ${rule.text}`);
  const [jump] = jumps;
  if (jump !== undefined && jumps.length === 1 && ruleKey(jump.words) === textKey(text)) {
    const index = rules.slice(0, rules.indexOf(jump)).filter((rule) => others.includes(rule)).length;
    if (base !== 'FORWARD' || isRightIndex(index, others, saved, position)) return removals;
  }
  const at = base === 'FORWARD' ? jumpIndex(others, saved, position) : others.length;
  return [
    ...removals,
    ...jumps.map((rule) => `-D ${base} ${rule.text}`),
    at === others.length ? `-A ${base} ${text}` : `-I ${base} ${at + 1} ${text}`,
  ];
}

/** Leads to our chain whatever comes; with a condition it is somebody's own. */
function isJump({ words }: SavedRule, { chain }: ChainPlace): boolean {
  return unconditionalTarget(words) === chain;
}

/** A rule of ours outside our chain: flanneld had them there until version 0.20. */
function isStray(rule: SavedRule, place: ChainPlace, network: string | undefined): boolean {
  if (commentOf(rule.words) !== place.comment || isJump(rule, place)) return false;
  return network === undefined || foundRule(rule).subnets.includes(network);
}

function restoreInput({ table }: ChainPlace, lines: readonly string[]): string | undefined {
  return lines.length === 0 ? undefined : `*${table}\n${lines.join('\n')}\nCOMMIT\n`;
}

/** A rule found in one of our chains. */
export interface FoundRule {
  /** Equal for equal rules, and equal to what a wanted rule is written as. */
  readonly key: string;
  /** The subnets it tests for, canonical. */
  readonly subnets: readonly string[];
}

/** What has to happen to one of our chains, in this order. */
export interface ChainChange<T> {
  readonly remove: readonly T[];
  /** Goes to the chain's beginning. */
  readonly prepend: readonly string[];
  /** Goes to its end. */
  readonly append: readonly string[];
}

/**
 * What makes a chain as one network wants it; undefined when it is so already. Several daemons of one host may share the
 * chain: a rule belongs to the networks it names, and those that name ours are compared with `own`, in order. `shared` stand
 * at the beginning. What names no network at all belongs to nobody else, and goes.
 */
export function planChain<T extends FoundRule>(
  found: readonly T[],
  wanted: { readonly shared: readonly string[]; readonly own: readonly string[] },
  network: string,
): ChainChange<T> | undefined {
  const shared = found.filter((rule) => wanted.shared.includes(rule.key));
  const own = found.filter((rule) => !shared.includes(rule) && isOurs(rule, network));
  const sharedRight =
    sameKeys(shared, wanted.shared) && sameKeys(found.slice(0, shared.length), wanted.shared);
  const ownRight = sameKeys(own, wanted.own);
  if (sharedRight && ownRight) return undefined;
  return {
    remove: [...(sharedRight ? [] : shared), ...(ownRight ? [] : own)],
    prepend: sharedRight ? [] : wanted.shared,
    append: ownRight ? [] : wanted.own,
  };
}

/**
 * The rules that go when a network no longer uses a chain. `all`: no other network has rules there, so the chain goes, too. With
 * `network` undefined everything goes.
 */
export function planChainRemoval<T extends FoundRule>(
  found: readonly T[],
  network: string | undefined,
): { readonly remove: readonly T[]; readonly all: boolean } {
  const others = network === undefined ? [] : found.filter((rule) => !isOurs(rule, network));
  if (others.length === 0) return { remove: found, all: true };
  // Rules that name nobody may be the ones the others share.
  return { remove: found.filter(({ subnets }) => subnets.includes(network ?? '')), all: false };
}

function isOurs({ subnets }: FoundRule, network: string): boolean {
  return subnets.length === 0 || subnets.includes(network);
}

function sameKeys(found: readonly FoundRule[], keys: readonly string[]): boolean {
  return found.length === keys.length && found.every(({ key }, index) => key === keys[index]);
}
