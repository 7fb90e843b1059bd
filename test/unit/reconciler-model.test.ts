import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { routeProtocol } from '../../sim/host.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { subnet } from '../../sim/leases.ts';
import { inFamily, peers, ReconcilerHost } from '../../sim/route-hosts.ts';
import { metricOf } from '../../src/backend/hostgw/ownership.ts';
import { containsAddress, type Family } from '../../src/ip/ip.ts';
import { KernelError, type Route } from '../../src/kernel/kernel.ts';

const mainAddress = '10.211.55.100/24';
const dsts = ['172.20.1.0/24', '172.20.2.0/24', '172.20.3.0/24', '172.20.4.0/24', '192.168.50.0/24'];
/** Never leased: what lies there is somebody else's throughout. */
const foreignDsts = ['10.77.1.0/24', '10.77.2.0/24', '172.16.0.0/12', '172.20.200.0/22'];
const onLink = ['10.211.55.101', '10.211.55.102', '10.211.55.103'];
/** On link once eth0 has 10.44.0.1/24; never. */
const gateways = [...onLink, '10.44.0.5', '10.99.0.1'];

const anyDst = fc.constantFrom(...dsts);

const leaseAction = fc.oneof(
  fc.record({ type: fc.constant('lease' as const), dst: anyDst, gateway: fc.constantFrom(...gateways) }),
  fc.record({ type: fc.constant('lease-gone' as const), dst: anyDst }),
  fc.constant({ type: 'relist' as const }),
);

const routeAction = fc.oneof(
  fc.record({
    type: fc.constant('delete-route' as const),
    dst: anyDst,
    protocol: fc.constantFrom(routeProtocol, routeProtocol, 3, 4),
  }),
  fc.record({
    type: fc.constant('route' as const),
    dst: fc.constantFrom(...dsts, ...foreignDsts),
    gateway: fc.constantFrom(...onLink),
    protocol: fc.constantFrom(3, 4),
    metric: fc.constantFrom(0, 0, 100),
    mode: fc.constantFrom('append' as const, 'prepend' as const, 'replace' as const),
  }),
);

const networkAction = fc.oneof(
  fc.record({ type: fc.constantFrom('down', 'up', 'delete-link', 'create-link', 'flush', 'overflow') }),
  fc.record({
    type: fc.constantFrom('address', 'no-address'),
    link: fc.constant('eth0' as const),
    cidr: fc.constantFrom(mainAddress, '10.44.0.1/24'),
  }),
  fc.record({
    type: fc.constantFrom('address', 'no-address'),
    link: fc.constant('br0' as const),
    cidr: fc.constantFrom('172.20.1.1/24', '10.211.55.102/32'),
  }),
);

const faultAction = fc.oneof(
  fc.record({ type: fc.constant('lost-replies' as const), kept: fc.nat(2) }),
  fc.record({
    type: fc.constant('apply-fails' as const),
    errno: fc.constantFrom('EPERM', 'ENOBUFS', 'EEXIST', 'ENETUNREACH'),
  }),
  fc.record({ type: fc.constant('dump-fails' as const), errno: fc.constantFrom('EBUSY', 'TIMEOUT') }),
  fc.record({ type: fc.constant('dump-interrupted' as const), times: fc.integer({ min: 1, max: 12 }) }),
  fc.record({ type: fc.constant('dump-slow' as const), ms: fc.constantFrom(5, 50, 150) }),
);

/** What happens to a host, by its operator, other programs, etcd or bad luck. */
const action = fc.oneof(
  { arbitrary: leaseAction, weight: 4 },
  { arbitrary: routeAction, weight: 4 },
  { arbitrary: networkAction, weight: 4 },
  { arbitrary: faultAction, weight: 1 },
);
type Action = typeof action extends fc.Arbitrary<infer T> ? T : never;

/** Does it, to `kernel` alone or (leases, bad luck) to the host; what the kernel refuses to its operator is not done. */
function act(host: ReconcilerHost, kernel: SimKernel, what: Action): void {
  try {
    actOnKernel(kernel, what, host);
  } catch (error) {
    if (!(error instanceof KernelError)) throw error;
  }
  if (kernel === host.kernel) actOnHost(host, what);
}

