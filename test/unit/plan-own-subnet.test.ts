import { describe, expect, it } from 'vitest';
import { routeProtocol as protocol } from '../../sim/host.ts';
import { subnet } from '../../sim/leases.ts';
import { ownFault } from '../../src/backend/hostgw/plan.ts';
import type { Route } from '../../src/kernel/kernel.ts';
import { blackhole, type Case, connected, foreign, legacy, planned, route } from './plan-table.ts';

const far = 2_147_483_647;
const own4 = '172.20.100.0/24';
const own6 = 'fc00:0:100::/64';
const ownership6 = { protocol, network: subnet('fc00::/32'), subnetLength: 64 };

const ours = (over: Partial<Route> = {}) => blackhole({ dst: own4, protocol, metric: far, ...over });
/** What flanneld's --ip-blackhole-route leaves. */
const flannelds = (over: Partial<Route> = {}) => blackhole({ dst: own4, protocol: 3, ...over });
const docker0 = connected({ dst: own4 });
const in6 = { family: 6, dst: own6, metric: 1024 } as const;

const put = `+blackhole ${own4} metric ${far} (missing)`;
const there = `${own4} installed`;

describe('our own subnet', () => {
  it.each<[string, boolean, Case, readonly string[]]>([
    ['gets a blackhole behind everything', true, {}, [put]],
    ['gets it also when docker0 has it already', true, { actual: [docker0] }, [put]],
    ['keeps it', true, { actual: [docker0, ours()] }, [there]],
    [
      'gets ours before flanneld’s goes, which is in front of docker0’s route',
      true,
      { actual: [flannelds(), docker0], removeLegacy: true },
      [put, `-blackhole ${own4} (stale-legacy)`],
    ],
    [
      'loses flanneld’s when ours is there already',
      true,
      { actual: [flannelds(), ours()], removeLegacy: true },
      [`-blackhole ${own4} (stale-legacy)`, there],
    ],
    ['keeps a blackhole that an operator puts there later', true, { actual: [flannelds(), ours()] }, [there]],
    [
      'keeps what is not to the last field flanneld’s',
      true,
      {
        actual: [
          flannelds({ protocol: 4 }),
          flannelds({ metric: 5 }),
          flannelds({ special: true }),
          flannelds({ source: '172.20.100.1' }),
          flannelds({ tos: 4 }),
          ours(),
        ],
        removeLegacy: true,
      },
      [there],
    ],
    [
      'has none when another program’s route is in its place',
      true,
      { actual: [foreign({ dst: own4, metric: far })] },
      [`${own4} conflict: a unicast route via 10.211.55.102 of protocol 4 is where its blackhole belongs`],
    ],
    [
      'waits when it was refused',
      true,
      { held: { put: () => ownFault('the kernel refused it'), removal: () => undefined } },
      [`${own4} parked: the kernel refused it`],
    ],
    [
      'loses a route to the peer that had it before',
      true,
      { actual: [route({ dst: own4 }), ours()] },
      [`-${own4} via 10.211.55.101 (stale)`, there],
    ],
    ['has none when that is not asked for', false, { actual: [docker0] }, []],
    [
      'loses ours when it is no longer asked for',
      false,
      { actual: [ours()] },
      [`-blackhole ${own4} metric ${far} (stale)`],
    ],
    [
      'loses flanneld’s, too: containers behind it get nothing',
      false,
      { actual: [flannelds(), docker0, legacy({ dst: own4 })], removeLegacy: true },
      [`-${own4} via 10.211.55.101 (stale-legacy)`, `-blackhole ${own4} (stale-legacy)`],
    ],
    ['keeps an operator’s that comes later', false, { actual: [flannelds()] }, []],
  ])('%s (asked for: %s)', (_what, asked, given, expected) => {
    expect(planned({ desired: {}, own: { dst: own4, blackhole: asked }, ...given })).toEqual(expected);
  });

  it.each<[string, boolean, Case, readonly string[]]>([
    ['gets a blackhole of the usual metric', true, {}, [`+blackhole ${own6} (missing)`]],
    ['keeps it', true, { actual: [ours(in6)] }, [`${own6} installed`]],
    ['adopts flanneld’s in one step', true, { actual: [flannelds(in6)] }, [`~blackhole ${own6} (adopt)`]],
    [
      'puts it in the place of a route to the peer that had it before',
      true,
      { actual: [route(in6)] },
      [`~blackhole ${own6} (wrong)`],
    ],
    [
      'leaves another program’s route in its place',
      true,
      { actual: [blackhole(in6)] },
      [`${own6} conflict: a blackhole route of protocol 4 is where its blackhole belongs`],
    ],
    ['loses ours when it is not asked for', false, { actual: [ours(in6)] }, [`-blackhole ${own6} (stale)`]],
    [
      'loses flanneld’s at the first sync when it is not asked for',
      false,
      { actual: [flannelds(in6)], removeLegacy: true },
      [`-blackhole ${own6} (stale-legacy)`],
    ],
  ])('in IPv6 %s (asked for: %s)', (_what, asked, given, expected) => {
    const own = { dst: own6, blackhole: asked };
    expect(planned({ desired: {}, ownership: ownership6, own, ...given })).toEqual(expected);
  });

  it('that moved leaves no blackhole behind for the peer that has the old one now', () => {
    const dst = '172.20.1.0/24';
    expect(planned({ actual: [ours({ dst })] })).toEqual([
      `+${dst} via 10.211.55.101 (missing)`,
      `-blackhole ${dst} metric ${far} (wrong)`,
    ]);
  });
});
