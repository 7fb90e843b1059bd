import type { DesiredRoute } from '../../backend/hostgw/claims.ts';
import { DesiredRoutes, type Self } from '../../backend/hostgw/desired.ts';
import { HostNetworks } from '../../backend/hostgw/host-networks.ts';
import { type KernelSnapshot, Mirror } from '../../backend/hostgw/mirror.ts';
import { isLeasable, metricOf } from '../../backend/hostgw/ownership.ts';
import { ownFault, plan } from '../../backend/hostgw/plan.ts';
import type { Reason } from '../../backend/hostgw/status.ts';
import { containsAddress, containsSubnet, overlaps, parseSubnet, type Subnet } from '../../ip/ip.ts';
import type { Route } from '../../kernel/kernel.ts';
import { counted, plural } from '../../runtime/texts.ts';
import type { Lease } from '../../subnet/lease/lease.ts';
import type { StatusView } from '../ask-daemon.ts';
import { routeText } from './check-paths.ts';
import { type Finding, few, fewOf, fewProblems, isStuck, note, ok, problem } from './finding.ts';

export interface RouteFacts {
  readonly self: Self;
  readonly kernel: KernelSnapshot;
  readonly link: { readonly name: string; readonly index: number };
  /** rtm_protocol of our routes. */
  readonly protocol: number;
  readonly etcdAddresses: readonly string[];
  /** What to do about routes that a daemon corrects. */
  readonly remedy: string;
  /** Leases of the other hosts; absent without etcd. */
  readonly leases?: readonly Lease[] | undefined;
  /** What the running daemon says. */
  readonly view?: StatusView | undefined;
}

/** The peers of one family. Etcd names them, else the daemon, else the routes that an earlier daemon set. */
interface Peers {
  readonly source: 'etcd' | 'daemon' | 'routes';
  readonly routes: ReadonlyMap<string, DesiredRoute>;
  /** About their leases. */
  readonly findings: readonly Finding[];
}

interface Unrouted extends DesiredRoute {
  readonly reason: Reason;
}

/** Compares the routes of one family with the leases; `routed`: the peers whose route is correct. */
export function checkRoutes(facts: RouteFacts): {
  readonly findings: readonly Finding[];
  readonly routed: readonly DesiredRoute[];
} {
  const { source, routes, findings } = peersOf(facts);
  const { unrouted, stale } = judge(facts, routes);
  const wrong = new Set(unrouted.map(({ dst }) => dst));
  const family = `IPv${facts.self.subnet.family}`;
  const what = counted(stale.length, 'route of ours belongs', 'routes of ours belong');
  return {
    findings: [
      ...findings,
      ...(unrouted.length === 0
        ? [ok(`${family}: ${allRouted(routes.size, source)}`)]
        : unroutedFindings(unrouted, `of ${counted(routes.size, 'peer')}`, facts)),
      ...(source === 'etcd' ? fewOf(note, `${family}: ${what} to no lease`, stale) : []),
    ],
    routed: [...routes.values()].filter(({ dst }) => !wrong.has(dst)),
  };
}

/** Selects the routes from the leases by the daemon's own code. */
function peersOf({ self, leases, view, kernel, protocol }: RouteFacts): Peers {
  const { network = self.subnet, subnet: own } = self;
  if (leases !== undefined) {
    const desired = new DesiredRoutes(self);
    desired.replaceAll(leases);
    const values = new Map(leases.map(({ key, value }) => [key, value]));
    const holder = (key: string) => values.get(key)?.publicIP ?? values.get(key)?.publicIPv6 ?? 'no address';
    const outside = desired.outside.map(({ key }) => `${key} (at ${holder(key)})`);
    const refused = [...desired.refused].map(([key, reason]) => `${key} (at ${holder(key)}): ${reason}`);
    return {
      source: 'etcd',
      routes: byDst(desired.routes),
      findings: [...refusedFindings(self, refused), ...outsideFindings(network, outside)],
    };
  }
  if (view !== undefined) {
    const routes = view.peers.map(({ subnet: dst, gateway, key }) => ({ dst, gateway, key }));
    const refused = view.refused.map(({ key, reason }) => `${key}: ${reason}`);
    return {
      source: 'daemon',
      routes: byDst(routes.filter(({ dst }) => dst.includes(':') === (own.family === 6))),
      findings: refusedFindings(self, refused),
    };
  }
  const left = kernel.routes.flatMap(({ dst, gateway, protocol: number }) => {
    const subnet = number === protocol && gateway !== undefined ? parseSubnet(dst) : undefined;
    const isInside = subnet && (self.network === undefined || containsSubnet(self.network, subnet));
    return isInside && gateway !== undefined ? [{ dst, gateway, key: '' }] : [];
  });
  return { source: 'routes', routes: byDst(left), findings: [] };
}

function byDst(routes: readonly DesiredRoute[]): Peers['routes'] {
  return new Map(routes.map((route) => [route.dst, route]));
}

function refusedFindings({ subnet }: Self, refused: readonly string[]): readonly Finding[] {
  return fewOf(
    problem,
    `IPv${subnet.family}: ${counted(refused.length, 'lease')} cannot be routed`,
    refused,
    'Restart the daemon of that host. It corrects its lease or takes another subnet. A flanneld uses host-gw once the network configuration says so. The lease of a host that is gone expires.',
  );
}

