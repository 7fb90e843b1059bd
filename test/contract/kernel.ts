import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { blackholeContract } from './kernel-blackhole.ts';
import { eventContract } from './kernel-events.ts';
import { ipv6Contract } from './kernel-ipv6.ts';
import { linkContract } from './kernel-links.ts';
import { lookupContract } from './kernel-lookup.ts';
import { routeContract } from './kernel-routes.ts';
import { CONNECTED, DST, KernelFixture, type KernelWorld, OTHER, PEER } from './kernel-world.ts';

/** The rules of `Kernel`, run against Linux itself and against the simulated kernel. */
export function kernelContract(name: string, makeWorld: () => Promise<KernelWorld>): void {
  describe(`kernel contract: ${name}`, () => {
    let world: KernelWorld;
    let fixture: KernelFixture;
    const at = () => fixture;

    beforeEach(async () => {
      world = await makeWorld();
      fixture = await KernelFixture.of(world);
    });
    afterEach(() => world.close());

    tableContract(at);
    routeContract(at);
    blackholeContract(at);
    eventContract(at);
    linkContract(at);
    ipv6Contract(at);
    lookupContract(at);
    callContract(at);
  });
}

function tableContract(at: () => KernelFixture): void {
  describe('what is there', () => {
    test('links, addresses and the connected route of a fresh host', async () => {
      const links = await at().kernel.links();
      expect(links).toMatchObject([
        { name: 'lo', loopback: true, up: true, mtu: 65536 },
        { name: 'eth0', index: at().eth0, loopback: false, up: true, carrier: true, mtu: 1500 },
      ]);
      const addresses = (await at().kernel.addresses()).filter((address) => address.linkIndex === at().eth0);
      expect(addresses).toContainEqual({
        family: 4,
        linkIndex: at().eth0,
        address: '10.211.55.100',
        prefixLength: 24,
        scope: 'global',
        deprecated: false,
        temporary: false,
        permanent: true,
        tentative: false,
        dadFailed: false,
      });
      expect(await at().kernel.routes(4)).toEqual([
        {
          family: 4,
          dst: '10.211.55.0/24',
          tos: 0,
          metric: 0,
          protocol: 2,
          type: 'unicast',
          scope: 253,
          linkIndex: at().eth0,
          source: '10.211.55.100',
          special: false,
        },
      ]);
    });

    test('the capability to change routes', async () => {
      expect(await at().kernel.missingCapabilities()).toEqual([]);
    });

    test('routes are listed by destination, within one by metric', async () => {
      await at().operator.addRoute('add', { dst: '172.20.2.0/24', gateway: PEER });
      await at().operator.addRoute('add', { dst: DST, gateway: PEER, metric: 100 });
      await at().operator.addRoute('add', { dst: DST, gateway: OTHER, metric: 7 });
      await at().operator.addRoute('add', { dst: '172.20.0.0/16', gateway: PEER });
      await at().operator.addRoute('add', { dst: '0.0.0.0/0', gateway: PEER });
      expect(await at().table()).toEqual([
        `0.0.0.0/0 via ${PEER} proto 3 metric 0`,
        CONNECTED,
        `172.20.0.0/16 via ${PEER} proto 3 metric 0`,
        `${DST} via ${OTHER} proto 3 metric 7`,
        `${DST} via ${PEER} proto 3 metric 100`,
        `172.20.2.0/24 via ${PEER} proto 3 metric 0`,
      ]);
    });
  });
}

function callContract(at: () => KernelFixture): void {
  describe('calls', () => {
    test('an aborted signal rejects with its reason and changes nothing', async () => {
      const signal = AbortSignal.abort(new Error('stopping'));
      await expect(at().kernel.apply([{ op: 'add', route: at().ours() }], signal)).rejects.toThrow(
        'stopping',
      );
      await expect(at().kernel.routes(4, signal)).rejects.toThrow('stopping');
      await expect(at().events.next(signal)).rejects.toThrow('stopping');
      expect(await at().table()).toEqual([CONNECTED]);
    });

    test('an empty batch is answered', async () => {
      expect(await at().kernel.apply([])).toEqual([]);
    });

    test('after close everything is refused, also what waits', async () => {
      const waiting = at().events.next(AbortSignal.timeout(10_000));
      at().kernel.close();
      await expect(waiting).rejects.toMatchObject({ code: 'KERNEL_CLOSED' });
      const apply = () => at().add(at().ours());
      for (const call of [apply, () => at().kernel.links(), () => at().kernel.subscribe()])
        await expect(call()).rejects.toMatchObject({ code: 'KERNEL_CLOSED' });
    });
  });
}
