import { describe, expect, it } from 'vitest';
import { ownFault } from '../../src/backend/hostgw/plan.ts';
import type { Route } from '../../src/kernel/kernel.ts';
import {
  blackhole,
  type Case,
  connected,
  dst,
  foreign,
  gateway,
  legacy,
  other,
  planned,
  route,
} from './plan-table.ts';

const outside = '192.168.50.0/24';
const add = `+${dst} via ${gateway} (missing)`;
const replace = (cause: string, at = dst) => `~${at} via ${gateway} (${cause})`;
const remove = (via: string, cause: string) => `-${dst} via ${via} (${cause})`;
const installed = `${dst} installed`;
const parked = (why: string) => `${dst} parked: ${why}`;
const isConnected = `${dst} conflict: this host is connected to that network itself`;
const keeps = `${dst} conflict: another program on this host keeps adding a unicast route via ${other} of protocol 4`;
const no = () => false;
const held = { put: () => ownFault('held'), removal: () => undefined };

/** What is there, what is planned, and what else differs from the usual {@link Case}. */
type Row = [what: string, actual: readonly Route[], expected: readonly string[], over?: Case];

function itPlans(rows: readonly Row[], all: Case = {}): void {
  it.each(rows)('%s', (_what, actual, expected, over) => {
    expect(planned({ ...all, actual, ...over })).toEqual(expected);
  });
}

describe('a destination some lease asks for', () => {
  itPlans([
    ['is added where there is nothing', [], [add]],
    ['is left alone when it is right', [route()], [installed]],
    ['is replaced when its gateway changed', [route({ gateway: other })], [replace('wrong')]],
    ['adopts flanneld’s route', [legacy()], [replace('adopt')]],
    [
      'adopts flanneld’s route outside the network, too',
      [legacy({ dst: outside })],
      [replace('adopt', outside)],
      { desired: { [outside]: gateway } },
    ],
    [
      'replaces flanneld’s route by another gateway',
      [legacy({ gateway: other })],
      [replace('stale-legacy')],
      { removeLegacy: true, mayReplaceForeign: no },
    ],
    ['later treats such a route as foreign', [legacy({ gateway: other })], [replace('foreign')]],
    [
      'treats such a route outside the network as foreign',
      [legacy({ dst: outside, gateway: other })],
      [replace('foreign', outside)],
      { desired: { [outside]: gateway }, removeLegacy: true },
    ],
    [
      'keeps only one of ours',
      [route(), route({ gateway: other }), legacy()],
      [remove(other, 'wrong'), remove(gateway, 'wrong'), installed],
    ],
    [
      'removes flanneld’s stale route behind ours at the first sync',
      [route(), legacy({ gateway: other })],
      [remove(other, 'wrong'), installed],
      { removeLegacy: true },
    ],
    [
      'lets the right one behind take the place of the first',
      [route({ gateway: other }), route()],
      [remove(other, 'wrong')],
    ],
    [
      'is there before a leftover under another metric goes',
      [route({ metric: 100 })],
      [add, `-${dst} via ${gateway} metric 100 (wrong)`],
    ],
    ['leaves a foreign route under another metric', [foreign({ metric: 100 })], [add]],
    ['leaves a foreign route of another type of service', [foreign({ tos: 8 })], [add]],
  ]);
});

