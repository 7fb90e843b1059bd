import { parseSubnet } from '../../src/ip/ip.ts';
import type { Route } from '../../src/kernel/kernel.ts';
import { routeProtocol, type SimHost } from '../host.ts';
import type { DaemonChange } from '../kernel.ts';
import {
  forbidden,
  isConnected,
  isInNetwork,
  isLeasable,
  isReachable,
  selfOf,
  wantedRoutes,
} from './oracle.ts';
import type { World } from './world.ts';

/** Longer than it takes to notice that a stream is dead, open another one and be told of all. */
const staleMs = 60_000;
/** A route is missed only when it has been asked for so long: a host that hears late may still act on what was before. */
const settledMs = 60_000;

/** What a daemon sends follows from what it knew so long ago at most. */
const crossingMs = 1_000;

/** Invariants 2 to 6, at each message that a daemon's kernel has carried out. */
export function checkRouteChange(world: World, host: SimHost, change: DaemonChange): void {
  const { before, after, dst } = change;
  const gone = before.filter((route) => !after.includes(route));
  const come = after.filter((route) => !before.includes(route));
  const ours = come.some(({ protocol }) => protocol === routeProtocol);
  for (const route of gone) {
    const why = notOurs(host, route, ours || isBesideOurs(route, before));
    if (why) world.violate('5 foreign routes are untouched', `${host.name}: ${text(route)} ${why}`);
  }
  for (const route of come) checkNewRoute(world, host, route);
  if (after.length > 0 || gone.length === 0) return;
  const why = missed(world, host, change) ?? unheardOf(world, host, change);
  if (why) world.violate('2, 3 a desired destination is never absent', `${host.name} removed ${dst}: ${why}`);
}

/** Why a route should have been left alone. */
function notOurs(
  { kernel }: SimHost,
  { protocol, dst, gateway, metric, family, linkIndex, type }: Route,
  replacedByOurs: boolean,
): string | undefined {
  if (protocol === routeProtocol) return undefined;
  if (protocol === 2) return 'belongs to the kernel';
  if (replacedByOurs) return undefined;
  const nic = kernel.links().find(({ name }) => name === 'eth0');
  const legacy = protocol === 3 && gateway !== undefined && type === 'unicast' && linkIndex === nic?.index;
  return legacy && metric === (family === 4 ? 0 : 1024) && isLeasable(dst) ? undefined : 'was removed';
}

/** Ours has come before it in its key, by the message before, or takes its place. */
function isBesideOurs({ family, tos, metric }: Route, before: readonly Route[]): boolean {
  const isOurs = (route: Route) =>
    route.tos === tos && route.metric === metric && route.protocol === routeProtocol;
  return family === 4 && before.some(isOurs);
}

function checkNewRoute(world: World, host: SimHost, route: Route): void {
  const { dst, gateway, protocol } = route;
  const subnet = parseSubnet(dst);
  if (protocol !== routeProtocol || route.type !== 'unicast' || subnet === undefined) return;
  const why = forbidden(host, subnet, gateway ?? '');
  // An address may come while the message is on its way, or while the host is suspended.
  const crossed = Math.min(world.untouchedMs(host), world.calmMs(host)) < crossingMs;
  if (why && !crossed) world.violate('6 never programmed', `${host.name} has ${text(route)}, which ${why}`);
  const asked = world.wasAsked(dst, gateway ?? '');
  const agoMs = world.nowMs - (asked?.wentMs ?? world.nowMs);
  const stale = agoMs > staleMs && world.calmMs(host) > staleMs && !world.hearsLate(host);
  if (asked && !stale) return;
  const when = asked ? `has asked for since ${Math.round(agoMs / 1000)} s` : 'ever asked for';
  world.violate('4 only leases make routes', `${host.name} has ${text(route)}, which no lease ${when}`);
}

/** Why a destination should still be there. */
function missed(world: World, host: SimHost, { dst, family, before }: DaemonChange): string | undefined {
  const subnet = parseSubnet(dst);
  const asked = world.askedSinceMs(dst, family);
  if (asked === undefined || subnet === undefined || !before.some((r) => r.protocol === routeProtocol))
    return undefined;
  const { sinceMs, gateway } = asked;
  if (world.nowMs - sinceMs < settledMs || world.hearsLate(host)) return undefined;
  if (world.untouchedMs(host) < settledMs || !isReachable(host, gateway)) return undefined;
  if (isConnected(host, subnet) || forbidden(host, subnet, gateway) !== undefined) return undefined;
  // A write that came late may have given it to this host for a moment.
  if (wasOwnJustNow(world, host, dst)) return undefined;
  // An older lease that overlaps it had been spoilt, and is back.
  if (!wantedRoutes(host, family, world.kvs).includes(`${dst} via ${gateway}`)) return undefined;
  return `${gateway} has leased it for ${Math.round((world.nowMs - sinceMs) / 1000)} s`;
}

