import { routeOfLease, type Self } from '../../backend/hostgw/desired.ts';
import { metricOf } from '../../backend/hostgw/ownership.ts';
import { containsAddress, parseSubnet } from '../../ip/ip.ts';
import type { Route } from '../../kernel/kernel.ts';
import type { Lease } from '../../subnet/lease.ts';
import { type Finding, few, note, ok, problem } from './finding.ts';

/** What the routes of one family are judged by. */
export interface RouteFacts {
  readonly self: Self;
  /** Of the main table. */
  readonly routes: readonly Route[];
  readonly linkIndex: number;
  /** rtm_protocol of our routes. */
  readonly protocol: number;
}

/** Compares the routes of one family with what the leases ask for. */
export function checkRoutes(leases: readonly Lease[], facts: RouteFacts): readonly Finding[] {
  const { self, routes, protocol } = facts;
  const findings: Finding[] = [];
  const wanted = new Set<string>();
  let installed = 0;
  const wrong: string[] = [];
  for (const lease of leases) {
    const asked = routeOfLease(lease, self);
    if ('reason' in asked) {
      if (!asked.ignore) findings.push(note(`${lease.key} is not routed: ${asked.reason}`));
      continue;
    }
    const { dst, gateway } = asked.route;
    wanted.add(dst);
    const reason = whyNot(dst, gateway, facts);
    if (reason === undefined) installed++;
    else wrong.push(`${dst} via ${gateway} ${reason}`);
  }
  const family = `IPv${self.subnet.family}`;
  if (wrong.length === 0) findings.push(ok(`${family}: all ${installed} peers are routed`));
  else
    findings.push(
      problem(
        `${family}: ${wrong.length} of ${wanted.size} peers are not routed: ${few(wrong)}`,
        'The log of the daemon says what keeps it from putting them right; without a running daemon, start it.',
      ),
    );
  const stale = routes.filter(
    (route) => route.protocol === protocol && route.type === 'unicast' && !wanted.has(route.dst),
  );
  if (stale.length > 0)
    findings.push(
      note(
        `${family}: ${stale.length} routes of ours belong to no lease: ${few(stale.map(({ dst }) => dst))}`,
      ),
    );
  return findings;
}

/** Why the route in use is not the one wanted; undefined when it is. */
function whyNot(dst: string, gateway: string, facts: RouteFacts): string | undefined {
  const { routes, linkIndex, self } = facts;
  const [inUse] = routes.filter((route) => route.dst === dst).toSorted((a, b) => a.metric - b.metric);
  if (
    inUse?.gateway === gateway &&
    inUse.linkIndex === linkIndex &&
    inUse.metric <= metricOf(self.subnet.family)
  )
    return undefined;
  if (inUse !== undefined) {
    return inUse.gateway === undefined
      ? `(the route there has no gateway, protocol ${inUse.protocol})`
      : `(the route there goes via ${inUse.gateway})`;
  }
  const connected = routes.some(({ dst: network, gateway: via, linkIndex: link }) => {
    const subnet = via === undefined && link === linkIndex ? parseSubnet(network) : undefined;
    return subnet !== undefined && containsAddress(subnet, gateway);
  });
  return connected ? '(missing)' : '(its gateway is not on a network connected to this interface)';
}
