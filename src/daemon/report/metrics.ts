import { readdirSync, readFileSync } from 'node:fs';
import process from 'node:process';
import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { Counted } from '../../runtime/activity.ts';
import type { EtcdCalls } from '../etcd-members.ts';
import { VERSION } from '../options/command-line.ts';
import type { Snapshot, State } from '../state.ts';
import { type GaugeRow, gauges } from './gauges.ts';

/** From a member on this host to one that is about to be given up (calls have 5 s). */
const latencyBucketsS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5];

interface CounterRow {
  readonly name: string;
  readonly help: string;
  readonly label?: string;
  readonly counted: Counted;
}

const counters: readonly CounterRow[] = [
  {
    name: 'flannel_route_changes_total',
    help: 'Changes of routes, by cause; repaired: one of ours was gone.',
    label: 'cause',
    counted: 'route-change',
  },
  {
    name: 'flannel_firewall_repairs_total',
    help: 'How often firewall rules were missing or changed and were put back, by table.',
    label: 'table',
    counted: 'firewall-repair',
  },
  {
    name: 'flannel_forwarding_set_total',
    help: 'How often forwarding was off and was switched on (--set-ip-forward), by family.',
    label: 'family',
    counted: 'forwarding-set',
  },
  {
    name: 'flannel_file_repairs_total',
    help: 'How often subnet.env or docker_opts.env was missing or changed and was written again, by file.',
    label: 'file',
    counted: 'file-repair',
  },
  {
    name: 'flannel_relists_total',
    help: 'How often all leases were listed again, by reason: the history in etcd was compacted, or replaced by a restore.',
    label: 'reason',
    counted: 'relist',
  },
  {
    name: 'flannel_leases_skipped_total',
    help: 'Keys and values met that are not valid leases.',
    counted: 'lease-skipped',
  },
];

const buildInfo = { name: 'flannel_build_info', help: 'Always 1; the version is a label.' };
const etcdDuration = {
  name: 'flannel_etcd_request_duration_seconds',
  help: 'How long etcd took to answer, by call; a histogram.',
};
const etcdErrors = {
  name: 'flannel_etcd_errors_total',
  help: 'Calls and watches that failed, by endpoint, call and kind.',
};

/** The metrics as a Markdown table, for README; without those of the process, which have the names that all programs give them. */
export function metricsMarkdown(): string {
  const rows = [...gauges, ...counters, etcdDuration, etcdErrors, buildInfo];
  return ['| metric | |', '|---|---|', ...rows.map(({ name, help }) => `| \`${name}\` | ${help} |`)].join(
    '\n',
  );
}

/** The daemon's figures in the text format of Prometheus. Loading this module loads its client library, 0.1 MB and 20 ms. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #state: State;
  /** All gauges of one answer show one moment. */
  #snapshot: Snapshot;

  constructor(state: State, calls: EtcdCalls) {
    this.#state = state;
    this.#snapshot = state.snapshot();
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

  /** All of it, as it is now. */
  render(): Promise<string> {
    this.#snapshot = this.#state.snapshot();
    return this.#registry.metrics();
  }

  #addGauge({ name, help, labels = [], read }: GaugeRow): void {
    const current = () => read(this.#snapshot);
    const gauge = new Gauge({
      name,
      help,
      labelNames: [...labels],
      registers: [],
      collect() {
        const found = current();
        // Without labels a reset would leave a 0 that nobody read.
        if (labels.length === 0) this.remove();
        else this.reset();
        if (typeof found === 'number') this.set(found);
        else for (const [sampleLabels, value] of found ?? []) this.set(sampleLabels, value);
      },
    });
    this.#registry.registerMetric(gauge);
  }

  #addCounter({ name, help, label, counted }: CounterRow): void {
    const { activity } = this.#state;
    const counter = new Counter({
      name,
      help,
      labelNames: label === undefined ? [] : [label],
      registers: [],
      collect() {
        this.reset();
        for (const [value, count] of activity.counts(counted))
          this.inc(label === undefined ? {} : { [label]: value }, count);
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
  ['process_resident_memory_bytes', 'Memory of the process that is in RAM.', () => process.memoryUsage.rss()],
  ['process_open_fds', 'Open file descriptors.', () => readdirSync('/proc/self/fd').length - 1],
  ['process_max_fds', 'How many file descriptors it may have.', mostFds],
  ['nodejs_heap_size_used_bytes', "JavaScript's heap: what is used.", () => process.memoryUsage().heapUsed],
  ['nodejs_heap_size_total_bytes', "JavaScript's heap: its size.", () => process.memoryUsage().heapTotal],
  [
    'nodejs_active_resources',
    'Timers, sockets and requests that are open.',
    () => process.getActiveResourcesInfo().length,
  ],
];

/**
 * The process's own figures, under the names that Prometheus' clients have for them. Not the library's own set: that watches
 * the event loop with a timer a hundred times a second, in a daemon that sleeps.
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

/** The soft limit; NaN where it is not told. */
function mostFds(): number {
  const limit = /^Max open files\s+(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return limit === 'unlimited' ? Number.POSITIVE_INFINITY : Number(limit);
}
