import { describe, expect, it } from 'vitest';
import { routeProtocol as protocol } from '../../sim/host.ts';
import { subnet } from '../../sim/leases.ts';
import type { Route } from '../../src/kernel/kernel.ts';
import { blackhole, type Case, connected, foreign, planned, route } from './plan-table.ts';

const dst = 'fc00:0:1::/64';
const gateway = 'fd00:55::101';
const other = 'fd00:55::102';
const ownership = { protocol, network: subnet('fc00::/32'), subnetLength: 64 };

/** Ours unless said otherwise. */
function route6(over: Partial<Route> = {}): Route {
  return route({ family: 6, dst, metric: 1024, gateway, ...over });
}
const legacy6 = (over: Partial<Route> = {}) => route6({ protocol: 3, ...over });
const foreign6 = (over: Partial<Route> = {}) =>
  foreign({ family: 6, dst, metric: 1024, gateway: other, ...over });
const connected6 = connected({ family: 6, dst, metric: 256 });

const dropped = blackhole({ family: 6, dst, metric: 1024 });
const multipath = (owner: number) =>
  ({ ...dropped, type: 'unicast', special: true, multipath: true, protocol: owner }) as const;
const { source: _source, ...direct } = connected({ family: 6, dst, metric: 1024, protocol: 4 });

function planned6({ desired = { [dst]: gateway }, ...rest }: Case): string[] {
  return planned({ ownership, desired, ownAddresses: new Set(['fd00:55::100', '::1']), ...rest });
}

describe('a route of IPv6', () => {
  it.each<[string, Case, readonly string[]]>([
    ['is added with the usual metric', {}, [`+${dst} via ${gateway} (missing)`]],
    ['is left alone', { actual: [route6()] }, [`${dst} installed`]],
    ['is adopted from flanneld', { actual: [legacy6()] }, [`~${dst} via ${gateway} (adopt)`]],
    [
      'takes the place of several gateways, whoever merged them',
      { actual: [multipath(3)] },
      [`~${dst} via ${gateway} (foreign)`],
    ],
    [
      'takes the place of several gateways of ours',
      { actual: [multipath(protocol)] },
      [`~${dst} via ${gateway} (wrong)`],
    ],
    [
      'changes its gateway in one step',
      { actual: [route6({ gateway: other })] },
      [`~${dst} via ${gateway} (wrong)`],
    ],
    [
      'takes the place of a router’s announcement',
      { actual: [foreign6({ protocol: 9 })] },
      [`~${dst} via ${gateway} (foreign)`],
    ],
    [
      'is replaced itself, not what lies beside it without a gateway',
      { actual: [dropped, route6({ gateway: other })] },
      [`~${dst} via ${gateway} (wrong)`],
    ],
    [
      'takes the place of a route without a gateway',
      { actual: [direct] },
      [`~${dst} via ${gateway} (foreign)`],
    ],
    [
      'gives way to a connected network, though both could exist',
      { actual: [connected6, route6()] },
      [`-${dst} via ${gateway} (shadowed)`, `${dst} conflict: this host is connected to that network itself`],
    ],
    [
      'leaves the place to another program that insists',
      { actual: [foreign6()], mayReplaceForeign: () => false },
      [
        `${dst} conflict: another program on this host keeps adding a unicast route via ${other} of protocol 4`,
      ],
    ],
    [
      'is in conflict with one that shares its packets',
      { actual: [route6(), dropped] },
      [`${dst} conflict: a blackhole route of protocol 4 and metric 1024 takes its packets`],
    ],
    [
      'is in conflict with one that is used before it',
      { actual: [foreign6({ metric: 100 }), route6()] },
      [`${dst} conflict: a unicast route via ${other} of protocol 4 and metric 100 takes its packets`],
    ],
    [
      'is at ease with one behind it',
      { actual: [route6(), foreign6({ metric: 2000 })] },
      [`${dst} installed`],
    ],
    [
      'has no second of ours under another metric',
      { actual: [route6({ metric: 256 }), route6()] },
      [`-${dst} via ${gateway} metric 256 (wrong)`, `${dst} installed`],
    ],
    [
      'is not led to this host itself',
      { desired: { [dst]: 'fd00:55::100' } },
      [`${dst} parked: its gateway fd00:55::100 is an address of this host`],
    ],
    [
      'waits for the link',
      { link: { index: 2, problem: 'interface eth0 is down' } },
      [`${dst} parked: interface eth0 is down`],
    ],
    ['goes with its lease', { desired: {}, actual: [route6()] }, [`-${dst} via ${gateway} (stale)`]],
    [
      'of flanneld goes at the first sync when its peer is gone',
      { desired: {}, actual: [legacy6()], removeLegacy: true },
      [`-${dst} via ${gateway} (stale-legacy)`],
    ],
    [
      'stays when it is of another length, or another metric',
      {
        desired: {},
        actual: [legacy6({ dst: 'fc00:0:2::/60' }), legacy6({ metric: 512 })],
        removeLegacy: true,
      },
      [],
    ],
  ])('%s', (_what, given, expected) => {
    expect(planned6(given)).toEqual(expected);
  });
});
