import type { BlackholeRoute, Route } from '../../kernel/kernel.ts';
import { hasGateway } from '../../kernel/route.ts';
import { blackholeMetricOf, isInstalled, isLegacyBlackhole, isRemovable, ownerOf } from './ownership.ts';
import { ownFault, type PlanInput, type PlannedChange, type Verdict } from './plan-input.ts';
import { describe, removal } from './removal.ts';

/** What to do where no lease of a peer's asks for a route: our own subnet, and what is left over. */
export function planUndesired(input: PlanInput, dst: string, actual: readonly Route[]): Verdict {
  if (dst !== input.own.dst) return { changes: removeStale(input, dst, actual) };
  return input.own.blackhole ? planBlackhole(input, actual) : { changes: removeAll(input, actual) };
}

/** With the option off no blackhole is left, neither ours of an earlier run nor flanneld's. */
function removeAll(input: PlanInput, actual: readonly Route[]): PlannedChange[] {
  return [...removeStale(input, input.own.dst, actual), ...removeLegacyBlackholes(input, actual)];
}

/**
 * A blackhole for our own subnet, behind every route a bridge brings: what is sent there while no bridge has it would
 * otherwise leave by the default route. flanneld's, where it is not ours to adopt (IPv4: another metric), goes afterwards.
 */
function planBlackhole(input: PlanInput, actual: readonly Route[]): Verdict {
  const { own, ownership } = input;
  const { dst } = own;
  const { protocol, network } = ownership;
  const metric = blackholeMetricOf(network.family);
  const wanted: BlackholeRoute = { family: network.family, type: 'blackhole', dst, metric, protocol };
  const sameKey = actual.filter((route) => route.tos === 0 && route.metric === metric);
  const there = sameKey.find((route) => isInstalled(route, wanted));
  // What a REPLACE would hit: the first, in IPv6 the first of those without a gateway if there is one.
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
    const reason = `a ${describe(target)} is in the place of its blackhole`;
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
