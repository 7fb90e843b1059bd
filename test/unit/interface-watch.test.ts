import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { InterfaceHost, type Wishes } from '../../sim/interface-host.ts';

let host: InterfaceHost;

beforeEach(() => {
  host = new InterfaceHost();
});

afterEach(() => host.stop());

/** Watches for an hour in which nothing happens, and so nothing is said. */
async function watch(over: Wishes = {}): Promise<InterfaceHost> {
  await host.watch(over);
  await host.clock.advance(3_600_000);
  expect(host.told).toEqual([]);
  expect(host.log.lines).toEqual([]);
  return host;
}

describe('a change of the link', () => {
  it('another MTU is told once it has settled, and logged', async () => {
    const { kernel, clock, told, log } = await watch();
    kernel.setMtu('eth0', 1400);
    await clock.advance(500);
    kernel.setMtu('eth0', 1380);
    await clock.advance(900);
    expect(told).toEqual([]);
    await clock.advance(3_600_000);
    expect(told).toEqual(['eth0 10.211.55.100 1380']);
    expect(log.lines.map(({ message }) => message)).toEqual([
      'the interface peers reach this host by has changed: MTU 1380 instead of 1450',
    ]);
  });

  it('an MTU that changes back at once is none', async () => {
    const { kernel, clock, told } = await watch();
    kernel.setMtu('eth0', 1400);
    await clock.advance(500);
    kernel.setMtu('eth0', 1450);
    await clock.advance(60_000);
    expect(told).toEqual([]);
  });

  it('the address moves to a bridge that eth0 became a port of', async () => {
    const { kernel, clock, told, log } = await watch({ ifaces: ['eth0'] });
    kernel.createLink('br0', { mtu: 1450 });
    kernel.flushAddresses('eth0');
    await clock.advance(2_000);
    kernel.addAddress('br0', '10.211.55.100/24');
    await clock.advance(10_000);
    expect(told).toEqual(['br0 10.211.55.100 1450']);
    expect(log.lines[0]?.message).toContain('name br0 instead of eth0, index 5 instead of 2');
  });

  it('a card is replaced: same name and address, another index', async () => {
    const { kernel, clock, told, log } = await watch({ ifaces: ['eth1'] });
    kernel.deleteLink('eth1');
    await clock.advance(2_000);
    kernel.createLink('eth1');
    kernel.addAddress('eth1', '192.168.7.1/24');
    await clock.advance(10_000);
    expect(told).toEqual(['eth1 192.168.7.1 1500']);
    expect(log.lines[0]?.message).toContain('index 5 instead of 3');
  });
});

describe('an address that comes back', () => {
  it('is no change, however often it goes for seconds', async () => {
    const { kernel, clock, told, log } = await watch({ ifaces: ['eth1', 'eth0'] });
    for (let i = 0; i < 10; i++) {
      kernel.removeAddress('eth1', '192.168.7.1/24');
      await clock.advance(4_000);
      kernel.addAddress('eth1', '192.168.7.1/24');
      await clock.advance(2_000);
    }
    expect(told).toEqual([]);
    expect(log.lines).toEqual([]);
  });

  it('stays the chosen one through down and up, and after a flush', async () => {
    const { kernel, clock, told } = await watch({ families: [4, 6] });
    kernel.setLinkUp('eth0', false);
    await clock.advance(3_000);
    kernel.setLinkUp('eth0', true);
    kernel.addAddress('eth0', 'fd00:55::100/64');
    kernel.flushAddresses('eth0');
    await clock.advance(3_000);
    // In another order, and so the second one now.
    kernel.addAddress('eth0', '10.211.55.200/24');
    kernel.addAddress('eth0', '10.211.55.100/24');
    kernel.addAddress('eth0', 'fd00:55::100/64');
    await clock.advance(60_000);
    expect(told).toEqual([]);
  });

  it('late, with no other to be had, ends the trouble', async () => {
    const { kernel, clock, told, trouble } = await watch({ ifaces: ['192.168.7.1'] });
    kernel.removeAddress('eth1', '192.168.7.1/24');
    await clock.advance(4_900);
    expect(trouble.current).toEqual([]);
    await clock.advance(60_000);
    expect(trouble.current).toEqual([
      '192.168.7.1 is gone from eth1, and no other address can be used: no interface has the ' +
        'address 192.168.7.1. There are: eth0 (10.211.55.100/24 10.211.55.200/24), eth1 (no IPv4 address), ' +
        'eth2 (no IPv4 address, down)',
    ]);
    kernel.addAddress('eth1', '192.168.7.1/24');
    await clock.advance(1_000);
    expect(trouble.current).toEqual([]);
    expect(told).toEqual([]);
  });
});

