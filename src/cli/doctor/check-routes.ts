import type { DesiredRoute } from '../../backend/hostgw/claims.ts';
import type { Self } from '../../backend/hostgw/desired.ts';
import { connectedNetworks, HostNetworks } from '../../backend/hostgw/host-networks.ts';
import { type KernelSnapshot, Mirror } from '../../backend/hostgw/mirror.ts';
import { isLeasable, metricOf } from '../../backend/hostgw/ownership.ts';
import { plan } from '../../backend/hostgw/plan.ts';
import { addressBits, containsAddress, containsSubnet, overlaps, parseSubnet } from '../../ip/ip.ts';
import type { Route } from '../../kernel/kernel.ts';
import { counted, plural } from '../../runtime/texts.ts';
import { type Finding, few, note, ok, problem } from './finding.ts';
import type { Peers } from './peers.ts';

/** What the routes of one family are judged by. */
export interface RouteFacts {
  readonly self: Self;
  readonly kernel: KernelSnapshot;
  readonly link: { readonly name: string; readonly index: number };
  /** rtm_protocol of our routes. */
  readonly protocol: number;
  readonly etcdAddresses: readonly string[];
  /** What to do about routes that a daemon would put right. */
  readonly remedy: string;
}

interface Unrouted extends DesiredRoute {
  readonly kind: 'off-link' | 'own-network' | 'other';
  readonly reason: string;
  readonly remedy?: string;
}

const mostTold = 5;

/** Compares the routes of one family with what the peers ask for; `routed`: those that are as they must be. */
export function checkRoutes(
  peers: Peers,
  facts: RouteFacts,
): { readonly findings: readonly Finding[]; readonly routed: readonly DesiredRoute[] } {
  const { self } = facts;
  const family = `IPv${self.subnet.family}`;
  const judge = judgeOf(peers, facts);
  const verdicts = [...peers.routes.values()].map((route) => ({ route, wrong: judge(route) }));
  const wrong = verdicts.flatMap(({ wrong: one }) => one ?? []);
  const routed = verdicts.filter(({ wrong: one }) => one === undefined).map(({ route }) => route);
  const total = peers.routes.size;
  const findings = [
    ...refusedFindings(family, peers.refused),
    ...(wrong.length === 0
      ? [ok(`${family}: ${allRouted(total, peers.source)}`)]
      : wrongFindings(wrong, { ...facts, total, family })),
    ...(peers.source === 'etcd' ? staleFindings(peers, facts) : []),
  ];
  return { findings, routed };
}

function allRouted(peers: number, source: Peers['source']): string {
  if (source === 'routes') return `${counted(peers, 'route')} of ours; which peers there are is not known`;
  if (peers === 0) return 'no other host has joined yet';
  return peers === 1 ? 'the only peer is routed' : `all ${peers} peers are routed`;
}

function refusedFindings(family: string, refused: readonly string[]): readonly Finding[] {
  if (refused.length === 0) return [];
  return [
    problem(
      `${family}: ${counted(refused.length, 'lease')} cannot be routed: ${few(refused)}`,
      'Restart the daemon of that host: it writes its lease anew, or takes another subnet. The lease of a host that is gone ends by itself.',
    ),
  ];
}

/** By what the daemon would do: a route it would leave as it is is right. */
function judgeOf(
  peers: Peers,
  { self, kernel, link, protocol, etcdAddresses }: RouteFacts,
): (route: DesiredRoute) => Unrouted | undefined {
  const { family } = self.subnet;
  const mirror = new Mirror(link.name, family);
  mirror.reset(kernel);
  const ownership = { protocol, network: self.network ?? self.subnet, subnetLength: self.subnet.length };
  const networks = new HostNetworks({
    ...mirror.side,
    etcdAddresses,
    isLeasable: (subnet) => isLeasable(ownership, subnet),
    linkIndex: link.index,
  });
  const { conflicts, parked } = plan({
    dsts: peers.routes.keys(),
    desired: peers.routes,
    actual: mirror,
    ownership,
    own: { dst: self.subnet.text, blackhole: false },
    link: mirror.link,
    ownAddresses: mirror.ownAddresses,
    refusal: (dst) => networks.refusal(dst),
    held: { put: () => undefined, removal: () => undefined },
    programmed: new Set(),
    removeLegacy: false,
    mayReplaceForeign: () => true,
  });
  const inUse = bestRoutes(kernel.routes);
  const addresses = connectedNetworks(family, kernel.links, kernel.addresses);
  const onLink = addresses.filter(({ linkIndex }) => linkIndex === link.index);
  return (route) => {
    const { dst, gateway } = route;
    const subnet = parseSubnet(dst);
    const held = addresses.find((one) => subnet !== undefined && overlaps(one.subnet, subnet));
    const conflict = conflicts.get(dst);
    const used = inUse.get(dst);
    if (conflict !== undefined && held !== undefined && held.linkIndex !== link.index) {
      const reason = `${held.linkName} of this host has an address in ${dst}, the subnet of ${gateway}: ${held.address}`;
      return {
        ...route,
        kind: 'own-network',
        reason,
        remedy: `ip addr del ${held.address} dev ${held.linkName}`,
      };
    }
    const reason =
      conflict?.text ??
      parked.get(dst)?.text ??
      (used === undefined ? undefined : whyNot(used, gateway, link.index, kernel));
    if (reason !== undefined) return { ...route, kind: 'other', reason };
    if (used !== undefined) return undefined;
    if (onLink.some((one) => containsAddress(one.subnet, gateway)))
      return { ...route, kind: 'other', reason: peers.told.get(dst) ?? 'missing' };
    // A keepalived address of one host lies beside the network, and is none.
    const wide = onLink.filter((one) => one.subnet.length < addressBits(family));
    const nets = wide.map((one) => one.subnet.text).join(' and ');
    const alone = wide.length === 0 ? onLink[0] : undefined;
    return {
      ...route,
      kind: 'off-link',
      reason:
        alone === undefined
          ? `not on ${link.name}'s network ${nets}. host-gw needs all hosts on one L2 network`
          : `not on link: ${link.name} has ${alone.address}, so the provider routes between hosts itself, and host-gw cannot work here`,
      remedy:
        alone === undefined
          ? `Move that host to this network, or if it is gone: flanneld-ts lease release ${dst}`
          : "If all hosts are on one L2 network, give this interface its address with the network's length.",
    };
  };
}

