import type { Route, RouteSpec } from '../../kernel/kernel.ts';
import type { Held, PlannedChange } from './plan-input.ts';

/** The removals of those that are ours or flanneld's. */
export function removeOurs(there: readonly Held[], cause: PlannedChange['cause']): PlannedChange[] {
  return there.flatMap(({ route, owner }) =>
    owner === 'own' || owner === 'legacy' ? removal(route, cause) : [],
  );
}

/** The exact removal of this route; none when it has a shape that we never make. */
export function removal(route: Route, cause: PlannedChange['cause']): PlannedChange[] {
  const { family, dst, metric, protocol, gateway, linkIndex, type } = route;
  if (route.tos !== 0) return [];
  const key = { family, dst, metric, protocol };
  if (type === 'blackhole') return [{ op: 'remove', route: { ...key, type }, cause }];
  // Without a gateway and a link the kernel would delete the first match, whoever owns it.
  if (gateway === undefined || linkIndex === undefined) return [];
  return [{ op: 'remove', route: { ...key, gateway, linkIndex }, cause }];
}

/**
 * Whether a removal can only hit what is meant to go. It cannot name a preferred source or metrics: of several routes that
 * look alike to it the kernel takes the first.
 */
export function isExact(
  spec: RouteSpec,
  changes: readonly PlannedChange[],
  actual: readonly Route[],
): boolean {
  const alike = actual.filter((route) => looksLike(route, spec));
  if (alike.length < 2) return true;
  const removed = changes.filter(({ op, route }) => op === 'remove' && sameRemoval(route, spec));
  const replaced = changes.find(({ op }) => op === 'replace');
  const first = actual.find(({ tos, metric }) => tos === 0 && metric === replaced?.route.metric);
  // Somebody else's first route must still be there for the replacement, or that would hit the next one.
  const isReplaced = first?.protocol === replaced?.route.protocol && looksLike(first, spec);
  return alike.length <= removed.length + (isReplaced ? 1 : 0);
}

function looksLike(route: Route | undefined, spec: RouteSpec): boolean {
  return route?.tos === 0 && sameRemoval(route, spec);
}

/** Whether a removal that names `b` fits `a`. */
export function sameRemoval(a: Pick<Route, keyof RouteSpec> | RouteSpec, b: RouteSpec): boolean {
  return (
    a.metric === b.metric &&
    a.protocol === b.protocol &&
    a.gateway === b.gateway &&
    a.linkIndex === b.linkIndex &&
    (a.type === 'blackhole') === (b.type === 'blackhole')
  );
}

/** A route in the words of a reason. */
export function describe(route: Route): string {
  const via = route.gateway === undefined ? '' : ` via ${route.gateway}`;
  return `${route.type} route${via} of protocol ${route.protocol}`;
}
