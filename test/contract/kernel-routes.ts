import { describe, expect, test } from 'vitest';
import type { GatewayRoute } from '../../src/kernel/kernel.ts';
import { CONNECTED, DST, type KernelFixture, OTHER, PEER, PROTOCOL, routeOf, THIRD } from './kernel-world.ts';

const OURS = `${DST} via ${PEER} proto 102 metric 0`;

/** What the kernel does with the changes it is asked for (IPv4). */
export function routeContract(at: () => KernelFixture): void {
  describe('add', () => {
    test('installs exactly the route asked for, and tells so', async () => {
      expect(await at().add(at().ours())).toEqual(['done']);
      expect(await at().kernel.routes(4)).toContainEqual(routeOf(at().ours()));
      expect(await at().routeNews()).toEqual([
        { type: 'route-added', route: routeOf(at().ours()), replaced: false, appended: false },
      ]);
    });

    test.each([
      ['the same route', { gateway: PEER, protocol: PROTOCOL }],
      ['another gateway', { gateway: OTHER, protocol: PROTOCOL }],
      ['another owner', { gateway: PEER, protocol: 4 }],
      ['a blackhole', { blackhole: true }],
    ])('is refused where there is %s', async (_what, there) => {
      await at().operator.addRoute('add', { dst: DST, ...there });
      const before = await at().table();
      expect(await at().add(at().ours())).toEqual(['EEXIST']);
      expect(await at().table()).toEqual(before);
    });

    test('another metric is another key', async () => {
      await at().operator.addRoute('add', { dst: DST, gateway: OTHER, metric: 100 });
      expect(await at().add(at().ours())).toEqual(['done']);
      expect(await at().table()).toEqual([CONNECTED, OURS, `${DST} via ${OTHER} proto 3 metric 100`]);
    });
  });

  describe('prepend', () => {
    test('puts the route before all others of its key, and takes none of them', async () => {
      await at().operator.addAddress('eth0', '172.20.1.1/24');
      await at().operator.addRoute('append', { dst: DST, gateway: OTHER });
      const before = await at().table();
      await at().events.drain();
      expect(await at().apply({ op: 'prepend', route: at().ours() })).toEqual(['done']);
      expect(await at().told()).toEqual([`+ ${OURS}`]);
      const first = before.findIndex((text) => text.startsWith(DST));
      expect(await at().table()).toEqual(before.toSpliced(first, 0, OURS));
    });

    test('is refused where the very same route is', async () => {
      await at().add(at().ours());
      await at().operator.addRoute('prepend', { dst: DST, gateway: OTHER });
      const before = await at().table();
      expect(await at().apply({ op: 'prepend', route: at().ours() })).toEqual(['EEXIST']);
      expect(await at().table()).toEqual(before);
    });
  });

  test.each(['prepend', 'replace'] as const)('%s creates the route when there is none', async (op) => {
    expect(await at().apply({ op, route: at().ours() })).toEqual(['done']);
    expect(await at().told()).toEqual([`+ ${OURS}`]);
  });

  describe('replace', () => {
    test('changes the gateway in one step', async () => {
      await at().given(at().ours());
      expect(await at().replace(at().ours(DST, OTHER))).toEqual(['done']);
      expect(await at().told()).toEqual([`= ${DST} via ${OTHER} proto 102 metric 0`]);
      expect(await at().table()).toEqual([CONNECTED, `${DST} via ${OTHER} proto 102 metric 0`]);
    });

    test('by the same route does nothing and says nothing', async () => {
      await at().given(at().ours());
      expect(await at().replace(at().ours())).toEqual(['done']);
      expect(await at().told()).toEqual([]);
    });

    test('adopts a route of protocol boot with one notification', async () => {
      await at().operator.addRoute('add', { dst: DST, gateway: PEER });
      await at().events.drain();
      expect(await at().replace(at().ours())).toEqual(['done']);
      expect(await at().told()).toEqual([`= ${OURS}`]);
      expect(await at().table()).toEqual([CONNECTED, OURS]);
    });

    test('hits the first of several, whoever owns it, and leaves the others', async () => {
      await at().operator.addRoute('add', { dst: DST, gateway: PEER, protocol: PROTOCOL });
      await at().operator.addRoute('append', { dst: DST, gateway: OTHER });
      await at().operator.addRoute('prepend', { dst: DST, gateway: THIRD, protocol: 4 });
      await at().events.drain();
      expect(await at().replace(at().ours(DST, '10.211.55.104'))).toEqual(['done']);
      expect(await at().told()).toEqual([`= ${DST} via 10.211.55.104 proto 102 metric 0`]);
      expect(await at().table()).toEqual([
        CONNECTED,
        `${DST} via 10.211.55.104 proto 102 metric 0`,
        OURS,
        `${DST} via ${OTHER} proto 3 metric 0`,
      ]);
    });

    test('by a route that stands behind another of its key is refused', async () => {
      await at().add(at().ours());
      await at().operator.addRoute('prepend', { dst: DST, gateway: OTHER, protocol: 4 });
      const before = await at().table();
      expect(await at().replace(at().ours())).toEqual(['EEXIST']);
      expect(await at().table()).toEqual(before);
    });

    test('destroys even a connected route', async () => {
      await at().operator.addAddress('eth0', '172.20.1.1/24');
      await at().events.drain();
      expect(await at().replace(at().ours())).toEqual(['done']);
      expect(await at().told()).toEqual([`= ${OURS}`]);
      expect(await at().table()).toEqual([CONNECTED, OURS]);
    });
  });

  describe('the digest of the routes', () => {
    test('differs after each change, told or not, and is the same again once it is undone', async () => {
      const seen = [await at().kernel.routesDigest(4)];
      const look = async () => seen.push(await at().kernel.routesDigest(4));
      await at().add(at().ours());
      await look();
      await at().replace(at().ours(DST, OTHER));
      await look();
      // IPv4 says nothing of the routes that go with a link.
      await at().operator.setLinkUp('eth0', false);
      await look();
      expect(new Set(seen).size).toBe(4);
      await at().operator.setLinkUp('eth0', true);
      expect(await at().kernel.routesDigest(4)).toBe(seen[0]);
      expect(await at().kernel.routesDigest(4)).toBe(seen[0]);
    });

    test('is of one family', async () => {
      const before = await at().kernel.routesDigest(6);
      await at().add(at().ours());
      expect(await at().kernel.routesDigest(6)).toBe(before);
    });
  });

  describe('remove', () => {
    test('takes our route and says so', async () => {
      await at().given(at().ours());
      expect(await at().remove(at().ours())).toEqual(['done']);
      expect(await at().routeNews()).toEqual([{ type: 'route-removed', route: routeOf(at().ours()) }]);
      expect(await at().table()).toEqual([CONNECTED]);
    });

    test.each<[string, Partial<GatewayRoute>]>([
      ['protocol', { protocol: 4 }],
      ['gateway', { gateway: OTHER }],
      ['link', { linkIndex: 1 }],
      ['metric', { metric: 5 }],
      ['destination', { dst: '172.20.0.0/23' }],
    ])('with another %s takes nothing', async (_what, over) => {
      await at().add(at().ours());
      expect(await at().remove(at().ours(DST, PEER, over))).toEqual(['ESRCH']);
      expect(await at().table()).toEqual([CONNECTED, OURS]);
    });

    test('takes the very route among several of its key', async () => {
      await at().operator.addRoute('add', { dst: DST, gateway: PEER });
      await at().operator.addRoute('append', { dst: DST, gateway: PEER, protocol: PROTOCOL });
      await at().operator.addRoute('append', { dst: DST, gateway: OTHER });
      expect(await at().remove(at().ours())).toEqual(['done']);
      expect(await at().table()).toEqual([
        CONNECTED,
        `${DST} via ${PEER} proto 3 metric 0`,
        `${DST} via ${OTHER} proto 3 metric 0`,
      ]);
    });

    test('metric 0 means any metric: where there is no other, it takes that', async () => {
      await at().operator.addRoute('add', { dst: DST, gateway: PEER, protocol: PROTOCOL, metric: 100 });
      expect(await at().remove(at().ours())).toEqual(['done']);
      expect(await at().table()).toEqual([CONNECTED]);
    });
  });

  describe('refusals', () => {
    test('a gateway off link, a link that does not exist, and one that is down', async () => {
      expect(await at().add(at().ours(DST, '10.99.0.1'))).toEqual(['ENETUNREACH']);
      expect(await at().add(at().ours(DST, PEER, { linkIndex: 999 }))).toEqual(['ENETUNREACH']);
      expect(await at().add(at().ours(DST, PEER, { linkIndex: 1 }))).toEqual(['ENETUNREACH']);
      await at().operator.setLinkUp('eth0', false);
      expect(await at().add(at().ours())).toEqual(['ENETUNREACH']);
    });

    test("the link's broadcast address as gateway, and host bits", async () => {
      expect(await at().add(at().ours(DST, '10.211.55.255'))).toEqual(['EINVAL']);
      expect(await at().add(at().ours('172.20.1.1/24'))).toEqual(['EINVAL']);
      expect(await at().table()).toEqual([CONNECTED]);
    });

    test('not the own address as gateway: that is accepted', async () => {
      expect(await at().add(at().ours(DST, '10.211.55.100'))).toEqual(['done']);
    });

    test('an error in the middle of a batch does not stop the rest', async () => {
      const results = await at().apply(
        { op: 'add', route: at().ours() },
        { op: 'add', route: at().ours('172.20.2.0/24', '10.99.0.1') },
        { op: 'remove', route: at().ours('172.20.3.0/24') },
        { op: 'add', route: at().ours() },
        { op: 'replace', route: at().ours('172.20.4.0/24') },
      );
      expect(results).toEqual(['done', 'ENETUNREACH', 'ESRCH', 'EEXIST', 'done']);
      expect(await at().told()).toEqual([`+ ${OURS}`, `+ 172.20.4.0/24 via ${PEER} proto 102 metric 0`]);
    });
  });
}
