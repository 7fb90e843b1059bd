/**
 * Loaded into a measured Node program (NODE_OPTIONS): measures how long its event loop left a timer waiting. At each
 * SIGUSR2 it prints the most since the last one, and starts anew.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import process from 'node:process';

/** Milliseconds. Waking up more often would show in the CPU row. */
const resolution = 10;
const delays = monitorEventLoopDelay({ resolution });
delays.enable();

process.on('SIGUSR2', () => {
  // The histogram holds the time from one timer to the next.
  const ms = (ns: number) => Math.max(0, ns / 1e6 - resolution);
  process.stderr.write(`loop-delay ${ms(delays.max).toFixed(2)}\n`);
  delays.reset();
});
