import type { DesiredRoute } from '../../backend/hostgw/claims.ts';
import { DesiredRoutes, type Self } from '../../backend/hostgw/desired.ts';
import { containsSubnet, parseSubnet } from '../../ip/ip.ts';
import type { Route } from '../../kernel/kernel.ts';
import type { Lease } from '../../subnet/lease/lease.ts';
import type { StatusView } from '../ask-daemon.ts';
import { isStuck } from './check-daemon.ts';

/** The peers of one family, and how they are known: by etcd, else by the daemon, else by the routes that it has left. */
export interface Peers {
  readonly source: 'etcd' | 'daemon' | 'routes';
  readonly routes: ReadonlyMap<string, DesiredRoute>;
  /** `key: why` for leases that ask for a route they cannot have. */
  readonly refused: readonly string[];
  /** What the daemon says why a destination has no route. */
  readonly told: ReadonlyMap<string, string>;
}

/** What peers can be known by. */
export interface PeerSources {
  readonly leases?: readonly Lease[];
  readonly view?: StatusView;
  /** Of the main table. */
  readonly routes: readonly Route[];
  /** rtm_protocol of our routes. */
  readonly protocol: number;
}

/** Judges leases as the daemon does, by its own code. */
export function peersOf(self: Self, { leases, view, routes, protocol }: PeerSources): Peers {
  const isIPv6 = self.subnet.family === 6;
  const ofFamily = (view?.peers ?? []).filter(({ subnet }) => subnet.includes(':') === isIPv6);
  const told = new Map(
    ofFamily.filter(isStuck).map(({ subnet, state, reason }) => [subnet, reason ?? state]),
  );
  if (leases !== undefined) {
    const desired = new DesiredRoutes(self);
    desired.replaceAll(leases);
    const refused = [...desired.refused].map(([key, reason]) => `${key}: ${reason}`);
    return {
      source: 'etcd',
      routes: byDst([...desired.dsts].flatMap((dst) => desired.get(dst) ?? [])),
      refused,
      told,
    };
  }
  if (view !== undefined) {
    const refused = view.refused.map(({ key, reason }) => `${key}: ${reason}`);
    const known = ofFamily.map(({ subnet: dst, gateway, key }) => ({ dst, gateway, key }));
    return { source: 'daemon', routes: byDst(known), refused, told };
  }
  const left = routes.flatMap(({ dst, gateway, protocol: number }): DesiredRoute[] => {
    const subnet = parseSubnet(dst);
    const isOurs =
      number === protocol &&
      subnet !== undefined &&
      (self.network === undefined || containsSubnet(self.network, subnet));
    return isOurs && gateway !== undefined ? [{ dst, gateway, key: '' }] : [];
  });
  return { source: 'routes', routes: byDst(left), refused: [], told };
}

function byDst(routes: readonly DesiredRoute[]): ReadonlyMap<string, DesiredRoute> {
  return new Map(routes.map((route) => [route.dst, route]));
}
