import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../testbed/commands.ts';
import { RunningProcess } from '../testbed/process.ts';
import { gatewayOf, nowMs, type Stage, subnetOf } from './stage.ts';

/** A program to measure, and what only it understands. */
export interface Program {
  readonly name: string;
  readonly command: readonly string[];
  /** `FOLDER` in them stands for the folder of the process's own files. */
  readonly flags?: readonly string[];
  /** A script of Node's, so that its event loop can be watched. */
  readonly isNode?: boolean;
  /** Minutes for thousands of routes: such starts are measured once. */
  readonly isSlow?: boolean;
}

const START_LIMIT_MS = 600_000;
const CHANGE_LIMIT_MS = 60_000;
/** Ticks per second of /proc/PID/stat: USER_HZ, 100 on every Linux. */
const TICKS_PER_SECOND = 100;

const loopDelayScript = join(import.meta.dirname, 'loop-delay.ts');

/** One process of a program on a stage, from its start to its end. */
export class Life {
  readonly #stage: Stage;
  readonly #process: RunningProcess;
  readonly #startedMs: number;
  readonly #subnetFile: string;
  readonly #mark: number;

  private constructor(stage: Stage, running: RunningProcess, startedMs: number, file: string, mark: number) {
    this.#stage = stage;
    this.#process = running;
    this.#startedMs = startedMs;
    this.#subnetFile = file;
    this.#mark = mark;
  }

  /** Starts the program with an empty folder for its files; `watched`: so that {@link loopDelayMs} works. */
  static async start(
    stage: Stage,
    program: Program,
    number: number,
    { flags: more, watched }: { readonly flags: readonly string[]; readonly watched: boolean },
  ): Promise<Life> {
    const folder = join(stage.dir, `run-${number}`);
    mkdirSync(folder);
    const file = join(folder, 'subnet.env');
    const mark = await stage.monitor.mark();
    const flags = [...stage.flags, `--subnet-file=${file}`, ...(program.flags ?? []), ...more];
    const argv = [...program.command, ...flags.map((flag) => flag.replaceAll('FOLDER', folder))];
    const startedMs = nowMs();
    const running = new RunningProcess(argv, {
      env: {
        PATH: process.env['PATH'],
        ...(watched && { NODE_OPTIONS: `--require=${loopDelayScript}` }),
      },
      logFile: join(folder, 'log'),
    });
    return new Life(stage, running, startedMs, file, mark);
  }

  /** Waits for subnet.env and the routes to peers 0 to `peers` - 1; resolves to the ms from the start to both. */
  async upMs(peers: number): Promise<number> {
    const fileMs = this.#subnetFileMs();
    const wanted = new Set(Array.from({ length: peers }, (_, peer) => subnetOf(peer)));
    const routesMs = peers === 0 ? this.#startedMs : await this.#routesMs(wanted, this.#mark, START_LIMIT_MS);
    return Math.max(await fileMs, routesMs) - this.#startedMs;
  }

  async #subnetFileMs(): Promise<number> {
    while (!existsSync(this.#subnetFile)) {
      this.#assertRuns();
      await sleep(1);
    }
    return nowMs();
  }

