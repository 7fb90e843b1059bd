import { describe, expect, it } from 'vitest';
import { ownFault } from '../../src/backend/hostgw/plan.ts';
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
const installed = `${dst} installed`;
const isConnected = `${dst} conflict: this host is connected to that network itself`;
const keeps = `${dst} conflict: another program on this host keeps adding a unicast route via ${other} of protocol 4`;
const no = () => false;
const held = { put: () => ownFault('held'), removal: () => undefined };

type Row = [string, Case, readonly string[]];

describe('a destination some lease asks for', () => {
  it.each<Row>([
    ['is added where there is nothing', {}, [add]],
    ['is left alone when it is right', { actual: [route()] }, [installed]],
    [
      'is replaced when its gateway changed',
      { actual: [route({ gateway: other })] },
      [`~${dst} via ${gateway} (wrong)`],
    ],
    [
      'is replaced when it leaves by another link',
      { actual: [route({ linkIndex: 7 })] },
      [`~${dst} via ${gateway} (wrong)`],
    ],
    [
      'is replaced when it is no plain route',
      { actual: [route({ special: true })] },
      [`~${dst} via ${gateway} (wrong)`],
    ],
    [
      'is replaced when it prefers a source',
      { actual: [route({ source: '10.211.55.100' })] },
      [`~${dst} via ${gateway} (wrong)`],
    ],
    ['adopts flanneld’s route', { actual: [legacy()] }, [`~${dst} via ${gateway} (adopt)`]],
    [
      'adopts it outside the network, too',
      { desired: { [outside]: gateway }, actual: [legacy({ dst: outside })] },
      [`~${outside} via ${gateway} (adopt)`],
    ],
    [
      'replaces flanneld’s route by another gateway',
      { actual: [legacy({ gateway: other })], removeLegacy: true, mayReplaceForeign: no },
      [`~${dst} via ${gateway} (stale-legacy)`],
    ],
    [
      'later treats such a route as foreign',
      { actual: [legacy({ gateway: other })] },
      [`~${dst} via ${gateway} (foreign)`],
    ],
    [
      'treats such a route outside the network as foreign',
      {
        desired: { [outside]: gateway },
        actual: [legacy({ dst: outside, gateway: other })],
        removeLegacy: true,
      },
      [`~${outside} via ${gateway} (foreign)`],
    ],
    [
      'keeps only one of ours',
      { actual: [route(), route({ gateway: other }), legacy()] },
      [`-${dst} via ${other} (wrong)`, `-${dst} via ${gateway} (wrong)`, installed],
    ],
    [
      'removes flanneld’s stale route behind ours at the first sync',
      { actual: [route(), legacy({ gateway: other })], removeLegacy: true },
      [`-${dst} via ${other} (wrong)`, installed],
    ],
    [
      'lets the right one behind take the place of the first',
      { actual: [route({ gateway: other }), route()] },
      [`-${dst} via ${other} (wrong)`],
    ],
    [
      'is there before a leftover under another metric goes',
      { actual: [route({ metric: 100 })] },
      [add, `-${dst} via ${gateway} metric 100 (wrong)`],
    ],
    ['leaves a foreign route under another metric', { actual: [foreign({ metric: 100 })] }, [add]],
    ['leaves a foreign route of another type of service', { actual: [foreign({ tos: 8 })] }, [add]],
  ])('%s', (_what, given, expected) => {
    expect(planned(given)).toEqual(expected);
  });
});

describe('a foreign route with our destination', () => {
  it.each<Row>([
    ['is replaced', { actual: [foreign()] }, [`~${dst} via ${gateway} (foreign)`]],
    ['is replaced when it is a blackhole', { actual: [blackhole()] }, [`~${dst} via ${gateway} (foreign)`]],
    ['is left behind ours', { actual: [route(), foreign()] }, [installed]],
    ['gives way to ours behind it', { actual: [foreign(), route()] }, [`-${dst} via ${other} (foreign)`]],
    [
      'does not come to be used when it lies between two of ours',
      { actual: [route({ gateway: other }), foreign({ gateway: '10.211.55.103' }), route()] },
      [`-${dst} via ${gateway} (wrong)`, `~${dst} via ${gateway} (wrong)`],
    ],
    ['is a conflict when it comes too often', { actual: [foreign()], mayReplaceForeign: no }, [keeps]],
    [
      'is not held against one that is in place',
      { actual: [route(), foreign()], mayReplaceForeign: no },
      [installed],
    ],
    [
      'leaves none of ours behind it in a conflict',
      { actual: [foreign(), route()], mayReplaceForeign: no },
      [`-${dst} via ${gateway} (shadowed)`, keeps],
    ],
    ['of the kernel is never touched', { actual: [connected()] }, [isConnected]],
    [
      'of the kernel is not touched under another metric',
      { actual: [connected({ metric: 425 })] },
      [isConnected],
    ],
    [
      'of the kernel is uncovered when ours lies before it',
      { actual: [route(), connected()] },
      [`-${dst} via ${gateway} (shadowed)`, isConnected],
    ],
    [
      'of the kernel is uncovered by flanneld’s, too',
      { actual: [connected(), legacy()] },
      [`-${dst} via ${gateway} (shadowed)`, isConnected],
    ],
    ['of the kernel protects what lies before it', { actual: [foreign(), connected()] }, [isConnected]],
  ])('%s', (_what, given, expected) => {
    expect(planned(given)).toEqual(expected);
  });
});

