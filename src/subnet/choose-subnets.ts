import type { PerFamily, Subnet } from '../ip/ip.ts';
import type { Random } from '../runtime/random.ts';
import { chooseSubnet, fits, isFree } from './allocate.ts';
import type { PoolConfig } from './config.ts';
import type { LeaseSubnets } from './subnet-key.ts';

export interface SubnetWishes {
  /** Subnets of this host that it goes on with. */
  readonly kept?: LeaseSubnets;
  /** Subnets to prefer. */
  readonly hint?: LeaseSubnets | undefined;
}

/** What was chosen, or the pool that has no free subnet. */
export type ChosenSubnets =
  | { readonly subnets: LeaseSubnets; readonly fresh: LeaseSubnets; readonly hinted: boolean }
  | { readonly exhausted: PoolConfig };

/**
 * A subnet for each family that is on: the kept one, else the hint's, else a random one that overlaps none of `taken`.
 * `fresh` are those that are not kept. The hint counts as a whole: when one of its subnets is taken or does not fit, it comes
 * from a copied disk or from another network, and so may the other.
 */
export function chooseSubnets(
  { pools, random }: { readonly pools: PerFamily<PoolConfig>; readonly random: Random },
  taken: readonly Subnet[],
  { kept = {}, hint = {} }: SubnetWishes,
): ChosenSubnets {
  let fresh: LeaseSubnets = {};
  let hinted = false;
  const usable = (['ipv4', 'ipv6'] as const).every((family) => {
    const pool = pools[family];
    const wish = hint[family];
    if (pool === undefined || wish === undefined || kept[family] !== undefined) return true;
    return fits(pool, wish) && isFree(wish, taken);
  });
  for (const family of ['ipv4', 'ipv6'] as const) {
    const pool = pools[family];
    if (pool === undefined || kept[family] !== undefined) continue;
    const wish = usable ? hint[family] : undefined;
    const subnet = wish ?? chooseSubnet(pool, taken, random);
    if (subnet === undefined) return { exhausted: pool };
    fresh = { ...fresh, [family]: subnet };
    hinted ||= wish !== undefined;
  }
  return { subnets: { ...kept, ...fresh }, fresh, hinted };
}