describe('an address that is gone for good', () => {
  it('gives way to another one of the interface after seconds', async () => {
    const { kernel, clock, told, log } = await watch({ ifaces: ['eth1'] });
    kernel.removeAddress('eth1', '192.168.7.1/24');
    kernel.addAddress('eth1', '192.168.8.9/24');
    await clock.advance(4_900);
    expect(told).toEqual([]);
    await clock.advance(1_000);
    expect(told).toEqual(['eth1 192.168.8.9 1500']);
    expect(log.lines.map(({ message }) => message)).toEqual([
      'the interface peers reach this host by has changed: IPv4 address 192.168.8.9 instead of 192.168.7.1',
    ]);
  });

  it('gives way to the next of the wishes, and that stays when the first is back', async () => {
    const { kernel, clock, told } = await watch({ ifaces: ['eth1', 'eth0'] });
    kernel.deleteLink('eth1');
    await clock.advance(6_000);
    expect(told).toEqual(['eth0 10.211.55.100 1450']);
    kernel.createLink('eth1');
    kernel.addAddress('eth1', '192.168.7.1/24');
    await clock.advance(60_000);
    expect(told).toHaveLength(1);
  });

  it('gives way to the interface of a default route that comes after the address', async () => {
    const { kernel, clock, told, trouble } = await watch();
    kernel.deleteLink('eth0');
    await clock.advance(60_000);
    expect(told).toEqual([]);
    expect(trouble.current).toHaveLength(1);
    kernel.addRoute({ dst: '0.0.0.0/0', gateway: '192.168.7.9', linkIndex: kernel.link('eth1').index });
    await clock.advance(500);
    expect(told).toEqual(['eth1 192.168.7.1 1500']);
    expect(trouble.current).toEqual([]);
  });
});

/** eth9, with an address of each family. */
function addEth9(): void {
  host.kernel.createLink('eth9');
  for (const cidr of ['10.9.0.1/24', 'fd00:9::1/64']) host.kernel.addAddress('eth9', cidr);
}

describe('a better address', () => {
  it('does not take the place of one that is there', async () => {
    const { kernel, clock, told } = await watch({ ifaces: ['eth9', 'eth1'], families: [4, 6] });
    kernel.addAddress('eth1', 'fd00:8::1/64');
    // Nor is it another one when a second link has the address, too.
    kernel.addAddress('eth0', '192.168.7.1/32');
    addEth9();
    await clock.advance(60_000);
    expect(told).toEqual([]);
  });

  it('of one family does not when only the other family’s is gone', async () => {
    const { kernel, clock, told } = await watch({ ifaces: ['eth9', 'eth0'], families: [4, 6] });
    addEth9();
    kernel.removeAddress('eth0', 'fd00:55::100/64');
    await clock.advance(60_000);
    expect(told).toEqual(['eth0 10.211.55.100 fd00:55::200 1450']);
  });

  it('on another interface does not when this one has nothing else of the lost family', async () => {
    const { kernel, clock, told, trouble } = await watch({ ifaces: ['eth1', 'eth0'], families: [4, 6] });
    kernel.removeAddress('eth1', 'fd00:7::1/64');
    await clock.advance(60_000);
    expect(told).toEqual([]);
    expect(trouble.current[0]).toContain(
      'fd00:7::1 is gone from eth1, and no other address can be used: interface eth1 has no usable IPv6 address',
    );
  });
});

describe('the watch', () => {
  it('does not look because of routes, nor for each of many links', async () => {
    const { kernel, clock, told } = await watch();
    const { dumps } = kernel.counters;
    for (let i = 0; i < 1_000; i++) {
      kernel.addRoute({ dst: `10.7.${i & 255}.0/24`, gateway: '10.211.55.9', linkIndex: 2, metric: i });
    }
    await clock.advance(9_000);
    expect(kernel.counters.dumps - dumps).toBeLessThanOrEqual(2);
    for (let i = 0; i < 1_000; i++) {
      kernel.createLink(`veth${i}`);
      await clock.advance(1);
    }
    expect(kernel.counters.dumps - dumps).toBeLessThanOrEqual(14);
    expect(told).toEqual([]);
  });

  it('goes on after lost events and after a kernel that could not be read', async () => {
    const { kernel, clock, told, trouble } = await watch({ ifaces: ['eth1'] });
    kernel.setMtu('eth1', 1400);
    kernel.overflowEvents();
    await clock.advance(2_000);
    expect(told).toEqual(['eth1 192.168.7.1 1400']);
    kernel.faults.failNextDump('EBUSY');
    kernel.setMtu('eth1', 1300);
    await clock.advance(2_000);
    expect(trouble.current).toEqual(['the interfaces of this host cannot be read: dump failed: EBUSY']);
    await clock.advance(12_000);
    expect(trouble.current).toEqual([]);
    expect(told.at(-1)).toBe('eth1 192.168.7.1 1300');
  });
});

