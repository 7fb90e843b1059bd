import {
  type BlackholeRoute,
  hasGateway,
  type Route,
  type RouteChange,
  type RouteSpec,
} from '../../kernel/kernel.ts';
import type { DesiredRoute } from './claims.ts';
import {
  blackholeMetricOf,
  isInstalled,
  isLegacyBlackhole,
  isRemovable,
  metricOf,
  type Owner,
  type Ownership,
  ownerOf,
  removalOf,
  sameRemoval,
} from './ownership.ts';
import type { PeerRoute, Reason } from './status.ts';

/*
 * Facts about Linux that complicate it. The contract tests hold each (test/contract/kernel-routes.ts,
 * kernel-ipv6.ts):
 *
 * - REPLACE hits the first route of its key (destination, TOS, metric), whoever owns it. By the time it
 *   arrives that may be another one: a connected network's, if an operator has just put that in its place. So
 *   in IPv4 the daemon adds its route before the one it saw, then removes that one by name. No packet finds
 *   no route in between, and no route is lost that the daemon has not seen.
 * - In IPv6 REPLACE hits the first route of the key that has a gateway, a multipath route as a whole, and
 *   only without such a one the first of all. ADD beside one with a gateway merges the two.
 * - A removal names protocol, gateway and link. It cannot name a preferred source or metrics: of several
 *   routes that look alike to it the kernel removes the first. In IPv4 metric 0 in a removal fits any metric.
 *   In IPv6 a removal does not compare types, so that of a blackhole names `dev lo`.
 * - The daemon never replaces a `proto kernel` route, and any other foreign one three times a minute at most
 *   (see pace.ts).
 * - Our blackhole for the own subnet has metric 2147483647 in IPv4, behind docker0's route. flanneld's has
 *   metric 0 and wins over docker0's route when it came first, so it goes at the first sync. In IPv6 both
 *   have 1024, behind docker0's 256.
 */

/** Everything that a plan depends on. Planning changes nothing in here. */
export interface PlanInput {
  /** The destinations to look at: those that may have changed, or all. */
  readonly dsts: Iterable<string>;
  readonly desired: { get(dst: string): DesiredRoute | undefined };
  /** Routes of the main table by destination, in the kernel's order: it uses the first of each key. */
  readonly actual: { get(dst: string): readonly Route[] | undefined };
  readonly ownership: Ownership;
  readonly own: OwnSubnet;
  readonly link: LinkState;
  /** Of this host. The kernel would accept one as a gateway, and loop. */
  readonly ownAddresses: ReadonlySet<string>;
  /**
   * Why no route may lead to a destination, whatever its lease says: it would cut off something of this host.
   */
  readonly refusal: (dst: string) => Reason | undefined;
  /**
   * Why a destination has to wait before a route is added (`put`) or removed (`removal`); undefined: it need
   * not.
   */
  readonly held: Readonly<Record<'put' | 'removal', (dst: string) => Reason | undefined>>;
  /** Destinations that this process programmed. Its routes there are its own wherever they lie. */
  readonly programmed: ReadonlySet<string>;
  /** Whether stale legacy routes go: only in the first full sync, when all leases and routes are known. */
  readonly removeLegacy: boolean;
  /** Whether the limit allows to replace a foreign route at this destination now. */
  readonly mayReplaceForeign: (dst: string) => boolean;
}

/** This host's own subnet. */
export interface OwnSubnet {
  readonly dst: string;
  /** Whether the kernel drops packets to it while no bridge has it. */
  readonly blackhole: boolean;
}

/** Our interface: usable, or why not. */
export type LinkState =
  | { readonly index: number; readonly problem?: undefined }
  | { readonly index?: number; readonly problem: string };

export type PlannedChange = Exclude<RouteChange, { readonly op: 'prepend' }> & {
  /** The route that a replacement takes the place of, if a removal can name that one alone. */
  readonly seen?: RouteSpec;
  readonly cause: 'missing' | 'wrong' | 'adopt' | 'foreign' | 'stale' | 'stale-legacy' | 'shadowed';
};

export interface Plan {
  /** In the order to send. */
  readonly changes: readonly PlannedChange[];
  /** By destination; none where no route is wanted, or one is being added. */
  readonly states: ReadonlyMap<string, PlannedState>;
  /** A stale route of flanneld's stays for now: its removal has to wait. */
  readonly legacyHeld: boolean;
}

