/**
 * The demo's process: keeps or removes what it has made, whatever ends it. Run by script/demo, which has checked the
 * arguments: `show HOSTS`, `keep HOSTS`, `from-v2` or `down [ID]`.
 */
import { type Cluster, makeHosts } from '../test/testbed/cluster.ts';
import { describeLeftovers, sweep } from '../test/testbed/leftovers.ts';
import { newRunId, RUN_VARIABLE, runId } from '../test/testbed/run.ts';
import { runStepsFromV2 } from './demo-from-v2.ts';
import { holdInBackground, isHolder, sayUp, takeDown } from './demo-holder.ts';
import { DemoFailure, hint, runSteps } from './demo-steps.ts';

/** 128 + the signal's number, as shells have it. */
const EXIT_CODES = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;
type StopSignal = keyof typeof EXIT_CODES;

const outerRun = process.env[RUN_VARIABLE];
const family = outerRun === undefined ? 'demo' : `${outerRun}-demo`;

process.exitCode = await main();
// A holder that ends before its hosts are up still has the channel to the foreground half, which keeps it alive.
if (process.connected) process.disconnect();

async function main(): Promise<number> {
  const [verb, value] = process.argv.slice(2);
  if (verb === 'down') return await takeDown(family, value);
  const keep = verb === 'keep';
  if (keep && !isHolder()) return await holdInBackground();
  if (verb === 'from-v2') {
    return await demonstrate(3, (cluster, stop) => runStepsFromV2(cluster, () => stop.signal !== undefined));
  }
  return await demonstrate(Number(value), async (cluster, stop) => {
    await runSteps(cluster, () => stop.signal !== undefined);
    if (!keep) return;
    console.log(hint(cluster, runId()));
    sayUp(cluster.dir);
    await stop.promise;
  });
}

/** Shows something on so many hosts; resolves to the exit code when all is removed. */
async function demonstrate(
  hosts: number,
  show: (cluster: Cluster, stop: Stop) => Promise<void>,
): Promise<number> {
  process.env[RUN_VARIABLE] = newRunId(family);
  const stop = untilStopped();
  const made: { cluster?: Cluster } = {};
  const work = (async () => {
    made.cluster = await makeHosts({ hosts, endpoints: 'own' });
    await show(made.cluster, stop);
    return 0;
  })();
  const stopped = stop.promise.then((signal) => EXIT_CODES[signal]);
  const code = await Promise.race([work, stopped]).catch(report);
  console.log('\nremoving all that was made');
  await made.cluster?.close().catch(report);
  // A step that was cut off has its processes ended here, and may have made something since.
  await sweep(runId());
  await work.catch(() => undefined);
  const left = await sweep(runId());
  if (left.length > 0) console.error(`could not be removed:\n${describeLeftovers(left)}`);
  return left.length > 0 ? 1 : code;
}

function report(error: unknown): number {
  const expected = error instanceof DemoFailure;
  console.error(
    `\nscript/demo: ${expected ? error.message : error instanceof Error ? error.stack : String(error)}`,
  );
  return 1;
}

interface Stop {
  /** The first signal that has come. */
  signal: StopSignal | undefined;
  readonly promise: Promise<StopSignal>;
}

function untilStopped(): Stop {
  const stop: Stop = {
    signal: undefined,
    promise: new Promise((resolve) => {
      const onSignal = (signal: StopSignal) => {
        stop.signal ??= signal;
        resolve(signal);
      };
      for (const signal of Object.keys(EXIT_CODES) as StopSignal[])
        process.on(signal, () => onSignal(signal));
      // The foreground half has gone before the hosts were up.
      process.on('disconnect', () => onSignal('SIGHUP'));
      // Nobody reads any more: a closed terminal, or `script/demo | head`.
      for (const stream of [process.stdout, process.stderr]) stream.on('error', () => onSignal('SIGHUP'));
    }),
  };
  return stop;
}