function actOnKernel(kernel: SimKernel, what: Action, { family }: ReconcilerHost): void {
  const at = (text: string) => inFamily(family, text);
  switch (what.type) {
    case 'down':
    case 'up':
      return kernel.setLinkUp('eth0', what.type === 'up');
    case 'delete-link':
      return kernel.deleteLink('eth0');
    case 'create-link':
      if (kernel.links().some(({ name }) => name === 'eth0')) return undefined;
      kernel.createLink('eth0');
      return kernel.addAddress('eth0', at(mainAddress));
    case 'flush':
      return kernel.flushAddresses('eth0');
    case 'address':
      return kernel.addAddress(what.link, at(what.cidr));
    case 'no-address':
      return kernel.removeAddress(what.link, at(what.cidr));
    case 'delete-route':
      return kernel.deleteRoute({ dst: at(what.dst), protocol: what.protocol });
    case 'route': {
      const { mode, protocol: owner } = what;
      const [leased, gateway] = [at(what.dst), at(what.gateway)];
      // The usual metric, or another.
      const metric = what.metric === 0 ? metricOf(family) : what.metric;
      const route = { dst: leased, gateway, protocol: owner, metric };
      // An operator's replacement of a connected route would hit ours where it lies before that: not comparable.
      const isConnected = kernel.routes(family).some((there) => there.dst === leased && there.protocol === 2);
      const usedMode = isConnected && mode === 'replace' ? 'prepend' : mode;
      return kernel.addRoute({ ...route, linkIndex: kernel.link('eth0').index }, usedMode);
    }
    default:
      return undefined;
  }
}

function actOnHost(host: ReconcilerHost, what: Action): void {
  const { kernel } = host;
  if (what.type === 'lease') host.put(what.dst, what.gateway);
  else if (what.type === 'lease-gone') host.remove(what.dst);
  else if (what.type === 'relist') host.snapshot(Object.fromEntries(host.wanted));
  else if (what.type === 'overflow') kernel.overflowEvents();
  else if (what.type === 'lost-replies') kernel.faults.loseNextReplies(what.kept);
  else if (what.type === 'apply-fails') kernel.faults.failNextApply(what.errno);
  else if (what.type === 'dump-fails') kernel.faults.failNextDump(what.errno);
  else if (what.type === 'dump-interrupted') kernel.faults.interruptNextDump(what.times);
  else if (what.type === 'dump-slow') kernel.faults.slowNextDump(what.ms);
}

/** What is wrong with the routes of a host at rest, a line each; empty when all is as it should be. */
function faultsOf(host: ReconcilerHost, exempt: ReadonlySet<string> = new Set()): string[] {
  const { kernel, family } = host;
  const routes = kernel.routes(family);
  const eth0 = kernel.links().find(({ name }) => name === 'eth0');
  const addresses = new Set(kernel.addresses().map(({ address }) => address));
  const direct = routes.filter((route) => route.gateway === undefined && route.linkIndex === eth0?.index);
  const isReachable = (gateway: string) =>
    eth0?.up === true && direct.some((route) => containsAddress(subnet(route.dst), gateway));
  // Ours with another program's gateway in it (IPv6): it can be replaced while the gateway is on link, never taken apart.
  const isOurs = (route: Route) => route.protocol === routeProtocol && !(family === 6 && route.special);
  const wrong: string[] = [];
  for (const [at, gateway] of host.wanted) {
    const there = routes.filter((route) => route.dst === at);
    const own = there.filter(isOurs);
    const isConnected = there.some((route) => route.protocol === 2);
    const mustBeAbsent = isConnected || addresses.has(gateway);
    if (own.length > 1 || own.some((route) => route.gateway !== gateway))
      wrong.push(`${at}: not one route via ${gateway}`);
    if (mustBeAbsent && own.length > 0) wrong.push(`${at}: must not be there`);
    // IPv6 cannot do more than to have it there: a smaller metric of somebody else's comes first.
    const isUsed = (family === 4 ? there[0]?.protocol : own[0]?.protocol) === routeProtocol;
    if (!mustBeAbsent && isReachable(gateway) && !isUsed && !exempt.has(at)) {
      wrong.push(`${at}: ${host.state(at)}, not in use, but ${gateway} is reachable`);
    }
  }
  for (const route of routes) {
    if (isOurs(route) && !host.wanted.has(route.dst)) wrong.push(`${route.dst}: no lease asks for it`);
  }
  return wrong;
}

interface Step {
  readonly what: Action;
  readonly thenMs: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  what: action,
  thenMs: fc.constantFrom(0, 0, 0, 1, 2, 5, 40, 60, 300, 3_000, 12_000),
});

/** Runs `body` on a host that is at work, beside a kernel to which the same is done by operators alone. */
async function withHost(
  family: Family,
  seed: number,
  body: (host: ReconcilerHost, undisturbed: SimKernel) => Promise<void>,
): Promise<void> {
  const host = new ReconcilerHost({ family, seed });
  const undisturbed = new SimKernel();
  undisturbed.createLink('eth0');
  undisturbed.addAddress('eth0', inFamily(family, mainAddress));
  for (const kernel of [host.kernel, undisturbed]) kernel.createLink('br0');
  try {
    await host.settled(peers);
    await body(host, undisturbed);
  } finally {
    await host.stop();
  }
}

