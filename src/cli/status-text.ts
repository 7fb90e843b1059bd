import { oneLine } from '../runtime/escape.ts';
import { counted } from '../runtime/plural.ts';
import type { ErrorStatus, LeaseStatus, PeerStatus, StatusView } from './status-view.ts';

/** The answer for people: who we are, what is wrong, then a row per peer, those that are not routed first. */
export function statusText(view: StatusView): string {
  const { version, ready, now, startedAt, reasons, degraded, notices, peers, refused, errors } = view;
  const up = duration(secondsBetween(startedAt, now));
  return [
    `flanneld-ts ${version}, up ${up}: ${ready ? 'ready' : `not ready: ${view.summary}`}`,
    `own lease    ${leaseText(view.lease)}`,
    `cluster      ${counted(view.leases, 'lease')}, ${view.watching ? 'watched' : 'not watched now'}`,
    `routes       ${syncText(view)}`,
    ...section('not ready', ready ? [] : reasons),
    ...section('degraded', degraded),
    ...section('notices', notices),
    ...section('peers', table(peers)),
    ...section(
      'leases that cannot be routed',
      refused.map(({ key, reason }) => `${key}: ${reason}`),
    ),
    ...section(
      'last errors',
      errors.map((error) => errorText(error, now)),
    ),
  ]
    .map(flat)
    .join('\n');
}

/** What it quotes comes from etcd, and from other hosts. */
function flat(line: string): string {
  const [indent = ''] = /^ */.exec(line) ?? [];
  return indent + oneLine(line);
}

function section(title: string, lines: readonly string[]): readonly string[] {
  return lines.length === 0 ? [] : ['', `${title}:`, ...lines.map((line) => `  ${line}`)];
}

function leaseText(lease: LeaseStatus | null): string {
  if (lease === null) return 'none yet';
  const { subnets, addresses, state, secondsLeft } = lease;
  const left = secondsLeft === null ? 'a reservation' : leftText(secondsLeft);
  return `${subnets.join(' and ')} at ${addresses.join(' and ')}: ${state}, ${left}`;
}

function leftText(secondsLeft: number): string {
  return secondsLeft > 0
    ? `${duration(secondsLeft)} left`
    : `its time was over ${duration(-secondsLeft)} ago`;
}

function syncText({ peers, lastSync, now }: StatusView): string {
  const installed = peers.filter(({ state }) => state === 'installed').length;
  const count = peers.length === 0 ? undefined : `${installed} of ${peers.length} installed`;
  if (lastSync === null) return [count, 'not in step yet'].filter(Boolean).join(', ');
  const synced = `in step ${duration(secondsBetween(lastSync, now))} ago`;
  return `${count ?? 'no other host has joined yet'}, ${synced}`;
}

function table(peers: readonly PeerStatus[]): readonly string[] {
  if (peers.length === 0) return [];
  const isBad = ({ state }: PeerStatus) => Number(state !== 'installed');
  const sorted = peers.toSorted((a, b) => isBad(b) - isBad(a));
  const rows = [
    ['SUBNET', 'GATEWAY', 'STATE', 'REASON'],
    ...sorted.map(({ subnet, gateway, state, reason }) => [subnet, gateway, state, reason ?? '']),
  ];
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

function errorText({ message, since, over, attempts }: ErrorStatus, now: string): string {
  const lasted = duration(secondsBetween(since, over ?? now));
  const times = attempts === 1 ? '' : `, ${attempts} times`;
  return `${since}  ${over === null ? `lasts (${lasted}${times})` : `over after ${lasted}${times}`}: ${message}`;
}

function secondsBetween(from: string, to: string): number {
  return (Date.parse(to) - Date.parse(from)) / 1000;
}

/** The two greatest units: `23 h 59 min`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const units = [
    ['d', Math.floor(whole / 86_400)],
    ['h', Math.floor(whole / 3_600) % 24],
    ['min', Math.floor(whole / 60) % 60],
    ['s', whole % 60],
  ] as const;
  const first = units.findIndex(([, count]) => count > 0);
  if (first < 0) return '0 s';
  const shown = units.slice(first, first + 2).filter(([, count]) => count > 0);
  return shown.map(([unit, count]) => `${count} ${unit}`).join(' ');
}
