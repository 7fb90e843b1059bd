import type { PeerRoute } from '../../backend/hostgw/status.ts';
import type { LeaseState } from '../../subnet/lease/own-lease.ts';
import type { KnownTrouble, Snapshot } from '../state.ts';
import type { GaugeRow, Sample } from './prometheus.ts';

type RouteState = PeerRoute['state'];

/** From worst to best. */
const routeStates: readonly RouteState[] = ['conflict', 'parked', 'pending', 'installed'];
const leaseStates: readonly LeaseState[] = ['acquiring', 'held', 'moving', 'lost', 'contested'];

const kinds: readonly KnownTrouble['kind'][] = ['own', 'degraded', 'notice'];

/** While the interface is down no peer has a route; a series for each would not help. */
const mostNamed = 50;

/** Gauges show the state at one moment. Without a value there is no series. */
export const gauges: readonly GaugeRow<Snapshot>[] = [
  {
    name: 'flannel_ready',
    help: 'Whether this host is ready, as /readyz says.',
    read: ({ ready }) => Number(ready),
  },
  {
    name: 'flannel_troubles',
    help: 'Current problems: the reasons that /readyz gives.',
    read: ({ reasons }) => reasons.length,
  },
  {
    name: 'flannel_degraded',
    help: 'Faults of peers: this host is ready, but cannot reach a peer or use its lease.',
    read: ({ peers, refused, junk }) =>
      peers.filter(({ reason }) => reason?.fault === 'peer').length + refused.length + junk.count,
  },
  {
    name: 'flannel_notices',
    help: 'Current notices, which do not affect readiness: see flanneld-ts status.',
    read: ({ notices }) => notices.length,
  },
  {
    name: 'flannel_trouble',
    help:
      'Current problems and notices, 1 each, by what they concern (as in the log) and kind (own, degraded, notice), ' +
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
    help: "Valid leases in the cluster, including this host's and reservations.",
    read: ({ leases }) => leases,
  },
  {
    name: 'flannel_leases_refused',
    help: 'Leases of peers that this host cannot route.',
    read: ({ refused }) => refused.length,
  },
  {
    name: 'flannel_leases_outside_network',
    help: "Leases outside the cluster's network. This host routes them.",
    read: ({ outside }) => outside.length,
  },
  {
    name: 'flannel_junk_keys',
    help: 'Keys that are not valid leases.',
    read: ({ junk }) => junk.count,
  },
  {
    name: 'flannel_peers',
    help: 'Peers, by the state of their routes: installed, pending (being set), parked (cannot be set), conflict (another route is there); the worse one counts.',
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
    help: 'Whether the lease watch is up.',
    read: ({ watching }) => Number(watching),
  },
  {
    name: 'flannel_own_lease',
    help: "The state of this host's lease: 1 for the current one.",
    labels: ['state'],
    read: ({ lease }) => tally(leaseStates, [lease?.state ?? 'acquiring']),
  },
  {
    name: 'flannel_own_lease_remaining_seconds',
    help: "Time until this host's lease expires; +Inf for a reservation, absent without a lease.",
    read: ({ lease, nowMs }) => lease && ((lease.expiresAtMs ?? Number.POSITIVE_INFINITY) - nowMs) / 1000,
  },
  {
    name: 'flannel_last_sync_timestamp_seconds',
    help: 'When the routes last matched the leases; absent before the first time.',
    read: ({ syncedAtMs }) => (syncedAtMs === undefined ? undefined : syncedAtMs / 1000),
  },
];

/** The number of each state; a series must not vanish when it reaches 0. */
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
