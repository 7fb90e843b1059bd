import { readdirSync, readFileSync } from 'node:fs';
import process from 'node:process';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { EtcdCalls } from '../etcd-members.ts';
import { VERSION } from '../options/command-line.ts';

/** From a member on this host up to the deadline of a call, 5 s. */
const latencyBucketsS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

/** One series of a gauge. */
export type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];

/** Read from a snapshot of the state; without a value there is no series. */
export interface GaugeRow<Snapshot> {
  readonly name: string;
  readonly help: string;
  readonly labels?: readonly string[];
  readonly read: (snapshot: Snapshot) => number | undefined | readonly Sample[];
}

export interface CounterRow {
  readonly name: string;
  readonly help: string;
  readonly label?: string;
  /** By the value of the label. */
  readonly counts: () => ReadonlyMap<string, number>;
}

/** What a process tells Prometheus. */
export interface MetricsOptions<Snapshot> {
  readonly snapshot: () => Snapshot;
  readonly gauges: readonly GaugeRow<Snapshot>[];
  readonly counters: readonly CounterRow[];
  readonly calls: EtcdCalls;
}

const buildInfo = { name: 'flannel_build_info', help: 'Always 1; the version is a label.' };
const etcdDuration = {
  name: 'flannel_etcd_request_duration_seconds',
  help: 'Time that etcd took to answer, by call; a histogram.',
};
const etcdErrors = {
  name: 'flannel_etcd_errors_total',
  help: 'Failed calls and watches, by endpoint, call and kind.',
};

/** Rows as a Markdown table, with what every process tells; without the usual ones of the process. */
export function markdownOf(rows: readonly { readonly name: string; readonly help: string }[]): string {
  const all = [...rows, etcdDuration, etcdErrors, buildInfo];
  return ['| metric | |', '|---|---|', ...all.map(({ name, help }) => `| \`${name}\` | ${help} |`)].join(
    '\n',
  );
}

/** The metrics in Prometheus' text format. Loading the client library takes 20 ms and 0.1 MB. */
export class Metrics<Snapshot> {
  readonly #registry = new Registry();
  readonly #read: () => Snapshot;
  /** All gauges of one answer show the same moment. */
  #snapshot: Snapshot;

  constructor({ snapshot, gauges, counters, calls }: MetricsOptions<Snapshot>) {
    this.#read = snapshot;
    this.#snapshot = snapshot();
    for (const row of gauges) this.#addGauge(row);
    for (const row of counters) this.#addCounter(row);
    this.#addEtcd(calls);
    const registers = [this.#registry];
    new Gauge({ ...buildInfo, labelNames: ['version'], registers }).set({ version: VERSION }, 1);
    addProcessMetrics(this.#registry);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** The current values. */
  render(): Promise<string> {
    this.#snapshot = this.#read();
    return this.#registry.metrics();
  }

  #addGauge({ name, help, labels = [], read }: GaugeRow<Snapshot>): void {
    const current = () => read(this.#snapshot);
    const gauge = new Gauge({
      name,
      help,
      labelNames: [...labels],
      registers: [],
      collect() {
        const found = current();
        // Without labels a reset would leave a 0.
        if (labels.length === 0) this.remove();
        else this.reset();
        if (typeof found === 'number') this.set(found);
        else for (const [sampleLabels, value] of found ?? []) this.set(sampleLabels, value);
      },
    });
    this.#registry.registerMetric(gauge);
  }

  #addCounter({ name, help, label, counts }: CounterRow): void {
    const counter = new Counter({
      name,
      help,
      labelNames: label === undefined ? [] : [label],
      registers: [],
      collect() {
        this.reset();
        for (const [value, count] of counts()) this.inc(label === undefined ? {} : { [label]: value }, count);
      },
    });
    this.#registry.registerMetric(counter);
  }

  #addEtcd(calls: EtcdCalls): void {
    const registers = [this.#registry];
    const buckets = latencyBucketsS;
    const duration = new Histogram({ ...etcdDuration, labelNames: ['call'], buckets, registers });
    const errors = new Counter({ ...etcdErrors, labelNames: ['endpoint', 'call', 'kind'], registers });
    calls.handTo(({ endpoint, call, durationMs, error }) => {
      if (durationMs !== undefined) duration.observe({ call }, durationMs / 1000);
      if (error !== undefined) errors.inc({ endpoint, call, kind: error });
    });
  }
}

const processGauges: readonly (readonly [name: string, help: string, read: () => number])[] = [
  [
    'process_start_time_seconds',
    'When the process started, in seconds since the epoch.',
    () => Math.round(Date.now() / 1000 - process.uptime()),
  ],
  ['process_resident_memory_bytes', 'Resident memory.', () => process.memoryUsage.rss()],
  ['process_open_fds', 'Open file descriptors.', () => readdirSync('/proc/self/fd').length - 1],
  ['process_max_fds', 'Limit of open file descriptors.', mostFds],
  ['nodejs_heap_size_used_bytes', 'Used size of the JavaScript heap.', () => process.memoryUsage().heapUsed],
  [
    'nodejs_heap_size_total_bytes',
    'Total size of the JavaScript heap.',
    () => process.memoryUsage().heapTotal,
  ],
  [
    'nodejs_active_resources',
    'Open timers, sockets and requests.',
    () => process.getActiveResourcesInfo().length,
  ],
];

/**
 * The metrics of the process, with the names that Prometheus' clients use. The library's own set would wake
 * this idle daemon a hundred times a second to watch the event loop.
 */
function addProcessMetrics(registry: Registry): void {
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
  for (const [name, help, read] of processGauges) {
    const collect = () => gauge.set(read());
    const gauge: Gauge = new Gauge({ name, help, registers: [], collect });
    registry.registerMetric(gauge);
  }
}

/** The soft limit; NaN when unknown. */
function mostFds(): number {
  const limit = /^Max open files\s+(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return limit === 'unlimited' ? Number.POSITIVE_INFINITY : Number(limit);
}
