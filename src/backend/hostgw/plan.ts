import type { Route, RouteSpec } from '../../kernel/kernel.ts';
import { hasGateway } from '../../kernel/route.ts';
import type { Reason } from '../backend.ts';
import type { DesiredRoute } from './claims.ts';
import { isInstalled, isRemovable, metricOf, type Owner, ownerOf } from './ownership.ts';
import {
  type Held,
  type LinkState,
  ownFault,
  type Plan,
  type PlanInput,
  type PlannedChange,
  type Verdict,
} from './plan-input.ts';
import { planUndesired } from './plan-undesired.ts';
import { describe, isExact, removal, removeOurs, sameRemoval } from './removal.ts';

/**
 * What to send to the kernel so that it holds what is desired.
 *
 * A destination present before and after is never absent in between: a wrong route is replaced, not removed and added. A removal
 * names protocol, gateway and link, so it can hit nothing but the very route that was seen.
 */
export function plan(input: PlanInput): Plan {
  const changes: PlannedChange[] = [];
  const installed: string[] = [];
  const shadowed: string[] = [];
  const parked = new Map<string, Reason>();
  const conflicts = new Map<string, Reason>();
  let legacyHeld = false;
  for (const dst of input.dsts) {
    const desired = input.desired.get(dst);
    const actual = input.actual.get(dst) ?? [];
    const verdict =
      desired === undefined ? planUndesired(input, dst, actual) : planDesired(input, desired, actual);
    if (verdict.state === 'installed') installed.push(dst);
    else if ('reason' in verdict) {
      (verdict.state === 'parked' ? parked : conflicts).set(dst, verdict.reason);
      if (verdict.shadowed) shadowed.push(dst);
    }
    for (const change of verdict.changes) {
      if (change.op !== 'remove') changes.push(change);
      else if (input.held.removal(dst) !== undefined) legacyHeld ||= change.cause === 'stale-legacy';
      else if (isExact(change.route, verdict.changes, actual)) changes.push(change);
    }
  }
  return { changes, installed, shadowed, parked, conflicts, legacyHeld };
}

/** The kernel has made a route for an address that is not known to us yet. */
const connectedReason = ownFault('this host is connected to that network itself');

function planDesired(input: PlanInput, desired: DesiredRoute, actual: readonly Route[]): Verdict {
  const { link } = input;
  const there = actual.map((route) => ({ route, owner: ownerAt(input, desired, route) }));
  // Under another metric, too: a route of ours beside it would cut this host off from a network it is connected to.
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
function park(link: LinkState, desired: DesiredRoute, there: readonly Held[], reason: Reason): Verdict {
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
  const { protocol, network } = input.ownership;
  const { family } = network;
  const wanted: RouteSpec = { family, dst, metric: metricOf(family), protocol, gateway, linkIndex };
  const isSameKey = ({ route }: Held) => route.tos === 0 && route.metric === wanted.metric;
  const sameKey = there.filter(isSameKey);
  const target = replaceTarget(wanted, sameKey);
  const behind = sameKey.filter((held) => held !== target);
  // Ours under another metric are leftovers: they would shadow our route, or outlive it.
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
    const reason = `another program of this host keeps putting a ${describe(target.route)} there`;
    return { state: 'conflict', reason: ownFault(reason), changes: removeOurs(there, 'shadowed') };
  }
  const seen = family === 4 ? nameOf(target.route, wanted, there) : undefined;
  const cause = replaceCause(target, gateway);
  // The first that will be left when the target and ours that are wrong have gone.
  const next = behind.find(
    (held) => isInstalled(held.route, wanted) || removeOurs([held], 'wrong').length === 0,
  );
  const ready = next !== undefined && isInstalled(next.route, wanted) ? next : undefined;
  if (seen !== undefined && ready !== undefined) {
    // Ours takes its place by itself. Were it removed first, to be put before, packets might find none in between.
    const rest = removeOurs([...behind.filter((held) => held !== ready), ...elsewhere], 'wrong');
    return { changes: [{ op: 'remove', route: seen, cause }, ...rest] };
  }
  return {
    changes: [
      // The kernel refuses with EEXIST what lies further back in the key.
      ...removeOurs(behind, 'wrong'),
      { op: 'replace', route: wanted, cause, ...(seen && { seen }) },
      ...removeOurs(elsewhere, 'wrong'),
    ],
  };
}

/**
 * What a removal names `target` by; undefined when that fits another route there as well (a metric of 0 fits any), or the one
 * that takes its place.
 */
function nameOf(target: Route, wanted: RouteSpec, there: readonly Held[]): RouteSpec | undefined {
  const [name] = removal(target, 'wrong').map(({ route }) => route);
  if (name === undefined || sameRemoval(wanted, name)) return undefined;
  const alike = there.filter(({ route }) => sameRemoval({ ...route, metric: name.metric }, name));
  return alike.length === 1 ? name : undefined;
}

/**
 * What a REPLACE by `wanted` would hit among the routes of its key: the first; in IPv6 the first with a gateway, which may be
 * one of several that the kernel has merged, and only without such a one the first.
 */
function replaceTarget(wanted: RouteSpec, sameKey: readonly Held[]): Held | undefined {
  if (wanted.family === 4) return sameKey[0];
  return sameKey.find(({ route }) => hasGateway(route)) ?? sameKey[0];
}

/**
 * A route we cannot remove that IPv6 uses before ours (a smaller metric), or as well (the same metric, and no gateway with
 * which it would have been merged). Our REPLACE cannot reach it.
 */
function isRival(held: Held, wanted: RouteSpec): boolean {
  return held.route.metric <= wanted.metric && removeOurs([held], 'wrong').length === 0;
}

function replaceCause({ owner, route }: Held, gateway: string): PlannedChange['cause'] {
  if (owner === 'foreign') return 'foreign';
  if (owner !== 'legacy') return 'wrong';
  return route.gateway === gateway ? 'adopt' : 'stale-legacy';
}
