import { describe, expect, test } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimKernel } from '../../sim/kernel.ts';

function host(clock?: VirtualClock) {
  const sim = new SimKernel(clock && { clock });
  const eth0 = sim.createLink('eth0');
  sim.addAddress('eth0', '10.211.55.100/24');
  return { sim, eth0, kernel: sim.open() };
}

describe('the simulated kernel', () => {
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
    const { sim, kernel } = host(clock);
    sim.faults.slowNextDump(50);
    const dump = kernel.routes(4);
    await Promise.resolve();
    sim.setLinkUp('eth0', false);
    await clock.advance(50);
    expect(await dump).toHaveLength(1);
    expect(sim.routes(4)).toEqual([]);
  });

  test('a removed address takes the routes with it that prefer it as their source', () => {
    const { sim, eth0 } = host();
    sim.addAddress('eth0', '10.5.0.1/24');
    sim.addRoute({ dst: '172.20.1.0/24', gateway: '10.211.55.101', linkIndex: eth0, source: '10.5.0.1' });
    sim.removeAddress('eth0', '10.5.0.1/24');
    expect(sim.routes(4).map(({ dst }) => dst)).toEqual(['10.211.55.0/24']);
  });
});
