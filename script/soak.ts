/**
 * A small real cluster under faults for a while: `npm run soak -- --minutes 20 [--seed 7]`, as root. The seed gives the same faults in
 * the same order; how they meet is up to the machine. Exits 0 when all invariants held, 1 with the first that did not.
 */
import { parseArgs } from 'node:util';
import { median, type SoakFigures, soak } from '../test/soak/soak.ts';
import { describeLeftovers, sweep } from '../test/testbed/leftovers.ts';
import { newRunId, RUN_VARIABLE, runId } from '../test/testbed/run.ts';

/** As shells have it for SIGINT. */
const STOPPED = 130;

process.exitCode = await main();

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { minutes: { type: 'string' }, seed: { type: 'string' } } });
  const minutes = Number(values.minutes ?? '2');
  const seed = Number(values.seed ?? Date.now() % 1_000_000);
  if (!(minutes > 0) || !Number.isSafeInteger(seed)) {
    console.error('soak: --minutes needs a number above 0, --seed a whole number');
    return 2;
  }
  process.env[RUN_VARIABLE] = newRunId('soak');
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => stop.abort());
  console.log(`soak: ${minutes} minutes, seed ${seed}, run ${runId()}`);
  const startedMs = performance.now();
  const elapsed = () => `${((performance.now() - startedMs) / 1_000).toFixed(0).padStart(5)} s  `;
  const say = (line: string) => console.log(elapsed() + line);
  const code = await soak({ minutes, seed, say, signal: stop.signal }).then(report, (error: unknown) => {
    // Ctrl-C comes to the members of etcd as well.
    if (stop.signal.aborted) return STOPPED;
    console.error(
      `${elapsed()}${error instanceof Error ? error.stack : String(error)}\nsoak: failed with seed ${seed}`,
    );
    return 1;
  });
  const left = await sweep(runId());
  if (left.length > 0) console.error(`could not be removed:\n${describeLeftovers(left)}`);
  return left.length > 0 ? 1 : code;
}

function report({ rounds, made, recoveriesMs, veteran, most, logLines }: SoakFigures): number {
  const first = veteran[0];
  const last = veteran.at(-1);
  const third = Math.ceil(veteran.length / 3);
  const rss = veteran.map(({ rssMiB }) => rssMiB);
  const faults = [...made].toSorted(([, a], [, b]) => b - a).map(([name, count]) => `${count} × ${name}`);
  const levels = [...logLines].map(([level, count]) => `${count} ${level}`);
  const times = (ms: number) => `${(ms / 1_000).toFixed(1)} s`;
  console.log(`
all invariants held in ${rounds} quiet moments
  faults      ${faults.join(', ')}
  recovery    median ${times(median(recoveriesMs))}, longest ${times(Math.max(0, ...recoveriesMs))}
  never restarted daemon
    files     ${first?.fds} at first, ${last?.fds} at last; sockets ${first?.sockets}, ${last?.sockets}
    memory    median of the first third ${median(rss.slice(0, third)).toFixed(0)} MiB, of the last ${median(rss.slice(-third)).toFixed(0)} MiB
  any daemon  at most ${most.fds} files, ${most.sockets} sockets, ${most.rssMiB.toFixed(0)} MiB
  log lines   ${levels.join(', ')}`);
  return 0;
}
