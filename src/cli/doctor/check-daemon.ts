import { duration } from '../status-text.ts';
import type { PeerStatus, StatusView } from '../status-view.ts';
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

/** Names of the daemon's troubles that other checks look for themselves. */
const lookedAtBelow = /^(forwarding-ipv[46]|forward-closed|forward-partly|bridge)$/;
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
 */
export function daemonFindings(answer: DaemonAnswer, listed?: string): readonly Finding[] {
  if ('silent' in answer) return [note(answer.silent, silenceRemedy(answer))];
  const { view } = answer;
  const { version, startedAt, now, ready, reasons, notices, degraded } = view;
  const stuck = view.peers.filter(isStuck);
  const looked = view.errors.filter(
    ({ what, over, message }) => over === null && lookedAtBelow.test(what) && !saysWhy.test(message),
  );
  const isToldBelow = (line: string) =>
    stuck.some(({ subnet }) => line.startsWith(subnet)) ||
    (stuck.length > 0 && withoutRoute.test(line)) ||
    (listed !== undefined && line.startsWith(listed)) ||
    looked.some(({ message }) => message === line);
  const told = (lines: readonly string[]) =>
    lines.filter((line) => !isToldBelow(line)).map((line) => `the daemon says: ${line}`);
  const up = duration((Date.parse(now) - Date.parse(startedAt)) / 1000);
  const runs = `the daemon runs (flanneld-ts ${version}, up ${up}) and is ${ready ? 'ready' : 'not ready'}`;
  return [
    ready ? ok(runs) : note(runs),
    ...told([...reasons, ...(listed === undefined ? degraded : [])]).map((line) => problem(line)),
    ...told(notices).map((line) => note(line)),
  ];
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
