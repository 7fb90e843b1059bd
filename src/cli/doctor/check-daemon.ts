import { duration } from '../status-text.ts';
import type { PeerStatus, StatusView } from '../status-view.ts';
import { type Finding, note, ok, problem } from './finding.ts';

/** What the daemon of this host says of itself, or why there is no answer. */
export type DaemonAnswer = { readonly view: StatusView } | { readonly silent: string };

/**
 * The daemon's own words: nothing that follows contradicts them. Left out is what other checks say with a remedy: peers without a
 * route and, with `leases` at hand, what is wrong with the leases of others.
 */
export function daemonFindings(answer: DaemonAnswer, leases: boolean): readonly Finding[] {
  if ('silent' in answer) {
    return [
      note(
        answer.silent,
        'Without a daemon nobody renews the lease or follows changes. Look: systemctl status flanneld',
      ),
    ];
  }
  const { view } = answer;
  const { version, startedAt, now, reasons, notices, degraded } = view;
  const up = duration((Date.parse(now) - Date.parse(startedAt)) / 1000);
  const stuck = view.peers.filter(isStuck);
  const isOfPeer = (line: string) => stuck.some(({ subnet }) => line.startsWith(subnet));
  const told = [...reasons, ...(leases ? [] : degraded)].filter((line) => !isOfPeer(line));
  return [
    ok(`the daemon runs (flanneld-ts ${version}, up ${up})${view.ready ? ' and is ready' : ''}`),
    ...told.map((line) => problem(`the daemon says: ${line}`)),
    ...notices.map((line) => note(`the daemon says: ${line}`)),
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
