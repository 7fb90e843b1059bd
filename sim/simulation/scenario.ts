import { type Random, randomInt } from '../../src/runtime/effects.ts';
import { SeededRandom } from '../random.ts';
import type { Fault } from './fault.ts';
import { faults } from './faults.ts';

/** One thing that happens. What it does beyond its kind it chooses by `dice`, so that it stays the same when others are left out. */
export interface FaultEvent {
  readonly atMs: number;
  readonly kind: string;
  /** Index of the host it happens to, or that it has in mind. */
  readonly host: number;
  /** What lasts is put right after so long. */
  readonly forMs: number;
  readonly dice: number;
}

/** A whole run: everything in it follows from this. */
export interface Scenario {
  readonly seed: number;
  readonly hosts: number;
  readonly minutes: number;
  readonly ipv6: boolean;
  /** How many subnets there are to lease. */
  readonly pool: number;
  readonly leaseTtlSeconds: number;
  /** Watch messages hold at most so many events; 0: no limit. */
  readonly fragmentEvents: number;
  readonly kernelLatencyMs: number;
  /** How often idle watches are told the revision; 0: never. */
  readonly progressMs: number;
  /** When each host is started for the first time. */
  readonly joinsMs: readonly number[];
  readonly events: readonly FaultEvent[];
}

export interface Size {
  readonly hosts?: number | undefined;
  readonly minutes?: number | undefined;
}

/** How many things go wrong in a minute. */
const eventsPerMinute = 4;

/** The scenario of a seed; hosts and minutes follow from the seed too, unless they are given. */
export function scenarioOf(seed: number, size: Size = {}): Scenario {
  const random = new SeededRandom(Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995);
  const pick = <T>(...choices: readonly T[]) => choices[randomInt(random, choices.length)] as T;
  const drawn = { hosts: pick(2, 3, 3, 4, 5, 6), minutes: pick(4, 6, 8, 10) };
  const hosts = size.hosts ?? drawn.hosts;
  const minutes = size.minutes ?? drawn.minutes;
  const settings = {
    seed,
    hosts,
    minutes,
    ipv6: random.next() < 0.25,
    pool: pick(hosts, hosts, hosts + 2, 200, 200, Math.max(1, hosts - 1)),
    leaseTtlSeconds: pick(120, 300, 300, 86_400),
    fragmentEvents: pick(0, 0, 1, 2),
    kernelLatencyMs: pick(0, 0, 1, 20),
    progressMs: pick(0, 60_000, 600_000),
    joinsMs: joins(random, hosts, minutes),
  };
  const count = Math.ceil(minutes * eventsPerMinute * (0.3 + 1.4 * random.next()));
  // A few kinds to a run: what goes together is found sooner than in a bit of everything.
  const kinds = usual.filter(() => random.next() < 0.4);
  // The other clusters keep the schedules that tests know by their seeds.
  if (seed % 8 === 6) kinds.push(...apart.filter(() => random.next() < 0.6));
  const events = Array.from({ length: count }, () => draw(random, kinds, settings));
  return { ...settings, events: events.toSorted((a, b) => a.atMs - b.atMs) };
}

const namesOf = (isApart: boolean) =>
  [...faults].filter(([, { apart = false }]) => apart === isApart).map(([name]) => name);
const [usual, apart] = [namesOf(false), namesOf(true)];

/** Every other cluster starts all its hosts at the same moment; in some a few come only in the course of it. */
function joins(random: Random, hosts: number, minutes: number): readonly number[] {
  const [first, late] = [random.next() < 0.5 ? 0 : 3_000, random.next() < 0.3 ? 0.4 : 0];
  return Array.from({ length: hosts }, () => {
    const latestMs = random.next() < late ? minutes * 60_000 : first;
    return Math.round(random.next() * latestMs);
  });
}

function draw(
  random: Random,
  kinds: readonly string[],
  { hosts, minutes }: { readonly hosts: number; readonly minutes: number },
): FaultEvent {
  const kind = kindOf(random, kinds.length > 0 ? kinds : usual);
  const [shortestMs, longestMs] = (faults.get(kind) as Fault).lastsMs;
  // Short and long alike: many races are decided within milliseconds, leases end after minutes.
  const forMs = shortestMs * (longestMs / shortestMs) ** random.next();
  const atMs = random.next() * minutes * 60_000;
  return {
    atMs: Math.round(atMs * 1000) / 1000,
    kind,
    host: randomInt(random, hosts),
    forMs: Math.round(forMs * 1000) / 1000,
    dice: randomInt(random, 2 ** 31),
  };
}

function kindOf(random: Random, kinds: readonly string[]): string {
  const weights = kinds.map((kind) => faults.get(kind)?.weight ?? 0);
  let left = random.next() * weights.reduce((sum, weight) => sum + weight, 0);
  for (const [index, weight] of weights.entries()) {
    left -= weight;
    if (left <= 0) return kinds[index] as string;
  }
  return kinds.at(-1) as string;
}
