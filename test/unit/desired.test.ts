import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { dualLease, lease, subnet } from '../../sim/leases.ts';
import { DesiredRoutes, type Self } from '../../src/backend/hostgw/desired.ts';
import type { Lease } from '../../src/subnet/lease/lease.ts';

const self = { subnet: subnet('172.20.100.0/24'), address: '10.211.55.100' };
const dst = '172.20.1.0/24';
const peer = '10.211.55.101';

const foreignBackend = lease(dst, peer, { value: { publicIP: peer, backendType: 'Host-GW' } });
const noAddress = { value: { backendType: 'host-gw' } };
const neverRouted = (range: string) => `it overlaps ${range}, which is never routed`;
const noGateway = (what: string, range: string) => `its ${what} lies in ${range}, where no gateway can be`;

/** What one lease comes to: a route, the reason why there is none, or nothing that needs a mention. */
function routeOfLease(given: Lease, host: Self) {
  const desired = new DesiredRoutes(host);
  desired.replaceAll([given]);
  const [route] = [...desired.dsts].map((at) => desired.get(at));
  const reason = desired.refused.get(given.key);
  if (route !== undefined) return { route };
  return reason === undefined ? { ignore: true } : { reason, ignore: false };
}

describe('the route a lease asks for', () => {
  it('leads to its subnet via its PublicIP', () => {
    const route = { dst, gateway: peer, key: '/net/subnets/172.20.1.0-24' };
    expect(routeOfLease(lease(dst, peer), self)).toEqual({ route });
  });

  it('may lie outside the network and have another length', () => {
    expect(routeOfLease(lease('192.168.0.0/20', peer), self)).toHaveProperty('route.dst', '192.168.0.0/20');
  });

  it.each<[string, Lease]>([
    ['our own', lease('172.20.100.0/24', '10.211.55.100')],
    ['our own subnet, held by another host', lease('172.20.100.0/24', peer)],
    ['of IPv6 alone', lease(dst, peer, { subnets: { ipv6: subnet('fc00::/64') } })],
  ])('is none, and that is in order, when the lease is %s', (_what, given) => {
    expect(routeOfLease(given, self)).toMatchObject({ ignore: true });
  });

  it.each<[string, Lease, string]>([
    ['its backend is another or written otherwise', foreignBackend, 'its backend is "Host-GW", not host-gw'],
    ['it has no PublicIP', lease(dst, peer, noAddress), 'it has no valid PublicIP'],
    ['its PublicIP is ours', lease(dst, self.address), 'its PublicIP 10.211.55.100 is our own address'],
    ['its PublicIP is loopback', lease(dst, '127.0.0.1'), noGateway('PublicIP 127.0.0.1', '127.0.0.0/8')],
    ['it contains our subnet', lease('172.20.96.0/19', peer), 'it overlaps our own subnet 172.20.100.0/24'],
    ['it contains our address', lease('10.211.55.0/24', peer), 'it contains our own address 10.211.55.100'],
    ['it contains its PublicIP', lease('10.99.0.0/16', '10.99.0.1'), 'its PublicIP 10.99.0.1 lies inside it'],
    ['it is loopback', lease('127.0.0.0/24', peer), neverRouted('127.0.0.0/8')],
    ['it is this network', lease('0.0.1.0/24', peer), neverRouted('0.0.0.0/8')],
    ['it is multicast', lease('239.1.0.0/16', peer), neverRouted('224.0.0.0/3')],
  ])('is refused, with a reason, when %s', (_what, given, reason) => {
    expect(routeOfLease(given, self)).toEqual({ reason, ignore: false });
  });
});

