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

const replace = (cause: string) => `~${dst} via ${gateway} (${cause})`;
const installed = `${dst} installed`;
const takes = (what: string) => `${dst} conflict: a ${what} takes its packets`;
const isConnected = `${dst} conflict: this host is connected to that network itself`;

describe('a route of IPv6', () => {
  it.each<[what: string, actual: readonly Route[], expected: readonly string[], over?: Case]>([
    ['is added with the usual metric', [], [`+${dst} via ${gateway} (missing)`]],
    ['is left alone', [route6()], [installed]],
    ['is adopted from flanneld', [legacy6()], [replace('adopt')]],
    ['takes the place of several gateways, whoever merged them', [multipath(3)], [replace('foreign')]],
    ['takes the place of several gateways of ours', [multipath(protocol)], [replace('wrong')]],
    ['changes its gateway in one step', [route6({ gateway: other })], [replace('wrong')]],
    [
      'is replaced itself, not what lies beside it without a gateway',
      [dropped, route6({ gateway: other })],
      [replace('wrong')],
    ],
    ['takes the place of a route without a gateway', [direct], [replace('foreign')]],
    [
      'gives way to a connected network, though both could exist',
      [connected6, route6()],
      [`-${dst} via ${gateway} (shadowed)`, isConnected],
    ],
    [
      'is in conflict with one that shares its packets',
      [route6(), dropped],
      [takes('blackhole route of protocol 4 and metric 1024')],
    ],
    [
      'is in conflict with one that is used before it',
      [foreign6({ metric: 100 }), route6()],
      [takes(`unicast route via ${other} of protocol 4 and metric 100`)],
    ],
    ['is in no conflict with one behind it', [route6(), foreign6({ metric: 2000 })], [installed]],
    [
      'has no second of ours under another metric',
      [route6({ metric: 256 }), route6()],
      [`-${dst} via ${gateway} metric 256 (wrong)`, installed],
    ],
    [
      'of flanneld goes at the first sync when its peer is gone',
      [legacy6()],
      [`-${dst} via ${gateway} (stale-legacy)`],
      { desired: {}, removeLegacy: true },
    ],
    [
      'stays when it is of another length, or another metric',
      [legacy6({ dst: 'fc00:0:2::/60' }), legacy6({ metric: 512 })],
      [],
      { desired: {}, removeLegacy: true },
    ],
  ])('%s', (_what, actual, expected, over) => {
    expect(planned({ ownership, desired: { [dst]: gateway }, actual, ...over })).toEqual(expected);
  });
});
