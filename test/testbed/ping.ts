import { RunningProcess } from './process.ts';

/** What a series of pings has seen. */
export interface PingResult {
  readonly sent: number;
  readonly received: number;
  /** Sequence numbers, from 1, that were not answered; the ones still under way at the end do not count. */
  readonly lost: readonly number[];
  /** What it printed of anything that went wrong. */
  readonly complaints: readonly string[];
}

/** A ping that runs until it is stopped. */
export interface RunningPing {
  /** Resolves at the next answer to a request sent from now on; rejects after `timeoutMs`. */
  answered(timeoutMs?: number): Promise<void>;
  /** Waits for one more answer, then ends. Throws when none comes: a path that is broken at the end is no success. */
  stop(timeoutMs?: number): Promise<PingResult>;
  /** Ends it without a result. */
  close(): Promise<void>;
}

/** How long the first answer may take. */
const FIRST_ANSWER_MS = 10_000;

/**
 * Pings every 10 ms, up to 65,535 times. `where` are the words in front of the command: `['nsenter', '--net=…', '--']`
 * or Docker.inNetworkOf(); `source` is the address to ping from. Resolves at the first answer, rejects when there is none.
 */
export async function startPing(
  where: readonly string[],
  destination: string,
  source?: string,
): Promise<RunningPing> {
  const from = source === undefined ? [] : ['-I', source];
  const child = new RunningProcess([...where, 'ping', '-n', '-i', '0.01', ...from, destination]);
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
        received: answered.size,
        lost: all.filter((sequence) => !answered.has(sequence)),
        complaints: child.lines.filter((line) => /unreachable|error|sendmsg|exceeded/i.test(line)),
      };
    },
    close,
  };
}

/** From where to what address: see {@link startPing}. */
export interface Way {
  readonly where: readonly string[];
  readonly destination: string;
  readonly source?: string;
}

/**
 * Pings on all these ways while `act` runs, from before it begins until after it has ended. Resolves to what went wrong with the
 * packets; rejects when a way is broken at the end. The pings end also when `act` fails.
 */
export async function lostWhile(ways: readonly Way[], act: () => Promise<void>): Promise<readonly string[]> {
  const pings: RunningPing[] = [];
  try {
    for (const { where, destination, source } of ways)
      pings.push(await startPing(where, destination, source));
    await act();
    const results = await Promise.all(pings.map((ping) => ping.stop()));
    return results.flatMap(({ lost, sent, complaints }, index) => {
      const way = `${ways[index]?.where.join(' ')} to ${ways[index]?.destination}`;
      return [...lost.map((sequence) => `${way}: packet ${sequence} of ${sent} was lost`), ...complaints];
    });
  } finally {
    await Promise.all(pings.map((ping) => ping.close()));
  }
}

/** The sequence numbers of the answers among these lines. */
function sequences(lines: readonly string[]): readonly number[] {
  return lines.flatMap((line) => / icmp_seq=(\d+) ttl=/.exec(line)?.[1] ?? []).map(Number);
}
