import { describe, expect, test } from 'vitest';
import type { KernelEvent } from '../../src/kernel/kernel.ts';
import { CONNECTED, collect, DST, type KernelFixture } from './kernel-world.ts';

const OURS = `${DST} via 10.211.55.101 proto 102 metric 0`;

/** What happens to routes when links and addresses come and go (IPv4): mostly in silence. */
export function linkContract(at: () => KernelFixture): void {
  describe('links and addresses', () => {
    test('link down flushes our routes without a word; up brings the connected one back', async () => {
      await at().given(at().ours());
      await at().operator.setLinkUp('eth0', false);
      const down = await collect(at().events, linkIs(false));
      expect(ipv4Routes(down)).toEqual([]);
      expect(await at().table()).toEqual([]);
      await at().operator.setLinkUp('eth0', true);
      const isUp = linkIs(true);
      const up = await collect(at().events, (events) => isUp(events) && ipv4Routes(events).length > 0);
      expect(ipv4Routes(up)).toEqual(['route-added']);
      expect(await at().table()).toEqual([CONNECTED]);
      expect(await at().add(at().ours())).toEqual(['done']);
    });

    test('carrier lost: routes stay', async () => {
      await at().given(at().ours());
      await at().operator.setCarrier('eth0', false);
      await collect(at().events, linkIs(true, false));
      expect(await at().table()).toEqual([CONNECTED, OURS]);
      expect((await at().kernel.links()).find(({ name }) => name === 'eth0')).toMatchObject({
        up: true,
        carrier: false,
      });
      await at().operator.setCarrier('eth0', true);
      await collect(at().events, linkIs(true, true));
    });

    test('the last address removed flushes our routes without a word', async () => {
      await at().given(at().ours());
      await at().operator.removeAddress('eth0', '10.211.55.100/24');
      const events = await at().events.drain();
      expect(events).toContainEqual(
        expect.objectContaining({ type: 'address-removed', address: expect.objectContaining({ family: 4 }) }),
      );
      expect(events.filter((event) => 'route' in event && event.route.dst === DST)).toEqual([]);
      expect(await at().table()).toEqual([]);
      await at().operator.addAddress('eth0', '10.211.55.100/24');
      expect(await at().table()).toEqual([CONNECTED]);
      expect(await at().add(at().ours())).toEqual(['done']);
    });

    test('one of several addresses removed: its routes stay, although they could not be added again', async () => {
      await at().operator.addAddress('eth0', '10.5.0.1/24');
      await at().given(at().ours(DST, '10.5.0.2'));
      await at().operator.removeAddress('eth0', '10.5.0.1/24');
      expect(await at().told()).toEqual(['- 10.5.0.0/24 proto 2 metric 0']);
      expect(await at().table()).toEqual([CONNECTED, `${DST} via 10.5.0.2 proto 102 metric 0`]);
      expect(await at().add(at().ours('172.20.2.0/24', '10.5.0.2'))).toEqual(['ENETUNREACH']);
    });

    test('a host address brings no route; a second one of a subnet neither, and it goes with the first', async () => {
      await at().operator.addAddress('eth0', '10.6.0.1/32');
      expect(await at().table()).toEqual([CONNECTED]);
      await at().operator.removeAddress('eth0', '10.6.0.1/32');
      await at().operator.addAddress('eth0', '10.5.0.1/24');
      await at().operator.addAddress('eth0', '10.5.0.2/24');
      expect(await at().table()).toEqual(['10.5.0.0/24 proto 2 metric 0', CONNECTED]);
      await at().operator.removeAddress('eth0', '10.5.0.1/24');
      const addresses = (await at().kernel.addresses()).filter(
        (a) => a.family === 4 && a.linkIndex === at().eth0,
      );
      expect(addresses.map(({ address }) => address)).toEqual(['10.211.55.100']);
      expect(await at().table()).toEqual([CONNECTED]);
    });

    test('a deleted link takes its routes along without a word, and comes back under another index', async () => {
      await at().given(at().ours());
      await at().operator.deleteLink('eth0');
      const gone = await collect(at().events, (events) => events.some(isGone));
      expect(ipv4Routes(gone)).toEqual([]);
      expect(gone.find(isGone)).toEqual({ type: 'link-removed', linkIndex: at().eth0, name: 'eth0' });
      expect(await at().table()).toEqual([]);
      expect((await at().kernel.links()).map(({ name }) => name)).toEqual(['lo']);
      await at().operator.createLink('eth0');
      await at().operator.addAddress('eth0', '10.211.55.100/24');
      const index = await at().operator.linkIndex('eth0');
      expect(index).not.toBe(at().eth0);
      expect(await at().add(at().ours())).toEqual(['ENETUNREACH']);
      expect(await at().add(at().ours(DST, '10.211.55.101', { linkIndex: index }))).toEqual(['done']);
    });

    test('an address is told when it comes and when it goes', async () => {
      await at().operator.addAddress('eth0', '10.5.0.1/24');
      await at().operator.removeAddress('eth0', '10.5.0.1/24');
      const events = (await at().events.drain()).filter((event) => 'address' in event);
      const address = expect.objectContaining({
        address: '10.5.0.1',
        prefixLength: 24,
        linkIndex: at().eth0,
      });
      expect(events).toEqual([
        { type: 'address-added', address },
        { type: 'address-removed', address },
      ]);
    });
  });
}

/** Whether the last that was told about eth0 is this state. */
function linkIs(up: boolean, carrier?: boolean): (events: readonly KernelEvent[]) => boolean {
  return (events) => {
    const links = events.flatMap((event) => (event.type === 'link-changed' ? event.link : []));
    const last = links.findLast(({ name }) => name === 'eth0');
    return last?.up === up && last.carrier === (carrier ?? last.carrier);
  };
}

function ipv4Routes(events: readonly KernelEvent[]): string[] {
  return events.filter((event) => 'route' in event && event.route.family === 4).map(({ type }) => type);
}

function isGone(event: KernelEvent): boolean {
  return event.type === 'link-removed' && event.name === 'eth0';
}
