import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isLegacyBlackhole, metricOf, ownerOf } from '../../src/backend/hostgw/ownership.ts';
import { type Plan, plan } from '../../src/backend/hostgw/plan.ts';
import type { KernelEvent, Route } from '../../src/kernel/kernel.ts';
import { families, inputOf, kernelOf, ownershipOf, type World, worldOf } from './plan-world.ts';
import { protocol } from './reconciler-host.ts';

interface Outcome {
  readonly before: readonly Route[];
  readonly after: readonly Route[];
  readonly outcomes: readonly string[];
  readonly events: readonly KernelEvent[];
  /** The plan for what the kernel holds at the end. */
  readonly last: Plan;
}

/** Twice: what a removal cannot tell from somebody else's first route goes when that has been replaced. */
async function applyPlans(given: World): Promise<Outcome> {
  const { family } = given.on;
  const kernel = kernelOf(given);
  const before = kernel.routes(family);
  const connection = kernel.open();
  const stream = await connection.subscribe();
  const outcomes: string[] = [];
  for (let pass = 0; pass < 2; pass++) {
    const results = await connection.apply(plan(inputOf(kernel, given)).changes);
    outcomes.push(...results.map((result) => (result.outcome === 'failed' ? result.errno : result.outcome)));
  }
  const events = await stream.drain();
  const last = plan(inputOf(kernel, given));
  connection.close();
  return { before, after: kernel.routes(family), outcomes, events, last };
}

const keyOf = ({ dst, metric, tos }: Route) => `${dst} ${metric} ${tos}`;

describe.each(families)('a plan applied to a kernel, IPv$family', (on) => {
  const world = worldOf(on);
  const ownership = ownershipOf(on);

  /** Holds for every world; fast-check prints seed and smallest world when it does not. */
  function always(check: (outcome: Outcome, given: World) => void): Promise<void> {
    const property = fc.asyncProperty(world, async (given) => check(await applyPlans(given), given));
    return fc.assert(property, { numRuns: on.family === 4 ? 1_000 : 400 });
  }

  it('is accepted whole and leaves nothing to do', () =>
    always(({ last, outcomes }, given) => {
      expect(outcomes.filter((outcome) => outcome !== 'done')).toEqual([]);
      expect(last.changes).toEqual([]);
      const states = [...last.installed, ...last.parked.keys(), ...last.conflicts.keys()];
      const wanted = [...Object.keys(given.desired), ...(given.blackhole ? [on.own] : [])];
      expect(states.toSorted()).toEqual(wanted.toSorted());
    }));

  it('leaves exactly one route of ours where one is installed, and it is the one in use', () =>
    always(({ last, after }, given) => {
      for (const dst of last.installed) {
        if (dst === on.own) continue;
        const [used] = after.filter((route) => route.dst === dst);
        const metric = metricOf(on.family);
        expect(used).toMatchObject({ protocol, gateway: given.desired[dst], metric, special: false });
      }
    }));

  it('puts a blackhole behind all else of our own subnet, and none of ours when it is not wanted', () =>
    always(({ last, after }, given) => {
      const ours = after.filter((route) => route.protocol === protocol && route.type === 'blackhole');
      const there = ours.filter(({ dst }) => dst === on.own);
      if (last.installed.includes(on.own)) expect(there.length).toBeGreaterThan(0);
      if (!given.blackhole) expect(there).toEqual([]);
    }));

  it('touches no foreign route but one of a desired key that may be replaced, and flanneld’s blackhole', () =>
    always(({ before, after }, given) => {
      const allowed = new Set(
        given.foreignAllowed.filter((dst) => dst in given.desired && !given.held.includes(dst)),
      );
      const isOurs = (route: Route) => ['own', 'legacy'].includes(ownerOf(route, ownership, 2));
      const gone = before.filter((route) => !after.includes(route) && !isOurs(route));
      for (const route of gone) {
        expect(route.protocol).not.toBe(2);
        if (route.dst === on.own) {
          expect(isLegacyBlackhole(route) && (given.removeLegacy || given.blackhole)).toBe(true);
          continue;
        }
        expect(allowed.has(route.dst) && route.metric === metricOf(on.family)).toBe(true);
        // IPv6 prefers one with a gateway.
        if (on.family === 4) expect(before.find((there) => keyOf(there) === keyOf(route))).toBe(route);
      }
      expect(new Set(gone.map(keyOf)).size).toBe(gone.length);
    }));

  it('removes nothing that is not ours, but what a route of ours that is there already takes the place of', () =>
    always(({ events, after, last }, given) => {
      for (const event of events) {
        if (event.type !== 'route-removed') continue;
        const { route } = event;
        const owner = ownerOf(route, ownership, 2);
        const isAsked = given.desired[route.dst] === route.gateway;
        const isLegacy = owner === 'legacy' || (route.dst === on.own && isLegacyBlackhole(route));
        const next = after.find((there) => keyOf(there) === keyOf(route));
        const hasSuccessor =
          on.family === 4 && next?.protocol === protocol && last.installed.includes(route.dst);
        const gavePlace = given.foreignAllowed.includes(route.dst) && route.protocol !== 2 && hasSuccessor;
        expect(owner === 'own' || (isLegacy && (given.removeLegacy || isAsked)) || gavePlace).toBe(true);
      }
    }));

  it('never lets a destination vanish that is there before and after', () =>
    always(({ before, after, events }) => {
      const count = new Map<string, number>();
      for (const { dst } of before) count.set(dst, (count.get(dst) ?? 0) + 1);
      const gaps = new Set<string>();
      for (const event of events) {
        if (event.type !== 'route-added' && event.type !== 'route-removed') continue;
        const { dst } = event.route;
        const step = event.type === 'route-removed' ? -1 : event.replaced ? 0 : 1;
        count.set(dst, (count.get(dst) ?? 0) + step);
        if (count.get(dst) === 0) gaps.add(dst);
      }
      expect([...gaps].filter((dst) => after.some((route) => route.dst === dst))).toEqual([]);
    }));
});
