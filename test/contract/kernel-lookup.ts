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

    test.each([
      ['10.211.55.100', '10.211.55.100'],
      ['fd00:55::100', 'fd00:55::100'],
    ])('%s, our own: through loopback', async (address, source) => {
      const lo = await at().operator.linkIndex('lo');
      expect(await to(address)).toEqual({ type: 'local', linkIndex: lo, source });
    });

    test.each(['198.51.100.1', '2001:db8::1'])('%s, to which no route leads', async (address) => {
      expect(await to(address)).toBeUndefined();
    });

    test.each([
      ['198.51.100.1', '0.0.0.0/0', GATEWAY4, '10.211.55.100'],
      ['2001:db8::1', '::/0', GATEWAY6, 'fd00:55::100'],
    ])('%s, through the default route', async (address, dst, gateway, source) => {
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
}