  /** When the kernel told of the last of these routes, wherever they lead. */
  async #routesMs(wanted: Set<string>, mark: number, limitMs: number): Promise<number> {
    let next = mark;
    let lastMs = 0;
    const look = () => {
      this.#assertRuns();
      const { events } = this.#stage.monitor;
      for (; next < events.length; next++) {
        const event = events[next];
        const dst = /^\[ROUTE\](10\S+) via /.exec(event?.text ?? '')?.[1];
        if (dst !== undefined && wanted.delete(dst)) lastMs = event?.atMs ?? 0;
      }
      return wanted.size === 0;
    };
    await until(look, limitMs, () => `${wanted.size} routes are missing\n${this.#process.tail()}`);
    return lastMs;
  }

  /** Ms from the request that puts a new lease to the kernel's word of its route; the lease goes again. */
  async addMs(peer: number): Promise<number> {
    const mark = this.#stage.monitor.events.length;
    const sentMs = await this.#stage.putPeer(peer);
    const took = (await this.#told(`${subnetOf(peer)} via ${gatewayOf(peer)} `, mark)) - sentMs;
    await this.#stage.removePeer(peer);
    await this.#told(`Deleted ${subnetOf(peer)} `, mark);
    return took;
  }

  /** Ms from the request that moves a lease to the kernel's word of the new route; it moves back again. */
  async changeMs(peer: number): Promise<number> {
    let tookMs = 0;
    for (const moved of [1, 0] as const) {
      const mark = this.#stage.monitor.events.length;
      const sentMs = await this.#stage.putPeer(peer, moved);
      tookMs = (await this.#told(`${subnetOf(peer)} via ${gatewayOf(peer, moved)} `, mark)) - sentMs;
    }
    return tookMs;
  }

  /** Moves the leases of all these peers at once; ms from the last request to the last route. */
  async burstMs(peers: readonly number[], moved: 0 | 1): Promise<number> {
    const mark = this.#stage.monitor.events.length;
    const sentMs = await this.#stage.putPeers(peers, moved);
    return (await this.#routesMs(new Set(peers.map(subnetOf)), mark, START_LIMIT_MS)) - sentMs;
  }

  /** For each lease in `sent`: ms from the request to the kernel's word of its new route, as far as it gave one. */
  async streamMs(
    sent: readonly { readonly atMs: number; readonly peers: readonly number[]; readonly moved: 0 | 1 }[],
    mark: number,
  ): Promise<readonly number[]> {
    const last = sent.at(-1);
    const lastPeer = last?.peers.at(-1) ?? 0;
    await this.#told(`${subnetOf(lastPeer)} via ${gatewayOf(lastPeer, last?.moved)} `, mark);
    const told = new Map<string, number[]>();
    for (const { text, atMs } of this.#stage.monitor.events.slice(mark)) {
      const route = /^\[ROUTE\](10\S+ via \S+) /.exec(text)?.[1];
      if (route === undefined) continue;
      const times = told.get(route) ?? [];
      told.set(route, times);
      times.push(atMs);
    }
    return sent.flatMap(({ atMs, peers, moved }) =>
      peers.flatMap((peer) => {
        const times = told.get(`${subnetOf(peer)} via ${gatewayOf(peer, moved)}`) ?? [];
        const seen = times.find((one) => one >= atMs);
        return seen === undefined ? [] : [seen - atMs];
      }),
    );
  }

  async #told(text: string, mark: number): Promise<number> {
    const pattern = new RegExp(`^\\[ROUTE\\]${text.replaceAll('.', '\\.')}`);
    return (await this.#stage.monitor.waitFor(pattern, mark, CHANGE_LIMIT_MS)).atMs;
  }

  /** MiB: resident, its anonymous part, and the most that was ever resident. */
  get memory(): { readonly rss: number; readonly anonymous: number; readonly peak: number } {
    const status = readFileSync(`/proc/${this.#process.pid}/status`, 'utf8');
    const mib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]) / 1_024;
    return { rss: mib('VmRSS'), anonymous: mib('RssAnon'), peak: mib('VmHWM') };
  }

  /** Percent of one core used during the next `ms`. */
  async cpuPercent(ms: number): Promise<number> {
    const before = this.#cpuSeconds;
    const startedMs = nowMs();
    await sleep(ms);
    return (100_000 * (this.#cpuSeconds - before)) / (nowMs() - startedMs);
  }

  get #cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.#process.pid}/stat`, 'utf8');
    // After the name, which may hold spaces: utime and stime are the 12th and 13th.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  }

  /** The most ms that a timer waited for the program's event loop since the last call. Only for Node's programs. */
  async loopDelayMs(): Promise<number> {
    const find = () => this.#process.stderr.flatMap((line) => /^loop-delay (\S+)/.exec(line)?.[1] ?? []);
    const known = find().length;
    process.kill(this.#process.pid, 'SIGUSR2');
    return Number(
      await this.#process.waitFor(() => find()[known], CHANGE_LIMIT_MS, 'waiting for the delay of its loop'),
    );
  }

  #assertRuns(): void {
    if (!this.#process.running) throw new Error(`the program has ended\n${this.#process.tail()}`);
  }

  async end(): Promise<void> {
    if (this.#process.running) await this.#process.stop('SIGKILL');
  }
}
