import { routedText } from '../backend/hostgw/status.ts';
import type { Clock } from '../runtime/effects.ts';
import { aligned, counted, escapeControls, oneLine } from '../runtime/texts.ts';
import { fetchStatus, type LeaseStatus, type StatusView, type TroubleStatus } from './ask-daemon.ts';

export interface StatusParts {
  readonly socketPath: string;
  readonly json: boolean;
  readonly watch: boolean;
  readonly clock: Clock;
  readonly out: (text: string) => void;
  readonly err: (line: string) => void;
  /** Whether to clear the screen between two answers. */
  readonly onTerminal: boolean;
}

/** 0 ready, 1 no answer, 3 ready but degraded by a peer, 4 not ready. */
export type StatusCode = 0 | 1 | 3 | 4;

const watchIntervalMs = 2_000;
const wipe = '\u001b[H\u001b[2J\u001b[3J';

/**
 * Asks the daemon of this host for its status, prints the answer, and resolves to the exit code. With `watch`
 * it repeats that until `signal` aborts, then rejects with its reason.
 */
export async function runStatus(parts: StatusParts, signal: AbortSignal): Promise<StatusCode> {
  if (!parts.watch) return await showOnce(parts, '');
  for (;;) {
    await showOnce(parts, parts.onTerminal && !parts.json ? wipe : '');
    await parts.clock.sleep(watchIntervalMs, signal);
  }
}

async function showOnce({ socketPath, json, out, err }: StatusParts, before: string): Promise<StatusCode> {
  const answer = await fetchStatus(socketPath, 'status');
  if ('view' in answer) {
    const { view } = answer;
    out(`${before}${json ? escapeControls(JSON.stringify(view)) : statusText(view)}\n`);
    return view.ready ? (view.degraded.length === 0 ? 0 : 3) : 4;
  }
  if (json) out(`${escapeControls(JSON.stringify({ error: answer.silent }))}\n`);
  else err(before + answer.silent);
  return 1;
}

/** The answer for people: the daemon, its problems, then a row for each peer. Each fact appears once. */
export function statusText(view: StatusView): string {
  const { version, now, startedAt, reasons, degraded, notices } = view;
  return [
    `flanneld-ts ${version}, up ${between(startedAt, now)}: ${stateText(view)}`,
    `own lease    ${leaseText(view.lease)}`,
    `cluster      ${clusterText(view)}`,
    `routes       ${syncText(view)}`,
    ...section('not ready', view.ready ? [] : withTimes(reasons, view)),
    ...section('degraded', withTimes(degraded, view)),
    ...section('notices', withTimes(notices, view)),
    ...section('peers', table(view)),
    ...section('over', overTexts(view)),
  ]
    .map(flat)
    .join('\n');
}

/** Whether the daemon is ready. During the boot, the summary names its step; later, other lines say more. */
export function stateText({ ready, degraded, summary, lastSync }: StatusView): string {
  if (!ready) return lastSync === null ? `not ready: ${summary}` : 'not ready';
  return degraded.length === 0 ? 'ready' : 'ready, degraded';
}

/** Lines quote etcd and other hosts, so they may contain control characters. */
function flat(line: string): string {
  const [indent = ''] = /^ */.exec(line) ?? [];
  return indent + oneLine(line);
}

function section(title: string, lines: readonly string[]): readonly string[] {
  return lines.length === 0 ? [] : ['', `${title}:`, ...lines.map((line) => `  ${line}`)];
}

function clusterText({ leases, watching }: StatusView): string {
  const count = leases === null ? 'leases not known yet' : counted(leases, 'lease');
  return `${count}, ${watching ? 'watched' : 'not watched now'}`;
}

function leaseText(lease: LeaseStatus | null): string {
  if (lease === null) return 'none yet';
  const { subnets, addresses, state, secondsLeft: left } = lease;
  const life =
    left === null ? 'a reservation' : left > 0 ? `${duration(left)} left` : `expired ${duration(-left)} ago`;
  return `${subnets.join(' and ')} at ${addresses.join(' and ')}: ${state}, ${life}`;
}

function syncText({ leases, peers, lastSync, now }: StatusView): string {
  const routed = peers.filter(({ state }) => state === 'installed').length;
  const count = routedText({ peers: peers.length, routed }, leases !== null);
  return `${count}, ${lastSync === null ? 'not checked yet' : `checked ${between(lastSync, now)} ago`}`;
}

/** The states are words for programs. */
const stateWords: Readonly<Record<string, string>> = {
  installed: 'routed',
  pending: 'not yet',
  parked: 'no route',
  conflict: 'no route',
};

/** Leaves out a reason that a line above contains. */
function table({ peers, reasons, degraded, now }: StatusView): readonly string[] {
  if (peers.length === 0) return [];
  const said = [...reasons, ...degraded].join('\n');
  const rows = [
    ['SUBNET', 'GATEWAY', 'STATE', 'FOR', 'REASON'],
    ...peers.map(({ subnet, gateway, state, since, reason }) => [
      subnet,
      gateway,
      stateWords[state] ?? state,
      between(since, now),
      reason === null || said.includes(reason) ? '' : reason,
    ]),
  ];
  const shown = rows.some((row, i) => i > 0 && row[4] !== '') ? rows : rows.map((row) => row.slice(0, 4));
  return aligned(shown);
}

/** The lines, each with its age where that is known. */
function withTimes(lines: readonly string[], { errors, now }: StatusView): readonly string[] {
  return lines.map((line) => {
    const error = errors.find(({ message, over }) => over === null && message === line);
    return error === undefined ? line : `${line} (for ${between(error.since, now)}${timesText(error)})`;
  });
}

/** Past troubles are shown for an hour; --json shows them longer. */
const shownAfterMs = 3_600_000;

function overTexts({ errors, now }: StatusView): readonly string[] {
  return errors.flatMap(({ over, ...error }) => {
    if (over === null || Date.parse(now) - Date.parse(over) > shownAfterMs) return [];
    const lasted = `${between(error.since, over)}${timesText(error)}`;
    return [`${between(over, now)} ago, after ${lasted}: ${error.message}`];
  });
}

function timesText({ attempts }: Pick<TroubleStatus, 'attempts'>): string {
  return attempts === 1 ? '' : `, ${attempts} times`;
}

/** The time from one moment to another. */
export function between(from: string, to: string): string {
  return duration((Date.parse(to) - Date.parse(from)) / 1000);
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
