import { RunningProcess } from './process.ts';

/** From where to what address. */
export interface Way {
  /** The words in front of the command: `['nsenter', '--net=…', '--']` or Docker.inNetworkOf(). */
  readonly where: readonly string[];
  readonly destination: string;
  /** The address to ping from. */
  readonly source?: string;
}

/** What a series of pings has seen. */
export interface PingResult {
  readonly sent: number;
  /** Sequence numbers, from 1, that were not answered; the ones still under way at the end do not count. */
  readonly lost: readonly number[];
  /** What it printed of anything that went wrong. */
  readonly complaints: readonly string[];
}

/** A ping that runs until it is stopped. */
interface RunningPing {
  /** Resolves at the next answer to a request sent from now on; rejects after `timeoutMs`. */
  answered(timeoutMs?: number): Promise<void>;
  /** Waits for one more answer, then ends. Throws when none comes: a path that is broken at the end is no success. */
  stop(timeoutMs?: number): Promise<PingResult>;
  /** Ends it without a result. */
  close(): Promise<void>;
}

/** How long the first answer may take. */
const FIRST_ANSWER_MS = 10_000;

/** Pings up to 65,535 times. Resolves at the first answer, rejects when there is none. */
async function startPing({ where, destination, source }: Way, intervalMs: number): Promise<RunningPing> {
  const from = source === undefined ? [] : ['-I', source];
  const interval = String(intervalMs / 1000);
  const child = new RunningProcess([...where, 'ping', '-n', '-i', interval, ...from, destination]);
  const answerAfter = async (sequence: number, ms: number) => {
    const find = (lines: readonly string[]) => sequences(lines.slice(-50)).find((seen) => seen > sequence);
    await child.waitFor(find, ms, `waiting for an answer of ${destination}`);
  };
  /** The newest request may already be on its way; the one after it is not. */
  const latest = () => Math.max(0, ...sequences(child.lines.slice(-50))) + 1;
  const close = async () => {
    if (child.running) await child.stop('SIGKILL');
  };
  try {
    await answerAfter(0, FIRST_ANSWER_MS);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    answered: (ms = 10_000) => answerAfter(latest(), ms),
    stop: async (ms = 10_000) => {
      try {
        await answerAfter(latest(), ms);
      } finally {
        await close();
      }
      const answered = new Set(sequences(child.lines));
      const last = Math.max(...answered);
      const all = Array.from({ length: last }, (_, index) => index + 1);
      return {
        sent: last,
        lost: all.filter((sequence) => !answered.has(sequence)),
        complaints: child.lines.filter((line) => /unreachable|error|sendmsg|exceeded/i.test(line)),
      };
    },
    close,
  };
}

/** What came of the packets on several ways. */
export interface PingsResult {
  /** By way, in the order in which they came. */
  readonly ways: readonly PingResult[];
  readonly sent: number;
  /** What went wrong with them, a line each. */
  readonly complaints: readonly string[];
}

/** Pings on ways that come one after another, until all are stopped. */
export class Pings {
  readonly #intervalMs: number;
  readonly #running: { readonly way: Way; readonly ping: RunningPing }[] = [];

  constructor(intervalMs: number) {
    this.#intervalMs = intervalMs;
  }

  /** Resolves when there was an answer on each of them; rejects when there is none. */
  async add(ways: readonly Way[]): Promise<void> {
    for (const way of ways) this.#running.push({ way, ping: await startPing(way, this.#intervalMs) });
  }

  /** Ends them; rejects when a way is broken at the end. */
  async stop(): Promise<PingsResult> {
    const results = await Promise.all(this.#running.map(({ ping }) => ping.stop()));
    const complaints = results.flatMap(({ lost, sent, complaints: printed }, index) => {
      const { where = [], destination } = this.#running[index]?.way ?? {};
      const way = `${where.join(' ')} to ${destination}`;
      return [...lost.map((sequence) => `${way}: packet ${sequence} of ${sent} was lost`), ...printed];
    });
    return { ways: results, sent: results.reduce((sum, { sent }) => sum + sent, 0), complaints };
  }

  /** Ends them without a result. */
  async close(): Promise<void> {
    await Promise.all(this.#running.map(({ ping }) => ping.close()));
  }
}

/**
 * Pings on all these ways while `act` runs, from before it begins until after it has ended; rejects when a way is broken at the end. The
 * pings end also when `act` fails.
 */
export async function pingWhile(
  ways: readonly Way[],
  act: () => Promise<void>,
  intervalMs: number,
): Promise<PingsResult> {
  const pings = new Pings(intervalMs);
  try {
    await pings.add(ways);
    await act();
    return await pings.stop();
  } finally {
    await pings.close();
  }
}

/** As {@link pingWhile}, every 10 ms; resolves to what went wrong with the packets. */
export async function lostWhile(ways: readonly Way[], act: () => Promise<void>): Promise<readonly string[]> {
  return (await pingWhile(ways, act, 10)).complaints;
}

/** The sequence numbers of the answers among these lines. */
function sequences(lines: readonly string[]): readonly number[] {
  return lines.flatMap((line) => / icmp_seq=(\d+) ttl=/.exec(line)?.[1] ?? []).map(Number);
}
