import { type Family, parseAddress, parseSubnet, type Subnet } from '../ip/ip.ts';

/** The end of a packet's way through a chain. */
export type Verdict = 'accept' | 'drop' | 'return';

/** The effect of a rule on packets that pass all its tests. */
export type Action =
  | { readonly kind: Verdict | 'continue' }
  | { readonly kind: 'jump' | 'goto'; readonly chain: string };

export interface FilterRule {
  readonly tests: readonly Test[];
  readonly action: Action;
  /** The rule in iptables' words without `-A CHAIN`, or its handle in nft. */
  readonly text: string;
}

/** The point in a packet's way at which the kernel runs a chain. */
export interface Hook {
  readonly name: 'ingress' | 'prerouting' | 'forward' | 'postrouting' | 'egress';
  /** Whether the chain's policy drops packets that reach its end. */
  readonly drops: boolean;
  /** For ingress and egress: the interfaces; `unknown` when nft does not say. */
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
  /** `filter`; in nft with its family, `inet filter`. */
  readonly name: string;
  /** Families whose packets it sees. */
  readonly families: readonly Family[];
  readonly chains: ReadonlyMap<string, FilterChain>;
}

/** A rule that drops packets, or without one the policy of a chain. */
export interface Culprit {
  readonly chain: string;
  readonly rule?: FilterRule;
}

/** Possible outcomes for packets in a chain. */
export interface Outcome {
  /** Some may be accepted. */
  readonly accepts: boolean;
  /** Some may reach the chain's end. */
  readonly falls: boolean;
  readonly drops: readonly Culprit[];
}

/** The kernel's limit is 16. */
const deepest = 32;

/** Bounds the list of culprits. */
const mostCulprits = 1_000;

/**
 * Follows packets through one of the kernel's chains and the chains it jumps to. A rule that may match is
 * followed both ways: whether one matches often depends on ports, protocols and marks that nobody knows
 * beforehand. Each chain is walked once, however many rules jump to it. An accept ends the way through this
 * table alone; the next table at the hook still sees the packet.
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

/** Whether a test matches the packets: all, none, or some of them (or nobody can say). */
type Match = 'yes' | 'no' | 'maybe';

/** A range of addresses, both ends included. */
interface AddressRange {
  readonly first: bigint;
  readonly last: bigint;
}

/**
 * The first packets of connections between a container here and one on another host. Protocol and ports are
 * unknown. They carry no mark, and no address of theirs is translated.
 */
export interface Packets {
  readonly family: Family;
  readonly source: readonly AddressRange[];
  readonly destination: readonly AddressRange[];
  /** The interface they arrive on; undefined when unknown. */
  readonly inLink: string | undefined;
  readonly outLink: string | undefined;
}

/** One condition of a rule. */
export type Test = (packets: Packets) => Match;

export const always: Test = () => 'yes';
export const never: Test = () => 'no';
export const unknown: Test = () => 'maybe';

/** Matches all packets, or none. */
export function when(isTrue: boolean): Test {
  return isTrue ? always : never;
}

export function not(test: Test): Test {
  return (packets) => {
    const match = test(packets);
    return match === 'maybe' ? match : match === 'yes' ? 'no' : 'yes';
  };
}

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

export function anyOf(tests: readonly Test[]): Test {
  return not(allOf(tests.map(not)));
}

/** Matches an address in the range, which is of `family`. */
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

/** Matches the interface `name`, or one that begins with it before a final `wildcard`. */
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
export function rangeOf(text: string): AddressRange | undefined {
  const address = parseAddress(text);
  if (address !== undefined) return { first: address.value, last: address.value };
  return parseSubnet(text);
}

/** The rest of a network without one of its subnets. */
export function rest(network: Subnet, subnet: Subnet): readonly AddressRange[] {
  return [
    { first: network.first, last: subnet.first - 1n },
    { first: subnet.last + 1n, last: network.last },
  ].filter(({ first, last }) => first <= last);
}
