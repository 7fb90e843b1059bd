import { describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimKernel } from '../../sim/kernel.ts';
import { SimLog } from '../../sim/log.ts';
import { chooseInterface, type HostNetwork } from '../../src/daemon/interface/choose-interface.ts';
import { waitForInterface } from '../../src/daemon/interface/wait-for-interface.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';

/** eth0 with two addresses and the default route, eth1 with one, eth2 with none. */
function host(clock?: VirtualClock): SimKernel {
  const kernel = new SimKernel(clock === undefined ? {} : { clock, latencyMs: 1 });
  kernel.createLink('eth0', { mtu: 1450 });
  kernel.addAddress('eth0', '10.211.55.100/24');
  kernel.addAddress('eth0', '10.211.55.200/24');
  kernel.createLink('eth1');
  kernel.addAddress('eth1', '192.168.7.1/24');
  kernel.addAddress('eth1', 'fd00::1/64');
  kernel.createLink('eth2', { up: false });
  kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.55.1', linkIndex: kernel.link('eth0').index });
  return kernel;
}

const networkOf = (kernel: SimKernel): HostNetwork => ({
  links: kernel.links(),
  addresses: kernel.addresses(),
  routes: kernel.routes(4),
});

/** `name address MTU`, or the problem. */
function choose(kernel: SimKernel, ...wanted: string[]): string {
  const choice = chooseInterface(networkOf(kernel), wanted);
  if ('problem' in choice) return choice.problem;
  const { name, addresses, mtu } = choice.chosen;
  return [`${name} ${addresses.ipv4} ${mtu}`, ...choice.skipped].join('; ');
}

const exist =
  'There are: eth0 (10.211.55.100/24 10.211.55.200/24), eth1 (192.168.7.1/24), eth2 (no IPv4 address, down)';

describe('the interface peers reach this host by', () => {
  it.each<[string, readonly string[], string]>([
    ['the default route’s', [], 'eth0 10.211.55.100 1450'],
    ['the default route’s, when nothing is asked for', [''], 'eth0 10.211.55.100 1450'],
    ['the one of that name, with its first address', ['eth1'], 'eth1 192.168.7.1 1500'],
    ['the one with that address', ['10.211.55.200'], 'eth0 10.211.55.200 1450'],
    ['the first usable of several', ['eth9', 'eth1'], 'eth1 192.168.7.1 1500; there is no interface eth9'],
    [
      'none without an address',
      ['eth2'],
      `no usable interface: interface eth2 has no usable IPv4 address. ${exist}`,
    ],
    ['none of an unknown name', ['eth9'], `no usable interface: there is no interface eth9. ${exist}`],
    [
      'none of an unknown address',
      ['10.1.1.1'],
      `no usable interface: no interface has the address 10.1.1.1. ${exist}`,
    ],
    [
      'never loopback',
      ['lo'],
      `no usable interface: lo is the loopback interface, which no peer can reach. ${exist}`,
    ],
    [
      'never loopback by its address',
      ['127.0.0.1'],
      `no usable interface: lo is the loopback interface, which no peer can reach. ${exist}`,
    ],
  ])('is %s', (_what, wanted, expected) => {
    expect(choose(host(), ...wanted)).toBe(expected);
  });

  it('is that of the default route with the lowest metric', () => {
    const kernel = host();
    const route = { dst: '0.0.0.0/0', gateway: '192.168.7.9', linkIndex: kernel.link('eth1').index };
    kernel.addRoute({ ...route, metric: 100 });
    expect(choose(kernel)).toBe('eth0 10.211.55.100 1450');
    kernel.deleteRoute({ dst: '0.0.0.0/0', gateway: '10.211.55.1' });
    expect(choose(kernel)).toBe('eth1 192.168.7.1 1500');
    kernel.deleteRoute({ dst: '0.0.0.0/0' });
    expect(choose(kernel)).toContain('there is no default route to take the interface from (give --iface)');
  });

  it('has a global address before a link-local one, a permanent before a leased one, never a deprecated one', () => {
    const kernel = host();
    kernel.addAddress('eth2', '169.254.7.7/16');
    kernel.addAddress('eth2', '10.1.0.1/24', { deprecated: true });
    expect(choose(kernel, 'eth2')).toBe('eth2 169.254.7.7 1500');
    kernel.addAddress('eth2', '10.2.0.1/24', { permanent: false });
    expect(choose(kernel, 'eth2')).toBe('eth2 10.2.0.1 1500');
    kernel.addAddress('eth2', '10.3.0.1/24');
    expect(choose(kernel, 'eth2')).toBe('eth2 10.3.0.1 1500');
  });
});

describe('waiting for an interface', () => {
  function wait(kernel: SimKernel, clock: VirtualClock, ...ifaces: string[]) {
    const log = new SimLog(clock);
    const trouble = new TroubleLog(clock, log.of('host'));
    const controller = new AbortController();
    const connection = kernel.open();
    const options = { kernel: connection, clock, log: log.of('host'), trouble, ifaces };
    const chosen: string[] = [];
    const ended = waitForInterface(options, controller.signal).then(
      ({ addresses }) => void chosen.push(String(addresses.ipv4)),
      (error: unknown) => void chosen.push(String(error)),
    );
    const stop = async () => {
      controller.abort(new Error('stopped'));
      await ended;
      connection.close();
    };
    return { chosen, stop, log };
  }

  it('ends soon after it has an address', async () => {
    const clock = new VirtualClock();
    const kernel = host(clock);
    const { chosen, stop, log } = wait(kernel, clock, 'eth2');
    await clock.advance(3_600_000);
    expect(chosen).toEqual([]);
    expect(log.lines.length).toBeLessThan(10);
    kernel.addAddress('eth2', '10.3.0.1/24');
    await clock.advance(250);
    expect(chosen).toEqual(['10.3.0.1']);
    await stop();
    expect(clock.pending).toBe(0);
  });

  it('does not look again for every one of many events', async () => {
    const clock = new VirtualClock();
    const kernel = host(clock);
    const { stop } = wait(kernel, clock, 'eth9');
    await clock.advance(100);
    const { dumps } = kernel.counters;
    for (let i = 0; i < 1_000; i++) {
      kernel.addRoute({ dst: `10.7.${i & 255}.0/24`, gateway: '10.211.55.9', linkIndex: 2, metric: i });
      await clock.advance(1);
    }
    expect((kernel.counters.dumps - dumps) / 3).toBeLessThan(25);
    await stop();
  });

  it('goes on when the kernel cannot be read, and ends when told to', async () => {
    const clock = new VirtualClock();
    const kernel = host(clock);
    kernel.faults.failNextDump('EBUSY');
    const { chosen, stop } = wait(kernel, clock);
    await clock.advance(11_000);
    expect(chosen).toEqual(['10.211.55.100']);
    await stop();
    const waiting = wait(kernel, clock, 'eth9');
    await clock.advance(1_000);
    await waiting.stop();
    expect(waiting.chosen).toEqual(['Error: stopped']);
    expect(clock.pending).toBe(0);
  });
});