/**
 * `installed`: the route is exactly as wanted; `parked`: there is none now; `conflict`: a route that we may not
 * touch is in the way.
 */
export interface PlannedState extends Pick<PeerRoute, 'state' | 'reason'> {
  /** In conflict although the route is as wanted: another one takes its packets. */
  readonly shadowed?: true;
}

type DestinationPlan = { readonly changes: readonly PlannedChange[] } & (
  | PlannedState
  | { readonly state?: undefined }
);

/** A reason that an operator has to resolve on this host. */
export function ownFault(text: string): Reason {
  return { text, fault: 'own' };
}

interface OwnedRoute {
  readonly route: Route;
  readonly owner: Owner;
}

/**
 * Plans the changes that bring the kernel to what is desired. A destination that is there before and after is
 * there all the time: a wrong route is replaced, never removed and added again.
 */
export function plan(input: PlanInput): Plan {
  const changes: PlannedChange[] = [];
  const states = new Map<string, PlannedState>();
  let legacyHeld = false;
  for (const dst of input.dsts) {
    const desired = input.desired.get(dst);
    const actual = input.actual.get(dst) ?? [];
    const verdict =
      desired === undefined ? planUndesired(input, dst, actual) : planDesired(input, desired, actual);
    if (verdict.state !== undefined) states.set(dst, verdict);
    for (const change of verdict.changes) {
      if (change.op !== 'remove') changes.push(change);
      else if (input.held.removal(dst) !== undefined) legacyHeld ||= change.cause === 'stale-legacy';
      else if (isExact(change.route, verdict.changes, actual)) changes.push(change);
    }
  }
  return { changes, states, legacyHeld };
}

/** The kernel has made a route for an address that the mirror does not know yet. */
const connectedReason = ownFault('this host is connected to that network itself');

function planDesired(input: PlanInput, desired: DesiredRoute, actual: readonly Route[]): DestinationPlan {
  const { link } = input;
  const there = actual.map((route) => ({ route, owner: ownerAt(input, desired, route) }));
  // Under any metric: a route of ours beside it would cut this host off from a network it is connected to.
  const isConnected = there.some(({ owner }) => owner === 'kernel');
  const reason = input.refusal(desired.dst) ?? (isConnected ? connectedReason : undefined);
  if (reason !== undefined) return { state: 'conflict', reason, changes: removeOurs(there, 'shadowed') };
  if (link.problem !== undefined) return park(link, desired, there, ownFault(link.problem));
  if (input.ownAddresses.has(desired.gateway)) {
    const text = `its gateway ${desired.gateway} is an address of this host`;
    return { state: 'parked', reason: { text, fault: 'peer' }, changes: removeOurs(there, 'wrong') };
  }
  return program(input, desired, link.index, there);
}

/**
 * flanneld's route to the desired gateway counts as flanneld's. One to another gateway is stale; after the
 * first full sync, or outside the cluster's network, it may be anybody's and counts as foreign.
 */
function ownerAt(input: PlanInput, desired: DesiredRoute, route: Route): Owner {
  const owner = ownerOf(route, input.ownership, input.link.index);
  if (owner !== 'legacy' || route.gateway === desired.gateway) return owner;
  return input.removeLegacy && isRemovable(route, owner, input.ownership) ? 'legacy' : 'foreign';
}

/**
 * Removes a route to a wrong gateway: it does not lead to the subnet's new holder. A right one stays, as the
 * kernel would refuse it now.
 */
function park(
  link: LinkState,
  desired: DesiredRoute,
  there: readonly OwnedRoute[],
  reason: Reason,
): DestinationPlan {
  const isWrong = ({ route }: OwnedRoute) =>
    route.gateway !== desired.gateway || route.linkIndex !== link.index || route.special;
  return { state: 'parked', reason, changes: removeOurs(there.filter(isWrong), 'wrong') };
}

