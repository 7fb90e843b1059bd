import {
  commentOf,
  foundRule,
  jumpText,
  ruleKey,
  ruleText,
  type SavedRule,
  type SavedTable,
  textKey,
  unconditionalTarget,
} from './iptables-save.ts';
import { planChain, planChainRemoval, type WantedChain } from './rules.ts';

/** One of our chains: its table, the built-in chain that jumps to it, and the comment of its rules. */
export interface ChainPlace {
  readonly table: 'filter' | 'nat';
  readonly base: 'FORWARD' | 'POSTROUTING';
  readonly chain: string;
  readonly comment: string;
}

/** flanneld's names, so that each daemon finds the other's rules. */
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
 * The input for `iptables-restore --noflush` that gives a table the rules of one network; undefined when it
 * has them. Facts that complicate it:
 * - Between reading a table and writing it, other programs may change it. So the input removes rules by their
 *   text, never by number, and creates chains by `-N`: then the kernel refuses the whole, and nothing is
 *   lost. For the same reason nothing is flushed and filled again.
 * - Several daemons of one host may share a chain (see rules.ts).
 * - Docker and firewalld append to FORWARD at any time. A jump anywhere before the first rule that blocks
 *   everything will do, so that two daemons do not chase each other.
 * - The kernel refuses to remove a chain that any rule still jumps to.
 */
export function planTable(
  saved: SavedTable,
  place: ChainPlace,
  wanted: WantedChain,
  network: string,
  position: ForwardPosition,
): string | undefined {
  const { chain, comment } = place;
  const [shared = [], own = []] = [wanted.shared, wanted.own].map((rules) =>
    rules.map((rule) => ruleText(rule, comment)),
  );
  const textOf = new Map([...shared, ...own].map((text) => [textKey(text), text]));
  const keys = { shared: shared.map(textKey), own: own.map(textKey) };
  const change = planChain((saved.get(chain)?.rules ?? []).map(foundRule), keys, network);
  return restoreInput(place, [
    ...(saved.has(chain) ? [] : [`-N ${chain}`]),
    ...change.remove.map((rule) => `-D ${chain} ${rule.text}`),
    ...change.prepend.toReversed().map((key) => `-I ${chain} 1 ${textOf.get(key)}`),
    ...change.append.map((key) => `-A ${chain} ${textOf.get(key)}`),
    ...planBase(saved, place, network, position),
  ]);
}

/**
 * The input that removes one network's rules, and chain and jump when no other network uses them. With
 * `network` undefined it removes those of all networks. Undefined when there is nothing to remove.
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

/** Whether rules other than `leading` jump to the chain. */
function isUsed(saved: SavedTable, chain: string, leading: readonly SavedRule[]): boolean {
  const leads = ({ words }: SavedRule) => words.includes(chain);
  return [...saved.values()].some(({ rules }) =>
    rules.some((rule) => leads(rule) && !leading.includes(rule)),
  );
}

/** Ensures one jump at the right place, and none of our rules beside it. */
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
  const blocker = others.findIndex((rule) => position === 'first' || blocks(rule, saved, 0));
  const at = base !== 'FORWARD' || position === 'last' || blocker < 0 ? others.length : blocker;
  const [jump] = jumps;
  if (jump !== undefined && jumps.length === 1 && ruleKey(jump.words) === textKey(text)) {
    const index = rules.slice(0, rules.indexOf(jump)).filter((rule) => others.includes(rule)).length;
    // With `auto` anywhere before it.
    if (base !== 'FORWARD' || index === at || (position === 'auto' && index < at)) return removals;
  }
  return [
    ...removals,
    ...jumps.map((rule) => `-D ${base} ${rule.text}`),
    at === others.length ? `-A ${base} ${text}` : `-I ${base} ${at + 1} ${text}`,
  ];
}

/** Jumps to our chain without a condition. With one it is somebody else's rule. */
function isJump({ words }: SavedRule, { chain }: ChainPlace): boolean {
  return unconditionalTarget(words) === chain;
}

/** A rule of ours outside our chain: flanneld put them there until version 0.20. */
function isStray(rule: SavedRule, place: ChainPlace, network: string | undefined): boolean {
  if (commentOf(rule.words) !== place.comment || isJump(rule, place)) return false;
  return network === undefined || foundRule(rule).subnets.includes(network);
}

function restoreInput({ table }: ChainPlace, lines: readonly string[]): string | undefined {
  return lines.length === 0 ? undefined : `*${table}\n${lines.join('\n')}\nCOMMIT\n`;
}

/** The place of the jump in FORWARD. `auto`: last, but before a rule that blocks everything. */
export type ForwardPosition = 'auto' | 'first' | 'last';

/** The kernel allows 16 levels of jumps and no rings. */
const deepest = 16;

/**
 * Whether a rule drops or rejects every packet that it does not accept, itself or by a chain (as on CentOS
 * 6).
 */
function blocks({ words }: SavedRule, table: SavedTable, depth: number): boolean {
  const target = unconditionalTarget(words);
  if (target === 'DROP' || target === 'REJECT') return true;
  const chain = target === undefined ? undefined : table.get(target);
  if (chain === undefined || depth > deepest) return false;
  for (const rule of chain.rules) {
    if (blocks(rule, table, depth + 1)) return true;
    const end = unconditionalTarget(rule.words);
    if (end === 'RETURN' || end === 'ACCEPT') return false;
  }
  return false;
}
