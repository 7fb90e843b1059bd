import { bridgeName } from '../../backend/hostgw/host-networks.ts';
import { capped } from '../../backend/hostgw/status.ts';
import { explanationOf } from '../../runtime/errors.ts';
import { oneLine } from '../../runtime/texts.ts';
import type { PeerStatus, StatusAnswer, StatusView } from '../ask-daemon.ts';
import { between, stateText } from '../status.ts';

// What a check finds, and what the daemon of this host reports.

/** `note`: works, but the operator should know. `problem`: containers cannot talk, or soon will not. */
export interface Finding {
  readonly level: 'ok' | 'note' | 'problem';
  readonly text: string;
  /** What to do about it. */
  readonly remedy?: string | undefined;
}

export const ok = (text: string): Finding => ({ level: 'ok', text });
export const note = (text: string, remedy?: string): Finding => ({ level: 'note', text, remedy });
export const problem = (text: string, remedy?: string): Finding => ({ level: 'problem', text, remedy });

/** A check that itself fails is a problem, with its explanation. */
export function failed(what: string, error: unknown): Finding {
  return problem(`${what}: ${explanationOf(error)}`);
}

/** The findings of `check`; a check that fails is a finding itself. Rejects only with `signal.reason`. */
export async function attempt(
  what: string,
  signal: AbortSignal,
  check: () => Promise<readonly Finding[]>,
): Promise<readonly Finding[]> {
  try {
    return await check();
  } catch (error) {
    signal.throwIfAborted();
    return [failed(what, error)];
  }
}

const marks = { ok: 'ok     ', note: 'note   ', problem: 'PROBLEM' };

/** The lines of a finding: one, and one more for the remedy. Control characters from etcd become spaces. */
export function linesOf({ level, text, remedy }: Finding): readonly string[] {
  const line = `${marks[level]}  ${oneLine(text)}`;
  return remedy === undefined ? [line] : [line, `         → ${oneLine(remedy)}`];
}

const mostNamed = 5;

/** The first few of a list, and how many more there are. */
export function few(items: readonly string[], most = mostNamed): string {
  const rest = items.length - most;
  return items.slice(0, most).join(', ') + (rest > 0 ? ` and ${rest} more` : '');
}

/** A finding that names the first few of what it is about; none about nothing. */
export function fewOf(
  say: typeof problem,
  what: string,
  items: readonly string[],
  remedy?: string,
  most?: number,
): readonly Finding[] {
  return items.length === 0 ? [] : [say(`${what}: ${few(items, most)}`, remedy)];
}

/** The first few problems, and a line for the rest. */
export function fewProblems(
  problems: readonly Finding[],
  more: (rest: number) => string,
): readonly Finding[] {
  return capped(problems, (rest) => problem(more(rest)));
}

/** The status that the daemon of this host reports, or why there is no answer. */
export type DaemonAnswer =
  | Extract<StatusAnswer, { readonly view: StatusView }>
  | {
      readonly silent: string;
      readonly remedy?: string;
      readonly absent?: boolean;
      /** The daemon that holds the lock nevertheless: `pid 12`. */
      readonly holder?: string;
    };

/** Whether a daemon runs on this host. */
export type DaemonState = 'runs' | 'stopped' | 'unknown';

export function daemonState(answer: DaemonAnswer): DaemonState {
  if ('view' in answer || answer.holder !== undefined) return 'runs';
  return answer.absent === true ? 'stopped' : 'unknown';
}

/** What to do about a fault that a running daemon corrects. */
export function daemonRemedy(daemon: DaemonState, does: string): string {
  if (daemon === 'runs')
    return `The daemon runs and ${does}. If the problem persists, check its log: journalctl -u flanneld`;
  const start = daemon === 'stopped' ? 'Start the daemon, which' : 'Start the daemon unless it runs; it';
  return `${start} ${does}: systemctl start flanneld`;
}

/** The answer of a daemon with another etcd prefix says nothing about the network that doctor checks. */
export function unlessElsewhere(answer: DaemonAnswer, prefix: string): DaemonAnswer {
  if ('silent' in answer || answer.view.lease === null || answer.view.lease.key.startsWith(prefix))
    return answer;
  const { key } = answer.view.lease;
  return {
    silent: `the daemon that answers serves another network: its lease is ${key}, but doctor reads ${prefix}`,
    remedy: 'Pass the flags of that daemon, or the --status-socket of the right one.',
  };
}

/** A line of the daemon's: a problem of this host, or a note. */
interface Line {
  readonly text: string;
  readonly say: typeof problem;
  /** Whether a finding is about the same; absent: no other check looks at it. */
  readonly isSeenAs: ((finding: Finding) => boolean) | undefined;
}