/** Brings the routes of a destination to what is desired: one of ours, and no other of ours beside it. */
function program(
  input: PlanInput,
  desired: DesiredRoute,
  linkIndex: number,
  there: readonly OwnedRoute[],
): DestinationPlan {
  const { dst, gateway } = desired;
  const { protocol, network } = input.ownership;
  const { family } = network;
  const wanted: RouteSpec = { family, dst, metric: metricOf(family), protocol, gateway, linkIndex };
  const isSameKey = ({ route }: OwnedRoute) => route.tos === 0 && route.metric === wanted.metric;
  const sameKey = there.filter(isSameKey);
  const target = replaceTarget(wanted, sameKey);
  const behind = sameKey.filter((held) => held !== target);
  // Ours under another metric would shadow our route, or outlive it.
  const elsewhere = there.filter((held) => !isSameKey(held));
  if (target !== undefined && isInstalled(target.route, wanted)) {
    const changes = removeOurs([...behind, ...elsewhere], 'wrong');
    const rival = family === 6 ? there.find((held) => held !== target && isRival(held, wanted)) : undefined;
    if (rival === undefined) return { state: 'installed', changes };
    const reason = `a ${describe(rival.route)} and metric ${rival.route.metric} takes its packets`;
    return { state: 'conflict', shadowed: true, reason: ownFault(reason), changes };
  }
  const hold = input.held.put(dst);
  if (hold !== undefined) return park(input.link, desired, there, hold);
  if (target === undefined) {
    return {
      changes: [{ op: 'add', route: wanted, cause: 'missing' }, ...removeOurs(elsewhere, 'wrong')],
    };
  }
  if (target.owner === 'foreign' && !input.mayReplaceForeign(dst)) {
    const reason = `another program on this host keeps adding a ${describe(target.route)}`;
    return { state: 'conflict', reason: ownFault(reason), changes: removeOurs(there, 'shadowed') };
  }
  const seen = family === 4 ? nameOf(target.route, wanted, there) : undefined;
  const cause = replaceCause(target, gateway);
  // The first that stays when the target and our wrong ones have gone.
  const next = behind.find(
    (held) => isInstalled(held.route, wanted) || removeOurs([held], 'wrong').length === 0,
  );
  const ready = next !== undefined && isInstalled(next.route, wanted) ? next : undefined;
  if (seen !== undefined && ready !== undefined) {
    // It moves up by itself. If it were removed and added before the target, packets might find no route.
    const rest = removeOurs([...behind.filter((held) => held !== ready), ...elsewhere], 'wrong');
    return { changes: [{ op: 'remove', route: seen, cause }, ...rest] };
  }
  return {
    changes: [
      // First these: the kernel refuses a route that is further back in the key with EEXIST.
      ...removeOurs(behind, 'wrong'),
      { op: 'replace', route: wanted, cause, ...(seen && { seen }) },
      ...removeOurs(elsewhere, 'wrong'),
    ],
  };
}

/**
 * The names in a removal of `target`; undefined when they fit another route as well, or the one that takes
 * its place.
 */
function nameOf(target: Route, wanted: RouteSpec, there: readonly OwnedRoute[]): RouteSpec | undefined {
  const name = removalOf(target);
  if (name === undefined || sameRemoval(wanted, name)) return undefined;
  const alike = there.filter(({ route }) => sameRemoval({ ...route, metric: name.metric }, name));
  return alike.length === 1 ? name : undefined;
}

/** The route that REPLACE by `wanted` hits among the routes of its key. */
function replaceTarget(wanted: RouteSpec, sameKey: readonly OwnedRoute[]): OwnedRoute | undefined {
  if (wanted.family === 4) return sameKey[0];
  return sameKey.find(({ route }) => hasGateway(route)) ?? sameKey[0];
}

/**
 * A route that we cannot remove and IPv6 uses before ours (a smaller metric), or together with ours (the same
 * metric, and no gateway to merge by). Our REPLACE does not reach it.
 */
function isRival(held: OwnedRoute, wanted: RouteSpec): boolean {
  return held.route.metric <= wanted.metric && removeOurs([held], 'wrong').length === 0;
}

function replaceCause({ owner, route }: OwnedRoute, gateway: string): PlannedChange['cause'] {
  if (owner === 'foreign') return 'foreign';
  if (owner !== 'legacy') return 'wrong';
  return route.gateway === gateway ? 'adopt' : 'stale-legacy';
}

/** Plans for a destination that no peer's lease asks for: our own subnet, or a leftover. */
function planUndesired(input: PlanInput, dst: string, actual: readonly Route[]): DestinationPlan {
  const isOwn = dst === input.own.dst;
  if (isOwn && input.own.blackhole) return planBlackhole(input, actual);
  const changes = removeStale(input, dst, actual);
  // With the option off no blackhole stays, neither ours of an earlier run nor flanneld's.
  return { changes: isOwn ? [...changes, ...removeLegacyBlackholes(input, actual)] : changes };
}

