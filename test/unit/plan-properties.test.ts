import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { routeProtocol as protocol } from '../../sim/host.ts';
import { type OperatorRoute, SimKernel } from '../../sim/kernel.ts';
import { subnet } from '../../sim/leases.ts';
import { HostNetworks } from '../../src/backend/hostgw/host-networks.ts';
import { Mirror } from '../../src/backend/hostgw/mirror.ts';
import {
  blackholeMetricOf,
  isLegacyBlackhole,
  metricOf,
  type Ownership,
  ownerOf,
} from '../../src/backend/hostgw/ownership.ts';
import { ownFault, type PlanInput, plan } from '../../src/backend/hostgw/plan.ts';
import { KernelError, type Route } from '../../src/kernel/kernel.ts';

/** Each family's network, and what hosts and operators may use of it. */
const families = [
  {
    family: 4,
    network: '172.20.0.0/16',
    subnetLength: 24,
    dsts: ['172.20.1.0/24', '172.20.2.0/24', '172.20.8.0/22', '192.168.50.0/24'],
    own: '172.20.100.0/24',
    gateways: ['10.211.55.101', '10.211.55.102', '10.211.55.103'],
    addresses: ['10.211.55.100', '10.211.55.99'],
    addressLength: 24,
  },
  {
    family: 6,
    network: 'fc00::/32',
    subnetLength: 64,
    dsts: ['fc00:0:1::/64', 'fc00:0:2::/64', 'fc00:0:8::/60', 'fd99::/64'],
    own: 'fc00:0:100::/64',
    gateways: ['fd00:55::101', 'fd00:55::102', 'fd00:55::103'],
    addresses: ['fd00:55::100', 'fd00:55::99'],
    addressLength: 64,
  },
] as const;
type FamilyCase = (typeof families)[number];

function worldOf(on: FamilyCase) {
  const { family, own, gateways, addresses } = on;
  const dsts: readonly string[] = on.dsts;
  const usual = metricOf(family);
  const operatorRoute = fc.record({
    dst: fc.constantFrom(...dsts, own),
    protocol: fc.constantFrom(protocol, protocol, 3, 3, 4, 2),
    shape: fc.constantFrom('plain', 'plain', 'plain', 'source', 'blackhole', 'direct', 'object', 'onlink'),
    gateway: fc.constantFrom(...gateways),
    metric: fc.constantFrom(usual, usual, usual, 100, blackholeMetricOf(family)),
    link: fc.constantFrom('eth0', 'eth0', 'eth1'),
  });
  return fc.record({
    on: fc.constant(on),
    routes: fc.array(operatorRoute, { maxLength: 10, size: 'max' }),
    desired: fc.dictionary(fc.constantFrom(...dsts), fc.constantFrom(...gateways, addresses[0])),
    removeLegacy: fc.boolean(),
    foreignAllowed: fc.subarray([...dsts]),
    held: fc.subarray([...dsts, own], { maxLength: 1 }),
    programmed: fc.subarray([...dsts]),
    blackhole: fc.boolean(),
  });
}
type World = ReturnType<typeof worldOf> extends fc.Arbitrary<infer T> ? T : never;

/** Only others make routes with a source or onlink that look like plain ones to a removal. */
function nexthopOf(
  { shape, gateway, protocol: owner }: World['routes'][number],
  linkIndex: number,
  source: string,
): Partial<OperatorRoute> {
  if (shape === 'blackhole') return { type: 'blackhole' };
  if (shape === 'direct') return { linkIndex };
  if (shape === 'object') return { special: true };
  if (shape === 'source' && owner !== protocol) return { gateway, linkIndex, source };
  return { gateway, linkIndex, special: shape === 'onlink' && owner !== protocol };
}

/** The kernel a world begins with; what the kernel refuses of it is left out. */
function kernelOf({ routes, on: { addresses, addressLength } }: World): SimKernel {
  const kernel = new SimKernel();
  for (const [i, address] of addresses.entries()) {
    kernel.createLink(`eth${i}`);
    kernel.addAddress(`eth${i}`, `${address}/${addressLength}`);
  }
  for (const route of routes) {
    const { dst, protocol: owner, metric } = route;
    const nexthop = nexthopOf(route, kernel.link(route.link).index, addresses[0]);
    try {
      kernel.addRoute({ dst, protocol: owner, metric, ...nexthop }, 'append');
    } catch (error) {
      if (!(error instanceof KernelError)) throw error;
    }
  }
  return kernel;
}

