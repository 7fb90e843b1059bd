import { counted } from '../../runtime/texts.ts';
import type { Fault } from '../../runtime/trouble.ts';
import type { JunkKeys } from '../../subnet/lease/watch/reader.ts';

/** What became of the routes that the leases ask for. */
export interface RoutesStatus {
  readonly peers: readonly PeerRoute[];
  /** Leases of peers that cannot be routed to, and why. */
  readonly refused: readonly RefusedLease[];
  /** Peers' routes that lead out of the cluster's network: they are installed like any other. */
  readonly outside: readonly OutsideRoute[];
  /** Wall-clock ms when the kernel was last seen to be as the leases want it; absent before the first time. */
  readonly syncedAtMs?: number;
}

export interface RefusedLease {
  readonly key: string;
  readonly reason: string;
}

/** A route that a lease outside the cluster's network asks for. */
export interface OutsideRoute {
  readonly key: string;
  readonly dst: string;
  readonly network: string;
}

/** Why something is not as a lease asks for, and whether this host or the peer is to blame. */
export interface Reason {
  readonly text: string;
  readonly fault: 'own' | 'peer';
  /** What an operator can do about it. */
  readonly remedy?: string;
}

/** The route to a peer's subnet of one family. */
export interface PeerRoute {
  /** The etcd key of its lease. */
  readonly key: string;
  readonly dst: string;
  readonly gateway: string;
  readonly state: 'installed' | 'pending' | 'parked' | 'conflict';
  /** Why it is not installed; absent while it is being put there. */
  readonly reason?: Reason;
  /** Wall-clock ms since when it is in this state. */
  readonly sinceMs: number;
}

/** So many of a kind are named where nothing else is said: a probe and a status line need not hear of a whole cluster. */
const mostNamed = 5;

type Routes = Pick<RoutesStatus, 'peers' | 'refused' | 'outside'>;

/** How many peers are routed. */
export function routedText(peers: readonly Pick<PeerRoute, 'state'>[]): string {
  if (peers.length === 0) return 'no other host has joined yet';
  const routed = peers.filter(({ state }) => state === 'installed').length;
  return `${routed} of ${counted(peers.length, 'peer')} routed`;
}

/** What keeps this host itself from routing to its peers. */
export function ownFaults({ peers }: Routes, most = mostNamed): readonly Fault[] {
  const pending = peers.filter(({ state }) => state === 'pending');
  const coming = pending.map(
    ({ dst, sinceMs }): Fault => ({
      what: `route ${dst}`,
      text: `${dst}: no route yet, it is being set`,
      passing: true,
      sinceMs,
    }),
  );
  return [
    ...routeFaults(peers, 'own', most),
    ...firstFaults(
      most,
      'routes being set',
      coming,
      (rest) => `${counted(rest, 'more route is', 'more routes are')} being set`,
    ),
  ];
}

/** What peers, or whoever wrote their leases, have to mend. */
export function peerFaults({ peers, refused }: Routes, most = mostNamed): readonly Fault[] {
  const faults = refused.map(({ key, reason }) => ({
    what: `lease ${key}`,
    text: `${key}: not routed: ${reason}`,
  }));
  const more = (rest: number) => `${counted(rest, 'more lease is', 'more leases are')} not routed`;
  return [...routeFaults(peers, 'peer', most), ...firstFaults(most, 'leases', faults, more)];
}

/** Keys among the leases that are none; `first` are some of them. The reader of the leases has logged them. */
export function junkFaults({ count, first }: JunkKeys, most = mostNamed): readonly Fault[] {
  const named = first
    .slice(0, most)
    .map(({ key, reason }): Fault => ({ what: `key ${key}`, text: reason, logged: true }));
  const rest = count - named.length;
  if (rest <= 0) return named;
  return [...named, { what: 'keys', text: counted(rest, 'more key is no lease', 'more keys are no leases') }];
}

/** What is done as the leases say, and worth a look: leases that no host of this network would take get their routes. */
export function oddities({ outside }: Routes, most = mostNamed): readonly Fault[] {
  const faults = outside.map(({ key, dst, network }) => ({
    what: `outside ${key}`,
    text: `${key}: routed, although ${dst} is outside the network ${network}`,
  }));
  return firstFaults(
    most,
    'outside',
    faults,
    (rest) => `${counted(rest, 'more lease is', 'more leases are')} outside the network`,
  );
}

/** Routes that are not there for a fault of this kind; those with one reason in common are one. */
function routeFaults(peers: readonly PeerRoute[], fault: Reason['fault'], most: number): readonly Fault[] {
  const byReason = new Map<string, PeerRoute[]>();
  for (const peer of peers) {
    if (peer.reason?.fault !== fault) continue;
    const alike = byReason.get(peer.reason.text);
    if (alike === undefined) byReason.set(peer.reason.text, [peer]);
    else alike.push(peer);
  }
  const faults = [...byReason].map(([text, alike]) => ({
    what: `no route: ${text}`,
    text: noRouteText(text, alike),
    sinceMs: alike.reduce((first, { sinceMs }) => Math.min(first, sinceMs), Number.POSITIVE_INFINITY),
    ...(fault === 'own' && { passing: true as const }),
  }));
  return firstFaults(
    most,
    'no route',
    faults,
    (rest) => `${counted(rest, 'more reason', 'more reasons')} why peers have no route`,
  );
}

function noRouteText(reason: string, peers: readonly PeerRoute[]): string {
  const [first] = peers;
  const remedies = [...new Set(peers.flatMap((peer) => peer.reason?.remedy ?? []))];
  const who = peers.length === 1 ? `${first?.dst}: no route` : `${peers.length} peers have no route`;
  const likewise = remedies.length > 1 ? ' And likewise for the others.' : '';
  return `${who}: ${reason}${remedies.length === 0 ? '' : `. ${remedies[0]}${likewise}`}`;
}

/** The first few, and how many more there are. */
function firstFaults(
  most: number,
  what: string,
  faults: readonly Fault[],
  more: (rest: number) => string,
): readonly Fault[] {
  const rest = faults.length - most;
  return rest > 0 ? [...faults.slice(0, most), { what, text: more(rest) }] : faults;
}

/** The first few lines, and how many more there are. */
export function capped(lines: readonly string[], more: (rest: number) => string): readonly string[] {
  const rest = lines.length - mostNamed;
  return rest > 0 ? [...lines.slice(0, mostNamed), more(rest)] : lines;
}
