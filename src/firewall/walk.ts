import { type Family, parseAddress, parseSubnet, type Subnet } from '../ip/ip.ts';

/** What ends a packet's way through a chain. */
export type Verdict = 'accept' | 'drop' | 'return';

/** What a rule does with the packets that all its tests are true of. */
export type Action =
  | { readonly kind: Verdict | 'continue' }
  | { readonly kind: 'jump' | 'goto'; readonly chain: string };

export interface FilterRule {
  readonly tests: readonly Test[];
  readonly action: Action;
  /** The rule in iptables' words without `-A CHAIN`, or the handle that nft lists it with. */
  readonly text: string;
}

/** Where in a packet's way the kernel asks a chain. */
export interface Hook {
  readonly name: 'ingress' | 'prerouting' | 'forward' | 'postrouting' | 'egress';
  /** Whether packets that reach the end of the chain are dropped. */
  readonly drops: boolean;
  /** Of ingress and egress: the interfaces, `unknown` when they are not told. */
  readonly devices?: readonly string[] | 'unknown';
}

export interface FilterChain {
  readonly hook?: Hook;
  readonly rules: readonly FilterRule[];
}

/** A table of the kernel's packet filter. */
export interface FilterTable {
  /** The program that changes it: nft, or an iptables such as `ip6tables-legacy`. */
  readonly program: string;
  /** `filter`; of nft with its family, `inet filter`. */
  readonly name: string;
  /** Whose packets it sees. */
  readonly families: readonly Family[];
  readonly chains: ReadonlyMap<string, FilterChain>;
}

/** What drops packets: a rule, or without one the policy of a chain. */
export interface Culprit {
  readonly chain: string;
  readonly rule?: FilterRule;
}

/** What may become of packets in a chain. */
export interface Outcome {
  /** Some may be accepted. */
  readonly accepts: boolean;
  /** Some may come to the chain's end. */
  readonly falls: boolean;
  readonly drops: readonly Culprit[];
}

/** The kernel's limit is 16. */
const deepest = 32;

/** So many rules are kept at most. */
const mostCulprits = 1_000;

/**
 * What becomes of packets in one of the kernel's chains and those it leads to. A rule whose tests may be true is followed both
 * ways. Each chain is walked once, however many rules lead to it.
 */
export function walk(table: FilterTable, chain: string, packets: Packets): Outcome {
  const known = new Map<string, Outcome>();
  const { accepts, falls, drops } = walkChain(table, chain, packets, known, 0);
  const policy = table.chains.get(chain)?.hook?.drops === true;
  return falls && policy
    ? { accepts, falls: false, drops: [...drops, { chain }] }
    : { accepts: accepts || falls, falls: false, drops };
}

function walkChain(
  table: FilterTable,
  name: string,
  packets: Packets,
  known: Map<string, Outcome>,
  depth: number,
): Outcome {
  const before = known.get(name);
  if (before !== undefined) return before;
  const chain = table.chains.get(name);
  if (chain === undefined || depth > deepest) return { accepts: true, falls: true, drops: [] };
  let accepts = false;
  let falls = false;
  let live = true;
  const drops = new Set<Culprit>();
  const take = (inner: Outcome) => {
    accepts ||= inner.accepts;
    for (const culprit of inner.drops) if (drops.size < mostCulprits) drops.add(culprit);
  };
  for (const rule of chain.rules) {
    const match = allOf(rule.tests)(packets);
    const { action } = rule;
    if (match === 'no' || action.kind === 'continue') continue;
    let passes = match === 'maybe';
    if (action.kind === 'accept') accepts = true;
    else if (action.kind === 'drop') take({ accepts: false, falls: false, drops: [{ chain: name, rule }] });
    else if (action.kind === 'return') falls = true;
    else if ('chain' in action) {
      const inner = walkChain(table, action.chain, packets, known, depth + 1);
      take(inner);
      if (inner.falls && action.kind === 'goto') falls = true;
      else if (inner.falls) passes = true;
    }
    live = passes;
    if (!live) break;
  }
  const outcome = { accepts, falls: falls || live, drops: [...drops] };
  known.set(name, outcome);
  return outcome;
}

/** Whether a test is true of the packets in question: of all, of none, or of some (or nobody can say). */
type Match = 'yes' | 'no' | 'maybe';

/** Addresses without a gap, both ends included. */
interface AddressRange {
  readonly first: bigint;
  readonly last: bigint;
}

/**
 * A kind of packets: the first ones of connections between a container here and one on another host. Nothing is known of
 * their protocol and ports. They carry no mark, and no address of them is translated.
 */
export interface Packets {
  readonly family: Family;
  readonly source: readonly AddressRange[];
  readonly destination: readonly AddressRange[];
  /** Name of the interface they come in by; undefined when it is not known. */
  readonly inLink: string | undefined;
  readonly outLink: string | undefined;
}

/** One condition of a rule. */
export type Test = (packets: Packets) => Match;

export const always: Test = () => 'yes';
export const never: Test = () => 'no';
export const unknown: Test = () => 'maybe';

/** True of all packets, or of none. */
export function when(isTrue: boolean): Test {
  return isTrue ? always : never;
}

/** What is true when `test` is not. */
export function not(test: Test): Test {
  return (packets) => {
    const match = test(packets);
    return match === 'maybe' ? match : match === 'yes' ? 'no' : 'yes';
  };
}

/** All of `tests`. */
export function allOf(tests: readonly Test[]): Test {
  return (packets) => {
    let all: Match = 'yes';
    for (const test of tests) {
      const match = test(packets);
      if (match === 'no') return 'no';
      if (match === 'maybe') all = 'maybe';
    }
    return all;
  };
}

/** At least one of `tests`. */
export function anyOf(tests: readonly Test[]): Test {
  return not(allOf(tests.map(not)));
}

/** The address is in `range`, which is of `family`. */
export function addressTest(
  side: 'source' | 'destination',
  family: Family,
  { first, last }: AddressRange,
): Test {
  return (packets) => {
    if (packets.family !== family) return 'no';
    const ranges = packets[side];
    if (ranges.every((range) => range.first >= first && range.last <= last)) return 'yes';
    return ranges.every((range) => range.last < first || range.first > last) ? 'no' : 'maybe';
  };
}

/** The interface is `name`, or begins with it before a final `wildcard`. */
export function linkTest(side: 'inLink' | 'outLink', name: string, wildcard: '+' | '*'): Test {
  return (packets) => {
    const link = packets[side];
    const start = name.endsWith(wildcard) ? name.slice(0, -1) : undefined;
    if (start === '') return 'yes';
    if (link === undefined) return 'maybe';
    return (start === undefined ? link === name : link.startsWith(start)) ? 'yes' : 'no';
  };
}

export function familyTest(family: Family): Test {
  return (packets) => (packets.family === family ? 'yes' : 'no');
}

/** An address, with a length or without, as a range; undefined for anything else. */
export function rangeOf(text: string): (AddressRange & { readonly family: Family }) | undefined {
  const address = parseAddress(text);
  if (address !== undefined) return { family: address.family, first: address.value, last: address.value };
  return parseSubnet(text);
}

/** What is left of a network without one of its subnets. */
export function rest(network: Subnet, subnet: Subnet): readonly AddressRange[] {
  return [
    { first: network.first, last: subnet.first - 1n },
    { first: subnet.last + 1n, last: network.last },
  ].filter(({ first, last }) => first <= last);
}
