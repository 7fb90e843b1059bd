import type { DesiredRoute } from '../../backend/hostgw/claims.ts';
import { connectedNetworks } from '../../backend/hostgw/host-networks.ts';
import type { KernelSnapshot } from '../../backend/hostgw/mirror.ts';
import {
  containsAddress,
  containsSubnet,
  type Family,
  formatAddress,
  parseSubnet,
  subnetAt,
  subnetOf,
} from '../../ip/ip.ts';
import type { PolicyRule, Route, RouteFinder, Sender, UsedRoute } from '../../kernel/kernel.ts';
import { counted } from '../../runtime/texts.ts';
import { type Finding, few, fewProblems, ok, problem } from './finding.ts';

export interface PathFacts {
  readonly finder: RouteFinder;
  readonly kernel: KernelSnapshot;
  readonly family: Family;
  readonly linkIndex: number;
  /** A container of this host, where its bridge is there: rules may be for its packets alone. */
  readonly sender: Sender | undefined;
}

/** What takes packets away from our routes, and the command that removes it. */
interface Thief {
  readonly what: string;
  readonly remedy: string;
}

/** The kernel answers for this many peers. For the rest, the check reads the main table alone. */
const mostAsked = 500;
const tables: Readonly<Record<number, string>> = { 253: 'default', 254: 'main', 255: 'local' };

/**
 * Whether packets to routed peers use our routes. Policy rules and other tables can send them elsewhere, so
 * the kernel itself answers for addresses in each peer's subnet. Routes to a part of such a subnet are found
 * in the main table.
 */
export async function checkPaths(
  routed: readonly DesiredRoute[],
  facts: PathFacts,
  signal: AbortSignal,
): Promise<readonly Finding[]> {
  if (routed.length === 0) return [];
  const { finder, family, kernel, linkIndex, sender } = facts;
  const rules = await finder.rules(family, signal);
  // The kernel gives no answer for forwarded packets while forwarding is off.
  const routeOf = async (address: string) =>
    (sender && (await finder.routeFor(address, signal, sender))) ?? (await finder.routeFor(address, signal));
  const stolen = new Map<string, { readonly remedy: string; readonly dsts: Set<string> }>();
  const blame = ({ what, remedy }: Thief, dst: string) => {
    const known = stolen.get(what);
    if (known === undefined) stolen.set(what, { remedy, dsts: new Set([dst]) });
    else known.dsts.add(dst);
  };
  for (const { part, dst } of partsOf(routed, kernel.routes)) blame(routeThief(part, facts), dst);
  for (const { dst, gateway } of routed.slice(0, mostAsked)) {
    for (const address of samples(dst)) {
      const used = await routeOf(address);
      if (used?.route.gateway === gateway && used.route.linkIndex === linkIndex) continue;
      const isBlamed = [...stolen.values()].some(({ dsts }) => dsts.has(dst));
      if (isBlamed && (used === undefined || !isElsewhere(used))) continue;
      blame(thiefOf(address, used, rules, facts), dst);
    }
  }
  if (stolen.size === 0)
    return [ok(`IPv${family}: the kernel uses our routes to ${counted(routed.length, 'peer')}`)];
  const found = [...stolen].map(([what, { remedy, dsts }]) =>
    problem(`packets to ${few([...dsts], 3)} bypass our route: ${what}`, remedy),
  );
  const more = (rest: number) =>
    `${counted(rest, 'more route or rule takes', 'more routes or rules take')} packets`;
  return fewProblems(found, (rest) => `IPv${family}: ${more(rest)}`);
}

function isElsewhere({ table }: UsedRoute): boolean {
  return tables[table] === undefined;
}