function ownershipOf({ network, subnetLength }: FamilyCase): Ownership {
  return { protocol, network: subnet(network), subnetLength };
}

/** What is to be planned now. */
function inputOf(kernel: SimKernel, given: World): PlanInput & { readonly actual: Mirror } {
  const { on, blackhole } = given;
  const mirror = new Mirror('eth0', ownershipOf(on));
  const routes = kernel.routes(on.family);
  mirror.reset({ links: kernel.links(), addresses: kernel.addresses(), routes });
  const networks = new HostNetworks({
    ...mirror.side,
    etcdAddresses: [],
    isLeasable: () => true,
  });
  const desired = new Map(
    Object.entries(given.desired).map(([dst, gateway]) => [dst, { dst, gateway, key: dst }]),
  );
  return {
    dsts: new Set([on.own, ...desired.keys(), ...routes.map(({ dst }) => dst)]),
    desired,
    actual: mirror,
    ownership: ownershipOf(on),
    own: { dst: on.own, blackhole },
    link: mirror.link,
    ownAddresses: mirror.ownAddresses,
    refusal: (dst) => networks.refusal(dst),
    held: {
      put: (dst) => (given.held.includes(dst) ? ownFault('held') : undefined),
      removal: () => undefined,
    },
    programmed: new Set(given.programmed),
    removeLegacy: given.removeLegacy,
    mayReplaceForeign: (dst) => given.foreignAllowed.includes(dst),
  };
}

/** Twice: what a removal cannot tell from somebody else's first route goes when that has been replaced. */
async function applyPlans(given: World) {
  const { family } = given.on;
  const kernel = kernelOf(given);
  const before = kernel.routes(family);
  const connection = kernel.open();
  const stream = await connection.subscribe();
  const outcomes: string[] = [];
  const touched: string[] = [];
  const removable: string[] = [];
  for (let pass = 0; pass < 2; pass++) {
    const input = inputOf(kernel, given);
    const { changes } = plan(input);
    touched.push(...changes.map(({ route }) => route.dst));
    removable.push(...input.actual.removable);
    const results = await connection.apply(changes);
    outcomes.push(...results.map((result) => (result.outcome === 'failed' ? result.errno : result.outcome)));
  }
  const events = await stream.drain();
  // The plan for what the kernel holds at the end.
  const last = plan(inputOf(kernel, given));
  connection.close();
  return { before, after: kernel.routes(family), outcomes, events, last, touched, removable };
}

type Outcome = Awaited<ReturnType<typeof applyPlans>>;

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
      const states = [...last.states.keys()];
      const wanted = [...Object.keys(given.desired), ...(given.blackhole ? [on.own] : [])];
      expect(states.toSorted()).toEqual(wanted.toSorted());
    }));

  it('changes only what is desired, programmed or our own subnet, and what the mirror calls removable', () =>
    always(({ touched, removable }, given) => {
      const known = [on.own, ...Object.keys(given.desired), ...given.programmed, ...removable];
      expect(touched.filter((dst) => !known.includes(dst))).toEqual([]);
    }));

  it('leaves exactly one route of ours where one is installed, and it is the one in use', () =>
    always(({ last, after }, given) => {
      for (const [dst, { state }] of last.states) {
        if (dst === on.own || state !== 'installed') continue;
        const [used] = after.filter((route) => route.dst === dst);
        const metric = metricOf(on.family);
        expect(used).toMatchObject({ protocol, gateway: given.desired[dst], metric, special: false });
      }
    }));

  it('puts a blackhole behind all else of our own subnet, and none of ours when it is not wanted', () =>
    always(({ last, after }, given) => {
      const ours = after.filter((route) => route.protocol === protocol && route.type === 'blackhole');
      const there = ours.filter(({ dst }) => dst === on.own);
      if (last.states.get(on.own)?.state === 'installed') expect(there.length).toBeGreaterThan(0);
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
          on.family === 4 && next?.protocol === protocol && last.states.get(route.dst)?.state === 'installed';
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
