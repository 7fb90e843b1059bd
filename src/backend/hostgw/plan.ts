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
  /** Routes the kernel refused, until something makes another try worthwhile. */
  readonly refused: ReadonlyMap<string, string>;
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

interface Draft {
  readonly changes: PlannedChange[];
  readonly installed: string[];
  readonly parked: Map<string, string>;
  readonly conflicts: Map<string, string>;
}

/**
 * What to send to the kernel so that it holds what is desired.
 *
 * A destination present before and after is never absent in between: a wrong route is replaced in one message. REPLACE hits
 * the first route of a key whoever owns it, so it is only sent when that first one may go. A removal names protocol,
 * gateway and link, so it can hit nothing but the very route that was seen.
 */
export function plan(input: PlanInput): Plan {
  const draft: Draft = { changes: [], installed: [], parked: new Map(), conflicts: new Map() };
  for (const dst of input.dsts) {
    const desired = input.desired.get(dst);
    const actual = input.actual.get(dst) ?? [];
    if (desired === undefined) removeStale(input, draft, dst, actual);
    else planDesired(input, draft, desired, actual);
  }
  return draft;
}

function removeStale(input: PlanInput, draft: Draft, dst: string, actual: readonly Route[]): void {
  for (const route of actual) {
    const owner = ownerOf(route, input.ownership, input.link.index);
    if (owner === 'own') {
      if (!input.programmed.has(dst) && !isRemovable(route, owner, input.ownership)) continue;
    } else if (owner !== 'legacy' || !input.removeLegacy || !isRemovable(route, owner, input.ownership))
      continue;
    remove(draft, route, owner === 'legacy' ? 'stale-legacy' : 'stale');
  }
}

function planDesired(input: PlanInput, draft: Draft, desired: DesiredRoute, actual: readonly Route[]): void {
  const { dst } = desired;
  const metric = metricOf(4);
  const key = actual.filter((route) => route.tos === 0 && route.metric === metric);
  const owners = key.map((route) => ownerAt(input, desired, route));
  removeOtherKeys(input, draft, actual, metric);

  if (owners.includes('kernel')) {
    draft.conflicts.set(dst, 'the kernel routes it as a network connected to this host');
    removeOwn(draft, key, owners, () => true, 'shadowed');
    return;
  }
  const problem = cannotProgram(input, desired);
  if (problem !== undefined) {
    draft.parked.set(dst, problem);
    // An old gateway is no way to reach the subnet's new holder. A right one stays: the kernel keeps what it would refuse.
    removeOwn(draft, key, owners, (route) => route.gateway !== desired.gateway, 'wrong');
    return;
  }
  if (input.link.problem !== undefined) return;
  const wanted: RouteSpec = {
    family: 4,
    dst,
    metric,
    protocol: input.ownership.protocol,
    gateway: desired.gateway,
    linkIndex: input.link.index,
  };
  program(input, draft, wanted, key, owners);
}

/** flanneld's route is adopted as it stands; with another gateway it may be anybody's, and is treated as foreign. */
function ownerAt(input: PlanInput, desired: DesiredRoute, route: Route): Owner {
  const owner = ownerOf(route, input.ownership, input.link.index);
  return owner === 'legacy' && route.gateway !== desired.gateway ? 'foreign' : owner;
}

/** Brings the routes of one key to `wanted`, alone among ours; `key` and `owners` are parallel. */
function program(
  input: PlanInput,
  draft: Draft,
  wanted: RouteSpec,
  key: readonly Route[],
  owners: readonly Owner[],
): void {
  const { dst } = wanted;
  const [first] = key;
  const [owner] = owners;
  if (first === undefined || owner === undefined) {
    const refusal = input.refused.get(dst);
    if (refusal === undefined) draft.changes.push({ op: 'add', route: wanted, cause: 'missing' });
    else draft.parked.set(dst, refusal);
    return;
  }
  if (isInstalled(first, wanted)) {
    draft.installed.push(dst);
    removeOwn(draft, key.slice(1), owners.slice(1), () => true, 'wrong');
    return;
  }
  const refusal = input.refused.get(dst);
  if (refusal !== undefined) {
    draft.parked.set(dst, refusal);
    removeOwn(draft, key, owners, (route) => route.gateway !== wanted.gateway, 'wrong');
    return;
  }
  if (owner === 'foreign' && !input.mayReplaceForeign(dst)) {
    draft.conflicts.set(dst, `a ${describe(first)} that another program keeps putting there`);
    removeOwn(draft, key.slice(1), owners.slice(1), () => true, 'shadowed');
    return;
  }
  // REPLACE fails with EEXIST when the very same route lies further back in the key: those behind the first go before it.
  removeOwn(draft, key.slice(1), owners.slice(1), () => true, 'wrong');
  const cause = owner === 'foreign' ? 'foreign' : owner === 'legacy' ? 'adopt' : 'wrong';
  draft.changes.push({ op: 'replace', route: wanted, cause });
}

function cannotProgram(input: PlanInput, desired: DesiredRoute): string | undefined {
  if (input.link.problem !== undefined) return input.link.problem;
  if (input.ownAddresses.has(desired.gateway))
    return `its gateway ${desired.gateway} is an address of this host`;
  return undefined;
}

/** Our own routes to a desired destination under another metric or tos are leftovers: they would shadow or outlive it. */
function removeOtherKeys(input: PlanInput, draft: Draft, actual: readonly Route[], metric: number): void {
  for (const route of actual) {
    if (route.tos === 0 && route.metric === metric) continue;
    if (ownerOf(route, input.ownership, input.link.index) === 'own') remove(draft, route, 'stale');
  }
}

function removeOwn(
  draft: Draft,
  key: readonly Route[],
  owners: readonly Owner[],
  matches: (route: Route) => boolean,
  cause: PlannedChange['cause'],
): void {
  key.forEach((route, index) => {
    if ((owners[index] === 'own' || owners[index] === 'legacy') && matches(route))
      remove(draft, route, cause);
  });
}

function remove(draft: Draft, route: Route, cause: PlannedChange['cause']): void {
  const { family, dst, metric, protocol, gateway, linkIndex } = route;
  // Without a gateway and a link the kernel would delete the first match, whoever owns it: such a route is not one we made.
  if (gateway === undefined || linkIndex === undefined || route.tos !== 0) return;
  draft.changes.push({ op: 'remove', route: { family, dst, metric, protocol, gateway, linkIndex }, cause });
}

function describe(route: Route): string {
  const via = route.gateway === undefined ? '' : ` via ${route.gateway}`;
  return `${route.type} route${via} of protocol ${route.protocol}`;
}
