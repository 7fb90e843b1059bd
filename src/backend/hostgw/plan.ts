import type { Route, RouteChange, RouteSpec } from '../../kernel/kernel.ts';
import type { DesiredRoute } from './desired.ts';
import { isInstalled, isRemovable, metricOf, type Owner, type Ownership, ownerOf } from './ownership.ts';

/** Everything a plan depends on. Nothing in here is changed by planning. */
export interface PlanInput {
  /** The destinations to look at: those that may have changed, or all. */
  readonly dsts: Iterable<string>;
  readonly desired: { get(dst: string): DesiredRoute | undefined };
  /** Routes of the main table by destination, in the kernel's order: the first of a key is the one in use. */
  readonly actual: { get(dst: string): readonly Route[] | undefined };
  readonly ownership: Ownership;
  readonly link: LinkState;
  /** Addresses of this host: as a gateway the kernel would accept one, and loop. */
  readonly ownAddresses: ReadonlySet<string>;
  /** Why no route may be put to (`put`) or removed from (`removal`) a destination just now; undefined when it may. */
  readonly held: Readonly<Record<'put' | 'removal', (dst: string) => string | undefined>>;
  /** Destinations this process has programmed: its routes there are its own wherever they lie. */
  readonly programmed: ReadonlySet<string>;
  /** Whether stale legacy routes go: only on the first full sync, when leases and kernel are both known completely. */
  readonly removeLegacy: boolean;
  /** Whether a foreign route at this destination may be replaced just now (three times a minute). */
  readonly mayReplaceForeign: (dst: string) => boolean;
}

/** Our interface: usable, or why not. */
export type LinkState =
  | { readonly index: number; readonly problem?: undefined }
  | { readonly index?: number; readonly problem: string };

export type PlannedChange = RouteChange & {
  readonly cause: 'missing' | 'wrong' | 'adopt' | 'foreign' | 'stale' | 'stale-legacy' | 'shadowed';
};

export interface Plan {
  /** In the order to be sent. */
  readonly changes: readonly PlannedChange[];
  /** Desired destinations that are exactly as wanted. */
  readonly installed: readonly string[];
  /** Desired destinations that cannot be programmed now, and why. */
  readonly parked: ReadonlyMap<string, string>;
  /** Desired destinations where a route lies that we may not touch. */
  readonly conflicts: ReadonlyMap<string, string>;
}

/** What to do for one destination, and the state it is in; none while its route is being put there. */
interface Verdict {
  readonly changes: readonly PlannedChange[];
  readonly state?: 'installed' | 'parked' | 'conflict';
  readonly reason?: string;
}

/** A route of a desired destination. */
interface Held {
  readonly route: Route;
  readonly owner: Owner;
}

/**
 * What to send to the kernel so that it holds what is desired.
 *
 * A destination present before and after is never absent in between: a wrong route is replaced in one message. REPLACE hits
 * the first route of a key whoever owns it, so it is only sent when that first one may go. A removal names protocol,
 * gateway and link, so it can hit nothing but the very route that was seen.
 */
export function plan(input: PlanInput): Plan {
  const changes: PlannedChange[] = [];
  const installed: string[] = [];
  const parked = new Map<string, string>();
  const conflicts = new Map<string, string>();
  for (const dst of input.dsts) {
    const desired = input.desired.get(dst);
    const actual = input.actual.get(dst) ?? [];
    const verdict =
      desired === undefined
        ? { changes: removeStale(input, dst, actual) }
        : planDesired(input, desired, actual);
    if (verdict.state === 'installed') installed.push(dst);
    else if (verdict.state === 'parked') parked.set(dst, verdict.reason ?? '');
    else if (verdict.state === 'conflict') conflicts.set(dst, verdict.reason ?? '');
    for (const change of verdict.changes) {
      if (change.op !== 'remove') changes.push(change);
      else if (input.held.removal(dst) === undefined && isExact(change.route, verdict.changes, actual))
        changes.push(change);
    }
  }
  return { changes, installed, parked, conflicts };
}

function removeStale(input: PlanInput, dst: string, actual: readonly Route[]): PlannedChange[] {
  return actual.flatMap((route) => {
    const owner = ownerOf(route, input.ownership, input.link.index);
    if (owner === 'own') {
      const removable = input.programmed.has(dst) || isRemovable(route, owner, input.ownership);
      return removable ? removal(route, 'stale') : [];
    }
    const removable = owner === 'legacy' && input.removeLegacy && isRemovable(route, owner, input.ownership);
    return removable ? removal(route, 'stale-legacy') : [];
  });
}

function planDesired(input: PlanInput, desired: DesiredRoute, actual: readonly Route[]): Verdict {
  const { link } = input;
  const there = actual.map((route) => ({ route, owner: ownerAt(input, desired, route) }));
  // Under another metric, too: a route of ours beside it would cut this host off from a network it is connected to.
  if (there.some(({ owner }) => owner === 'kernel')) {
    const reason = 'the kernel routes it as a network connected to this host';
    return { state: 'conflict', reason, changes: removeOurs(there, 'shadowed') };
  }
  if (link.problem !== undefined) return park(link, desired, there, link.problem);
  if (input.ownAddresses.has(desired.gateway)) {
    const reason = `its gateway ${desired.gateway} is an address of this host`;
    return { state: 'parked', reason, changes: removeOurs(there, 'wrong') };
  }
  return program(input, desired, link.index, there);
}