describe('the wait for an interface', () => {
  it('says what was tried and what exists, and ends soon after there is an address', async () => {
    const { kernel, clock, told, log, trouble } = host;
    host.wait({ ifaces: ['eth9', 'eth2'] });
    await clock.advance(3_600_000);
    expect(told).toEqual([]);
    expect(log.lines.length).toBeLessThan(10);
    expect(trouble.current).toEqual([
      'waiting: no usable interface: there is no interface eth9; interface eth2 has no usable IPv4 address. There are: ' +
        'eth0 (10.211.55.100/24 10.211.55.200/24), eth1 (192.168.7.1/24), eth2 (no IPv4 address, down)',
    ]);
    kernel.addAddress('eth2', '10.3.0.1/24');
    await clock.advance(250);
    expect(told).toEqual(['eth2 10.3.0.1 1500']);
    expect(log.events('interface-skipped').map(({ message }) => message)).toEqual([
      'skipped: there is no interface eth9',
    ]);
    expect(trouble.current).toEqual([]);
  });

  it('a route that makes the address of iface-can-reach reachable ends it too', async () => {
    const { kernel, clock } = host;
    kernel.deleteRoute({ dst: '0.0.0.0/0' });
    host.wait({ ifaceCanReach: '203.0.113.1' });
    await clock.advance(60_000);
    expect(host.told).toEqual([]);
    kernel.addRoute({ dst: '203.0.113.0/24', gateway: '192.168.7.9', linkIndex: kernel.link('eth1').index });
    await clock.advance(250);
    expect(host.told).toEqual(['eth1 192.168.7.1 1500']);
  });

  it('looks once for a burst of events, not once for each', async () => {
    const { kernel, clock } = host;
    host.wait({ ifaces: ['eth9'] });
    await clock.advance(100);
    const { dumps } = kernel.counters;
    for (let i = 0; i < 1_000; i++) {
      kernel.addRoute({ dst: `10.7.${i & 255}.0/24`, gateway: '10.211.55.9', linkIndex: 2, metric: i });
      await clock.advance(1);
    }
    expect((kernel.counters.dumps - dumps) / 3).toBeLessThan(25);
  });

  it('goes on when the kernel cannot be read', async () => {
    const { kernel, clock, told, trouble } = host;
    kernel.faults.failNextDump('EBUSY');
    host.wait({});
    await clock.advance(1_000);
    expect(trouble.current).toEqual(['the interfaces of this host cannot be read: dump failed: EBUSY']);
    await clock.advance(10_000);
    expect(told).toEqual(['eth0 10.211.55.100 1450']);
    expect(trouble.current).toEqual([]);
  });

  it('ends when told to', async () => {
    host.wait({ ifaces: ['eth9'] });
    await host.clock.advance(1_000);
    await host.stop();
    expect(host.told).toEqual(['Error: stopped']);
  });

  it.each([
    ['which of several addresses the lease names', 'eth0', '10.211.55.200', 'eth0 10.211.55.200 1450', 1],
    ['nothing when there is one address', 'eth1', '192.168.7.9', 'eth1 192.168.7.1 1500', 0],
  ])('asks etcd %s', async (_, iface, ipv4, expected, times) => {
    host.wait({ ifaces: [iface] }, { ipv4 });
    await host.clock.advance(100);
    expect(host.told).toEqual([expected]);
    expect(host.asked).toBe(times);
  });

  it.each([
    [false, 'fd00:55::77'],
    [true, 'fd00:55::100'],
  ])(
    'waits for the address that the lease names while it is being checked, and takes another when that has failed (%s)',
    async (dadFailed, expected) => {
      const { kernel, clock } = host;
      kernel.addAddress('eth0', 'fd00:55::77/64', { tentative: true });
      host.wait({ ifaces: ['eth0'], families: [6] }, { ipv6: 'fd00:55::77' });
      await clock.advance(100);
      expect(host.told).toEqual([]);
      kernel.changeAddress('eth0', 'fd00:55::77/64', { tentative: dadFailed, dadFailed });
      await clock.advance(100);
      expect(host.told).toEqual([`eth0 ${expected} 1450`]);
    },
  );
});
