import { addressBits, overlaps, type PerFamily, type Subnet, subnetAt } from '../../ip/ip.ts';
import { type Clock, type Random, randomInt } from '../../runtime/effects.ts';
import { FlannelError } from '../../runtime/errors.ts';
import { counted, plural } from '../../runtime/texts.ts';
import type { PoolConfig } from '../config/config.ts';
import { type LeaseSubnets, occupiedSubnets } from '../keys.ts';
import type { KeyValue } from '../registry/registry.ts';
import type { LeaseOptions } from './own-lease.ts';

/** A run of the pool's subnets by number, counted from `min` (0); it includes both ends. */
interface Run {
  readonly from: bigint;
  readonly to: bigint;
}

/**
 * A subnet of the pool that overlaps none of `taken`, each free one equally likely; undefined when there is
 * none. `taken` may hold other lengths and families, overlaps, duplicates, subnets outside the pool.
 *
 * Takes the time of sorting `taken`, whatever the size of the pool.
 */
export function chooseSubnet(pool: PoolConfig, taken: Iterable<Subnet>, random: Random): Subnet | undefined {
  const used = usedRuns(pool, taken);
  const free = used.reduce((left, { from, to }) => left - (to - from + 1n), poolSize(pool));
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

/** Whether the subnet belongs to the pool: it has the pool's length, and min ≤ subnet ≤ max. */
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

/** How much of a pool is left. */
export interface PoolRoom {
  readonly size: bigint;
  readonly free: bigint;
  /** The longest run of free subnets; absent when none is free. */
  readonly largestGap?: { readonly from: Subnet; readonly to: Subnet; readonly count: bigint };
}

/** What of a pool `taken` leaves free. */
export function poolRoom(pool: PoolConfig, taken: Iterable<Subnet>): PoolRoom {
  const size = poolSize(pool);
  const used = usedRuns(pool, taken);
  let [free, next] = [0n, 0n];
  let largest: Run = { from: 0n, to: -1n };
  for (const { from, to } of [...used, { from: size, to: size }]) {
    free += from - next;
    if (from - next > largest.to - largest.from + 1n) largest = { from: next, to: from - 1n };
    next = to + 1n;
  }
  if (free === 0n) return { size, free };
  const { family, first } = pool.min;
  const bits = BigInt(addressBits(family) - pool.subnetLength);
  const at = (index: bigint) => subnetAt(family, first + (index << bits), pool.subnetLength);
  const count = largest.to - largest.from + 1n;
  return { size, free, largestGap: { from: at(largest.from), to: at(largest.to), count } };
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

/** `order` is `from` as a double: comparing it first makes sorting 60,000 runs three times as fast. */
interface OrderedRun extends Run {
  readonly order: number;
}

function byStart(a: OrderedRun, b: OrderedRun): number {
  return a.order - b.order || (a.from < b.from ? -1 : Number(a.from > b.from));
}

/** Below this bound one draw is uniform enough whatever the generator: seeded ones give 32 bits. */
const oneDraw = 1 << 20;

/** An integer in [0, bound), uniformly: an IPv6 pool has up to 2^125 subnets, too many for one draw. */
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

/** A subnet for each family that is on; `fresh` are those that are not kept. */
export interface ChosenSubnets {
  readonly subnets: LeaseSubnets;
  readonly fresh: LeaseSubnets;
  readonly hinted: boolean;
}

/**
 * Chooses a subnet for each family that is on: the kept one, else the hint's, else a random one that overlaps
 * none of `taken`. Returns the pool without a free subnet instead, if one has none. The hint counts as a
 * whole: if one of its subnets is taken or does not fit, both may come from a copied disk.
 */
export function chooseSubnets(
  { pools, random }: { readonly pools: PerFamily<PoolConfig>; readonly random: Random },
  taken: readonly Subnet[],
  { kept = {}, hint = {} }: { readonly kept?: LeaseSubnets; readonly hint?: LeaseSubnets | undefined },
): ChosenSubnets | { readonly exhausted: PoolConfig } {
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

/** For an exhausted pool the daemon asks for the expiry of this many leases, every ten minutes. */
const expiriesAsked = 32;
const askAgainMs = 600_000;
/** In hours; coarse, so that the log does not repeat the same trouble with another number. */
const spans = [1, 6, 24];

/** Every subnet of the pool is leased or overlapped by a lease. */
export class PoolExhaustedError extends FlannelError {
  constructor(pool: PoolConfig, used: string) {
    const { min, max } = pool;
    const size = poolSize(pool);
    const all =
      size === 1n ? `the only one, ${min.text}, is` : `all ${size} from ${min.text} to ${max.text} are`;
    const prefix = min.family === 4 ? '' : 'IPv6';
    super('POOL_EXHAUSTED', `no free subnet: ${all} used, ${used}`, {
      remedy:
        `Enlarge ${prefix}Network or ${prefix}SubnetMin..${prefix}SubnetMax, ` +
        'or release the leases of hosts that are gone (flanneld-ts lease release)',
    });
  }
}

/** Describes a pool without a free subnet, and remembers the leases' expiry between two questions. */
export class Exhaustion {
  #expiry = '';
  #askedAtMs = Number.NEGATIVE_INFINITY;

  /** The error for `pool`; `kvs`: all keys under the prefix. Rejects as the registry does. */
  async errorFor(
    { registry, subnetsPrefix, clock }: LeaseOptions & { readonly clock: Clock },
    pool: PoolConfig,
    kvs: readonly KeyValue[],
    signal: AbortSignal,
  ): Promise<PoolExhaustedError> {
    const { family } = pool.min;
    const keys = kvs.filter(({ key }) =>
      occupiedSubnets(subnetsPrefix, key).some((one) => one.family === family),
    );
    const reservations = keys.filter(({ lease }) => lease === '0').length;
    if (clock.monotonic() - this.#askedAtMs >= askAgainMs) {
      const leaseIds = new Set(keys.map(({ lease }) => lease).filter((id) => id !== '0'));
      const asked = [...leaseIds].slice(0, expiriesAsked);
      const ttls: number[] = [];
      for (const id of asked) ttls.push((await registry.leaseTimeToLive(id, signal)).ttlSeconds);
      const soonestS = Math.min(...ttls.filter((ttl) => ttl >= 0));
      const span = spans.find((hours) => soonestS <= hours * 3_600);
      const when = span === undefined ? 'in more than 24 h' : `within ${span} h`;
      const first =
        asked.length < leaseIds.size ? `the first of ${asked.length} leases checked` : 'the first lease';
      this.#askedAtMs = clock.monotonic();
      this.#expiry =
        asked.length === 0 ? 'none of them expires' : `${first} expires ${when}, unless its host renews it`;
    }
    const reserved = `${reservations} of them ${plural(reservations, 'a reservation', 'reservations')}`;
    const used = `by ${counted(keys.length, 'key')}, ${reserved}, under ${subnetsPrefix}; ${this.#expiry}`;
    return new PoolExhaustedError(pool, used);
  }
}
