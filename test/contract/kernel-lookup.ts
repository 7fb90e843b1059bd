import { describe, expect, test } from 'vitest';
import type { KernelFixture } from './kernel-world.ts';

const GATEWAY4 = '10.211.55.1';
const GATEWAY6 = 'fd00:55::1';

/** How the kernel would send to one address. */
export function lookupContract(at: () => KernelFixture): void {
  const to = (address: string) => at().kernel.routeTo(address);
  const viaEth0 = (source: string) => ({ type: 'unicast', linkIndex: at().eth0, source });

  describe('routeTo', () => {
    test.each([
      ['10.211.55.7', '10.211.55.100'],
      ['fd00:55::7', 'fd00:55::100'],
    ])('%s, on link', async (address, source) => {
      expect(await to(address)).toEqual(viaEth0(source));
    });

    test.each(['10.211.55.100', 'fd00:55::100'])('%s, our own: through loopback', async (address) => {
      const lo = await at().operator.linkIndex('lo');
      expect(await to(address)).toEqual({ type: 'local', linkIndex: lo, source: address });
    });

    test.each([
      ['198.51.100.1', '0.0.0.0/0', GATEWAY4, '10.211.55.100'],
      ['2001:db8::1', '::/0', GATEWAY6, 'fd00:55::100'],
    ])('%s, to which only the default route leads', async (address, dst, gateway, source) => {
      expect(await to(address)).toBeUndefined();
      await at().operator.addRoute('add', { dst, gateway });
      expect(await to(address)).toEqual(viaEth0(source));
    });

    test.each([
      ['172.20.1.9', '172.20.1.0/24', '172.20.0.0/16', GATEWAY4],
      ['fd00:172:1::9', 'fd00:172:1::/64', 'fd00:172::/32', GATEWAY6],
    ])('%s, by the longest prefix: into a blackhole', async (address, dst, wider, gateway) => {
      await at().operator.addRoute('add', { dst: wider, gateway });
      expect(await to(address)).toMatchObject({ type: 'unicast' });
      await at().operator.addRoute('add', { dst, blackhole: true });
      expect(await to(address)).toBeUndefined();
    });

    test('a broadcast address is neither one host nor our own', async () => {
      expect(await to('10.211.55.255')).toMatchObject({ type: 'other' });
    });

    test('the source is the address in the subnet of the gateway', async () => {
      await at().operator.addAddress('eth0', '10.5.0.1/24');
      await at().operator.addRoute('add', { dst: '198.51.100.0/24', gateway: '10.5.0.2' });
      expect(await to('198.51.100.1')).toEqual(viaEth0('10.5.0.1'));
    });

    test('rejects what is no address, and when it is aborted', async () => {
      await expect(to('nonsense')).rejects.toMatchObject({ code: 'KERNEL_EINVAL' });
      const signal = AbortSignal.abort(new Error('stopping'));
      await expect(at().kernel.routeTo(GATEWAY4, signal)).rejects.toThrow('stopping');
    });
  });

  describe('routeFor', () => {
    const found = async (address: string) => {
      const used = await at().kernel.routeFor(address);
      return used && { table: used.table, route: `${used.route.dst} via ${used.route.gateway}` };
    };

    test.each([
      ['172.20.1', '172.20.1.0/24', '172.20.1.128/25', GATEWAY4, '10.211.55.9'],
      ['fd00:172:1:', 'fd00:172:1::/64', 'fd00:172:1:0:8000::/65', GATEWAY6, 'fd00:55::9'],
    ])('%s…: the longest route that covers the address', async (stem, dst, half, gateway, other) => {
      const [low, high] = stem.includes(':')
        ? [`${stem}:9`, `${stem}0:8000::9`]
        : [`${stem}.9`, `${stem}.200`];
      expect(await found(low)).toBeUndefined();
      await at().operator.addRoute('add', { dst, gateway });
      await at().operator.addRoute('add', { dst: half, gateway: other });
      expect(await found(low)).toEqual({ table: 254, route: `${dst} via ${gateway}` });
      expect(await found(high)).toEqual({ table: 254, route: `${half} via ${other}` });
      await at().operator.addRoute('replace', { dst: half, blackhole: true });
      expect(await found(low)).toEqual({ table: 254, route: `${dst} via ${gateway}` });
      expect(await found(high)).toBeUndefined();
    });

    // Its table is not told apart: without policy rules Linux keeps local and main in one.
    test.each(['10.211.55.100/32', 'fd00:55::100/128'])('our own address, %s', async (dst) => {
      const used = await at().kernel.routeFor(dst.split('/', 1)[0] ?? '');
      expect(used?.route).toMatchObject({ dst, type: 'other' });
    });
  });

  test('the policy rules of a fresh host', async () => {
    const rules = (await at().kernel.rules(4)).map(({ priority, table }) => ({ priority, table }));
    expect(rules).toEqual([
      { priority: 0, table: 255 },
      { priority: 32_766, table: 254 },
      { priority: 32_767, table: 253 },
    ]);
  });
}
