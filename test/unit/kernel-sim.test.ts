import { describe, expect, test } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimKernel } from '../../sim/kernel.ts';
import type { RouteChange } from '../../src/kernel/kernel.ts';
import { cpuMs } from '../testbed/cpu-time.ts';

const NEVER = new AbortController().signal;

function host(options: ConstructorParameters<typeof SimKernel>[0] = {}) {
  const sim = new SimKernel(options);
  const eth0 = sim.createLink('eth0');
  sim.addAddress('eth0', '10.211.55.100/24');
  return { sim, eth0, kernel: sim.open() };
}

function add(linkIndex: number, count = 1): RouteChange[] {
  return Array.from({ length: count }, (_, i) => ({
    op: 'add',
    route: {
      family: 4,
      dst: `172.20.${i}.0/24`,
      metric: 0,
      protocol: 102,
      gateway: '10.211.55.101',
      linkIndex,
    },
  }));
}

describe('the simulated kernel', () => {
  test('counts what reaches it', async () => {
    const { sim, eth0, kernel } = host();
    await kernel.apply(add(eth0, 3));
    await kernel.routes(4);
    await kernel.links();
    expect(sim.counters).toEqual({ dumps: 2, batches: 1, messages: 3 });
  });

  test('refuses a whole batch when told to, once', async () => {
    const { sim, eth0, kernel } = host();
    sim.faults.failNextApply('ENOBUFS');
    expect(await kernel.apply(add(eth0))).toEqual([{ outcome: 'failed', errno: 'ENOBUFS' }]);
    expect(sim.faults.pending).toEqual([]);
    expect(await kernel.apply(add(eth0))).toEqual([{ outcome: 'done' }]);
  });

  test('loses answers of changes that took effect', async () => {
    const { sim, eth0, kernel } = host();
    sim.faults.loseNextReplies(1);
    const results = await kernel.apply(add(eth0, 3));
    expect(results.map(({ outcome }) => outcome)).toEqual(['done', 'unknown', 'unknown']);
    expect(sim.routes(4)).toHaveLength(4);
  });

  test('loses events to an overflow, and tells only that', async () => {
    const { sim, eth0, kernel } = host();
    const events = await kernel.subscribe();
    sim.addRoute({ dst: '172.20.1.0/24', gateway: '10.211.55.101', linkIndex: eth0 });
    sim.overflowEvents();
    sim.addRoute({ dst: '172.20.2.0/24', gateway: '10.211.55.101', linkIndex: eth0 });
    expect(await events.next(NEVER)).toEqual([{ type: 'overflow' }]);
    sim.deleteRoute({ dst: '172.20.2.0/24' });
    expect(await events.next(NEVER)).toMatchObject([{ type: 'route-removed' }]);
  });

  test('loses events when too many wait', async () => {
    const { eth0, kernel } = host({ eventCapacity: 5 });
    const events = await kernel.subscribe();
    await kernel.apply(add(eth0, 6));
    expect(await events.drain()).toEqual([{ type: 'overflow' }]);
  });

  test('makes an interrupted dump again, and gives up after ten', async () => {
    const { sim, kernel } = host();
    sim.faults.interruptNextDump(2);
    expect(await kernel.routes(4)).toHaveLength(1);
    expect(sim.counters.dumps).toBe(3);
    sim.faults.interruptNextDump(10);
    await expect(kernel.routes(4)).rejects.toMatchObject({ code: 'KERNEL_EINTR' });
  });

  test('a slow dump shows what was there when it began', async () => {
    const clock = new VirtualClock();
    const { sim, kernel } = host({ clock });
    sim.faults.slowNextDump(50);
    const dump = kernel.routes(4);
    await Promise.resolve();
    sim.setLinkUp('eth0', false);
    await clock.advance(50);
    expect(await dump).toHaveLength(1);
    expect(sim.routes(4)).toEqual([]);
  });

  test('refuses everybody without the capability', async () => {
    const { sim, eth0, kernel } = host();
    sim.capable = false;
    expect(await kernel.missingCapabilities()).toEqual(['CAP_NET_ADMIN']);
    expect(await kernel.apply(add(eth0))).toEqual([{ outcome: 'failed', errno: 'EPERM' }]);
  });

  test('a removed address takes the routes with it that prefer it as their source', () => {
    const { sim, eth0 } = host();
    sim.addAddress('eth0', '10.5.0.1/24');
    sim.addRoute({ dst: '172.20.1.0/24', gateway: '10.211.55.101', linkIndex: eth0, source: '10.5.0.1' });
    sim.removeAddress('eth0', '10.5.0.1/24');
    expect(sim.routes(4).map(({ dst }) => dst)).toEqual(['10.211.55.0/24']);
  });

  test('10,000 routes are a matter of milliseconds', async () => {
    const { eth0, kernel } = host();
    const changes = Array.from({ length: 40 }, (_, block) => {
      return add(eth0, 250).map(({ op, route }) => ({
        op,
        route: { ...route, dst: route.dst.replace('20', String(20 + block)) },
      }));
    }).flat();
    const startMs = cpuMs();
    await kernel.apply(changes);
    expect(await kernel.routes(4)).toHaveLength(10_001);
    expect(cpuMs() - startMs).toBeLessThan(3000);
  });
});