/** The routes that packets to exactly these destinations take. */
function bestRoutes(routes: readonly Route[]): ReadonlyMap<string, Route> {
  const best = new Map<string, Route>();
  for (const route of routes) {
    if (route.tos !== 0) continue;
    const other = best.get(route.dst);
    if (other === undefined || route.metric < other.metric) best.set(route.dst, route);
  }
  return best;
}

/** Why the route in use is not the one wanted; undefined when it is. */
function whyNot(
  inUse: Route,
  gateway: string,
  linkIndex: number,
  { links }: KernelSnapshot,
): string | undefined {
  if (inUse.gateway === undefined) return `a ${describeRoute(inUse, links)} is in its place`;
  if (inUse.gateway !== gateway) return `the route there goes via ${inUse.gateway}`;
  if (inUse.linkIndex !== linkIndex) return 'the route there leaves by another interface';
  return inUse.metric > metricOf(inUse.family) ? `the route there has the metric ${inUse.metric}` : undefined;
}

const protocols: Readonly<Record<number, string>> = { 2: 'kernel', 3: 'boot', 4: 'static', 16: 'dhcp' };

/** `route over br0 (proto static)`, `blackhole route (proto 42)`. */
function describeRoute(
  { type, linkIndex, protocol, multipath }: Route,
  links: KernelSnapshot['links'],
): string {
  const kind = type === 'blackhole' ? 'blackhole route' : multipath ? 'route with several gateways' : 'route';
  const name = links.find(({ index }) => index === linkIndex)?.name;
  const over = name === undefined ? (type === 'other' ? ' that refuses packets' : '') : ` over ${name}`;
  return `${kind}${over} (proto ${protocols[protocol] ?? protocol})`;
}

function wrongFindings(
  wrong: readonly Unrouted[],
  { total, family, remedy }: { readonly total: number; readonly family: string; readonly remedy: string },
): readonly Finding[] {
  const of = (kind: Unrouted['kind']) => wrong.filter((one) => one.kind === kind);
  const offLink = of('off-link');
  const [first] = offLink;
  const own = of('own-network');
  const other = of('other');
  const some = (count: number) =>
    `${family}: ${count} of ${counted(total, 'peer')} ${plural(count, 'is', 'are')}`;
  const rest = own.length - mostTold;
  return [
    ...(first === undefined
      ? []
      : [
          problem(
            `${some(offLink.length)} ${first.reason}: ${few(offLink.map(({ dst, gateway }) => `${dst} via ${gateway}`))}`,
            first.remedy,
          ),
        ]),
    ...own.slice(0, mostTold).map(({ reason, remedy: mend }) => problem(reason, mend)),
    ...(rest > 0 ? [problem(`${family}: ${counted(rest, 'more peer')} likewise`)] : []),
    ...(other.length === 0
      ? []
      : [
          problem(
            `${some(other.length)} not routed: ${few(other.map(({ dst, gateway, reason }) => `${dst} via ${gateway} (${reason})`))}`,
            remedy,
          ),
        ]),
  ];
}

function staleFindings(peers: Peers, { self, kernel, protocol }: RouteFacts): readonly Finding[] {
  const { network } = self;
  const stale = kernel.routes.filter(({ dst, type, protocol: number }) => {
    if (number !== protocol || type !== 'unicast' || peers.routes.has(dst)) return false;
    const subnet = parseSubnet(dst);
    return subnet !== undefined && network !== undefined && containsSubnet(network, subnet);
  });
  if (stale.length === 0) return [];
  const what = counted(stale.length, 'route of ours belongs', 'routes of ours belong');
  return [note(`IPv${self.subnet.family}: ${what} to no lease: ${few(stale.map(({ dst }) => dst))}`)];
}