/** Whether a lease of this destination has named an address of this host until just now. */
function wasOwnJustNow(world: World, { kernel }: SimHost, dst: string): boolean {
  const wentMs = ({ address }: { readonly address: string }) => world.wasAsked(dst, address)?.wentMs;
  return kernel
    .addresses()
    .some((own) => world.nowMs - (wentMs(own) ?? Number.NEGATIVE_INFINITY) < crossingMs);
}

/** Why the daemon cannot know that a route is to go (invariant 3). */
function unheardOf(world: World, host: SimHost, { dst, before }: DaemonChange): string | undefined {
  const subnet = parseSubnet(dst);
  const gateway = before.find(({ protocol }) => protocol === routeProtocol)?.gateway;
  if (subnet === undefined || gateway === undefined || isConnected(host, subnet)) return undefined;
  const { lastMs = Number.NEGATIVE_INFINITY, listed = false } = world.heard.get(host) ?? {};
  if (!listed) return 'the leases have not been listed yet';
  // What may not be routed is known without etcd.
  if (forbidden(host, subnet, gateway) !== undefined) return undefined;
  // Nor what somebody else does to its kernel: a route in another's shadow is taken away to be put before it.
  if (world.untouchedMs(host) < Math.max(settledMs, world.nowMs - lastMs)) return undefined;
  const { sinceMs = 0, wentMs = 0 } = world.wasAsked(dst) ?? {};
  // It may have gone and come back before, of which the daemon has heard the first half.
  return wentMs > lastMs && lastMs - sinceMs > settledMs
    ? `its key went ${Math.round(world.nowMs - wentMs)} ms ago, and nothing was heard of etcd since`
    : undefined;
}

/**
 * Whether a route that nobody asks for should have been removed. Inside the network in any case; outside of it, where it may
 * be another daemon's, if this one has seen the key go.
 */
function isTooMany(world: World, host: SimHost, route: string): boolean {
  const [dst = '', , gateway = ''] = route.split(' ');
  if (isInNetwork(dst)) return true;
  const wentMs = world.wasAsked(dst, gateway)?.wentMs;
  return wentMs !== undefined && wentMs > (world.readySinceMs.get(host.notifier) ?? Number.POSITIVE_INFINITY);
}

/** Routes that have been asked for, or not any more, for so long, of hosts that nothing was done to since (invariant 7). */
export function lateRoutes(world: World, promptMs: number): readonly string[] {
  const untilMs = world.nowMs - promptMs;
  // A comparison comes within a minute.
  if (world.nowMs - world.sameIdRestoredMs < 120_000) return [];
  const calm = world.present.filter((host) => {
    const readyMs = world.readySinceMs.get(host.notifier) ?? Number.POSITIVE_INFINITY;
    const rested = world.untouchedMs(host) > settledMs && world.calmMs(host) >= promptMs;
    return host.running && rested && readyMs < untilMs && !world.hearsLate(host);
  });
  return calm.flatMap((host) => {
    const wanted = wantedRoutes(host, 4, world.kvs);
    const actual = host.routes(4);
    const since = (route: string) => world.wasAsked(...(route.split(' via ') as [string, string]));
    const missing = wanted.filter(
      (one) => !actual.includes(one) && (since(one)?.sinceMs ?? untilMs) < untilMs,
    );
    const extra = actual.filter((one) => !wanted.includes(one) && (since(one)?.wentMs ?? untilMs) < untilMs);
    return [
      ...missing.map((one) => `${host.name} lacks ${one}`),
      ...extra.filter((one) => isTooMany(world, host, one)).map((one) => `${host.name} has ${one} too many`),
    ];
  });
}

/** What is not as it has to be with a host's routes, at rest (invariant 1). */
export function routeProblems(world: World, host: SimHost): readonly string[] {
  return ([4, 6] as const).flatMap((family) => {
    // A host that was started while IPv6 was off goes without until it is started again.
    if (family === 6 && !(world.scenario.ipv6 && selfOf(host, 6))) return [];
    const wanted = wantedRoutes(host, family, world.kvs);
    const actual = host.routes(family);
    const missing = wanted.filter((one) => !actual.includes(one));
    const extra = actual.filter((one) => !wanted.includes(one) && isTooMany(world, host, one));
    const stale = host.kernel
      .routes(family)
      .filter(({ protocol, gateway, dst }) => protocol === 3 && gateway !== undefined && isLeasable(dst));
    return [
      ...missing.map((one) => `${host.name} lacks ${one}`),
      ...extra.map((one) => `${host.name} has ${one} too many`),
      ...stale.map((route) => `${host.name} still has ${text(route)}`),
    ];
  });
}

function text({ dst, gateway, protocol }: Route): string {
  return `${dst}${gateway === undefined ? '' : ` via ${gateway}`} (protocol ${protocol})`;
}