/**
 * A blackhole for our own subnet, behind every route that a bridge brings. Without it, packets to the subnet
 * leave by the default route while no bridge has it. flanneld's goes afterwards where we cannot adopt it
 * (IPv4: another metric).
 */
function planBlackhole(input: PlanInput, actual: readonly Route[]): DestinationPlan {
  const { own, ownership } = input;
  const { dst } = own;
  const { protocol, network } = ownership;
  const metric = blackholeMetricOf(network.family);
  const wanted: BlackholeRoute = { family: network.family, type: 'blackhole', dst, metric, protocol };
  const sameKey = actual.filter((route) => route.tos === 0 && route.metric === metric);
  const there = sameKey.find((route) => isInstalled(route, wanted));
  // The one that REPLACE would hit: in IPv6 the first without a gateway if there is one, else the first.
  const bare = network.family === 6 ? sameKey.find((route) => !hasGateway(route)) : undefined;
  const target = there ?? bare ?? sameKey[0];
  const others = actual.filter((route) => route !== target);
  const leftovers = [...removeStale(input, dst, others), ...removeLegacyBlackholes(input, others)];
  if (there !== undefined) return { state: 'installed', changes: leftovers };
  const hold = input.held.put(dst);
  if (hold !== undefined) return { state: 'parked', reason: hold, changes: [] };
  if (target === undefined) {
    return { changes: [{ op: 'add', route: wanted, cause: 'missing' }, ...leftovers] };
  }
  const isLegacy = isLegacyBlackhole(target);
  if (!isLegacy && ownerOf(target, ownership, input.link.index) !== 'own') {
    const reason = `a ${describe(target)} is where its blackhole belongs`;
    return { state: 'conflict', reason: ownFault(reason), changes: leftovers };
  }
  const cause = isLegacy ? 'adopt' : 'wrong';
  return { changes: [{ op: 'replace', route: wanted, cause }, ...leftovers] };
}

function removeLegacyBlackholes({ removeLegacy }: PlanInput, actual: readonly Route[]): PlannedChange[] {
  if (!removeLegacy) return [];
  return actual.filter(isLegacyBlackhole).flatMap((route) => removal(route, 'stale-legacy'));
}

function removeStale(input: PlanInput, dst: string, actual: readonly Route[]): PlannedChange[] {
  const { ownership, programmed, removeLegacy } = input;
  return actual.flatMap((route) => {
    const owner = ownerOf(route, ownership, input.link.index);
    if (owner === 'own') {
      return programmed.has(dst) || isRemovable(route, owner, ownership) ? removal(route, 'stale') : [];
    }
    return removeLegacy && isRemovable(route, owner, ownership) ? removal(route, 'stale-legacy') : [];
  });
}

/** Removes those of the routes that are ours or flanneld's. */
function removeOurs(there: readonly OwnedRoute[], cause: PlannedChange['cause']): PlannedChange[] {
  return there.flatMap(({ route, owner }) =>
    owner === 'own' || owner === 'legacy' ? removal(route, cause) : [],
  );
}

function removal(route: Route, cause: PlannedChange['cause']): PlannedChange[] {
  const name = removalOf(route);
  return name === undefined ? [] : [{ op: 'remove', route: name, cause }];
}

/** Whether a removal can only hit routes that are meant to go. */
function isExact(spec: RouteSpec, changes: readonly PlannedChange[], actual: readonly Route[]): boolean {
  const alike = actual.filter((route) => looksLike(route, spec));
  if (alike.length < 2) return true;
  const removed = changes.filter(({ op, route }) => op === 'remove' && sameRemoval(route, spec));
  const replaced = changes.find(({ op }) => op === 'replace');
  const first = actual.find(({ tos, metric }) => tos === 0 && metric === replaced?.route.metric);
  // A foreign first route must still be there for the replacement, which would hit the next one otherwise.
  const isReplaced = first?.protocol === replaced?.route.protocol && looksLike(first, spec);
  return alike.length <= removed.length + (isReplaced ? 1 : 0);
}

function looksLike(route: Route | undefined, spec: RouteSpec): boolean {
  return route?.tos === 0 && sameRemoval(route, spec);
}

function describe(route: Route): string {
  const via = route.gateway === undefined ? '' : ` via ${route.gateway}`;
  return `${route.type} route${via} of protocol ${route.protocol}`;
}
