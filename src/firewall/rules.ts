import type { Family, Subnet } from '../ip/ip.ts';

/** One family's network, and this host's subnet of it. */
export interface FirewallNetwork {
  readonly network: Subnet;
  readonly subnet: Subnet;
}

/** Matches addresses in `subnet`, or outside it. */
export interface AddressMatch {
  readonly subnet: string;
  readonly not?: boolean;
}

/** One rule, whichever tool writes it. */
export interface Rule {
  /** Matches packets with the mark that exempts them from masquerading. */
  readonly marked?: boolean;
  readonly source?: AddressMatch;
  readonly destination?: AddressMatch;
  readonly verdict: 'accept' | 'return' | 'masquerade' | 'masquerade-random';
}

/** The rules of a chain: first those that all networks of a host share, then one network's own. */
export interface WantedChain {
  readonly shared: readonly Rule[];
  readonly own: readonly Rule[];
}

/** The bit of a packet's mark that exempts it from masquerading, also Kubernetes'. */
export const unmasqueradedMark = 0x4000;

const multicast: Readonly<Record<Family, string>> = { 4: '224.0.0.0/4', 6: 'ff00::/8' };

/** Lets a network's packets pass: flanneld's rules and order. */
export function forwardRules({ network }: FirewallNetwork): WantedChain {
  const inside = { subnet: network.text };
  return {
    shared: [],
    own: [
      { source: inside, verdict: 'accept' },
      { destination: inside, verdict: 'accept' },
    ],
  };
}

/**
 * Masquerades containers towards the outside only: flanneld's rules and order. `random`: with random ports,
 * which avoids a kernel race that loses packets.
 */
export function masqueradeRules({ network, subnet }: FirewallNetwork, random: boolean): WantedChain {
  const [n, s] = [network.text, subnet.text];
  const verdict = random ? 'masquerade-random' : 'masquerade';
  return {
    shared: [{ marked: true, verdict: 'return' }],
    own: [
      { source: { subnet: s }, destination: { subnet: n }, verdict: 'return' },
      { source: { subnet: n }, destination: { subnet: s }, verdict: 'return' },
      { source: { subnet: n, not: true }, destination: { subnet: s }, verdict: 'return' },
      {
        source: { subnet: n },
        destination: { subnet: multicast[network.family], not: true },
        verdict,
      },
      { source: { subnet: n, not: true }, destination: { subnet: n }, verdict },
    ],
  };
}

/** A rule found in one of our chains. */
export interface FoundRule {
  /** Equal for equal rules, found or wanted. */
  readonly key: string;
  /** The canonical subnets that it tests for. */
  readonly subnets: readonly string[];
}

/** The changes to one of our chains, in this order. */
interface ChainChange<T> {
  readonly remove: readonly T[];
  /** Go to the chain's beginning. */
  readonly prepend: readonly string[];
  /** Go to its end. */
  readonly append: readonly string[];
}

/**
 * The changes that give a chain the rules of one network. Several daemons of one host may share the chain: a
 * rule belongs to the networks that it names. Rules that name ours are compared with `own`, in order;
 * `shared` come first. A rule that names no network belongs to nobody else, and goes.
 */
export function planChain<T extends FoundRule>(
  found: readonly T[],
  wanted: { readonly shared: readonly string[]; readonly own: readonly string[] },
  network: string,
): ChainChange<T> {
  const shared = found.filter((rule) => wanted.shared.includes(rule.key));
  const own = found.filter((rule) => !shared.includes(rule) && isOurs(rule, network));
  const sharedRight =
    sameKeys(shared, wanted.shared) && sameKeys(found.slice(0, shared.length), wanted.shared);
  const ownRight = sameKeys(own, wanted.own);
  return {
    remove: [...(sharedRight ? [] : shared), ...(ownRight ? [] : own)],
    prepend: sharedRight ? [] : wanted.shared,
    append: ownRight ? [] : wanted.own,
  };
}

/**
 * The rules to remove when a network no longer uses a chain. `all`: no other network has rules there, so the
 * chain goes as well. With `network` undefined everything goes.
 */
export function planChainRemoval<T extends FoundRule>(
  found: readonly T[],
  network: string | undefined,
): { readonly remove: readonly T[]; readonly all: boolean } {
  const others = network === undefined ? [] : found.filter((rule) => !isOurs(rule, network));
  if (others.length === 0) return { remove: found, all: true };
  // Other networks may share the rules that name none.
  return { remove: found.filter(({ subnets }) => subnets.includes(network ?? '')), all: false };
}

function isOurs({ subnets }: FoundRule, network: string): boolean {
  return subnets.length === 0 || subnets.includes(network);
}

function sameKeys(found: readonly FoundRule[], keys: readonly string[]): boolean {
  return found.length === keys.length && found.every(({ key }, index) => key === keys[index]);
}
