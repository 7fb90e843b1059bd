import { unconditionalTarget } from './iptables-rule.ts';
import type { SavedRule, SavedTable } from './iptables-save.ts';

/** Where the jump from FORWARD stands. `auto`: at the end, but before a rule that lets nothing pass. */
export type ForwardPosition = 'auto' | 'first' | 'last';

/** Jumps into chains that jump on are followed this far; the kernel allows 16 levels and no rings. */
const deepest = 16;

/** How many rules come before the jump, of `rules`, which are those of FORWARD without it. */
export function jumpIndex(rules: readonly SavedRule[], table: SavedTable, position: ForwardPosition): number {
  return position === 'first' ? 0 : position === 'last' ? rules.length : firstBlocker(rules, table);
}

/** Whether a jump before the rule with this index is where `position` wants it. */
export function isRightIndex(
  index: number,
  rules: readonly SavedRule[],
  table: SavedTable,
  position: ForwardPosition,
): boolean {
  const wanted = jumpIndex(rules, table, position);
  // Anywhere before it: others append rules, and running after them all the time would help nobody.
  return position === 'auto' ? index <= wanted : index === wanted;
}

/** The index of the first rule nothing gets past; the number of rules when there is none. */
function firstBlocker(rules: readonly SavedRule[], table: SavedTable): number {
  const index = rules.findIndex((rule) => blocks(rule, table, 0));
  return index < 0 ? rules.length : index;
}

/** Whether a rule drops or rejects every packet it does not accept, itself or in a chain it leads to (as CentOS 6 had it). */
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