function outsideFindings({ text }: Subnet, outside: readonly string[]): readonly Finding[] {
  return fewOf(
    note,
    `${counted(outside.length, 'lease is', 'leases are')} outside Network ${text}`,
    outside,
    'After a change of Network, restart the daemon of that host. It takes a subnet of the new Network.',
  );
}

function allRouted(peers: number, source: Peers['source']): string {
  if (source === 'routes') return `${counted(peers, 'route')} of ours; the peers are not known`;
  if (peers === 0) return 'no other host has joined yet';
  return peers === 1 ? 'the only peer is routed' : `all ${peers} peers are routed`;
}

/** Asks the daemon's plan(); `stale` are the routes that it would remove. */
function judge(
  { self, kernel, link, protocol, etcdAddresses, view }: RouteFacts,
  desired: Peers['routes'],
): { readonly unrouted: readonly Unrouted[]; readonly stale: readonly string[] } {
  const { text: own, length: subnetLength } = self.subnet;
  const ownership = { protocol, network: self.network ?? self.subnet, subnetLength };
  const mirror = new Mirror(link.name, ownership);
  mirror.reset(kernel);
  const { connected } = mirror.side;
  const networks = new HostNetworks({
    ...mirror.side,
    etcdAddresses,
    isLeasable: (subnet) => isLeasable(ownership, subnet),
  });
  const { changes, states } = plan({
    dsts: new Set([...desired.keys(), ...mirror.removable]),
    desired,
    actual: mirror,
    ownership,
    own: { dst: own, blackhole: false },
    link: mirror.link,
    ownAddresses: mirror.ownAddresses,
    refusal: (dst) => networks.refusal(dst),
    held: { put: () => undefined, removal: () => undefined },
    programmed: new Set(),
    removeLegacy: false,
    mayReplaceForeign: () => true,
  });
  const told = new Map(
    view?.peers.filter(isStuck).map(({ subnet, state, reason }) => [subnet, reason ?? state]),
  );
  const onLink = connected.filter(({ linkIndex }) => linkIndex === link.index);
  const reasonOf = (route: DesiredRoute): Reason | undefined => {
    const { dst, gateway } = route;
    const { state, reason } = states.get(dst) ?? {};
    if (reason !== undefined) return { ...(state === 'conflict' && remedyFor(dst)), ...reason };
    const there = mirror.get(dst)?.filter(({ tos }) => tos === 0) ?? [];
    const [used] = there.toSorted((a, b) => a.metric - b.metric);
    if (
      used?.gateway === gateway &&
      used.linkIndex === link.index &&
      used.metric <= metricOf(self.subnet.family)
    )
      return undefined;
    if (used !== undefined) return ownFault(inItsPlace(used, kernel));
    if (onLink.some(({ subnet }) => containsAddress(subnet, gateway)))
      return ownFault(told.get(dst) ?? 'missing');
    return { ...alone, ...mirror.whyOffLink(route, self.address) };
  };
  /** Only an operator can remove an address that another link has in the peer's subnet. */
  const remedyFor = (dst: string) => {
    const subnet = parseSubnet(dst);
    const taken = connected.find(
      (one) => one.linkIndex !== link.index && subnet && overlaps(one.subnet, subnet),
    );
    return taken && { remedy: `ip addr del ${taken.address} dev ${taken.linkName}` };
  };
  return {
    unrouted: [...desired.values()].flatMap((route) => {
      const reason = reasonOf(route);
      return reason === undefined ? [] : [{ ...route, reason }];
    }),
    stale: changes.flatMap(({ cause, route: { dst } }) => (cause === 'stale' && dst !== own ? [dst] : [])),
  };
}

const alone = {
  remedy:
    "If all hosts are on one L2 network, give this interface its address with the network's prefix length.",
};

const protocols: Readonly<Record<number, string>> = { 2: 'kernel', 3: 'boot', 4: 'static', 16: 'dhcp' };

function inItsPlace(route: Route, kernel: KernelSnapshot): string {
  const kind = route.type === 'other' ? 'refusing route' : 'route';
  const by = protocols[route.protocol] ?? route.protocol;
  return `the ${kind} ${routeText(route, kernel)} proto ${by} is in its place`;
}

/** One finding for routes that a daemon corrects, one for faults of peers, one for each other remedy. */
function unroutedFindings(
  unrouted: readonly Unrouted[],
  total: string,
  { self, remedy }: RouteFacts,
): readonly Finding[] {
  const family = `IPv${self.subnet.family}`;
  const groups = new Map<string, Unrouted[]>();
  for (const one of unrouted) {
    const { fault, remedy: its = remedy } = one.reason;
    const name = fault === 'peer' ? fault : its;
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [one]);
    else group.push(one);
  }
  const found = [...groups.values()].map((group) => {
    const named = group.map(({ dst, gateway, reason }) => `${dst} via ${gateway} (${reason.text})`);
    const count = `${group.length} ${total} ${plural(group.length, 'is', 'are')}`;
    return problem(`${family}: ${count} not routed: ${few(named)}`, group[0]?.reason.remedy ?? remedy);
  });
  return fewProblems(found, (rest) => `${family}: ${counted(rest, 'more problem')} with routes`);
}
