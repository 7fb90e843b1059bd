import { routeProtocol as protocol } from '../../sim/host.ts';
import { subnet } from '../../sim/leases.ts';
import { Mirror } from '../../src/backend/hostgw/mirror.ts';
import { metricOf } from '../../src/backend/hostgw/ownership.ts';
import { type PlanInput, plan } from '../../src/backend/hostgw/plan.ts';
import type { Link, LinkAddress, Route } from '../../src/kernel/kernel.ts';

export const dst = '172.20.1.0/24';
export const gateway = '10.211.55.101';
export const other = '10.211.55.102';
export const eth0 = 2;
export const ownership4 = { protocol, network: subnet('172.20.0.0/16'), subnetLength: 24 };

/** A route of the main table: ours to `gateway` over eth0 unless said otherwise. */
export function route(over: Partial<Route> = {}): Route {
  const usual = {
    family: 4,
    dst,
    tos: 0,
    metric: 0,
    protocol,
    type: 'unicast',
    scope: 0,
    special: false,
  } as const;
  return { ...usual, gateway, linkIndex: eth0, ...over };
}

/** The connected route of a network on another link. */
export function connected(over: Partial<Route> = {}): Route {
  const { gateway: _gateway, ...rest } = route({
    protocol: 2,
    scope: 253,
    linkIndex: 3,
    source: '172.20.1.1',
  });
  return { ...rest, ...over };
}

export function blackhole(over: Partial<Route> = {}): Route {
  const { gateway: _gateway, linkIndex: _linkIndex, ...rest } = route({ type: 'blackhole', protocol: 4 });
  return { ...rest, ...over };
}

export const legacy = (over: Partial<Route> = {}): Route => route({ protocol: 3, ...over });
export const foreign = (over: Partial<Route> = {}): Route => route({ protocol: 4, gateway: other, ...over });

/** What to plan with: one lease for `dst` via `gateway`, no routes, everything allowed; see {@link planned}. */
export interface Case extends Partial<Omit<PlanInput, 'desired' | 'actual' | 'dsts'>> {
  readonly desired?: Readonly<Record<string, string>>;
  readonly actual?: readonly Route[];
}

/** The plan of a case for all its destinations, shortened: `+dst via gateway`, `~` replaced, `-` removed, and states. */
export function planned({ desired = { [dst]: gateway }, actual = [], ...over }: Case): string[] {
  const { changes, states } = plan(input({ desired, actual, ...over }));
  return [
    ...changes.map(({ op, route: { family, dst: at, gateway: via, metric }, cause }) => {
      const sign = op === 'add' ? '+' : op === 'replace' ? '~' : '-';
      const what = via === undefined ? `blackhole ${at}` : `${at} via ${via}`;
      return `${sign}${what}${metric === metricOf(family) ? '' : ` metric ${metric}`} (${cause})`;
    }),
    ...[...states].map(([at, { state, reason }]) => `${at} ${state}${reason ? `: ${reason.text}` : ''}`),
  ];
}

function input({ desired = {}, actual = [], ...over }: Case): PlanInput {
  const wanted = new Map(
    Object.entries(desired).map(([at, via]) => [at, { dst: at, gateway: via, key: at }]),
  );
  const { ownership = ownership4 } = over;
  const mirror = new Mirror('eth0', ownership);
  mirror.reset({ links: [], addresses: [], routes: actual });
  return {
    dsts: new Set([...(over.own ? [over.own.dst] : []), ...wanted.keys(), ...actual.map((one) => one.dst)]),
    desired: wanted,
    actual: mirror,
    ownership,
    own: { dst: '172.20.100.0/24', blackhole: false },
    link: { index: eth0 },
    ownAddresses: new Set(['10.211.55.100', '127.0.0.1']),
    refusal: () => undefined,
    held: { put: () => undefined, removal: () => undefined },
    programmed: new Set(),
    removeLegacy: false,
    mayReplaceForeign: () => true,
    ...over,
  };
}

/** eth0, up, unless said otherwise. */
export function link(over: Partial<Link> = {}): Link {
  return { index: eth0, name: 'eth0', mtu: 1500, up: true, carrier: true, loopback: false, ...over };
}

/** An address event's payload. */
export function address(text: string, over: Partial<LinkAddress> = {}): LinkAddress {
  const flags = {
    deprecated: false,
    temporary: false,
    permanent: true,
    tentative: false,
    dadFailed: false,
  } as const;
  return { family: 4, linkIndex: eth0, address: text, prefixLength: 24, scope: 'global', ...flags, ...over };
}
