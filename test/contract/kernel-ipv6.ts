import { describe, expect, test } from 'vitest';
import type { KernelEvent } from '../../src/kernel/kernel.ts';
import { collect, type KernelFixture, routeOf } from './kernel-world.ts';

const DST = 'fd00:172:1::/64';
const PEER = 'fd00:55::101';
const OTHER = 'fd00:55::102';
const CONNECTED = 'fd00:55::/64 proto 2 metric 256';

/** Where IPv6 differs. */
export function ipv6Contract(at: () => KernelFixture): void {
  const ours = (gateway = PEER, dst = DST) => at().ours(dst, gateway);
  const table = () => at().table(6);

  describe('IPv6', () => {
    test('add, replace and remove', async () => {
      expect(await table()).toEqual([CONNECTED]);
      expect(await at().add(ours())).toEqual(['done']);
      expect(await at().kernel.routes(6)).toContainEqual(routeOf(ours()));
      expect(await at().add(ours(OTHER))).toEqual(['EEXIST']);
      expect(await at().replace(ours(OTHER))).toEqual(['done']);
      expect(await at().remove(ours())).toEqual(['ESRCH']);
      expect(await at().remove(ours(OTHER))).toEqual(['done']);
      expect(await at().told()).toEqual([
        `+ ${DST} via ${PEER} proto 102 metric 1024`,
        `= ${DST} via ${OTHER} proto 102 metric 1024`,
        `- ${DST} via ${OTHER} proto 102 metric 1024`,
      ]);
    });

    test('an identical replace is told', async () => {
      await at().given(ours());
      expect(await at().replace(ours())).toEqual(['done']);
      expect(await at().told()).toEqual([`= ${DST} via ${PEER} proto 102 metric 1024`]);
    });

    test('a second gateway merges into one multipath route', async () => {
      await at().add(ours());
      await at().operator.addRoute('append', { dst: DST, gateway: OTHER, protocol: 102 });
      expect(await table()).toEqual([CONNECTED, `${DST} proto 102 metric 1024 special`]);
      expect(await at().kernel.routes(6)).toContainEqual(
        expect.objectContaining({ dst: DST, multipath: true }),
      );
      expect(await at().remove(ours())).toEqual(['done']);
      expect(await table()).toEqual([CONNECTED, `${DST} via ${OTHER} proto 102 metric 1024`]);
    });

    test('a connected route is not replaced: both exist', async () => {
      await at().operator.addAddress('eth0', 'fd00:172:1::1/64');
      expect(await at().replace(ours())).toEqual(['done']);
      expect((await table()).filter((line) => line.startsWith(DST))).toEqual([
        `${DST} proto 2 metric 256`,
        `${DST} via ${PEER} proto 102 metric 1024`,
      ]);
    });

    test("flanneld's route is adopted in one step, also out of a multipath route", async () => {
      await at().operator.addRoute('add', { dst: DST, gateway: PEER });
      await at().events.drain();
      expect(await at().replace(ours())).toEqual(['done']);
      expect(await at().told()).toEqual([`= ${DST} via ${PEER} proto 102 metric 1024`]);
      await at().operator.addRoute('append', { dst: DST, gateway: OTHER });
      await at().events.drain();
      expect(await at().replace(ours())).toEqual(['done']);
      expect(await at().told()).toEqual([`= ${DST} via ${PEER} proto 102 metric 1024`]);
      expect(await table()).toEqual([CONNECTED, `${DST} via ${PEER} proto 102 metric 1024`]);
    });

    test.each([
      ['without a gateway', { dev: 'eth0' }, ''],
      ['a blackhole', { blackhole: true }, ' blackhole'],
    ])('replace takes a route %s when there is none with one, else leaves it', async (_what, there, kind) => {
      await at().operator.addRoute('add', { dst: DST, ...there });
      await at().events.drain();
      expect(await at().replace(ours())).toEqual(['done']);
      expect(await at().told()).toEqual([`= ${DST} via ${PEER} proto 102 metric 1024`]);
      expect(await table()).toEqual([CONNECTED, `${DST} via ${PEER} proto 102 metric 1024`]);
      await at().operator.addRoute('append', { dst: DST, ...there });
      expect(await at().replace(ours(OTHER))).toEqual(['done']);
      expect((await table()).slice(1).toSorted()).toEqual(
        [`${DST} proto 3 metric 1024${kind}`, `${DST} via ${OTHER} proto 102 metric 1024`].toSorted(),
      );
    });

    test('a hop of a multipath route is told when it goes, by its own protocol', async () => {
      await at().add(ours());
      await at().operator.addRoute('append', { dst: DST, gateway: OTHER });
      await at().events.drain();
      await at().operator.deleteRoute({ dst: DST, gateway: OTHER });
      expect(await at().told()).toEqual([`- ${DST} via ${OTHER} proto 3 metric 1024`]);
      expect(await table()).toEqual([CONNECTED, `${DST} via ${PEER} proto 102 metric 1024`]);
    });

    test('without its network on link a route stays, as long as the link is up', async () => {
      await at().given(ours());
      await at().operator.removeAddress('eth0', 'fd00:55::100/64');
      expect(await at().told()).toEqual([`- ${CONNECTED}`]);
      expect(await table()).toEqual([`${DST} via ${PEER} proto 102 metric 1024`]);
      expect(await at().add(ours(PEER, 'fd00:172:2::/64'))).toEqual(['EHOSTUNREACH']);
    });

    test('refuses the own address and what is off link, and masks host bits', async () => {
      expect(await at().add(ours('fd00:55::100'))).toEqual(['EINVAL']);
      expect(await at().add(ours('fd00:99::1'))).toEqual(['EHOSTUNREACH']);
      expect(await at().add(ours(PEER, 'fd00:172:1::5/64'))).toEqual(['done']);
      expect(await table()).toEqual([CONNECTED, `${DST} via ${PEER} proto 102 metric 1024`]);
    });

    test('refuses a link that does not exist or is down', async () => {
      expect(await at().add({ ...ours(), linkIndex: 999 })).toEqual(['ENODEV']);
      await at().operator.setLinkUp('eth0', false);
      expect(await at().add(ours())).toEqual(['EHOSTUNREACH']);
    });

    test('link down tells each route, and takes the addresses away for good', async () => {
      await at().given(ours(), ours(PEER, 'fd00:172:2::/64'));
      await at().operator.setLinkUp('eth0', false);
      const down = await collect(at().events, (events) => events.some(isAddressGone));
      const gone = down.filter((event) => event.type === 'route-removed').map(({ route }) => route.dst);
      expect(gone).toEqual(expect.arrayContaining([DST, 'fd00:172:2::/64', 'fd00:55::/64']));
      await at().operator.setLinkUp('eth0', true);
      expect(await table()).toEqual([]);
      const left = (await at().kernel.addresses()).filter((a) => a.family === 6 && a.scope === 'global');
      expect(left).toEqual([]);
    });
  });
}

function isAddressGone(event: KernelEvent): boolean {
  return event.type === 'address-removed' && event.address.address === 'fd00:55::100';
}
