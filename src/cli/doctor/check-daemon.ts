import { duration } from '../status-text.ts';
import type { PeerStatus, StatusView } from '../status-view.ts';
import { type Finding, note, ok, problem } from './finding.ts';

/** What the daemon of this host says of itself, or why there is no answer. */
export type DaemonAnswer =
  | { readonly view: StatusView }
  | { readonly silent: string; readonly remedy?: string };

const withoutDaemon =
  'Without a daemon nobody renews the lease or follows changes. Look: systemctl status flanneld';

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
 * The daemon's own words: nothing that follows contradicts them. Left out is what other checks say with a remedy: peers without a
 * route and, when the leases below `listed` can be read, what is wrong with them.
 */
export function daemonFindings(answer: DaemonAnswer, listed?: string): readonly Finding[] {
  if ('silent' in answer) return [note(answer.silent, answer.remedy ?? withoutDaemon)];
  const { view } = answer;
  const { version, startedAt, now, ready, reasons, notices, degraded } = view;
  const stuck = view.peers.filter(isStuck);
  const isToldBelow = (line: string) =>
    stuck.some(({ subnet }) => line.startsWith(subnet)) || (listed !== undefined && line.startsWith(listed));
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

/** A route that is on its way is not stuck. */
export function isStuck({ state }: PeerStatus): boolean {
  return state !== 'installed' && state !== 'pending';
}

/** What to do about what a running daemon puts right. */
export function daemonRemedy(view: StatusView | undefined, does: string): string {
  return view === undefined
    ? `Start the daemon: it ${does}. systemctl start flanneld`
    : `The daemon runs and ${does}. If this stays, its log says why: journalctl -u flanneld`;
}
