import { afterEach, describe, expect, it } from 'vitest';
import { dualLease, lease } from '../../sim/leases.ts';
import { address6, GatewayHost, type GatewayOptions, own4, own6 } from '../../sim/route-hosts.ts';
import { ownFaults, peerFaults } from '../../src/backend/hostgw/status.ts';

const dst4 = '172.20.1.0/24';
const dst6 = 'fc00:0:1::/64';
const peer4 = '10.211.55.101';
const peer6 = 'fd00:55::101';
const dual = dualLease(dst4, dst6, peer4, peer6);
const only4 = lease('172.20.2.0/24', '10.211.55.102');
const only6 = dualLease('0.0.0.0/0', 'fc00:0:3::/64', '0.0.0.0', 'fd00:55::103');
const half6 = dualLease('172.20.4.0/24', 'fc00:0:4::/64', '10.211.55.104', '');

let host: GatewayHost;
const start = (options: GatewayOptions = {}) => {
  host = new GatewayHost(options);
  return host;
};
afterEach(() => host.stop());

describe('host-gw with leases of all kinds', () => {
  const ipv4 = [1, 2, 4].map((peer) => `172.20.${peer}.0/24 via 10.211.55.10${peer}`);
  const ipv6 = [1, 3].map((peer) => `fc00:0:${peer}::/64 via fd00:55::10${peer}`);
  it.each<[NonNullable<GatewayOptions['families']>, readonly string[]]>([
    ['ipv4', ipv4],
    ['ipv6', ipv6],
    ['both', [...ipv4, ...ipv6]],
  ])('routes for %s what the host has', async (families, routes) => {
    await start({ families }).settled(dual, only4, only6, half6);
    expect(host.own).toEqual(routes);
    expect(ownFaults(host.backend.status())).toEqual([]);
    expect(host.backend.status().peers).toHaveLength(routes.length);
  });

  it('names a lease whose IPv6 half has no address', async () => {
    await start().settled(half6);
    expect(peerFaults(host.backend.status())).toMatchObject([{ what: `lease ${half6.key}` }]);
  });

  it('leaves everything installed when it stops', async () => {
    await start({ blackhole: true }).settled(dual);
    const before = host.own;
    await host.stop();
    expect(host.own).toEqual(before);
    expect(before).toHaveLength(4);
  });

  it('is not disturbed by a key that takes an IPv6 half: the old one goes in the same batch', async () => {
    const plain = lease(dst4, peer4);
    await start().settled(plain);
    await host.told(dst4);
    await host.change([dual], [plain.key]);
    expect(await host.told(dst4)).toEqual([]);
    expect(host.own).toEqual([`${dst4} via ${peer4}`, `${dst6} via ${peer6}`]);
  });
});

describe('IPv6 routes', () => {
  it('are there again as soon as the addresses are, which do not come back with the link', async () => {
    await start().settled(dual);
    host.kernel.setLinkUp('eth0', false);
    await host.rest();
    expect(host.own).toEqual([]);
    host.kernel.setLinkUp('eth0', true);
    await host.clock.advance(5_000);
    expect(host.own).toEqual([`${dst4} via ${peer4}`]);
    expect(ownFaults(host.backend.status())).toMatchObject([
      { text: `${dst6}: no route: ${address6} is gone from eth0` },
    ]);
    host.kernel.addAddress('eth0', `${address6}/64`);
    await host.clock.advance(100);
    expect(host.own).toEqual([`${dst4} via ${peer4}`, `${dst6} via ${peer6}`]);
    expect(ownFaults(host.backend.status())).toEqual([]);
  });

  it('are adopted from flanneld without a gap, those of gone peers are removed', async () => {
    const before: GatewayOptions['before'] = (kernel, linkIndex) => {
      kernel.addRoute({ dst: dst6, gateway: peer6, linkIndex });
      kernel.addRoute({ dst: 'fc00:0:9::/64', gateway: 'fd00:55::109', linkIndex });
    };
    await start({ before }).settled(dual);
    expect(await host.told(dst6)).toEqual([`= ${dst6} via ${peer6}`]);
    expect(host.kernel.routes(6).map(({ dst }) => dst)).not.toContain('fc00:0:9::/64');
  });

  it('are put right when another program adds a gateway, which merges both', async () => {
    await start().settled(dual);
    await host.told(dst6);
    const { eth0: linkIndex } = host;
    host.kernel.addRoute({ dst: dst6, gateway: 'fd00:55::109', linkIndex, protocol: 4 }, 'append');
    await host.rest();
    expect(await host.told(dst6)).toEqual([`+ ${dst6} via undefined`, `= ${dst6} via ${peer6}`]);
    expect(host.own).toContain(`${dst6} via ${peer6}`);
  });

  it('cost no dump when leases change, nor when containers bring links with addresses of their own', async () => {
    await start().settled(dual);
    await host.clock.advance(2_000);
    const { dumps } = host.kernel.counters;
    await host.change([only6]);
    for (let i = 0; i < 5; i++) {
      host.kernel.createLink(`veth${i}`);
      host.kernel.addAddress(`veth${i}`, `fe80::${i + 1}/64`, { scope: 'link' });
      await host.rest();
      host.kernel.deleteLink(`veth${i}`);
      await host.rest();
    }
    expect(host.own).toContain('fc00:0:3::/64 via fd00:55::103');
    expect(host.kernel.counters.dumps).toBe(dumps);
  });
});

