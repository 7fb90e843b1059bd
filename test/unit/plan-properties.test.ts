import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type OperatorRoute, SimKernel } from '../../sim/kernel.ts';
import { Mirror } from '../../src/backend/hostgw/mirror.ts';
import { ownerOf } from '../../src/backend/hostgw/ownership.ts';
import { plan } from '../../src/backend/hostgw/plan.ts';
import type { Plan, PlanInput } from '../../src/backend/hostgw/plan-input.ts';
import { KernelError } from '../../src/kernel/errors.ts';
import type { KernelEvent, Route } from '../../src/kernel/kernel.ts';
import { protocol, subnet } from './reconciler-host.ts';

const network = subnet('172.20.0.0/16');
const ownership = { protocol, network, subnetLength: 24 };
const dsts = ['172.20.1.0/24', '172.20.2.0/24', '172.20.8.0/22', '192.168.50.0/24'];
const gateways = ['10.211.55.101', '10.211.55.102', '10.211.55.103'];
const ownAddress = '10.211.55.100';

const operatorRoute = fc.record({
  dst: fc.constantFrom(...dsts),
  protocol: fc.constantFrom(protocol, protocol, 3, 3, 4, 2),
  shape: fc.constantFrom('plain', 'plain', 'plain', 'source', 'blackhole', 'direct', 'multipath', 'onlink'),
  gateway: fc.constantFrom(...gateways),
  metric: fc.constantFrom(0, 0, 0, 100),
  link: fc.constantFrom('eth0', 'eth0', 'eth1'),
});

const world = fc.record({
  routes: fc.array(operatorRoute, { maxLength: 10, size: 'max' }),
  desired: fc.dictionary(fc.constantFrom(...dsts), fc.constantFrom(...gateways, ownAddress)),
  removeLegacy: fc.boolean(),
  foreignAllowed: fc.subarray(dsts),
  held: fc.subarray(dsts, { maxLength: 1 }),
  programmed: fc.subarray(dsts),
});
type World = typeof world extends fc.Arbitrary<infer T> ? T : never;

/** Only others make routes with a source or onlink that look like plain ones to a removal. */
function nexthopOf(
  shape: string,
  gateway: string,
  linkIndex: number,
  isOwn: boolean,
): Partial<OperatorRoute> {
  if (shape === 'blackhole') return { type: 'blackhole' };
  if (shape === 'direct') return { linkIndex };
  if (shape === 'multipath') return { special: true };
  if (shape === 'source' && !isOwn) return { gateway, linkIndex, source: ownAddress };
  return { gateway, linkIndex, special: shape === 'onlink' && !isOwn };
}

function kernelOf({ routes }: World): SimKernel {
  const kernel = new SimKernel();
  for (const [link, net] of [
    ['eth0', '10.211.55'],
    ['eth1', '10.211.55'],
  ] as const) {
    kernel.createLink(link);
    kernel.addAddress(link, `${net}.${link === 'eth0' ? 100 : 99}/24`);
  }
  for (const { shape, link, gateway, ...rest } of routes) {
    const linkIndex = kernel.link(link).index;
    const nexthop = nexthopOf(shape, gateway, linkIndex, rest.protocol === protocol);
    try {
      kernel.addRoute({ ...rest, ...nexthop }, 'append');
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
    }
  }
  return kernel;
}

function inputOf(kernel: SimKernel, given: World): PlanInput {
  const mirror = new Mirror('eth0', 4);
  mirror.reset({ links: kernel.links(), addresses: kernel.addresses(), routes: kernel.routes(4) });
  const desired = new Map(
    Object.entries(given.desired).map(([dst, gateway]) => [dst, { dst, gateway, key: dst }]),
  );
  return {
    dsts: new Set([...desired.keys(), ...mirror.dsts]),
    desired,
    actual: mirror,
    ownership,
    own: { dst: '172.20.100.0/24', blackhole: false },
    link: mirror.link,
    ownAddresses: mirror.ownAddresses,
    held: { put: (dst) => (given.held.includes(dst) ? 'held' : undefined), removal: () => undefined },
    programmed: new Set(given.programmed),
    removeLegacy: given.removeLegacy,
    mayReplaceForeign: (dst) => given.foreignAllowed.includes(dst),
  };
}

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
  const kernel = kernelOf(given);
  const before = kernel.routes(4);
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
  return { before, after: kernel.routes(4), outcomes, events, last };
}

/** Holds for every world; fast-check prints seed and smallest world when it does not. */
function always(check: (outcome: Outcome, given: World) => void): Promise<void> {
  const property = fc.asyncProperty(world, async (given) => check(await applyPlans(given), given));
  return fc.assert(property, { numRuns: 2_000 });
}

const keyOf = ({ dst, metric, tos }: Route) => `${dst} ${metric} ${tos}`;

describe('a plan applied to a kernel', () => {
  it('is accepted whole and leaves nothing to do', () =>
    always(({ last, outcomes }, given) => {
      expect(outcomes.filter((outcome) => outcome !== 'done')).toEqual([]);
      expect(last.changes).toEqual([]);
      const states = [...last.installed, ...last.parked.keys(), ...last.conflicts.keys()];
      expect(states.toSorted()).toEqual(Object.keys(given.desired).toSorted());
    }));

  it('leaves exactly one route of ours where one is installed, and it is the one in use', () =>
    always(({ last, after }, given) => {
      for (const dst of last.installed) {
        const [used] = after.filter((route) => route.dst === dst);
        expect(used).toMatchObject({ protocol, gateway: given.desired[dst], metric: 0, special: false });
      }
    }));

  it('touches no foreign route but the first of a desired key that may be replaced', () =>
    always(({ before, after }, given) => {
      const allowed = new Set(
        given.foreignAllowed.filter((dst) => dst in given.desired && !given.held.includes(dst)),
      );
      const isOurs = (route: Route) => ['own', 'legacy'].includes(ownerOf(route, ownership, 2));
      const gone = before.filter((route) => !after.includes(route) && !isOurs(route));
      for (const route of gone) {
        expect(route.protocol).not.toBe(2);
        expect(allowed.has(route.dst) && route.metric === 0).toBe(true);
        expect(before.find((there) => keyOf(there) === keyOf(route))).toBe(route);
      }
      expect(new Set(gone.map(keyOf)).size).toBe(gone.length);
    }));

  it('removes nothing that is not ours', () =>
    always(({ events }, given) => {
      for (const event of events) {
        if (event.type !== 'route-removed') continue;
        const owner = ownerOf(event.route, ownership, 2);
        const isAsked = given.desired[event.route.dst] === event.route.gateway;
        expect(owner === 'own' || (owner === 'legacy' && (given.removeLegacy || isAsked))).toBe(true);
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