/** Routes of the main table to a part of a peer's subnet. */
function partsOf(
  routed: readonly DesiredRoute[],
  routes: readonly Route[],
): readonly { readonly part: Route; readonly dst: string }[] {
  const dsts = new Set(routed.map(({ dst }) => dst));
  const lengths = [...new Set(routed.map(({ dst }) => Number(dst.slice(dst.indexOf('/') + 1))))];
  return routes.flatMap((part) => {
    const subnet = parseSubnet(part.dst);
    if (subnet === undefined) return [];
    return lengths.flatMap((length) => {
      const dst = length < subnet.length ? subnetAt(subnet.family, subnet.first, length).text : '';
      return dsts.has(dst) ? [{ part, dst }] : [];
    });
  });
}

/** Addresses near the beginning, in the middle and near the end of a subnet. */
function samples(dst: string): readonly string[] {
  const { family, first, last } = subnetOf(dst);
  return [first + 2n, first + (last - first + 1n) / 2n + 1n, last - 1n]
    .filter((value) => value >= first && value <= last)
    .map((value) => formatAddress(family, value));
}

/** Which route or rule takes packets to this address away from our route. */
function thiefOf(
  address: string,
  used: UsedRoute | undefined,
  rules: readonly PolicyRule[],
  facts: PathFacts,
): Thief {
  if (used !== undefined && !isElsewhere(used)) return routeThief(used.route, facts);
  const rule = rules.find(
    ({ priority, to, table }) =>
      priority > 0 &&
      priority < 32_766 &&
      (to === undefined || containsAddress(subnetOf(to), address)) &&
      (used === undefined || table === used.table),
  );
  if (rule !== undefined) return ruleThief(rule, used, facts);
  if (used !== undefined) return routeThief(used.route, facts, used.table);
  return { what: `the kernel sends nothing to ${address}`, remedy: `Check: ip route get ${address}` };
}

function ruleThief(rule: PolicyRule, used: UsedRoute | undefined, facts: PathFacts): Thief {
  const { priority, from, to, table } = rule;
  const selector = [from && `from ${from}`, to && `to ${to}`].filter(Boolean).join(' ');
  const action = table === undefined ? '' : `lookup ${tables[table] ?? table}`;
  const words = [selector, action].filter(Boolean).join(' ');
  const led =
    used === undefined ? 'drops or refuses them' : `sends them to ${routeText(used.route, facts.kernel)}`;
  return {
    what: `the policy rule ${priority} (${words || 'for all packets'}) ${led}`,
    remedy: `${ip(facts)} rule del pref ${priority}${words === '' ? '' : ` ${words}`}`,
  };
}

function routeThief(route: Route, facts: PathFacts, table?: number): Thief {
  const { kernel, family } = facts;
  const subnet = subnetOf(route.dst);
  // The kernel made this route for an address, and makes it again as long as the address exists.
  const held = connectedNetworks(family, kernel.links, kernel.addresses).find(
    (one) =>
      containsSubnet(one.subnet, subnet) && route.gateway === undefined && route.linkIndex === one.linkIndex,
  );
  if (held !== undefined && (route.protocol === 2 || route.type === 'other'))
    return {
      what: `${held.linkName} of this host has an address in that subnet (${held.address})`,
      remedy: `ip addr del ${held.address} dev ${held.linkName}`,
    };
  const inTable = table === undefined ? '' : ` table ${table}`;
  const text = routeText(route, kernel);
  return {
    what: `the route ${text}${inTable} takes them`,
    remedy: `${ip(facts)} route del ${text}${inTable}`,
  };
}

/** The route in the words of `ip route`. */
export function routeText(
  { dst, type, gateway, linkIndex, metric, family }: Route,
  { links }: Pick<KernelSnapshot, 'links'>,
): string {
  const link = links.find(({ index }) => index === linkIndex)?.name;
  return [
    type === 'blackhole' ? 'blackhole' : '',
    dst.replace(/^(0\.0\.0\.0|::)\/0$/, 'default'),
    gateway === undefined ? '' : `via ${gateway}`,
    link === undefined ? '' : `dev ${link}`,
    metric === 0 || (family === 6 && metric === 1024) ? '' : `metric ${metric}`,
  ]
    .filter(Boolean)
    .join(' ');
}

function ip({ family }: PathFacts): string {
  return family === 6 ? 'ip -6' : 'ip';
}