describe('the route a lease asks for in IPv6', () => {
  const self6 = { subnet: subnet('fc00:0:100::/64'), address: 'fd00:55::100' };
  const dst6 = 'fc00:0:1::/64';
  const peer6 = 'fd00:55::101';

  it.each<[string, Lease]>([
    ['dual', dualLease(dst, dst6, peer, peer6)],
    ['of IPv6 alone, flanneld’s form', dualLease('0.0.0.0/0', dst6, '0.0.0.0', peer6)],
  ])('leads to its IPv6 subnet via its PublicIPv6: %s', (_what, given) => {
    expect(routeOfLease(given, self6)).toEqual({ route: { dst: dst6, gateway: peer6, key: given.key } });
  });

  it('a dual lease is used on a host with IPv4 alone, for what that has', () => {
    const given = dualLease(dst, dst6, peer, peer6);
    expect(routeOfLease(given, self)).toEqual({ route: { dst, gateway: peer, key: given.key } });
  });

  it.each<[string, Lease, typeof self]>([
    ['of IPv4 alone', lease(dst, peer), self6],
    ['of IPv6 alone, on a host with IPv4 alone', dualLease('0.0.0.0/0', dst6, '0.0.0.0', peer6), self],
    ['our own', dualLease('172.20.100.0/24', self6.subnet.text, peer, self6.address), self6],
  ])('is none, and that is in order, when the lease is %s', (_what, given, on) => {
    expect(routeOfLease(given, on)).toMatchObject({ ignore: true });
  });

  it.each<[string, string, string, string]>([
    ['it has no PublicIPv6', dst6, '', 'it has no valid PublicIPv6'],
    ['its PublicIPv6 is ours', dst6, self6.address, 'its PublicIPv6 fd00:55::100 is our own address'],
    ['its PublicIPv6 is link-local', dst6, 'fe80::1', noGateway('PublicIPv6 fe80::1', 'fe80::/10')],
    ['its PublicIPv6 is loopback', dst6, '::1', noGateway('PublicIPv6 ::1', '::/8')],
    ['its PublicIPv6 is multicast', dst6, 'ff02::1', noGateway('PublicIPv6 ff02::1', 'ff00::/8')],
    ['it lies inside our subnet', 'fc00:0:100::/80', peer6, 'it overlaps our own subnet fc00:0:100::/64'],
    ['it contains our address', 'fd00:55::/64', peer6, 'it contains our own address fd00:55::100'],
    ['it contains its PublicIPv6', 'fd99::/64', 'fd99::1', 'its PublicIPv6 fd99::1 lies inside it'],
    ['it is IPv4 in disguise', '64:ff9b::/96', peer6, neverRouted('::/8')],
    ['it is link-local', 'fe80::/64', peer6, neverRouted('fe80::/10')],
    ['it is multicast', 'ff05::/64', peer6, neverRouted('ff00::/8')],
    ['it is half of all there is', '8000::/1', peer6, 'it overlaps our own subnet fc00:0:100::/64'],
  ])('is refused, with a reason, when %s', (_what, at, gateway, reason) => {
    expect(routeOfLease(dualLease(dst, at, peer, gateway), self6)).toEqual({ reason, ignore: false });
  });
});

describe('the desired routes of a host that moves to another address', () => {
  const moved = '10.211.55.150';

  it('are as before, but for leases that name the new or the old one', () => {
    const routes = new DesiredRoutes(self);
    const atOld = lease('172.20.7.0/24', self.address);
    routes.replaceAll([lease(dst, peer), atOld, lease('172.20.8.0/24', moved)]);
    expect([...routes.dsts]).toEqual([dst, '172.20.8.0/24']);
    expect(routes.moveTo(moved)).toEqual(['172.20.8.0/24', '172.20.7.0/24']);
    expect([...routes.dsts]).toEqual([dst, '172.20.7.0/24']);
    expect([...routes.refused.keys()]).toEqual(['/net/subnets/172.20.8.0-24']);
    expect(routes.moveTo(self.address)).toEqual(['172.20.7.0/24', '172.20.8.0/24']);
    routes.apply([], [atOld.key]);
    expect(routes.refused.size).toBe(0);
    expect([...routes.dsts]).toEqual([dst, '172.20.8.0/24']);
  });

  it('keep refusing what is wrong under any address', () => {
    const routes = new DesiredRoutes(self);
    const wrong = [lease('127.1.0.0/24', peer), lease(dst, peer, noAddress)];
    routes.replaceAll(wrong);
    expect(routes.moveTo(moved)).toEqual([]);
    expect([...routes.refused.keys()].toSorted()).toEqual(wrong.map(({ key }) => key).toSorted());
  });
});