async function run(host: ReconcilerHost, undisturbed: SimKernel, steps: readonly Step[]): Promise<void> {
  for (const { what, thenMs } of steps) {
    act(host, host.kernel, what);
    act(host, undisturbed, what);
    await host.clock.advance(thenMs);
  }
}

/** Lets holds, foreign limits and planned faults run out (those of batches stay when the link is down: nothing is sent). */
async function comeToRest(host: ReconcilerHost): Promise<void> {
  for (let i = 0; host.kernel.faults.pending.length > 0 && i < 30; i++) {
    host.put('172.20.60.0/24', i % 2 === 0 ? '10.211.55.101' : '10.211.55.102');
    await host.clock.advance(15_000);
  }
  host.remove('172.20.60.0/24');
  await host.clock.advance(300_000);
}

const ofOthers = (kernel: SimKernel, family: Family) =>
  kernel
    .routes(family)
    .filter(({ dst, protocol }) => protocol === 2 || foreignDsts.some((at) => inFamily(family, at) === dst))
    .map(({ dst, protocol, gateway, metric }) => `${dst} ${protocol} ${gateway} ${metric}`)
    .toSorted();

describe.each([4, 6] as const)('whatever happens, IPv%d', (family) => {
  const runs = family === 4 ? 200 : 100;

  it('at rest the routes are those the leases ask for, nothing more is sent, and others’ routes are untouched', async () => {
    const property = fc.asyncProperty(
      fc.nat(),
      fc.array(step, { maxLength: 40, size: 'max' }),
      (seed, steps) =>
        withHost(family, seed, async (host, undisturbed) => {
          await run(host, undisturbed, steps);
          await comeToRest(host);
          expect(faultsOf(host)).toEqual([]);
          expect(ofOthers(host.kernel, family)).toEqual(ofOthers(undisturbed, family));
          // What is off link is tried once a minute; everything else is at rest.
          const unreachable = [...host.wanted.keys()].filter((dst) =>
            /is not on|is gone from|and no other address/.test(host.state(dst)),
          );
          const { messages } = host.kernel.counters;
          await host.clock.advance(30_000);
          expect(host.kernel.counters.messages - messages).toBeLessThanOrEqual(unreachable.length);
          expect(host.trouble.current).toEqual([]);
        }),
    );
    await fc.assert(property, { numRuns: runs });
  }, 120_000);

  it('a repair takes at most 250 ms from the event that makes it possible', async () => {
    const calm: fc.Arbitrary<Action> = action.filter(
      ({ type }) => !type.startsWith('apply') && !type.startsWith('dump') && type !== 'lost-replies',
    );
    const property = fc.asyncProperty(
      fc.nat(),
      fc.array(calm, { maxLength: 25, size: 'max' }),
      (seed, actions) =>
        withHost(family, seed, async (host) => {
          const replaced: string[] = [];
          for (const what of actions) {
            act(host, host.kernel, what);
            if (what.type === 'route') replaced.push(host.in(what.dst));
            await host.clock.advance(250);
            // A fourth foreign route within a minute is a conflict.
            const limited = new Set(replaced.filter((dst) => replaced.filter((d) => d === dst).length > 3));
            expect(faultsOf(host, limited)).toEqual([]);
            await host.clock.advance(2_000);
          }
        }),
    );
    await fc.assert(property, { numRuns: runs });
  }, 120_000);

  it('no change of a lease or of a route costs a dump', async () => {
    // In IPv6 a second route of a key is merged with the first: what came of it only a dump tells.
    const isCheap = (what: Action) =>
      what.type === 'delete-route' || (what.type === 'route' && (family === 4 || what.mode === 'replace'));
    const cheap = fc.oneof(leaseAction, action.filter(isCheap));
    const property = fc.asyncProperty(
      fc.nat(),
      fc.array(cheap, { minLength: 5, maxLength: 20 }),
      (seed, actions) =>
        withHost(family, seed, async (host) => {
          await host.clock.advance(9_000);
          const dumps = host.kernel.counters.dumps;
          for (const what of actions) {
            act(host, host.kernel, what);
            await host.clock.advance(1_100);
          }
          const checks = Math.ceil((actions.length * 1_100) / 9_000) + 1;
          expect((host.kernel.counters.dumps - dumps) / 3).toBeLessThanOrEqual(checks);
        }),
    );
    await fc.assert(property, { numRuns: runs });
  }, 120_000);
});
