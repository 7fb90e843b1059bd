import { untilReadyz } from '../integration/bench.ts';
import { subnetOf } from '../integration/route-watch.ts';
import type { ClusterHost } from '../testbed/cluster.ts';
import { until } from '../testbed/netns.ts';
import { Chance } from './chance.ts';
import { changes, etcdFaults, hostFaults } from './faults.ts';
import { type Holdings, holdingsOf, violations } from './invariants.ts';
import { HEALTHZ_PORT, makeSoakWorld, type SoakWorld } from './soak-world.ts';

/** Within this time of the last fault's end all has to be well. A lease nobody holds any more lives for 60 s. */
const QUIET_DEADLINE_MS = 120_000;
/** What a daemon may hold more than at first: a connection to each member, under way to being closed. */
const MORE_FDS = 8;
/** All is well when it is for so long: a daemon may still be about to notice what was done to it. */
const SETTLED_MS = 400;
/** A daemon has some 90 MiB; one that grew by so much does so for ever. */
const MOST_RSS_MIB = 200;
/**
 * How much more than in the first third of the quiet moments the veteran may hold in the last, by the medians, and from how
 * many moments on that means something. Memory goes up and down by itself; files and sockets hardly do.
 */
const MOST_RSS_GROWTH = 1.25;
const MOMENTS_FOR_RSS = 30;
const MORE_DESCRIPTORS = 2;
const MOMENTS_FOR_DESCRIPTORS = 9;

export interface SoakOptions {
  /** How long new faults are made. */
  readonly minutes: number;
  readonly seed: number;
  readonly say: (line: string) => void;
  /** Ends the run before its time. */
  readonly signal: AbortSignal;
}

/** What a run has seen. */
export interface SoakFigures {
  readonly rounds: number;
  /** How often each fault was made. */
  readonly made: ReadonlyMap<string, number>;
  /** From the end of a round's last fault until all was well. */
  readonly recoveriesMs: readonly number[];
  /** What the daemon that was never restarted held in each quiet moment. */
  readonly veteran: readonly Holdings[];
  /** The most that any daemon held. */
  readonly most: Holdings;
  /** Lines of log of all daemons, by level. */
  readonly logLines: ReadonlyMap<string, number>;
}

/**
 * Runs a cluster of real daemons and a real etcd under faults and changes, and holds it to its invariants whenever they are over.
 * Rejects with the first violation; the cluster is gone in any case.
 */
export async function soak(options: SoakOptions): Promise<SoakFigures> {
  const world = await makeSoakWorld();
  try {
    return await new Soak(world, options).run();
  } finally {
    await world.cluster.close();
  }
}

class Soak {
  readonly #world: SoakWorld;
  readonly #options: SoakOptions;
  readonly #subnets: ReadonlyMap<ClusterHost, string>;
  readonly #recoveriesMs: number[] = [];
  readonly #veteran: Holdings[] = [];
  #most: Holdings = { fds: 0, sockets: 0, rssMiB: 0 };

  constructor(world: SoakWorld, options: SoakOptions) {
    this.#world = world;
    this.#options = options;
    this.#subnets = new Map(world.cluster.hosts.map((host) => [host, subnetOf(host)]));
  }

  async run(): Promise<SoakFigures> {
    const { minutes, signal } = this.#options;
    const endMs = performance.now() + minutes * 60_000;
    await this.#quiet('the start');
    while (performance.now() < endMs && !signal.aborted) await this.#round();
    this.#checkGrowth();
    return {
      rounds: this.#recoveriesMs.length - 1,
      made: this.#world.made,
      recoveriesMs: this.#recoveriesMs.slice(1),
      veteran: this.#veteran,
      most: this.#most,
      logLines: this.#logLines(),
    };
  }