/**
 * flanneld's route to the desired gateway is adopted as it stands. With another gateway it is stale; after the first full
 * sync, or outside the cluster's network, it may be anybody's and is treated as foreign.
 */
function ownerAt(input: PlanInput, desired: DesiredRoute, route: Route): Owner {
  const owner = ownerOf(route, input.ownership, input.link.index);
  if (owner !== 'legacy' || route.gateway === desired.gateway) return owner;
  return input.removeLegacy && isRemovable(route, owner, input.ownership) ? 'legacy' : 'foreign';
}

/**
 * An old gateway is no way to reach the subnet's new holder. A right one stays: the kernel keeps what it would refuse to
 * take again.
 */
function park(link: LinkState, desired: DesiredRoute, there: readonly Held[], reason: string): Verdict {
  const isWrong = ({ route }: Held) =>
    route.gateway !== desired.gateway || route.linkIndex !== link.index || route.special;
  return { state: 'parked', reason, changes: removeOurs(there.filter(isWrong), 'wrong') };
}

/** Brings the routes of a destination to what is desired, alone among ours. */
function program(
  input: PlanInput,
  desired: DesiredRoute,
  linkIndex: number,
  there: readonly Held[],
): Verdict {
  const { dst, gateway } = desired;
  const { protocol } = input.ownership;
  const wanted: RouteSpec = { family: 4, dst, metric: metricOf(4), protocol, gateway, linkIndex };
  const isSameKey = ({ route }: Held) => route.tos === 0 && route.metric === wanted.metric;
  const [first, ...behind] = there.filter(isSameKey);
  // Ours under another metric are leftovers: they would shadow our route, or outlive it.
  const elsewhere = there.filter((held) => !isSameKey(held));
  if (first !== undefined && isInstalled(first.route, wanted)) {
    return { state: 'installed', changes: removeOurs([...behind, ...elsewhere], 'wrong') };
  }
  const hold = input.held.put(dst);
  if (hold !== undefined) return park(input.link, desired, there, hold);
  if (first === undefined) {
    return {
      changes: [{ op: 'add', route: wanted, cause: 'missing' }, ...removeOurs(elsewhere, 'wrong')],
    };
  }
  if (first.owner === 'foreign' && !input.mayReplaceForeign(dst)) {
    const reason = `a ${describe(first.route)} that another program keeps putting there`;
    return { state: 'conflict', reason, changes: removeOurs(there, 'shadowed') };
  }
  return {
    changes: [
      // REPLACE fails with EEXIST when the very same route lies further back in the key.
      ...removeOurs(behind, 'wrong'),
      { op: 'replace', route: wanted, cause: replaceCause(first, gateway) },
      ...removeOurs(elsewhere, 'wrong'),
    ],
  };
}

function replaceCause({ owner, route }: Held, gateway: string): PlannedChange['cause'] {
  if (owner === 'foreign') return 'foreign';
  if (owner !== 'legacy') return 'wrong';
  return route.gateway === gateway ? 'adopt' : 'stale-legacy';
}

function removeOurs(there: readonly Held[], cause: PlannedChange['cause']): PlannedChange[] {
  return there.flatMap(({ route, owner }) =>
    owner === 'own' || owner === 'legacy' ? removal(route, cause) : [],
  );
}

/** The exact removal of this route; none when it has a shape that we never make. */
function removal(route: Route, cause: PlannedChange['cause']): PlannedChange[] {
  const { family, dst, metric, protocol, gateway, linkIndex } = route;
  // Without a gateway and a link the kernel would delete the first match, whoever owns it.
  if (gateway === undefined || linkIndex === undefined || route.tos !== 0) return [];
  return [{ op: 'remove', route: { family, dst, metric, protocol, gateway, linkIndex }, cause }];
}

/**
 * Whether a removal can only hit what is meant to go. It cannot name a preferred source or metrics: of several routes that
 * look alike to it the kernel takes the first.
 */
function isExact(spec: RouteSpec, changes: readonly PlannedChange[], actual: readonly Route[]): boolean {
  const alike = actual.filter((route) => looksLike(route, spec));
  if (alike.length < 2) return true;
  const removed = changes.filter(({ op, route }) => op === 'remove' && looksLike({ ...route, tos: 0 }, spec));
  const replaced = changes.find(({ op }) => op === 'replace');
  const first = actual.find(({ tos, metric }) => tos === 0 && metric === replaced?.route.metric);
  // Somebody else's first route must still be there for the replacement, or that would hit the next one.
  const isReplaced = first?.protocol === replaced?.route.protocol && looksLike(first, spec);
  return alike.length <= removed.length + (isReplaced ? 1 : 0);
}

function looksLike(route: Omit<Route, 'type' | 'scope' | 'special'> | undefined, spec: RouteSpec): boolean {
  return (
    route?.tos === 0 &&
    route.metric === spec.metric &&
    route.protocol === spec.protocol &&
    route.gateway === spec.gateway &&
    route.linkIndex === spec.linkIndex
  );
}

function describe(route: Route): string {
  const via = route.gateway === undefined ? '' : ` via ${route.gateway}`;
  return `${route.type} route${via} of protocol ${route.protocol}`;
}
