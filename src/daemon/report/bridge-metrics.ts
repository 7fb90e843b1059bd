import type { BridgeSnapshot, BridgeState } from '../../migrate/bridge-state.ts';
import type { EtcdCalls } from '../etcd-members.ts';
import { type GaugeRow, Metrics, markdownOf } from './prometheus.ts';

const gauges: readonly GaugeRow<BridgeSnapshot>[] = [
  {
    name: 'flannel_bridge_in_step',
    help: 'Whether both stores are watched and alike, but for conflicts: what /readyz says.',
    read: ({ ready }) => Number(ready),
  },
  {
    name: 'flannel_bridge_waiting',
    help: 'Whether another bridge is at work, and this one waits.',
    read: ({ waitsFor }) => Number(waitsFor !== undefined),
  },
  {
    name: 'flannel_bridge_leases',
    help: 'Leases by the store that their hosts use, v2 or v3.',
    labels: ['store'],
    read: ({ onV2, onV3 }) => [
      [{ store: 'v2' }, onV2],
      [{ store: 'v3' }, onV3],
    ],
  },
  {
    name: 'flannel_bridge_conflicts',
    help: 'Subnets that an operator has to decide about.',
    read: ({ conflicts }) => conflicts.length,
  },
  {
    name: 'flannel_bridge_orphans',
    help: 'Copies whose original was gone before this bridge began; they end by themselves.',
    read: ({ orphans }) => orphans.length,
  },
  {
    name: 'flannel_bridge_skipped_keys',
    help: 'Keys in v2 that are no leases of IPv4.',
    read: ({ skipped }) => skipped.length,
  },
  {
    name: 'flannel_troubles',
    help: 'Current problems: the reasons that /readyz gives.',
    read: ({ reasons }) => reasons.length,
  },
];

const writes = {
  name: 'flannel_bridge_writes_total',
  help: 'Writes of the bridge, by kind: create, replace, renew and remove or expire, in v2 or in v3.',
  label: 'what',
};

/** The metrics of `migrate --follow`. */
export function bridgeMetrics(state: BridgeState, calls: EtcdCalls): Metrics<BridgeSnapshot> {
  const snapshot = () => state.snapshot();
  return new Metrics({ snapshot, gauges, counters: [{ ...writes, counts: () => snapshot().writes }], calls });
}

/** The same as a Markdown table, for the documentation. */
export function bridgeMetricsMarkdown(): string {
  return markdownOf([...gauges, writes]);
}
