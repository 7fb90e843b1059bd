import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { exec } from '../testbed/commands.ts';
import { Life, type Program } from './life.ts';
import { gatewayOf, nowMs, type Stage, subnetOf } from './stage.ts';

/** All values that one program gave for one row of the table. */
export interface Measured {
  readonly row: string;
  readonly unit: 'ms' | 'MiB' | '%';
  readonly peers: number;
  readonly program: string;
  readonly values: number[];
}

/** How long and how often. */
export interface Effort {
  /** Peers, and how many starts of each program with so many. */
  readonly starts: ReadonlyMap<number, number>;
  /** For garbage to go, and for what a daemon still does after a start, before it counts as at rest. */
  readonly settleMs: number;
  readonly idleMs: number;
  readonly changes: number;
  /** Peers in the rows about bursts; 0 leaves them out. */
  readonly burst: number;
  readonly streamMs: number;
  readonly foreignRoutes: number;
}

export const FULL: Effort = {
  starts: new Map([
    [0, 11],
    [1_000, 7],
    [4_096, 5],
    [10_000, 3],
  ]),
  settleMs: 15_000,
  idleMs: 20_000,
  changes: 25,
  burst: 10_000,
  streamMs: 60_000,
  foreignRoutes: 100_000,
};

export const QUICK: Effort = {
  starts: new Map([
    [0, 5],
    [1_000, 3],
  ]),
  settleMs: 5_000,
  idleMs: 3_000,
  changes: 10,
  burst: 1_000,
  streamMs: 5_000,
  foreignRoutes: 0,
};

/** The floor that the kernel sets: `ip -batch` adds the same routes. */
export const FLOOR = 'ip -batch';
/** flanneld's routes of a whole network take minutes: with so many peers it is started once, not in every round. */
const SLOW_PEERS = 4_096;
const CHANGES_PER_SECOND = 1_000;

/** Measures programs beside each other on one stage: each round has one start of each. */
export class Measurement {
  readonly #stage: Stage;
  readonly #programs: readonly Program[];
  readonly #effort: Effort;
  readonly #say: (line: string) => void;
  readonly #all = new Map<string, Measured>();
  #lives = 0;

  constructor(stage: Stage, programs: readonly Program[], effort: Effort, say: (line: string) => void) {
    this.#stage = stage;
    this.#programs = programs;
    this.#effort = effort;
    this.#say = say;
  }