/**
 * `findings`: the daemon's lines, except for faults that other checks report with a remedy: forwarding, the
 * packet filter, Docker's bridge, peers without a route and, when doctor can read the leases below `listed`,
 * their faults. `unseen`: those lines that no finding covers. The daemon checks some things only once a
 * minute, and stays not ready until it sees that a fault is over.
 */
export function daemonReport(
  answer: DaemonAnswer,
  listed: string | undefined,
): {
  readonly findings: readonly Finding[];
  readonly unseen: (found: readonly Finding[]) => readonly Finding[];
} {
  if ('silent' in answer) return { findings: [note(answer.silent, silenceRemedy(answer))], unseen: () => [] };
  const { version, startedAt, now, ready, degraded } = answer.view;
  const up = between(startedAt, now);
  const runs = `the daemon runs (flanneld-ts ${version}, up ${up}) and is ${stateText(answer.view)}`;
  const lines = daemonLines(answer.view, listed);
  const told = ({ say, text }: Line, remedy?: string) => say(`the daemon says: ${text}`, remedy);
  const remedy =
    'doctor does not see this fault (any more). The daemon checks again within a minute. If it still reports the fault then, check its log: journalctl -u flanneld';
  return {
    findings: [
      ready && degraded.length === 0 ? ok(runs) : note(runs),
      ...lines.filter(({ isSeenAs }) => isSeenAs === undefined).map((line) => told(line)),
    ],
    unseen: (found) => {
      const faults = found.filter(({ level }) => level !== 'ok');
      return lines
        .filter(({ isSeenAs }) => isSeenAs !== undefined && !faults.some(isSeenAs))
        .map((line) => told(line, remedy));
    },
  };
}

function silenceRemedy({ remedy, absent, holder }: Exclude<DaemonAnswer, { readonly view: StatusView }>) {
  if (remedy !== undefined || absent !== true) return remedy;
  return holder === undefined
    ? 'Without a daemon, nobody renews the lease or updates the routes. Check: systemctl status flanneld'
    : `A daemon runs (${holder}) and listens elsewhere: pass its --status-socket.`;
}

function daemonLines(view: StatusView, listed: string | undefined): readonly Line[] {
  const { reasons, degraded, notices } = view;
  const of = (lines: readonly string[], say: typeof problem) =>
    lines.map((text) => ({ text, say, isSeenAs: seenAs(text, view, listed) }));
  // The check of the leases reports the faults of peers.
  return [...of([...reasons, ...(listed === undefined ? degraded : [])], problem), ...of(notices, note)];
}

const isQuoted = (line: string, text: string) => line.includes(text);
/** The daemon says `name = 0`, the check `name is off`. */
const isSetting = (line: string, text: string) =>
  / is off/.test(text) && line.includes(`${text.split(' is off')[0]} = 0`);

/** Troubles of the daemon that other checks find as well, and whether a finding is about the line. */
const lookedAtBelow: Readonly<Record<string, (line: string, text: string) => boolean>> = {
  'forwarding-ipv4': isSetting,
  'forwarding-ipv6': isSetting,
  'forward-closed': isQuoted,
  'forward-partly': isQuoted,
  arp: isQuoted,
  'address-conflict': (_, text) => text.startsWith('another host (MAC address '),
  bridge: (_, text) => text.startsWith(`${bridgeName} has `),
};
/** Only the daemon knows why it cannot switch a setting on. */
const saysWhy = /, and the daemon cannot switch it on: /;
/** Several peers with one fault, and the faults beyond the first few. */
const withoutRoute = /^\d+ (more reasons? why )?peers have no route/;

function seenAs(line: string, { errors, peers }: StatusView, listed: string | undefined): Line['isSeenAs'] {
  const error = errors.find(({ over, message }) => over === null && message === line);
  const isAbout = error && lookedAtBelow[error.what];
  if (isAbout !== undefined && !saysWhy.test(line)) return ({ text }) => isAbout(line, text);
  if (listed !== undefined && line.startsWith(listed)) return ({ text }) => text.includes(listed);
  const stuck = peers.filter(isStuck);
  return stuck.some(({ subnet }) => line.startsWith(subnet)) || (stuck.length > 0 && withoutRoute.test(line))
    ? ({ text }) => /^IPv[46]: /.test(text) || line.includes(text)
    : undefined;
}

/** Whether the daemon works with a former configuration. Until it restarts, the one in etcd has no effect. */
export function worksWithFormerConfig(answer: DaemonAnswer): boolean {
  return (
    'view' in answer &&
    answer.view.errors.some(({ what, over }) => what === 'config-changed' && over === null)
  );
}

/** Whether the peer has no route, and none is being set. */
export function isStuck({ state }: PeerStatus): boolean {
  return state !== 'installed' && state !== 'pending';
}