  /** One to three faults at the same time, on different hosts; then quiet. */
  async #round(): Promise<void> {
    const world = this.#world;
    const names: string[] = [];
    const running: Promise<void>[] = [];
    const chanceOf = (fault: number) => new Chance(this.#options.seed, this.#recoveriesMs.length, fault);
    const choice = chanceOf(0);
    const make = (name: string, run: (chance: Chance) => Promise<void>) => {
      names.push(name);
      world.made.set(name, (world.made.get(name) ?? 0) + 1);
      running.push(run(chanceOf(names.length)));
    };
    const hosts = world.cluster.hosts.filter(() => choice.between(0, 1) < 0.4);
    for (const host of hosts) {
      const fault = choice.pick(hostFaults.filter(({ endsDaemon }) => !endsDaemon || host !== world.veteran));
      make(fault.name, (chance) => fault.run(host, chance));
    }
    if (choice.between(0, 1) < 0.4) {
      const fault = choice.pick(etcdFaults);
      make(fault.name, (chance) => fault.run(world, chance));
    }
    const change = choice.pick(changes);
    make(change.name, (chance) => change.run(world, chance));
    await Promise.all(running);
    await this.#quiet(names.join(', '));
  }

  async #quiet(after: string): Promise<void> {
    const startMs = performance.now();
    let found: readonly string[] = [];
    let wellSinceMs: number | undefined;
    const well = async () => {
      const askedMs = performance.now();
      found = await violations(this.#world, this.#subnets).catch((error: unknown) => [String(error)]);
      wellSinceMs = found.length === 0 ? (wellSinceMs ?? askedMs) : undefined;
      return wellSinceMs !== undefined && askedMs - wellSinceMs >= SETTLED_MS;
    };
    await until(well, QUIET_DEADLINE_MS, () => `after ${after}:\n${found.join('\n')}`);
    const tookMs = (wellSinceMs ?? startMs) - startMs;
    this.#recoveriesMs.push(tookMs);
    await this.#checkReady(after);
    this.#checkHoldings(after);
    this.#options.say(`${after}: all is well after ${(tookMs / 1_000).toFixed(1)} s`);
  }

  #checkHoldings(after: string): void {
    for (const host of this.#world.cluster.hosts) {
      const now = holdingsOf(host.daemon.pid);
      const most = this.#most;
      this.#most = {
        fds: Math.max(most.fds, now.fds),
        sockets: Math.max(most.sockets, now.sockets),
        rssMiB: Math.max(most.rssMiB, now.rssMiB),
      };
      if (host === this.#world.veteran) this.#veteran.push(now);
      const first = this.#veteran[0] ?? now;
      if (now.fds > first.fds + MORE_FDS)
        throw new Error(`after ${after}: ${host.name} has ${now.fds} files open, ${first.fds} at first`);
      if (now.rssMiB > MOST_RSS_MIB) throw new Error(`after ${after}: ${host.name} has ${now.rssMiB} MiB`);
    }
  }

  async #checkReady(after: string): Promise<void> {
    const ready = ({ name, net }: ClusterHost) => {
      const more = () => `after ${after}: ${name} is not ready`;
      return untilReadyz(net.namespace, HEALTHZ_PORT, { status: 200, timeoutMs: QUIET_DEADLINE_MS, more });
    };
    await Promise.all(this.#world.cluster.hosts.map(ready));
  }

  #checkGrowth(): void {
    const moments = this.#veteran.length;
    const third = Math.floor(moments / 3);
    const thirds = (what: keyof Holdings): readonly [number, number] => {
      const all = this.#veteran.map((holdings) => holdings[what]);
      return [median(all.slice(0, third)), median(all.slice(-third))];
    };
    for (const what of ['fds', 'sockets'] as const) {
      const [early, late] = thirds(what);
      if (moments >= MOMENTS_FOR_DESCRIPTORS && late > early + MORE_DESCRIPTORS)
        throw new Error(`the veteran went from ${early} to ${late} ${what}`);
    }
    const [early, late] = thirds('rssMiB');
    if (moments >= MOMENTS_FOR_RSS && late > early * MOST_RSS_GROWTH)
      throw new Error(`the veteran grew from ${early} to ${late} MiB`);
  }

  #logLines(): ReadonlyMap<string, number> {
    const levels = new Map<string, number>();
    for (const { daemon } of this.#world.cluster.hosts) {
      for (const { level } of daemon.history()) levels.set(level, (levels.get(level) ?? 0) + 1);
    }
    return levels;
  }
}

/** The one in the middle. */
export function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;
}
