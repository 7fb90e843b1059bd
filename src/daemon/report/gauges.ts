import type { PeerRoute } from '../../backend/hostgw/status.ts';
import type { LeaseState } from '../../subnet/lease/own-lease.ts';
import type { KnownTrouble, Snapshot } from '../state.ts';

type RouteState = PeerRoute['state'];

/** From worst to best: a peer is as badly off as the worst of its routes. */
const routeStates: readonly RouteState[] = ['conflict', 'parked', 'pending', 'installed'];
const leaseStates: readonly LeaseState[] = ['acquiring', 'held', 'moving', 'lost', 'contested'];

const kinds: readonly KnownTrouble['kind'][] = ['own', 'degraded', 'notice'];

/** When the interface is down no route is installed: a cluster's worth of series would help nobody. */
const mostNamed = 50;

/** What a gauge shows: a number, or one for each value of its labels. Nothing: the series is left out. */
type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];

export interface GaugeRow {
  readonly name: string;
  readonly help: string;
  readonly labels?: readonly string[];
  readonly read: (snapshot: Snapshot) => number | undefined | readonly Sample[];
}

/** What is as it is at one moment. */
export const gauges: readonly GaugeRow[] = [
  {
    name: 'flannel_ready',
    help: 'Whether this host does its part in the network: what /readyz says.',
    read: ({ ready }) => Number(ready),
  },
  {
    name: 'flannel_troubles',
    help: 'Current problems: the reasons that /readyz gives.',
    read: ({ reasons }) => reasons.length,
  },
  {
    name: 'flannel_degraded',
    help: 'Faults of peers: this host is ready, and cannot reach one or cannot use what it wrote.',
    read: ({ peers, refused, junk }) =>
      peers.filter(({ reason }) => reason?.fault === 'peer').length + refused.length + junk.count,
  },
  {
    name: 'flannel_notices',
    help: 'Notices of now, which have no effect: see flanneld-ts status.',
    read: ({ notices }) => notices.length,
  },
  {
    name: 'flannel_trouble',
    help:
      'Which of these it is: 1 for each that lasts, by what is concerned (as in the log) and kind (own, degraded, notice), ' +
      `for the first ${mostNamed}.`,
    labels: ['what', 'kind'],
    read: ({ troubles }) =>
      kinds
        .flatMap((wanted) => troubles.filter(({ kind, overMs }) => kind === wanted && overMs === undefined))
        .slice(0, mostNamed)
        .map(({ what, kind }) => [{ what, kind }, 1]),
  },
  {
    name: 'flannel_leases',
    help: 'Leases of the cluster that can be read, the own one and reservations among them.',
    read: ({ leases }) => leases,
  },
  {
    name: 'flannel_leases_refused',
    help: 'Leases of peers that ask for a route they cannot get.',
    read: ({ refused }) => refused.length,
  },
  {
    name: 'flannel_leases_outside_network',
    help: "Leases outside the cluster's network, which are routed all the same.",
    read: ({ outside }) => outside.length,
  },
  {
    name: 'flannel_junk_keys',
    help: 'Keys among the leases that are no leases, or hold none.',
    read: ({ junk }) => junk.count,
  },
  {
    name: 'flannel_peers',
    help: 'Peers, by the state of their routes: installed, pending (being set), parked (cannot be set), conflict (something else is there); the worse one counts.',
    labels: ['state'],
    read: ({ leases, peers }) =>
      leases === undefined ? undefined : tally(routeStates, [...worstByKey(peers).values()]),
  },
  {
    name: 'flannel_routes',
    help: 'Routes to peers, by family and state.',
    labels: ['family', 'state'],
    read: ({ leases, peers }) => {
      if (leases === undefined) return undefined;
      return ['ipv4', 'ipv6'].flatMap((family) => {
        const routes = peers.filter(({ dst }) => dst.includes(':') === (family === 'ipv6'));
        const counts = tally(
          routeStates,
          routes.map(({ state }) => state),
        );
        return counts.map(([labels, value]): Sample => [{ family, ...labels }, value]);
      });
    },
  },
  {
    name: 'flannel_route_problem',
    help: `Routes that are not installed, by destination, gateway and state: 1 each, for the first ${mostNamed}.`,
    labels: ['dst', 'gateway', 'state'],
    read: ({ peers }) =>
      peers
        .filter(({ state }) => state !== 'installed')
        .slice(0, mostNamed)
        .map(({ dst, gateway, state }) => [{ dst, gateway, state }, 1]),
  },
  {
    name: 'flannel_lease_watch_up',
    help: 'Whether the watch of the leases is up.',
    read: ({ watching }) => Number(watching),
  },
  {
    name: 'flannel_own_lease',
    help: 'The state of the own lease: 1 for the one it is in.',
    labels: ['state'],
    read: ({ lease }) => tally(leaseStates, [lease?.state ?? 'acquiring']),
  },
  {
    name: 'flannel_own_lease_remaining_seconds',
    help: 'How long the own lease lives unless it is renewed; +Inf for a reservation, absent without a lease.',
    read: ({ lease, nowMs }) => lease && ((lease.expiresAtMs ?? Number.POSITIVE_INFINITY) - nowMs) / 1000,
  },
  {
    name: 'flannel_last_sync_timestamp_seconds',
    help: 'When the routes were last seen to be as the leases want them; absent before the first time.',
    read: ({ syncedAtMs }) => (syncedAtMs === undefined ? undefined : syncedAtMs / 1000),
  },
];

/** How many there are of each state; those without any, too: a series must not vanish when it gets to 0. */
function tally<T extends string>(states: readonly T[], found: readonly T[]): readonly Sample[] {
  return states.map((state): Sample => [{ state }, found.filter((one) => one === state).length]);
}

/** The worse state of a peer that has a route in each family. */
function worstByKey(peers: readonly PeerRoute[]): ReadonlyMap<string, RouteState> {
  const bestFirst = routeStates
    .toReversed()
    .flatMap((wanted) => peers.filter(({ state }) => state === wanted));
  return new Map(bestFirst.map(({ key, state }) => [key, state]));
}
