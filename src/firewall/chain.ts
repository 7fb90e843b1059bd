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