describe('the desired routes', () => {
  it('have no gap while a key takes an IPv6 half, in one revision or in two', () => {
    const routes = new DesiredRoutes(self);
    const before = lease(dst, peer);
    const after = dualLease(dst, 'fc00:0:1::/64', peer, 'fd00:55::101');
    routes.replaceAll([before]);
    routes.apply([after], [before.key]);
    expect(routes.get(dst)).toEqual({ dst, gateway: peer, key: after.key });
    routes.apply([before], []);
    routes.apply([], [after.key]);
    expect(routes.get(dst)).toEqual({ dst, gateway: peer, key: before.key });
  });

  const twin = (createRevision: number, gateway: string, key: string) =>
    lease(dst, gateway, { key, createRevision });

  it('name what changed: new, gone, another gateway; not what is as before', () => {
    const routes = new DesiredRoutes(self);
    expect(routes.replaceAll([lease(dst, peer), lease('172.20.2.0/24', peer)])).toEqual([
      dst,
      '172.20.2.0/24',
    ]);
    const next = [lease(dst, '10.211.55.111'), lease('172.20.2.0/24', peer), lease('172.20.3.0/24', peer)];
    expect(routes.replaceAll(next)).toEqual([dst, '172.20.3.0/24']);
    expect(routes.replaceAll([])).toEqual([dst, '172.20.2.0/24', '172.20.3.0/24']);
    expect(routes.routes).toEqual([]);
  });

  it('give a destination that two keys claim to the older, and to the other when that is gone', () => {
    const routes = new DesiredRoutes(self);
    routes.apply([twin(9, '10.211.55.109', 'b'), twin(5, '10.211.55.105', 'c')], []);
    expect(routes.get(dst)?.gateway).toBe('10.211.55.105');
    routes.apply([], ['c']);
    expect(routes.get(dst)?.gateway).toBe('10.211.55.109');
    routes.apply([], ['b']);
    expect(routes.get(dst)).toBeUndefined();
  });

  it('drop the route of a lease that becomes another backend’s', () => {
    const routes = new DesiredRoutes(self);
    routes.apply([lease(dst, peer)], []);
    routes.apply([foreignBackend], []);
    expect(routes.get(dst)).toBeUndefined();
  });

  it('are the same after any changes as after a list of what is left', () => {
    const key = fc.constantFrom('a', 'b', 'c', 'd');
    const change = fc.record({
      key,
      gone: fc.boolean(),
      dst: fc.constantFrom(dst, '172.20.2.0/24', '172.20.100.0/24'),
      gateway: fc.constantFrom(peer, '10.211.55.102', '10.211.55.100'),
      createRevision: fc.nat(3),
    });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 30 }), (changes) => {
        const stepwise = new DesiredRoutes(self);
        const left = new Map<string, Lease>();
        for (const { key: name, gone, dst: at, gateway, createRevision } of changes) {
          const given = lease(at, gateway, { key: name, createRevision });
          stepwise.apply(gone ? [] : [given], gone ? [name] : []);
          if (gone) left.delete(name);
          else left.set(name, given);
        }
        const listed = new DesiredRoutes(self);
        listed.replaceAll([...left.values()]);
        expect(stepwise.routes).toHaveLength(listed.routes.length);
        for (const at of listed.dsts) expect(stepwise.get(at)).toEqual(listed.get(at));
        expect(new Map(stepwise.refused)).toEqual(new Map(listed.refused));
      }),
    );
  });
});