describe('a host that moves to other addresses', () => {
  it('keeps its routes, and gives up those to itself', async () => {
    await start().settled(dual, lease('172.20.5.0/24', '10.211.55.150'));
    host.kernel.addAddress('eth0', '10.211.55.150/24');
    host.kernel.addAddress('eth0', 'fd00:55::150/64');
    await host.rest();
    await host.told(dst4);
    host.backend.moveTo({ ipv4: '10.211.55.150', ipv6: 'fd00:55::150' });
    host.kernel.removeAddress('eth0', `${address6}/64`);
    await host.clock.advance(30_000);
    expect(await host.told(dst4)).toEqual([]);
    expect(host.own).toEqual([`${dst4} via ${peer4}`, `${dst6} via ${peer6}`]);
    expect(host.trouble.current).toEqual([]);
  });
});

describe('the blackhole for the own subnet', () => {
  const both = [`blackhole ${own4}`, `blackhole ${own6}`];
  const blackholes = () => host.routes(({ type }) => type === 'blackhole');

  it('is there from the start, behind the route of a bridge that comes later, and stays', async () => {
    await start({ blackhole: true }).settled();
    expect(host.own).toEqual(both);
    const docker0 = host.kernel.createLink('docker0');
    host.kernel.addAddress('docker0', '172.20.100.1/24');
    host.kernel.addAddress('docker0', 'fc00:0:100::1/64');
    await host.rest();
    expect(host.own).toEqual(both);
    for (const address of ['172.20.100.9', 'fc00:0:100::9']) {
      expect(host.kernel.lookUp(address)).toMatchObject({ type: 'unicast', linkIndex: docker0 });
    }
    host.kernel.setLinkUp('docker0', false);
    await host.rest();
    expect(host.kernel.lookUp('172.20.100.9')).toBeUndefined();
  });

  it('is put back when it is removed', async () => {
    await start({ blackhole: true }).settled();
    host.kernel.deleteRoute({ dst: own4, type: 'blackhole' });
    host.kernel.deleteRoute({ dst: own6, type: 'blackhole' });
    await host.rest();
    expect(host.own).toEqual(both);
  });

  const flannelds: NonNullable<GatewayOptions['before']> = (kernel) => {
    kernel.addRoute({ dst: own4, type: 'blackhole' });
    kernel.addRoute({ dst: own6, type: 'blackhole' });
  };

  it('takes over from flanneld’s, without a moment in between', async () => {
    await start({ blackhole: true, before: flannelds }).settled();
    expect(host.own).toEqual(both);
    expect(blackholes()).toEqual(both);
    const news = (await host.events?.drain())?.flatMap((event) =>
      'route' in event ? [`${event.type} ${event.route.dst} ${event.route.protocol}`] : [],
    );
    expect(news?.filter((line) => line.includes(own4))).toEqual([
      `route-added ${own4} 102`,
      `route-removed ${own4} 3`,
    ]);
    expect(news?.filter((line) => line.includes(own6))).toEqual([`route-added ${own6} 102`]);
  });

  it('is gone when it is not asked for any more, ours and flanneld’s', async () => {
    const before: GatewayOptions['before'] = (kernel, eth0) => {
      flannelds(kernel, eth0);
      kernel.addRoute({ dst: own4, type: 'blackhole', metric: 2_147_483_647, protocol: 102 });
    };
    await start({ before }).settled();
    expect(blackholes()).toEqual([]);
    // An operator's that comes later stays.
    host.kernel.addRoute({ dst: own4, type: 'blackhole' });
    await host.clock.advance(30_000);
    expect(blackholes()).toEqual([`blackhole ${own4}`]);
  });
});
