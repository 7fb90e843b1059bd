import { addressBits, overlaps, type PerFamily, type Subnet, subnetAt } from '../../ip/ip.ts';
import { type Random, randomInt } from '../../runtime/effects.ts';
import type { PoolConfig } from '../config/config.ts';
import type { LeaseSubnets } from '../keys.ts';

/** A run of the pool's subnets, by their number from `min` (0) on; both ends are included. */
interface Run {
  readonly from: bigint;
  readonly to: bigint;
}

/**
 * A subnet of the pool that overlaps none of `taken`, each free one equally likely; undefined when there is none. `taken`
 * may hold anything: other lengths and families, overlaps, duplicates, subnets outside the pool.
 *
 * Takes the time of sorting `taken`, whatever the size of the pool.
 */
export function chooseSubnet(pool: PoolConfig, taken: Iterable<Subnet>, random: Random): Subnet | undefined {
  const used = usedRuns(pool, taken);
  const free = poolSize(pool) - countOf(used);
  if (free === 0n) return undefined;
  // The n-th free subnet: n, moved up by each used run that begins at or below it.
  let index = randomBelow(random, free);
  for (const run of used) {
    if (run.from > index) break;
    index += run.to - run.from + 1n;
  }
  const bits = addressBits(pool.min.family);
  const first = pool.min.first + (index << BigInt(bits - pool.subnetLength));
  return subnetAt(pool.min.family, first, pool.subnetLength);
}

/** Whether the subnet shares no address with any of `taken`. */
export function isFree(subnet: Subnet, taken: Iterable<Subnet>): boolean {
  for (const other of taken) if (overlaps(subnet, other)) return false;
  return true;
}

/** Whether the subnet is one of the pool: of its length, min ≤ subnet ≤ max. */
export function fits(pool: PoolConfig, subnet: Subnet): boolean {
  return (
    subnet.family === pool.min.family &&
    subnet.length === pool.subnetLength &&
    pool.min.first <= subnet.first &&
    subnet.first <= pool.max.first
  );
}

/** How many subnets the pool has. */
export function poolSize(pool: PoolConfig): bigint {
  return indexOf(pool, pool.max.first) + 1n;
}

/** The number, from `min` on, of the subnet that holds this address. */
function indexOf(pool: PoolConfig, address: bigint): bigint {
  const hostBits = BigInt(addressBits(pool.min.family) - pool.subnetLength);
  return (address - pool.min.first) >> hostBits;
}

/** The subnets of the pool that `taken` overlaps, as disjoint runs in ascending order. */
function usedRuns(pool: PoolConfig, taken: Iterable<Subnet>): Run[] {
  const runs: Run[] = [];
  let next = 0n; // The lowest number not counted yet.
  for (const { from, to } of overlapsInside(pool, taken).toSorted(byStart)) {
    if (to < next) continue;
    runs.push({ from: from > next ? from : next, to });
    next = to + 1n;
  }
  return runs;
}

function overlapsInside(pool: PoolConfig, taken: Iterable<Subnet>): OrderedRun[] {
  const { min, max, subnetLength } = pool;
  const inside: OrderedRun[] = [];
  for (const subnet of taken) {
    if (subnet.family !== min.family || subnet.first > max.last || subnet.last < min.first) continue;
    const from = indexOf(pool, subnet.first); // Negative when it begins before the pool.
    const within = subnet.length >= subnetLength;
    const to = within ? from : indexOf(pool, subnet.last < max.last ? subnet.last : max.last);
    inside.push({ order: Number(from), from, to });
  }
  return inside;
}

/** `order` is `from` as far as a double can tell: comparing it first makes sorting 60,000 runs three times as fast. */
interface OrderedRun extends Run {
  readonly order: number;
}

function byStart(a: OrderedRun, b: OrderedRun): number {
  return a.order - b.order || (a.from < b.from ? -1 : Number(a.from > b.from));
}

function countOf(runs: readonly Run[]): bigint {
  let count = 0n;
  for (const run of runs) count += run.to - run.from + 1n;
  return count;
}

/** Below this bound one draw is uniform enough whatever the generator: seeded ones give 32 bits. */
const oneDraw = 1 << 20;

/** An integer in [0, bound), uniformly: an IPv6 pool has up to 2^125 subnets, more than one draw can tell apart. */
function randomBelow(random: Random, bound: bigint): bigint {
  if (bound <= BigInt(oneDraw)) return BigInt(randomInt(random, Number(bound)));
  let value = 0n;
  let range = 1n;
  // 20 bits beyond the bound make the bias of scaling down less than one in a million.
  while (range < bound * BigInt(oneDraw)) {
    value = value * BigInt(oneDraw) + BigInt(randomInt(random, oneDraw));
    range *= BigInt(oneDraw);
  }
  return (value * bound) / range;
}

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
