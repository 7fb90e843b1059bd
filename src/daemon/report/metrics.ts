import type { Counted } from '../../runtime/activity.ts';
import type { EtcdCalls } from '../etcd-members.ts';
import type { Snapshot, State } from '../state.ts';
import { gauges } from './gauges.ts';
import { type CounterRow, Metrics, markdownOf } from './prometheus.ts';

const counters: Readonly<Record<Counted, Omit<CounterRow, 'counts'>>> = {
  'route-change': {
    name: 'flannel_route_changes_total',
    help: 'Route changes, by cause; repaired: one of our routes was gone.',
    label: 'cause',
  },
  'firewall-repair': {
    name: 'flannel_firewall_repairs_total',
    help: 'Repairs of missing or changed firewall rules, by table.',
    label: 'table',
  },
  'forwarding-set': {
    name: 'flannel_forwarding_set_total',
    help: 'Times that the daemon switched forwarding on (--set-ip-forward), by family.',
    label: 'family',
  },
  'file-repair': {
    name: 'flannel_file_repairs_total',
    help: 'Repairs of a missing or changed subnet.env or docker_opts.env, by file.',
    label: 'file',
  },
  relist: {
    name: 'flannel_relists_total',
    help: 'Times that the daemon listed all leases again, by reason: etcd compacted its history or was restored.',
    label: 'reason',
  },
  'lease-skipped': {
    name: 'flannel_leases_skipped_total',
    help: 'Keys and values that are not valid leases.',
  },
};

/** The daemon's metrics. */
export function daemonMetrics(state: State, calls: EtcdCalls): Metrics<Snapshot> {
  const { activity } = state;
  const countersOf = Object.entries(counters).map(([counted, row]) => {
    return { ...row, counts: () => activity.counts(counted as Counted) };
  });
  return new Metrics({ snapshot: () => state.snapshot(), gauges, counters: countersOf, calls });
}

/** The daemon's metrics as a Markdown table, for README. */
export function metricsMarkdown(): string {
  return markdownOf([...gauges, ...Object.values(counters)]);
}