  get results(): readonly Measured[] {
    return [...this.#all.values()];
  }

  async run(): Promise<void> {
    for (const [peers, rounds] of this.#effort.starts) await this.#starts(peers, rounds);
    const { burst, foreignRoutes } = this.#effort;
    if (burst > 0) await this.#changesInCrowds(burst, '');
    if (foreignRoutes > 0) {
      await this.#addForeignRoutes(foreignRoutes);
      await this.#changesInCrowds(burst, ` beside ${foreignRoutes} foreign routes`);
    }
  }

  async #starts(peers: number, rounds: number): Promise<void> {
    await this.#stage.removePeers();
    await this.#stage.putPeers(range(peers));
    for (let round = 0; round < rounds; round++) {
      if (peers > 0)
        this.#note('start → subnet.env and routes', 'ms', peers, FLOOR, await this.#floorMs(peers));
      for (const program of this.#programs) {
        if (program.isSlow && peers >= SLOW_PEERS && round > 0) continue;
        await this.#life(program, false, async (life) => {
          const upMs = await life.upMs(peers);
          this.#note('start → subnet.env and routes', 'ms', peers, program.name, upMs);
          if (round === 0) await this.#atRest(life, program, peers);
        });
      }
    }
  }

  /** Of one process: its weight, and one change at a time. */
  async #atRest(life: Life, { name }: Program, peers: number): Promise<void> {
    const { settleMs, idleMs, changes } = this.#effort;
    await sleep(settleMs);
    const { rss, anonymous, peak } = life.memory;
    this.#note('RSS at rest', 'MiB', peers, name, rss);
    this.#note('RSS at rest, anonymous part', 'MiB', peers, name, anonymous);
    this.#note('RSS, peak of the start', 'MiB', peers, name, peak);
    this.#note('idle CPU, of one core', '%', peers, name, await life.cpuPercent(idleMs));
    for (let change = 0; change < changes; change++) {
      this.#note('one lease added → route', 'ms', peers, name, await life.addMs(peers + 1));
      if (peers > 0)
        this.#note('one lease moved → route', 'ms', peers, name, await life.changeMs(change % peers));
    }
  }

  async #changesInCrowds(peers: number, where: string): Promise<void> {
    for (const program of this.#programs) {
      if (program.isSlow && (where !== '' || peers > 1_000)) continue;
      await this.#stage.removePeers();
      await this.#stage.putPeers(range(peers));
      await this.#life(program, true, async (life) => {
        await life.upMs(peers);
        if (program.isNode) await life.loopDelayMs();
        const row = `${peers} leases moved in a burst`;
        const [burstMs, longestMs] = await whileProbing(() => life.burstMs(range(peers), 1));
        this.#note(`${row} → last route${where}`, 'ms', peers, program.name, burstMs);
        this.#note(`${row}, longest answer of /healthz${where}`, 'ms', peers, program.name, longestMs);
        await this.#noteLoopDelay(life, program, peers, `${row}, event-loop delay${where}`);
        await this.#stream(life, program, peers, where);
      });
    }
  }

  /** Many changes a second, for a while. */
  async #stream(life: Life, program: Program, peers: number, where: string): Promise<void> {
    const { name } = program;
    const { streamMs } = this.#effort;
    const cpu = life.cpuPercent(streamMs);
    const batch = CHANGES_PER_SECOND / 10;
    const sent: { readonly atMs: number; readonly peers: readonly number[]; readonly moved: 0 | 1 }[] = [];
    const mark = this.#stage.monitor.events.length;
    const [took, longestMs] = await whileProbing(async () => {
      const startedMs = nowMs();
      const moved = new Map<number, 0 | 1>();
      for (let turn = 0; turn * 100 < streamMs; turn++) {
        await sleep(Math.max(0, startedMs + turn * 100 - nowMs()));
        const some = range(batch).map((i) => (turn * batch + i) % peers);
        const to = moved.get(some[0] ?? 0) === 0 ? 1 : 0;
        for (const peer of some) moved.set(peer, to);
        sent.push({ atMs: await this.#stage.putPeers(some, to), peers: some, moved: to });
      }
      return await life.streamMs(sent, mark);
    });
    const row = `${CHANGES_PER_SECOND} leases moved a second → route`;
    this.#note(`${row}, CPU of one core${where}`, '%', peers, name, await cpu);
    this.#note(`${row}, longest answer of /healthz${where}`, 'ms', peers, name, longestMs);
    await this.#noteLoopDelay(life, program, peers, `${row}, event-loop delay${where}`);
    for (const [label, share] of [
      ['p50', 0.5],
      ['p99', 0.99],
    ] as const)
      this.#note(`${row}, ${label}${where}`, 'ms', peers, name, quantile(took, share));
  }

  /** The longest since the last time that the program kept a timer waiting. */
  async #noteLoopDelay(life: Life, { name, isNode }: Program, peers: number, row: string): Promise<void> {
    if (isNode) this.#note(row, 'ms', peers, name, await life.loopDelayMs());
  }

  /** `inCrowds`: it is asked for its health meanwhile, and its event loop is watched. */
  async #life(program: Program, inCrowds: boolean, use: (life: Life) => Promise<void>): Promise<void> {
    await this.#stage.clearHost();
    const started = { flags: inCrowds ? healthFlags : [], watched: inCrowds && program.isNode === true };
    const life = await Life.start(this.#stage, program, this.#lives++, started);
    try {
      await use(life);
    } finally {
      await life.end();
    }
  }

  async #floorMs(peers: number): Promise<number> {
    await this.#stage.clearHost();
    const file = join(this.#stage.dir, 'routes');
    const lines = range(peers).map(
      (peer) => `route add ${subnetOf(peer)} via ${gatewayOf(peer)} dev eth0 onlink`,
    );
    writeFileSync(file, `${lines.join('\n')}\n`);
    const startedMs = nowMs();
    await exec(this.#stage.host.namespace, 'ip', '-batch', file);
    return nowMs() - startedMs;
  }

  /** Another program's, outside the cluster's network, all by one gateway. */
  async #addForeignRoutes(count: number): Promise<void> {
    const file = join(this.#stage.dir, 'foreign');
    const lines = range(count).map(
      (i) => `route add 11.${i >> 16}.${(i >> 8) & 255}.${i & 255}/32 dev lo proto 99`,
    );
    writeFileSync(file, `${lines.join('\n')}\n`);
    await exec(this.#stage.host.namespace, 'ip', '-batch', file);
  }

  #note(row: string, unit: Measured['unit'], peers: number, program: string, value: number): void {
    const key = `${row}/${peers}/${program}`;
    const measured = this.#all.get(key) ?? { row, unit, peers, program, values: [] };
    this.#all.set(key, measured);
    measured.values.push(value);
    this.#say(`N = ${peers}  ${program}  ${row}: ${value.toFixed(unit === 'ms' ? 1 : 2)} ${unit}`);
  }
}

const HEALTH_PORT = 8_471;
const healthFlags = ['--healthz-ip=127.0.0.1', `--healthz-port=${HEALTH_PORT}`];
const PROBE_EVERY_MS = 20;

/** The result of `work`, and the ms that the longest answer to /healthz took meanwhile: as long as the process had no time for it. */
async function whileProbing<T>(work: () => Promise<T>): Promise<readonly [T, number]> {
  const over = new AbortController();
  const probing = longestAnswerMs(over.signal);
  try {
    const result = await work();
    over.abort();
    return [result, await probing];
  } finally {
    over.abort();
    await probing;
  }
}

async function longestAnswerMs(signal: AbortSignal): Promise<number> {
  let longestMs = 0;
  while (!signal.aborted) {
    const startedMs = nowMs();
    const answer = await fetch(`http://127.0.0.1:${HEALTH_PORT}/healthz`);
    await answer.text();
    longestMs = Math.max(longestMs, nowMs() - startedMs);
    await sleep(PROBE_EVERY_MS);
  }
  return longestMs;
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** `share` from 0 to 1; the lower of two neighbours. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) * share)] ?? Number.NaN;
}
