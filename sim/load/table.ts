import { callKinds } from '../etcd-member.ts';
import type { Measured } from './scenarios.ts';

const columns = [
  'what happens',
  'hosts',
  'calls per host',
  'calls per host and hour',
  'calls a second: mean',
  'peak',
  'events sent a second: mean',
  'peak',
  'sent a second: mean',
  'peak',
  'flanneld: calls per host and hour',
];

/** As Markdown, the same scenarios of several sizes below each other. */
export function loadTable(measured: readonly Measured[]): string {
  const scenarios = [...new Set(measured.map(({ scenario }) => scenario))];
  const rows = scenarios.flatMap((scenario) =>
    measured.filter((one) => one.scenario === scenario).map(rowOf),
  );
  return [columns, columns.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function rowOf({ scenario, hosts, figures, flanneldCalls }: Measured): readonly string[] {
  const { seconds, calls, events, sentBytes } = figures;
  const hourly = (sum: number) => number((sum / hosts / seconds) * 3_600);
  return [
    scenario,
    String(hosts),
    number(calls.sum / hosts),
    hourly(calls.sum),
    number(calls.sum / seconds),
    number(calls.peak),
    number(events.sum / seconds),
    number(events.peak),
    bytes(sentBytes.sum / seconds),
    bytes(sentBytes.peak),
    flanneldCalls === undefined ? '' : hourly(flanneldCalls),
  ];
}

/** The calls by kind, one line per scenario and size. */
export function kindsTable(measured: readonly Measured[]): string {
  const head = ['calls per host by kind', 'hosts', ...callKinds];
  const rows = measured.map(({ scenario, hosts, figures }) => {
    return [scenario, String(hosts), ...callKinds.map((kind) => number(figures.byKind[kind] / hosts))];
  });
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function number(value: number): string {
  return value >= 100 ? String(Math.round(value)) : value.toFixed(value >= 10 ? 1 : 2);
}

function bytes(value: number): string {
  if (value >= 1e6) return `${number(value / 1e6)} MB`;
  return value >= 1e3 ? `${number(value / 1e3)} kB` : `${number(value)} B`;
}
