import { counted } from '../../runtime/texts.ts';
import type { Fault } from '../../runtime/trouble.ts';
import type { JunkKeys } from '../../subnet/lease/watch/reader.ts';
import type { DesiredRoute } from './claims.ts';

/** The state of the routes that the leases ask for. */
export interface RoutesStatus {
  readonly counts: RouteCounts;
  readonly peers: readonly PeerRoute[];
  /** Leases of peers that get no route, and why. */
  readonly refused: readonly RefusedLease[];
  /** Routes to destinations outside the cluster's network; the daemon installs them like any other. */
  readonly outside: readonly OutsideRoute[];
  /** Wall-clock ms at which the daemon had last tried every route; absent before the first time. */
  readonly syncedAtMs?: number;
}

/** Of the routes to peers: how many are wanted, and how many are installed. */
export interface RouteCounts {
  readonly peers: number;
  readonly routed: number;
}

export interface RefusedLease {
  readonly key: string;
  readonly reason: string;
}

/** A route that a lease outside the cluster's network asks for. */
export interface OutsideRoute extends Omit<DesiredRoute, 'gateway'> {
  readonly network: string;
}

/** Why a route is not as its lease asks, and whether this host or the peer has to act. */
export interface Reason {
  readonly text: string;
  readonly fault: 'own' | 'peer';
  /** What an operator can do. */
  readonly remedy?: string;
}

/** The route to a peer's subnet in one family. */
export interface PeerRoute extends DesiredRoute {
  readonly state: 'installed' | 'pending' | 'parked' | 'conflict';
  /** Why it is not installed; absent while the daemon is adding it. */
  readonly reason?: Reason;
  /** Wall-clock ms at which this state began. */
  readonly sinceMs: number;
}

/** A probe and a status line name so many of each kind, not a whole cluster. */
const mostNamed = 5;

type Routes = Pick<RoutesStatus, 'peers' | 'refused' | 'outside'>;

/** `areListed`: whether the leases have been read, so that no peers means that there are none. */
export function routedText({ peers, routed }: RouteCounts, areListed: boolean): string {
  if (peers === 0) return areListed ? 'no other host has joined yet' : 'peers not known yet';
  return `${routed} of ${counted(peers, 'peer')} routed`;
}

/** What this host has to fix before it can route to its peers. */
export function ownFaults({ peers }: Routes, most = mostNamed): readonly Fault[] {
  const pending = peers.filter(({ state }) => state === 'pending');
  const coming = pending.map(
    ({ dst, sinceMs }): Fault => ({
      what: `route ${dst}`,
      text: `${dst}: no route yet, the daemon is adding it`,
      passing: true,
      sinceMs,
    }),
  );
  const more = ['routes being set', 'more route is being added', 'more routes are being added'] as const;
  return [...routeFaults(peers, 'own', most), ...fewFaults(coming, most, more)];
}

/** What peers, or the authors of their leases, have to fix. */
export function peerFaults({ peers, refused }: Routes, most = mostNamed): readonly Fault[] {
  const faults = refused.map(({ key, reason }) => ({
    what: `lease ${key}`,
    text: `${key}: not routed: ${reason}`,
  }));
  const more = ['leases', 'more lease is not routed', 'more leases are not routed'] as const;
  return [...routeFaults(peers, 'peer', most), ...fewFaults(faults, most, more)];
}

/** Keys that are not leases; `first` are some of them. The reader of the leases has logged them. */
export function junkFaults({ count, first }: JunkKeys, most = mostNamed): readonly Fault[] {
  const faults = first.map(({ key, reason }): Fault => ({ what: `key ${key}`, text: reason, logged: true }));
  return fewFaults(faults, most, ['keys', 'more key is not a lease', 'more keys are not leases'], count);
}

/** Routed, and worth a look: leases that no host of this network would take. */
export function oddities({ outside }: Routes, most = mostNamed): readonly Fault[] {
  const faults = outside.map(({ key, dst, network }) => ({
    what: `outside ${key}`,
    text: `${key}: routed, although ${dst} is outside the network ${network}`,
  }));
  const more = ['more lease is outside the network', 'more leases are outside the network'] as const;
  return fewFaults(faults, most, ['outside', ...more]);
}

/** Missing routes by fault; routes with the same reason count as one. */
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
  return fewFaults(faults, most, [
    'no route',
    'more reason why peers have no route',
    'more reasons why peers have no route',
  ]);
}

function noRouteText(reason: string, peers: readonly PeerRoute[]): string {
  const [first] = peers;
  const remedies = [...new Set(peers.flatMap((peer) => peer.reason?.remedy ?? []))];
  const who = peers.length === 1 ? `${first?.dst}: no route` : `${peers.length} peers have no route`;
  const likewise = remedies.length > 1 ? ' And likewise for the others.' : '';
  return `${who}: ${reason}${remedies.length === 0 ? '' : `. ${remedies[0]}${likewise}`}`;
}

/** The first faults, and one for the rest of all `count`. */
function fewFaults(
  faults: readonly Fault[],
  most: number,
  [what, one, many]: readonly [what: string, one: string, many: string],
  count = faults.length,
): readonly Fault[] {
  const named = faults.slice(0, most);
  const rest = count - named.length;
  return rest > 0 ? [...named, { what, text: counted(rest, one, many) }] : named;
}

/** The first items, and one that says how many more there are. */
export function capped<T>(items: readonly T[], more: (rest: number) => T): readonly T[] {
  const rest = items.length - mostNamed;
  return rest > 0 ? [...items.slice(0, mostNamed), more(rest)] : items;
}