describe('a foreign route with our destination', () => {
  itPlans([
    ['is replaced', [foreign()], [replace('foreign')]],
    ['is replaced when it is a blackhole', [blackhole()], [replace('foreign')]],
    ['is left behind ours', [route(), foreign()], [installed]],
    ['gives way to ours behind it', [foreign(), route()], [remove(other, 'foreign')]],
    [
      'does not come to be used when it lies between two of ours',
      [route({ gateway: other }), foreign({ gateway: '10.211.55.103' }), route()],
      [remove(gateway, 'wrong'), replace('wrong')],
    ],
    ['is a conflict when it comes too often', [foreign()], [keeps], { mayReplaceForeign: no }],
    ['behind ours is no conflict', [route(), foreign()], [installed], { mayReplaceForeign: no }],
    [
      'leaves none of ours behind it in a conflict',
      [foreign(), route()],
      [remove(gateway, 'shadowed'), keeps],
      { mayReplaceForeign: no },
    ],
    ['of the kernel is never touched', [connected()], [isConnected]],
    ['of the kernel is not touched under another metric', [connected({ metric: 425 })], [isConnected]],
    [
      'of the kernel is uncovered when ours lies before it',
      [route(), connected()],
      [remove(gateway, 'shadowed'), isConnected],
    ],
    [
      'of the kernel is uncovered by flanneld’s, too',
      [connected(), legacy()],
      [remove(gateway, 'shadowed'), isConnected],
    ],
    ['of the kernel protects what lies before it', [foreign(), connected()], [isConnected]],
  ]);
});

describe('a destination that cannot be programmed', () => {
  const problem = 'interface eth0 is down';
  const link = { index: 2, problem };
  const isOurs = `its gateway ${gateway} is an address of this host`;
  const ownAddresses = new Set([gateway]);
  itPlans([
    ['waits for the link', [], [parked(problem)], { link }],
    [
      'loses an old gateway meanwhile',
      [route({ gateway: other })],
      [remove(other, 'wrong'), parked(problem)],
      { link },
    ],
    [
      'loses a route over another link while ours does not exist',
      [route({ linkIndex: 9 })],
      [remove(gateway, 'wrong'), parked(problem)],
      { link: { problem } },
    ],
    ['never goes through this host itself', [], [parked(isOurs)], { ownAddresses }],
    [
      'stops going through what became this host',
      [route()],
      [remove(gateway, 'wrong'), parked(isOurs)],
      { ownAddresses },
    ],
    ['is not sent while it is held', [], [parked('held')], { held }],
    ['is installed when it is right, held or not', [route()], [installed], { held }],
    ['keeps flanneld’s right route while it is held', [legacy()], [parked('held')], { held }],
    [
      'loses an old gateway while the new one is held',
      [route({ gateway: other })],
      [remove(other, 'wrong'), parked('held')],
      { held },
    ],
    ['leaves a foreign route while it is held', [foreign()], [parked('held')], { held }],
  ]);
});

describe('a destination no lease asks for', () => {
  const removal = { put: () => undefined, removal: () => ownFault('held') };
  const removeLegacy = true;
  const rows: readonly Row[] = [
    [
      'loses each of our routes',
      [route(), route({ gateway: other, metric: 100 })],
      [remove(gateway, 'stale'), `-${dst} via ${other} metric 100 (stale)`],
    ],
    ['keeps ours outside the network: another daemon’s', [route({ dst: outside })], []],
    [
      'loses ours outside the network when this process made it',
      [route({ dst: outside })],
      [`-${outside} via ${gateway} (stale)`],
      { programmed: new Set([outside]) },
    ],
    [
      'loses flanneld’s route at the first sync',
      [legacy()],
      [remove(gateway, 'stale-legacy')],
      { removeLegacy },
    ],
    ['keeps flanneld’s route later', [legacy()], []],
    ['keeps a like route outside the network', [legacy({ dst: outside })], [], { removeLegacy }],
    [
      'keeps flanneld’s route behind one that a removal would take for it',
      [legacy({ source: '10.211.55.100' }), legacy()],
      [],
      { removeLegacy },
    ],
    [
      'keeps what is foreign',
      [foreign(), connected(), blackhole(), blackhole({ protocol: 3 })],
      [],
      { removeLegacy },
    ],
    [
      'loses a blackhole of ours: that of a subnet this host once had',
      [blackhole({ protocol: 102, metric: 2_147_483_647 })],
      [`-blackhole ${dst} metric 2147483647 (stale)`],
    ],
    ['keeps its route while the removal is held', [route()], [], { held: removal }],
  ];
  itPlans(rows, { desired: {} });
});
