import { DesiredRoutes, type Self } from '../../backend/hostgw/desired.ts';
import { metricOf } from '../../backend/hostgw/ownership.ts';
import { containsAddress, containsSubnet, parseSubnet, type Subnet } from '../../ip/ip.ts';
import type { Route } from '../../kernel/kernel.ts';
import { counted, plural } from '../../runtime/plural.ts';
import type { Lease } from '../../subnet/lease.ts';
import { type Finding, few, note, ok, problem } from './finding.ts';

/** What the routes of one family are judged by. */
export interface RouteFacts {
  readonly self: Self;
  /** Of the cluster: routes beyond it are another daemon's. */
  readonly network: Subnet;
  /** Of the main table. */
  readonly routes: readonly Route[];
  readonly linkIndex: number;
  /** rtm_protocol of our routes. */
  readonly protocol: number;
}

/** Compares the routes of one family with what the leases ask for. */
export function checkRoutes(leases: readonly Lease[], facts: RouteFacts): readonly Finding[] {
  const { self, routes, protocol, network } = facts;
  const desired = new DesiredRoutes({ ...self, network });
  desired.replaceAll(leases);
  const wrong = wrongRoutes(desired, facts);
  const wanted = new Set(desired.dsts);
  const family = `IPv${self.subnet.family}`;
  const refused = [...desired.refused].map(([key, reason]) => `${key}: ${reason}`);
  const stale = routes.filter(({ dst, type, protocol: number }) => {
    if (number !== protocol || type !== 'unicast' || wanted.has(dst)) return false;
    const subnet = parseSubnet(dst);
    return subnet !== undefined && containsSubnet(network, subnet);
  });
  return [
    ...(refused.length === 0
      ? []
      : [
          note(`${family}: ${counted(refused.length, 'lease is', 'leases are')} not routed: ${few(refused)}`),
        ]),
    wrong.length === 0
      ? ok(`${family}: ${allRouted(wanted.size)}`)
      : problem(
          `${family}: ${wrong.length} of ${counted(wanted.size, 'peer')} ${plural(wrong.length, 'is', 'are')} not routed: ${few(wrong)}`,
          'The log of the daemon says what keeps it from putting them right; without a running daemon, start it.',
        ),
    ...(stale.length === 0
      ? []
      : [
          note(
            `${family}: ${counted(stale.length, 'route of ours belongs', 'routes of ours belong')} to no lease: ${few(stale.map(({ dst }) => dst))}`,
          ),
        ]),
  ];
}

function allRouted(peers: number): string {
  if (peers === 0) return 'no other host has joined yet';
  return peers === 1 ? 'the only peer is routed' : `all ${peers} peers are routed`;
}

function wrongRoutes(desired: DesiredRoutes, { routes, linkIndex, self }: RouteFacts): readonly string[] {
  const bestTo = new Map<string, Route>();
  for (const route of routes) {
    if (route.tos !== 0) continue;
    const other = bestTo.get(route.dst);
    if (other === undefined || route.metric < other.metric) bestTo.set(route.dst, route);
  }
  const connected = routes.flatMap(({ dst, gateway, linkIndex: link }) =>
    gateway === undefined && link === linkIndex ? (parseSubnet(dst) ?? []) : [],
  );
  return [...desired.dsts].flatMap((dst) => {
    const gateway = desired.get(dst)?.gateway ?? '';
    const inUse = bestTo.get(dst);
    const onLink = () => connected.some((network) => containsAddress(network, gateway));
    const reason =
      inUse === undefined
        ? onLink()
          ? 'missing'
          : 'its gateway is not on a network connected to this interface'
        : whyNot(inUse, gateway, linkIndex, metricOf(self.subnet.family));
    return reason === undefined ? [] : [`${dst} via ${gateway} (${reason})`];
  });
}

/** Why the route in use is not the one wanted; undefined when it is. */
function whyNot(inUse: Route, gateway: string, linkIndex: number, metric: number): string | undefined {
  if (inUse.gateway === undefined)
    return `the route there has no gateway, type ${inUse.type}, protocol ${inUse.protocol}`;
  if (inUse.gateway !== gateway) return `the route there goes via ${inUse.gateway}`;
  if (inUse.linkIndex !== linkIndex) return 'the route there leaves by another interface';
  return inUse.metric > metric ? `the route there has the metric ${inUse.metric}` : undefined;
}
