import { bridgeName } from '../../backend/hostgw/host-networks.ts';
import type { PeerStatus, StatusView } from '../ask-daemon.ts';
import { duration, stateText } from '../status.ts';
import { type Finding, note, ok, problem } from './finding.ts';

/** What the daemon of this host says of itself, or why there is no answer. */
export type DaemonAnswer =
  | { readonly view: StatusView }
  | {
      readonly silent: string;
      readonly remedy?: string;
      /** Nobody listens where it would. */
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

const withoutDaemon =
  'Without a daemon nobody renews the lease or follows changes. Look: systemctl status flanneld';

/** The daemon's troubles that other checks look for themselves, and whether a finding of theirs is about this one. */
const lookedAtBelow: Readonly<Record<string, (message: string, finding: Finding) => boolean>> = {
  'forwarding-ipv4': isAboutSetting,
  'forwarding-ipv6': isAboutSetting,
  'forward-closed': (message, { text }) => message.includes(text),
  'forward-partly': (message, { text }) => message.includes(text),
  'address-conflict': (_, { text }) => text.startsWith('another host (MAC address '),
  arp: (message, { text }) => message.includes(text),
  bridge: (_, { text }) => text.startsWith(`${bridgeName} has `),
};
/** Of a setting that is off, what only the daemon knows. */
const saysWhy = /, and the daemon cannot switch it on: /;
/** Several peers with one fault, and those beyond the first few. */
const withoutRoute = /^\d+ (more )?peers? (has|have) no route/;

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

/**
 * The daemon's own words: nothing that follows contradicts them. Left out is what other checks say with a remedy: forwarding, the
 * packet filter, Docker's bridge, peers without a route and, when the leases below `listed` can be read, what is wrong with them.
 * What of it they do not see is for {@link unseenFindings}.
 */
export function daemonFindings(answer: DaemonAnswer, listed?: string): readonly Finding[] {
  if ('silent' in answer) return [note(answer.silent, silenceRemedy(answer))];
  const { version, startedAt, now, ready, degraded } = answer.view;
  const up = duration((Date.parse(now) - Date.parse(startedAt)) / 1000);
  const runs = `the daemon runs (flanneld-ts ${version}, up ${up}) and is ${stateText(answer.view)}`;
  const told = linesOf(answer.view, listed).filter(({ isSeenAs }) => isSeenAs === undefined);
  return [
    ready && degraded.length === 0 ? ok(runs) : note(runs),
    ...told.map(({ say, line }) => say(`the daemon says: ${line}`)),
  ];
}

/**
 * What the daemon says and none of `found`, all findings of the other checks, is about: the daemon looks at some things only once a
 * minute, so it may be over. Until the daemon has seen that it stays not ready, and so it is told.
 */
export function unseenFindings(
  answer: DaemonAnswer,
  listed: string | undefined,
  found: readonly Finding[],
): readonly Finding[] {
  if ('silent' in answer) return [];
  const faults = found.filter(({ level }) => level !== 'ok');
  return linesOf(answer.view, listed)
    .filter(({ isSeenAs }) => isSeenAs !== undefined && !faults.some(isSeenAs))
    .map(({ say, line }) =>
      say(
        `the daemon says: ${line}`,
        'This is not to be seen (any more). The daemon looks again within a minute; if it still says so then, its log tells more: journalctl -u flanneld',
      ),
    );
}

interface Line {
  readonly line: string;
  readonly say: typeof problem;
  /** Whether a finding is about the same; absent: no other check looks at it. */
  readonly isSeenAs?: (finding: Finding) => boolean;
}

function linesOf(view: StatusView, listed: string | undefined): readonly Line[] {
  const { reasons, degraded, notices } = view;
  const of = (lines: readonly string[], say: typeof problem) =>
    lines.map((line) => ({ line, say, ...seenAs(line, view, listed) }));
  // Faults of peers are those of their leases.
  return [...of([...reasons, ...(listed === undefined ? degraded : [])], problem), ...of(notices, note)];
}

function seenAs(
  line: string,
  { errors, peers }: StatusView,
  listed: string | undefined,
): Pick<Line, 'isSeenAs'> {
  const error = errors.find(({ over, message }) => over === null && message === line);
  const isAbout = error && lookedAtBelow[error.what];
  if (isAbout !== undefined && !saysWhy.test(line)) return { isSeenAs: (finding) => isAbout(line, finding) };
  if (listed !== undefined && line.startsWith(listed))
    return { isSeenAs: ({ text }) => text.includes(listed) };
  const stuck = peers.filter(isStuck);
  return stuck.some(({ subnet }) => line.startsWith(subnet)) || (stuck.length > 0 && withoutRoute.test(line))
    ? { isSeenAs: ({ text }) => /^IPv[46]: /.test(text) || line.includes(text) }
    : {};
}

/** A setting is told by its name and value, and found as one that is off. */
function isAboutSetting(message: string, { text }: Finding): boolean {
  const [name] = text.split(' is off', 1);
  return text.includes(' is off') && message.includes(`${name} = 0`);
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

function silenceRemedy({
  remedy,
  absent,
  holder,
}: Extract<DaemonAnswer, { readonly silent: string }>): string | undefined {
  if (remedy !== undefined || absent !== true) return remedy;
  return holder === undefined
    ? withoutDaemon
    : `A daemon runs (${holder}), so it listens elsewhere: give its --status-socket.`;
}

/** A route that is on its way is not stuck. */
export function isStuck({ state }: PeerStatus): boolean {
  return state !== 'installed' && state !== 'pending';
}

/** What to do about what a running daemon puts right. */
export function daemonRemedy(daemon: DaemonState, does: string): string {
  if (daemon === 'runs')
    return `The daemon runs and ${does}. If this stays, its log says why: journalctl -u flanneld`;
  const start = daemon === 'stopped' ? 'Start the daemon' : 'Start the daemon, unless it runs';
  return `${start}: it ${does}. systemctl start flanneld`;
}
