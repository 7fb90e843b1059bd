import { bridgeName } from '../../backend/hostgw/host-networks.ts';
import { explanationOf } from '../../runtime/errors.ts';
import { oneLine } from '../../runtime/texts.ts';
import type { PeerStatus, StatusAnswer, StatusView } from '../ask-daemon.ts';
import { between, stateText } from '../status.ts';

// What a check finds, and what the daemon of this host says of itself.

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

/** What `check` finds; when it fails, that it does. Rejects only with `signal.reason`. */
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

/** A finding as it is printed: one line, and one more for the remedy. Values from etcd cannot move the cursor. */
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

/** The first few problems, and a line for the rest. */
export function fewProblems(
  problems: readonly Finding[],
  more: (rest: number) => string,
): readonly Finding[] {
  const rest = problems.length - mostNamed;
  return rest > 0 ? [...problems.slice(0, mostNamed), problem(more(rest))] : problems;
}

/** What the daemon of this host says of itself, or why there is no answer. */
export type DaemonAnswer =
  | Extract<StatusAnswer, { readonly view: StatusView }>
  | {
      readonly silent: string;
      readonly remedy?: string;
      readonly absent?: boolean;
      /** Who runs all the same, by the lock: `pid 12`. */
      readonly holder?: string;
    };

/** Whether a daemon runs on this host. */
export type DaemonState = 'runs' | 'stopped' | 'unknown';

export function daemonState(answer: DaemonAnswer): DaemonState {
  if ('view' in answer || answer.holder !== undefined) return 'runs';
  return answer.absent === true ? 'stopped' : 'unknown';
}

/** What to do about what a running daemon puts right. */
export function daemonRemedy(daemon: DaemonState, does: string): string {
  if (daemon === 'runs')
    return `The daemon runs and ${does}. If this stays, its log says why: journalctl -u flanneld`;
  const start = daemon === 'stopped' ? 'Start the daemon' : 'Start the daemon, unless it runs';
  return `${start}: it ${does}. systemctl start flanneld`;
}

/** A daemon that keeps its leases elsewhere in etcd says nothing about the network that is looked at. */
export function unlessElsewhere(answer: DaemonAnswer, prefix: string): DaemonAnswer {
  if ('silent' in answer || answer.view.lease === null || answer.view.lease.key.startsWith(prefix))
    return answer;
  const { key } = answer.view.lease;
  return {
    silent: `the daemon that answers is one of another network: it has ${key}, and this looks at ${prefix}`,
    remedy: 'Give the flags of that daemon, or the --status-socket of the one that is meant.',
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
 * `findings`: the daemon's own words, but for what other checks say with a remedy: forwarding, the packet filter, Docker's bridge,
 * peers without a route and, when the leases below `listed` can be read, what is wrong with them. `unseen`: what of that no finding
 * is about. The daemon looks at some things only once a minute; until it has seen that a fault is over, it stays not ready.
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
    'This is not to be seen (any more). The daemon looks again within a minute; if it still says so then, its log tells more: journalctl -u flanneld';
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
    ? 'Without a daemon nobody renews the lease or follows changes. Look: systemctl status flanneld'
    : `A daemon runs (${holder}), so it listens elsewhere: give its --status-socket.`;
}

function daemonLines(view: StatusView, listed: string | undefined): readonly Line[] {
  const { reasons, degraded, notices } = view;
  const of = (lines: readonly string[], say: typeof problem) =>
    lines.map((text) => ({ text, say, isSeenAs: seenAs(text, view, listed) }));
  // Faults of peers are those of their leases.
  return [...of([...reasons, ...(listed === undefined ? degraded : [])], problem), ...of(notices, note)];
}

const isQuoted = (line: string, text: string) => line.includes(text);
/** The daemon names a setting with its value, a check as one that is off. */
const isSetting = (line: string, text: string) =>
  / is off/.test(text) && line.includes(`${text.split(' is off')[0]} = 0`);

/** The daemon's troubles that other checks look for themselves, and whether a finding's text is about a line of it. */
const lookedAtBelow: Readonly<Record<string, (line: string, text: string) => boolean>> = {
  'forwarding-ipv4': isSetting,
  'forwarding-ipv6': isSetting,
  'forward-closed': isQuoted,
  'forward-partly': isQuoted,
  arp: isQuoted,
  'address-conflict': (_, text) => text.startsWith('another host (MAC address '),
  bridge: (_, text) => text.startsWith(`${bridgeName} has `),
};
/** Of a setting that is off, what only the daemon knows. */
const saysWhy = /, and the daemon cannot switch it on: /;
/** Several peers with one fault, and those beyond the first few. */
const withoutRoute = /^\d+ (more )?peers? (has|have) no route/;

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

/**
 * The daemon's notice that the network configuration was edited, deleted or spoilt while it works with the one it was started with:
 * until its next start nothing of what etcd holds counts for this host.
 */
export function worksWithFormerConfig(answer: DaemonAnswer): boolean {
  return (
    'view' in answer &&
    answer.view.errors.some(({ what, over }) => what === 'config-changed' && over === null)
  );
}

/** A route that is on its way is not stuck. */
export function isStuck({ state }: PeerStatus): boolean {
  return state !== 'installed' && state !== 'pending';
}
