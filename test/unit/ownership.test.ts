import { describe, expect, it } from 'vitest';
import { routeProtocol as protocol } from '../../sim/host.ts';
import { subnet } from '../../sim/leases.ts';
import { isInstalled, isRemovable, type Owner, ownerOf } from '../../src/backend/hostgw/ownership.ts';
import type { Route } from '../../src/kernel/kernel.ts';
import { blackhole, connected, dst, eth0, foreign, gateway, legacy, other, route } from './plan-table.ts';

const ownership = { protocol, network: subnet('172.20.0.0/16'), subnetLength: 24 };

describe('a route belongs', () => {
  it.each<[string, Route, Owner]>([
    ['to us by our protocol', route(), 'own'],
    ['to us whatever it looks like', blackhole({ protocol }), 'own'],
    ['to us over any link', route({ linkIndex: 9, metric: 7, tos: 8 }), 'own'],
    ['to flanneld when it is exactly what that installs', legacy(), 'legacy'],
    ['to an operator with a metric', legacy({ metric: 100 }), 'foreign'],
    ['to an operator with a type of service', legacy({ tos: 8 }), 'foreign'],
    ['to an operator over another link', legacy({ linkIndex: 9 }), 'foreign'],
    ['to an operator with a preferred source', legacy({ source: '10.211.55.100' }), 'foreign'],
    ['to an operator when it is onlink or multipath', legacy({ special: true }), 'foreign'],
    ['to an operator as a blackhole', blackhole({ protocol: 3 }), 'foreign'],
    ['to an operator without a gateway', connected({ protocol: 3 }), 'foreign'],
    ['to the kernel', connected(), 'kernel'],
    ['to another program', foreign(), 'foreign'],
  ])('%s', (_what, given, owner) => {
    expect(ownerOf(given, ownership, eth0)).toBe(owner);
  });

  it('to nobody known while our link does not exist, but for our own', () => {
    expect(ownerOf(legacy(), ownership, undefined)).toBe('foreign');
    expect(ownerOf(legacy({ special: true }), ownership, undefined)).toBe('foreign');
    expect(ownerOf(route(), ownership, undefined)).toBe('own');
  });

  it('to flanneld with metric 1024 in IPv6', () => {
    const six = { family: 6, dst: 'fc00:1::/64', gateway: 'fe80::1' } as const;
    expect(ownerOf(legacy({ ...six, metric: 1024 }), ownership, eth0)).toBe('legacy');
    expect(ownerOf(legacy({ ...six, metric: 0 }), ownership, eth0)).toBe('foreign');
  });
});

describe('a stale route may be removed', () => {
  it.each<[string, Owner, boolean]>([
    ['172.20.1.0/24', 'own', true],
    ['172.20.0.0/16', 'own', true],
    ['172.20.4.0/22', 'own', true],
    ['172.16.0.0/12', 'own', false],
    ['192.168.1.0/24', 'own', false],
    ['172.20.1.0/24', 'legacy', true],
    ['172.20.4.0/22', 'legacy', false],
    ['192.168.1.0/24', 'legacy', false],
    ['172.20.1.0/24', 'foreign', false],
    ['172.20.1.0/24', 'kernel', false],
  ])('%s of %s: %s', (at, owner, removable) => {
    expect(isRemovable(route({ dst: at }), owner, ownership)).toBe(removable);
  });
});

describe('a route is as wanted', () => {
  const wanted = { family: 4, dst, metric: 0, protocol, gateway, linkIndex: eth0 } as const;
  it.each<[string, Partial<Route>, boolean]>([
    ['when nothing differs', {}, true],
    ['not with another gateway', { gateway: other }, false],
    ['not over another link', { linkIndex: 9 }, false],
    ['not of another protocol', { protocol: 3 }, false],
    ['not with a preferred source', { source: '10.211.55.100' }, false],
    ['not when it is onlink', { special: true }, false],
    ['not when it is no unicast', { type: 'other' }, false],
  ])('%s', (_what, over, same) => {
    expect(isInstalled(route(over), wanted)).toBe(same);
  });
});
