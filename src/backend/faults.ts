import { counted } from '../runtime/plural.ts';
import type { JunkKeys } from '../subnet/lease-reader.ts';
import type { BackendStatus, OutsideRoute, PeerRoute, Reason, RefusedLease } from './backend.ts';

/** When the interface is down no peer can be routed to: a probe, a line of log and a status line need not hear all their names. */
const mostNamed = 5;

type Routes = Pick<BackendStatus, 'peers' | 'refused' | 'outside'>;

/** How many peers are routed. */
export function routedText(peers: readonly Pick<PeerRoute, 'state'>[]): string {
  if (peers.length === 0) return 'no other host has joined yet';
  const routed = peers.filter(({ state }) => state === 'installed').length;
  return `${routed} of ${counted(peers.length, 'peer')} routed`;
}

/** What keeps this host itself from routing to its peers, in lines for people. */
export function ownFaults({ peers }: Routes): readonly string[] {
  const pending = peers.filter(({ state }) => state === 'pending');
  const coming = pending.map(({ dst }) => `${dst}: no route yet, it is being set`);
  return [
    ...routeFaults(peers, 'own'),
    ...capped(coming, (rest) => `${counted(rest, 'more route is', 'more routes are')} being set`),
  ];
}

/** What peers, or whoever wrote their leases, have to mend. */
export function peerFaults({ peers, refused }: Routes): readonly string[] {
  return [...routeFaults(peers, 'peer'), ...refusedText(refused)];
}

/** Keys among the leases that are none; `first` are some of them. */
export function junkText({ count, first }: JunkKeys): readonly string[] {
  const named = first.slice(0, mostNamed).map(({ reason }) => reason);
  const rest = count - named.length;
  return rest > 0 ? [...named, counted(rest, 'more key is no lease', 'more keys are no leases')] : named;
}

/** What is done as the leases say, and worth a look. */
export function oddities({ outside }: Routes): readonly string[] {
  return outsideText(outside);
}

/** Routes that are not there for a fault of this kind; those with one reason in common are one line. */
export function routeFaults(peers: readonly FaultyRoute[], fault: Reason['fault']): readonly string[] {
  const byReason = new Map<string, FaultyRoute[]>();
  for (const peer of peers) {
    if (peer.reason?.fault !== fault) continue;
    const alike = byReason.get(peer.reason.text);
    if (alike === undefined) byReason.set(peer.reason.text, [peer]);
    else alike.push(peer);
  }
  const lines = [...byReason].map(([text, [first, ...others]]) =>
    others.length > 0 ? `${others.length + 1} peers have no route: ${text}` : noRouteText(first),
  );
  return capped(lines, (rest) => `${counted(rest, 'more peer has', 'more peers have')} no route`);
}

type FaultyRoute = Pick<PeerRoute, 'dst' | 'reason'>;

function noRouteText(route: FaultyRoute | undefined): string {
  const { text = '', remedy } = route?.reason ?? {};
  return `${route?.dst}: no route: ${text}${remedy === undefined ? '' : `. ${remedy}`}`;
}

/** Leases that ask for a route they do not get. */
export function refusedText(refused: readonly RefusedLease[]): readonly string[] {
  return capped(
    refused.map(({ key, reason }) => `${key}: not routed: ${reason}`),
    (rest) => `${counted(rest, 'more lease is', 'more leases are')} not routed`,
  );
}

/** Leases that no host of this network would take; they get their routes. */
export function outsideText(outside: readonly OutsideRoute[]): readonly string[] {
  return capped(
    outside.map(
      ({ key, dst, network }) => `${key}: routed, although ${dst} is outside the network ${network}`,
    ),
    (rest) => `${counted(rest, 'more lease is', 'more leases are')} outside the network`,
  );
}

/** The first few lines, and how many more there are. */
export function capped(lines: readonly string[], more: (rest: number) => string): readonly string[] {
  const rest = lines.length - mostNamed;
  return rest > 0 ? [...lines.slice(0, mostNamed), more(rest)] : lines;
}
