import { addressBits, parseAddress, parseSubnet } from '../ip/ip.ts';
import { FlannelError } from '../runtime/errors.ts';
import { excerpt } from '../runtime/texts.ts';
import { type AddressMatch, type FoundRule, type Rule, unmasqueradedMark } from './rules.ts';

/** One rule as `iptables-save` prints it. */
export interface SavedRule {
  /** The text after `-A CHAIN `, which `-D CHAIN ` takes as well. */
  readonly text: string;
  /** The words of the text, without quotes. */
  readonly words: readonly string[];
}

interface SavedChain {
  /** ACCEPT or DROP; undefined for a chain that is not built in. */
  readonly policy: string | undefined;
  readonly rules: readonly SavedRule[];
}

/** Chains by name. */
export type SavedTable = ReadonlyMap<string, SavedChain>;

/** A tool printed something unknown. Nothing is changed on such a basis. */
export class UnreadableError extends FlannelError {
  constructor(message: string, remedy?: string) {
    super('FIREWALL_UNREADABLE', message, { remedy });
  }
}

/**
 * Reads the output of `iptables-save -t TABLE`. A table that the kernel does not have yet is empty. Throws
 * {@link UnreadableError} for output that is cut off or of another form.
 */
export function parseSave(output: string, table: string): SavedTable {
  const lines = output.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  if (/^# Table .* is incompatible/m.test(output)) {
    throw new UnreadableError(
      `iptables cannot show its table ${table}: another program added rules that only nft can print`,
      `To see them: nft list ruleset. Or store "EnableNFTables": true in the network configuration.`,
    );
  }
  if (lines.length === 0) return new Map();
  const [first, ...rest] = lines;
  if (first !== `*${table}` || rest.pop() !== 'COMMIT') {
    throw new UnreadableError(`iptables-save printed no complete table ${table}: ${excerpt(output)}`);
  }
  const chains = new Map<string, SavedChain & { rules: SavedRule[] }>();
  for (const line of rest) readLine(line, chains);
  return chains;
}

/**
 * Reads the output of `iptables-save`: all tables that iptables can print. Throws {@link UnreadableError}.
 */
export function parseSaveAll(output: string): ReadonlyMap<string, SavedTable> {
  const sections = output.matchAll(/^\*(\S+)\n[\s\S]*?^COMMIT$/gm);
  return new Map([...sections].map(([text, name = '']) => [name, parseSave(text, name)]));
}

function readLine(line: string, chains: Map<string, SavedChain & { rules: SavedRule[] }>): void {
  const [, newChain, policy] = /^:(\S+) (\S+)/.exec(line) ?? [];
  if (newChain !== undefined) {
    chains.set(newChain, { policy: policy === '-' ? undefined : policy, rules: [] });
    return;
  }
  const [, chain, text] = /^-A (\S+) ?(.*)$/.exec(line) ?? [];
  const rules = chains.get(chain ?? '')?.rules;
  if (rules === undefined || text === undefined) {
    throw new UnreadableError(`iptables-save printed an unknown line: ${excerpt(line)}`);
  }
  rules.push({ text, words: wordsOf(text) });
}

/**
 * Splits at blanks as iptables-restore does: double quotes keep words together, and a backslash in them
 * escapes.
 */
export function wordsOf(text: string): readonly string[] {
  const found = text.match(/"(?:[^"\\]|\\.)*"|\S+/g) ?? [];
  return found.map((word) => (word.startsWith('"') ? word.slice(1, -1).replaceAll(/\\(.)/g, '$1') : word));
}

const targets: Readonly<Record<Rule['verdict'], string>> = {
  accept: 'ACCEPT',
  return: 'RETURN',
  masquerade: 'MASQUERADE',
  'masquerade-random': 'MASQUERADE --random-fully',
};

/** The rule in iptables' words, as `iptables-save` prints it, without `-A CHAIN`. */
export function ruleText(rule: Rule, comment: string): string {
  const mark = `0x${unmasqueradedMark.toString(16)}`;
  const words = (option: string, match: AddressMatch | undefined) =>
    match === undefined ? [] : [`${match.not ? '! ' : ''}${option} ${match.subnet}`];
  const parts = [
    ...words('-s', rule.source),
    ...words('-d', rule.destination),
    ...(rule.marked ? [`-m mark --mark ${mark}/${mark}`] : []),
    commentWords(comment),
    `-j ${targets[rule.verdict]}`,
  ];
  return parts.join(' ');
}

/** The rule in a built-in chain that jumps to ours. */
export function jumpText(chain: string, comment: string): string {
  return `${commentWords(comment)} -j ${chain}`;
}

/** A rule with everything that {@link planChain} compares. */
export function foundRule(rule: SavedRule): FoundRule & SavedRule {
  // Named by its `-s` and `-d`, negated or not.
  const subnets = rule.words
    .filter((_, index) => isAddressOption(rule.words[index - 1]))
    .map(canonicalSubnet);
  return { ...rule, key: ruleKey(rule.words), subnets };
}

/** Equal for rules that mean the same: the words, with canonical addresses. */
export function ruleKey(ruleWords: readonly string[]): string {
  return ruleWords
    .map((word, index) => (isAddressOption(ruleWords[index - 1]) ? canonicalSubnet(word) : word))
    .join('\0');
}

/** {@link ruleKey} of a rule's text. */
export function textKey(text: string): string {
  return ruleKey(wordsOf(text));
}

export function commentOf(ruleWords: readonly string[]): string | undefined {
  const at = ruleWords.indexOf('--comment');
  return at < 0 ? undefined : ruleWords[at + 1];
}

/** The target of a rule that matches every packet; undefined when it tests for anything but its comment. */
export function unconditionalTarget(ruleWords: readonly string[]): string | undefined {
  const rest = [...ruleWords];
  const at = rest.findIndex((word, index) => word === '-m' && rest[index + 1] === 'comment');
  if (at >= 0 && rest[at + 2] === '--comment') rest.splice(at, 4);
  return rest[0] === '-j' || rest[0] === '-g' ? rest[1] : undefined;
}

function commentWords(comment: string): string {
  return `-m comment --comment "${comment}"`;
}

function isAddressOption(word: string | undefined): boolean {
  return word === '-s' || word === '-d';
}

/** iptables prints a single address with its length, or without. */
function canonicalSubnet(text: string): string {
  const address = parseAddress(text);
  return parseSubnet(address === undefined ? text : `${text}/${addressBits(address.family)}`)?.text ?? text;
}
