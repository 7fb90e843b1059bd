import type { Route } from './kernel.ts';

/** Whether two routes are the same in all that {@link Route} tells. */
export function sameRoute(a: Route, b: Route): boolean {
  return (
    a.dst === b.dst &&
    a.tos === b.tos &&
    a.metric === b.metric &&
    a.protocol === b.protocol &&
    a.type === b.type &&
    a.scope === b.scope &&
    a.gateway === b.gateway &&
    a.linkIndex === b.linkIndex &&
    a.source === b.source &&
    a.special === b.special &&
    a.multipath === b.multipath
  );
}

/** Whether IPv6 counts it among those with a gateway, which a REPLACE by such a one prefers and a second one is merged with. */
export function hasGateway(route: Route): boolean {
  return route.gateway !== undefined || route.multipath === true;
}