describe('a destination that cannot be programmed', () => {
  const problem = 'interface eth0 is down';
  it.each<Row>([
    ['waits for the link', { link: { index: 2, problem } }, [`${dst} parked: ${problem}`]],
    [
      'loses an old gateway meanwhile',
      { link: { index: 2, problem }, actual: [route({ gateway: other })] },
      [`-${dst} via ${other} (wrong)`, `${dst} parked: ${problem}`],
    ],
    [
      'loses a route over another link while ours does not exist',
      { link: { problem }, actual: [route({ linkIndex: 9 })] },
      [`-${dst} via ${gateway} (wrong)`, `${dst} parked: ${problem}`],
    ],
    [
      'never goes through this host itself',
      { ownAddresses: new Set([gateway]) },
      [`${dst} parked: its gateway ${gateway} is an address of this host`],
    ],
    [
      'stops going through what became this host',
      { ownAddresses: new Set([gateway]), actual: [route()] },
      [`-${dst} via ${gateway} (wrong)`, `${dst} parked: its gateway ${gateway} is an address of this host`],
    ],
    ['is not sent while it is held', { held }, [`${dst} parked: held`]],
    ['is installed when it is right, held or not', { held, actual: [route()] }, [installed]],
    ['keeps flanneld’s right route while it is held', { held, actual: [legacy()] }, [`${dst} parked: held`]],
    [
      'loses an old gateway while the new one is held',
      { held, actual: [route({ gateway: other })] },
      [`-${dst} via ${other} (wrong)`, `${dst} parked: held`],
    ],
    ['leaves a foreign route while it is held', { held, actual: [foreign()] }, [`${dst} parked: held`]],
  ])('%s', (_what, given, expected) => {
    expect(planned(given)).toEqual(expected);
  });
});

describe('a destination no lease asks for', () => {
  const none = {} as const;
  const removal = { put: () => undefined, removal: () => ownFault('held') };
  it.each<Row>([
    ['loses our route', { desired: none, actual: [route()] }, [`-${dst} via ${gateway} (stale)`]],
    [
      'loses each of our routes',
      { desired: none, actual: [route(), route({ gateway: other, metric: 100 })] },
      [`-${dst} via ${gateway} (stale)`, `-${dst} via ${other} metric 100 (stale)`],
    ],
    [
      'loses ours of any length inside the network',
      { desired: none, actual: [route({ dst: '172.20.4.0/22' })] },
      [`-172.20.4.0/22 via ${gateway} (stale)`],
    ],
    [
      'keeps ours outside the network: another daemon’s',
      { desired: none, actual: [route({ dst: outside })] },
      [],
    ],
    [
      'loses ours outside the network when this process made it',
      { desired: none, actual: [route({ dst: outside })], programmed: new Set([outside]) },
      [`-${outside} via ${gateway} (stale)`],
    ],
    [
      'loses flanneld’s route at the first sync',
      { desired: none, actual: [legacy()], removeLegacy: true },
      [`-${dst} via ${gateway} (stale-legacy)`],
    ],
    ['keeps flanneld’s route later', { desired: none, actual: [legacy()] }, []],
    [
      'keeps a like route of another length',
      { desired: none, actual: [legacy({ dst: '172.20.4.0/22' })], removeLegacy: true },
      [],
    ],
    [
      'keeps a like route outside the network',
      { desired: none, actual: [legacy({ dst: outside })], removeLegacy: true },
      [],
    ],
    [
      'keeps a like route over another link',
      { desired: none, actual: [legacy({ linkIndex: 7 })], removeLegacy: true },
      [],
    ],
    [
      'keeps flanneld’s route behind one that a removal would take for it',
      { desired: none, actual: [legacy({ source: '10.211.55.100' }), legacy()], removeLegacy: true },
      [],
    ],
    [
      'keeps what is foreign',
      {
        desired: none,
        actual: [foreign(), connected(), blackhole(), blackhole({ protocol: 3 })],
        removeLegacy: true,
      },
      [],
    ],
    [
      'loses a blackhole of ours: that of a subnet this host once had',
      { desired: none, actual: [blackhole({ protocol: 102, metric: 2_147_483_647 })] },
      [`-blackhole ${dst} metric 2147483647 (stale)`],
    ],
    ['is not asked for while its removal is held', { desired: none, actual: [route()], held: removal }, []],
  ])('%s', (_what, given, expected) => {
    expect(planned(given)).toEqual(expected);
  });
});
