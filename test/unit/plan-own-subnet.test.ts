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
const goes = `-blackhole ${own4} (stale-legacy)`;
const there = `${own4} installed`;
const peers = `-${own4} via 10.211.55.101`;
const removeLegacy = true;
const held = { put: () => ownFault('the kernel refused it'), removal: () => undefined };

type Row = [what: string, asked: boolean, actual: readonly Route[], expected: readonly string[], over?: Case];

describe('our own subnet', () => {
  it.each<Row>([
    ['gets a blackhole behind everything', true, [], [put]],
    ['gets it also when docker0 has it already', true, [docker0], [put]],
    ['keeps it', true, [docker0, ours()], [there]],
    [
      'gets ours before flanneld’s goes, which is in front of docker0’s route',
      true,
      [flannelds(), docker0],
      [put, goes],
      { removeLegacy },
    ],
    ['loses flanneld’s when ours is there', true, [flannelds(), ours()], [goes, there], { removeLegacy }],
    ['keeps a blackhole that an operator puts there later', true, [flannelds(), ours()], [there]],
    [
      'keeps what is not to the last field flanneld’s',
      true,
      [
        flannelds({ protocol: 4 }),
        flannelds({ metric: 5 }),
        flannelds({ special: true }),
        flannelds({ source: '172.20.100.1' }),
        flannelds({ tos: 4 }),
        ours(),
      ],
      [there],
      { removeLegacy },
    ],
    [
      'has none when another program’s route is in its place',
      true,
      [foreign({ dst: own4, metric: far })],
      [`${own4} conflict: a unicast route via 10.211.55.102 of protocol 4 is where its blackhole belongs`],
    ],
    ['waits when it was refused', true, [], [`${own4} parked: the kernel refused it`], { held }],
    [
      'loses a route to the peer that had it before',
      true,
      [route({ dst: own4 }), ours()],
      [`${peers} (stale)`, there],
    ],
    ['has none when that is not asked for', false, [docker0], []],
    [
      'loses ours when it is no longer asked for',
      false,
      [ours()],
      [`-blackhole ${own4} metric ${far} (stale)`],
    ],
    [
      'loses flanneld’s, too: containers behind it get nothing',
      false,
      [flannelds(), docker0, legacy({ dst: own4 })],
      [`${peers} (stale-legacy)`, goes],
      { removeLegacy },
    ],
    ['keeps an operator’s that comes later', false, [flannelds()], []],
  ])('%s (asked for: %s)', (_what, asked, actual, expected, over) => {
    expect(planned({ desired: {}, own: { dst: own4, blackhole: asked }, actual, ...over })).toEqual(expected);
  });

  it.each<Row>([
    ['gets a blackhole of the usual metric', true, [], [`+blackhole ${own6} (missing)`]],
    ['keeps it', true, [ours(in6)], [`${own6} installed`]],
    ['adopts flanneld’s in one step', true, [flannelds(in6)], [`~blackhole ${own6} (adopt)`]],
    [
      'puts it in the place of a route to a former holder',
      true,
      [route(in6)],
      [`~blackhole ${own6} (wrong)`],
    ],
    [
      'leaves another program’s route in its place',
      true,
      [blackhole(in6)],
      [`${own6} conflict: a blackhole route of protocol 4 is where its blackhole belongs`],
    ],
    ['loses ours when it is not asked for', false, [ours(in6)], [`-blackhole ${own6} (stale)`]],
  ])('in IPv6 %s (asked for: %s)', (_what, asked, actual, expected) => {
    const own = { dst: own6, blackhole: asked };
    expect(planned({ desired: {}, ownership: ownership6, own, actual })).toEqual(expected);
  });

  it('that moved leaves no blackhole behind for the peer that has the old one now', () => {
    const dst = '172.20.1.0/24';
    expect(planned({ actual: [ours({ dst })] })).toEqual([
      `+${dst} via 10.211.55.101 (missing)`,
      `-blackhole ${dst} metric ${far} (wrong)`,
    ]);
  });
});
