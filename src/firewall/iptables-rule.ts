import { addressBits, type Family, parseAddress, parseSubnet } from '../ip/ip.ts';
import type { FoundRule } from './iptables-plan.ts';
import { type SavedRule, wordsOf } from './iptables-save.ts';
import { type AddressMatch, type Rule, unmasqueradedMark } from './rules.ts';

/** A rule in one of our chains, as it was found. */
export type FoundIptablesRule = FoundRule & SavedRule;

const targets: Readonly<Record<Rule['verdict'], string>> = {
  accept: 'ACCEPT',
  return: 'RETURN',
  masquerade: 'MASQUERADE',
  'masquerade-random': 'MASQUERADE --random-fully',
};

/** The rule in iptables' words, as `iptables-save` prints them, without `-A CHAIN`. */
export function ruleText(rule: Rule, comment: string): string {
  const mark = `0x${unmasqueradedMark.toString(16)}`;
  const parts = [
    ...addressWords('-s', rule.source),
    ...addressWords('-d', rule.destination),
    ...(rule.marked ? [`-m mark --mark ${mark}/${mark}`] : []),
    commentWords(comment),
    `-j ${targets[rule.verdict]}`,
  ];
  return parts.join(' ');
}

/** The rule that leads from a chain of the kernel's into one of ours. */
export function jumpText(chain: string, comment: string): string {
  return `${commentWords(comment)} -j ${chain}`;
}

/** What {@link planChain} needs to know of a rule. */
export function foundRule(rule: SavedRule): FoundIptablesRule {
  return { ...rule, key: ruleKey(rule.words), subnets: subnetsOf(rule.words) };
}

/** Equal for rules that mean the same: words, with addresses in canonical form. */
export function ruleKey(ruleWords: readonly string[]): string {
  return ruleWords
    .map((word, index) => (isAddressOption(ruleWords[index - 1]) ? canonicalSubnet(word) : word))
    .join('\0');
}

/** {@link ruleKey} of a rule that is text. */
export function textKey(text: string): string {
  return ruleKey(wordsOf(text));
}

/** The subnets a rule's `-s` and `-d` name, with `!` or without. */
function subnetsOf(ruleWords: readonly string[]): readonly string[] {
  return ruleWords.filter((_, index) => isAddressOption(ruleWords[index - 1])).map(canonicalSubnet);
}

export function commentOf(ruleWords: readonly string[]): string | undefined {
  const at = ruleWords.indexOf('--comment');
  return at < 0 ? undefined : ruleWords[at + 1];
}

/** Where a rule sends every packet that comes to it; undefined when it tests for anything. Comments test nothing. */
export function unconditionalTarget(ruleWords: readonly string[]): string | undefined {
  const rest = [...ruleWords];
  const at = rest.findIndex((word, index) => word === '-m' && rest[index + 1] === 'comment');
  if (at >= 0 && rest[at + 2] === '--comment') rest.splice(at, 4);
  return rest[0] === '-j' || rest[0] === '-g' ? rest[1] : undefined;
}

function addressWords(option: string, match: AddressMatch | undefined): readonly string[] {
  if (match === undefined) return [];
  return [`${match.not ? '! ' : ''}${option} ${match.subnet}`];
}

function commentWords(comment: string): string {
  return `-m comment --comment "${comment}"`;
}

function isAddressOption(word: string | undefined): boolean {
  return word === '-s' || word === '-d';
}

/** A single address is printed with its length, or without. */
function canonicalSubnet(text: string): string {
  const address = parseAddress(text);
  const family: Family = address?.family ?? 4;
  return parseSubnet(address === undefined ? text : `${text}/${addressBits(family)}`)?.text ?? text;
}
