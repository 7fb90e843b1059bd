import { readdirSync, readFileSync } from 'node:fs';
import process from 'node:process';
import { Counter, Gauge, type Registry } from 'prom-client';

/**
 * The process's own figures, under the names that Prometheus' clients have for them. Not the library's own set: that watches
 * the event loop with a timer a hundred times a second, in a daemon that sleeps.
 */
export function registerProcessMetrics(registry: Registry): void {
  const gauge = (name: string, help: string, read: () => number) => {
    const collect = () => made.set(read());
    const made: Gauge = new Gauge({ name, help, registers: [], collect });
    registry.registerMetric(made);
  };
  const cpu = new Counter({
    name: 'process_cpu_seconds_total',
    help: 'User and system CPU time of the process, in seconds.',
    registers: [],
    collect() {
      const { user, system } = process.cpuUsage();
      this.reset();
      this.inc((user + system) / 1e6);
    },
  });
  registry.registerMetric(cpu);
  gauge('process_start_time_seconds', 'When the process started, in seconds since the epoch.', () =>
    Math.round(Date.now() / 1000 - process.uptime()),
  );
  gauge('process_resident_memory_bytes', 'Memory of the process that is in RAM.', () =>
    process.memoryUsage.rss(),
  );
  gauge('process_open_fds', 'Open file descriptors.', () => readdirSync('/proc/self/fd').length - 1);
  gauge('process_max_fds', 'How many file descriptors it may have.', mostFds);
  gauge(
    'nodejs_heap_size_used_bytes',
    "JavaScript's heap: what is used.",
    () => process.memoryUsage().heapUsed,
  );
  gauge(
    'nodejs_heap_size_total_bytes',
    "JavaScript's heap: its size.",
    () => process.memoryUsage().heapTotal,
  );
  gauge(
    'nodejs_active_resources',
    'Timers, sockets and requests that are open.',
    () => process.getActiveResourcesInfo().length,
  );
}

/** The soft limit; NaN where it is not told. */
function mostFds(): number {
  const limit = /^Max open files\s+(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return limit === 'unlimited' ? Number.POSITIVE_INFINITY : Number(limit);
}
