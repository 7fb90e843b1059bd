import { expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import type { SimKernel } from '../../sim/kernel.ts';
import { SimLog } from '../../sim/log.ts';
import { waitForInterface } from '../../src/daemon/interface/wait.ts';
import type { PerFamily } from '../../src/ip/ip.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { brief, makeHost, type Wishes, wishes } from './interface-host.ts';

function wait(kernel: SimKernel, clock: VirtualClock, over: Wishes, leased: PerFamily<string> = {}) {
  const log = new SimLog(clock);
  const trouble = new TroubleLog(clock, log.of('host'));
  const controller = new AbortController();
  const connection = kernel.open();
  let asked = 0;
  const options = {
    kernel: connection,
    clock,
    log: log.of('host'),
    trouble,
    leased: async () => {
      asked++;
      return leased;
    },
    ...wishes(over),
  };
  const chosen: string[] = [];
  const ended = waitForInterface(options, controller.signal).then(
    (host) => void chosen.push(brief(host)),
    (error: unknown) => void chosen.push(String(error)),
  );
  const stop = async () => {
    controller.abort(new Error('stopped'));
    await ended;
    connection.close();
  };
  return { chosen, stop, log, trouble, asked: () => asked };
}

it('says what was tried and what exists, and ends soon after there is an address', async () => {
  const clock = new VirtualClock();
  const kernel = makeHost(clock);
  const { chosen, stop, log, trouble } = wait(kernel, clock, { ifaces: ['eth9', 'eth2'] });
  await clock.advance(3_600_000);
  expect(chosen).toEqual([]);
  expect(log.lines.length).toBeLessThan(10);
  expect(trouble.current).toEqual([
    'waiting: no usable interface: there is no interface eth9; interface eth2 has no usable IPv4 address. There are: ' +
      'eth0 (10.211.55.100/24 10.211.55.200/24), eth1 (192.168.7.1/24), eth2 (no IPv4 address, down)',
  ]);
  kernel.addAddress('eth2', '10.3.0.1/24');
  await clock.advance(250);
  expect(chosen).toEqual(['eth2 10.3.0.1 1500']);
  expect(log.events('interface-skipped').map(({ message }) => message)).toEqual([
    'skipped: there is no interface eth9',
  ]);
  expect(trouble.current).toEqual([]);
  await stop();
  expect(clock.pending).toBe(0);
});

it('a route that makes the address of iface-can-reach reachable ends it too', async () => {
  const clock = new VirtualClock();
  const kernel = makeHost(clock);
  kernel.deleteRoute({ dst: '0.0.0.0/0' });
  const { chosen, stop } = wait(kernel, clock, { ifaceCanReach: '203.0.113.1' });
  await clock.advance(60_000);
  expect(chosen).toEqual([]);
  kernel.addRoute({ dst: '203.0.113.0/24', gateway: '192.168.7.9', linkIndex: kernel.link('eth1').index });
  await clock.advance(250);
  expect(chosen).toEqual(['eth1 192.168.7.1 1500']);
  await stop();
});

it('does not look again for every one of many events', async () => {
  const clock = new VirtualClock();
  const kernel = makeHost(clock);
  const { stop } = wait(kernel, clock, { ifaces: ['eth9'] });
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
  const kernel = makeHost(clock);
  kernel.faults.failNextDump('EBUSY');
  const { chosen, stop, trouble } = wait(kernel, clock, {});
  await clock.advance(1_000);
  expect(trouble.current).toEqual(['the interfaces of this host cannot be read: dump failed: EBUSY']);
  await clock.advance(10_000);
  expect(chosen).toEqual(['eth0 10.211.55.100 1450']);
  expect(trouble.current).toEqual([]);
  await stop();
  const waiting = wait(kernel, clock, { ifaces: ['eth9'] });
  await clock.advance(1_000);
  await waiting.stop();
  expect(waiting.chosen).toEqual(['Error: stopped']);
  expect(clock.pending).toBe(0);
});

it.each([
  ['which of several addresses the lease names', 'eth0', '10.211.55.200', 'eth0 10.211.55.200 1450', 1],
  ['nothing when there is one address', 'eth1', '192.168.7.9', 'eth1 192.168.7.1 1500', 0],
])('asks etcd %s', async (_, iface, ipv4, expected, times) => {
  const clock = new VirtualClock();
  const { chosen, stop, asked } = wait(makeHost(clock), clock, { ifaces: [iface] }, { ipv4 });
  await clock.advance(100);
  expect(chosen).toEqual([expected]);
  expect(asked()).toBe(times);
  await stop();
});

it('waits for the address that the lease names while it is being checked, and takes another when that has failed', async () => {
  for (const dadFailed of [false, true]) {
    const clock = new VirtualClock();
    const kernel = makeHost(clock);
    kernel.addAddress('eth0', 'fd00:55::77/64', { tentative: true });
    const wanted = { ifaces: ['eth0'], families: [6] } as const;
    const { chosen, stop } = wait(kernel, clock, wanted, { ipv6: 'fd00:55::77' });
    await clock.advance(100);
    expect(chosen).toEqual([]);
    kernel.changeAddress('eth0', 'fd00:55::77/64', { tentative: dadFailed, dadFailed });
    await clock.advance(100);
    expect(chosen).toEqual([`eth0 ${dadFailed ? 'fd00:55::100' : 'fd00:55::77'} 1450`]);
    await stop();
  }
});
