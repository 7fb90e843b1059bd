import fc from 'fast-check';
import type { SimKernel } from '../../sim/kernel.ts';
import { metricOf } from '../../src/backend/hostgw/ownership.ts';
import { containsAddress } from '../../src/ip/ip.ts';
import { KernelError, type Route } from '../../src/kernel/kernel.ts';
import { inFamily } from './family-texts.ts';
import { protocol, type ReconcilerHost, subnet } from './reconciler-host.ts';

/** What happens to a host, by its operator, other programs, etcd or bad luck. */
export type Action =
  | { readonly type: 'lease'; readonly dst: string; readonly gateway: string }
  | { readonly type: 'lease-gone'; readonly dst: string }
  | { readonly type: 'relist' }
  | { readonly type: 'down' | 'up' | 'delete-link' | 'create-link' | 'flush' | 'overflow' }
  | { readonly type: 'address' | 'no-address'; readonly link: 'eth0' | 'br0'; readonly cidr: string }
  | { readonly type: 'delete-route'; readonly dst: string; readonly protocol: number }
  | {
      readonly type: 'route';
      readonly dst: string;
      readonly gateway: string;
      readonly protocol: number;
      readonly metric: number;
      readonly mode: 'append' | 'prepend' | 'replace';
    }
  | { readonly type: 'lost-replies'; readonly kept: number }
  | { readonly type: 'apply-fails' | 'dump-fails'; readonly errno: string }
  | { readonly type: 'dump-interrupted'; readonly times: number }
  | { readonly type: 'dump-slow'; readonly ms: number };

export const mainAddress = '10.211.55.100/24';
const dsts = ['172.20.1.0/24', '172.20.2.0/24', '172.20.3.0/24', '172.20.4.0/24', '192.168.50.0/24'];
/** Never leased: what lies there is somebody else's throughout. */
export const foreignDsts = ['10.77.1.0/24', '10.77.2.0/24', '172.16.0.0/12', '172.20.200.0/22'];
const onLink = ['10.211.55.101', '10.211.55.102', '10.211.55.103'];
/** On link once eth0 has 10.44.0.1/24; never. */
const gateways = [...onLink, '10.44.0.5', '10.99.0.1'];

const dst = fc.constantFrom(...dsts);

export const leaseAction: fc.Arbitrary<Action> = fc.oneof(
  fc.record({ type: fc.constant('lease' as const), dst, gateway: fc.constantFrom(...gateways) }),
  fc.record({ type: fc.constant('lease-gone' as const), dst }),
  fc.constant({ type: 'relist' as const }),
);

const routeAction: fc.Arbitrary<Action> = fc.oneof(
  fc.record({
    type: fc.constant('delete-route' as const),
    dst,
    protocol: fc.constantFrom(protocol, protocol, 3, 4),
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

const networkAction: fc.Arbitrary<Action> = fc.oneof(
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

const faultAction: fc.Arbitrary<Action> = fc.oneof(
  fc.record({ type: fc.constant('lost-replies' as const), kept: fc.nat(2) }),
  fc.record({
    type: fc.constant('apply-fails' as const),
    errno: fc.constantFrom('EPERM', 'ENOBUFS', 'EEXIST', 'ENETUNREACH'),
  }),
  fc.record({ type: fc.constant('dump-fails' as const), errno: fc.constantFrom('EBUSY', 'TIMEOUT') }),
  fc.record({ type: fc.constant('dump-interrupted' as const), times: fc.integer({ min: 1, max: 12 }) }),
  fc.record({ type: fc.constant('dump-slow' as const), ms: fc.constantFrom(5, 50, 150) }),
);

export const action: fc.Arbitrary<Action> = fc.oneof(
  { arbitrary: leaseAction, weight: 4 },
  { arbitrary: routeAction, weight: 4 },
  { arbitrary: networkAction, weight: 4 },
  { arbitrary: faultAction, weight: 1 },
);

/** Does it, to `kernel` alone or (leases, bad luck) to the host; what the kernel refuses to its operator is not done. */
export function act(host: ReconcilerHost, kernel: SimKernel, what: Action): void {
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
export function faultsOf(host: ReconcilerHost, exempt: ReadonlySet<string> = new Set()): string[] {
  const { kernel, family } = host;
  const routes = kernel.routes(family);
  const eth0 = kernel.links().find(({ name }) => name === 'eth0');
  const addresses = new Set(kernel.addresses().map(({ address }) => address));
  const direct = routes.filter((route) => route.gateway === undefined && route.linkIndex === eth0?.index);
  const isReachable = (gateway: string) =>
    eth0?.up === true && direct.some((route) => containsAddress(subnet(route.dst), gateway));
  // Ours with another program's gateway in it (IPv6): it can be replaced while the gateway is on link, never taken apart.
  const isOurs = (route: Route) => route.protocol === protocol && !(family === 6 && route.special);
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
    const isUsed = (family === 4 ? there[0]?.protocol : own[0]?.protocol) === protocol;
    if (!mustBeAbsent && isReachable(gateway) && !isUsed && !exempt.has(at)) {
      wrong.push(`${at}: ${host.state(at)}, not in use, but ${gateway} is reachable`);
    }
  }
  for (const route of routes) {
    if (isOurs(route) && !host.wanted.has(route.dst)) wrong.push(`${route.dst}: no lease asks for it`);
  }
  return wrong;
}
