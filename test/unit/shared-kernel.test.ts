import { describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimKernel } from '../../sim/kernel.ts';
import type { KernelEvents } from '../../src/kernel/kernel.ts';
import { SharedKernel } from '../../src/kernel/shared-kernel.ts';
import { makeCluster } from './sim-worlds.ts';

const DST = '172.20.1.0/24';
const never = new AbortController().signal;

function makeHost(mostWaiting?: number) {
  const clock = new VirtualClock();
  const sim = new SimKernel({ clock });
  const eth0 = sim.createLink('eth0');
  sim.addAddress('eth0', '10.211.55.20/24');
  const inner = sim.open();
  const opened: KernelEvents[] = [];
  const subscribe = inner.subscribe.bind(inner);
  inner.subscribe = async () => {
    const events = await subscribe();
    opened.push(events);
    return events;
  };
  const kernel = new SharedKernel(inner, clock, mostWaiting);
  const addRoute = (dst = DST) => sim.addRoute({ dst, gateway: '10.211.55.21', linkIndex: eth0 });
  return { clock, sim, kernel, opened, addRoute };
}

const typesOf = (events: readonly { readonly type: string }[]) => events.map(({ type }) => type);
const told = async (events: KernelEvents) => typesOf(await events.drain());

describe('the stream of events that subscribers share', () => {
  it('tells each of them everything, also the one that another has drained for', async () => {
    const { kernel, addRoute } = makeHost();
    const [first, second] = [await kernel.subscribe(), await kernel.subscribe()];
    const waiting = first.next(never);
    addRoute();
    expect(await told(second)).toEqual(['route-added']);
    expect(typesOf(await waiting)).toEqual(['route-added']);
    addRoute('172.20.2.0/24');
    expect(await told(first)).toEqual(['route-added']);
    expect(typesOf(await second.next(never))).toEqual(['route-added']);
  });

  it('tells nothing of before a subscription, and nothing after its end', async () => {
    const { kernel, addRoute } = makeHost();
    const first = await kernel.subscribe();
    addRoute();
    await first.drain();
    const second = await kernel.subscribe();
    expect(await told(second)).toEqual([]);
    first.close();
    addRoute('172.20.2.0/24');
    expect(await told(second)).toEqual(['route-added']);
    await expect(first.drain()).rejects.toMatchObject({ code: 'KERNEL_CLOSED' });
  });

  it('tells all of an overflow, alone and first', async () => {
    const { sim, kernel, addRoute } = makeHost();
    const [first, second] = [await kernel.subscribe(), await kernel.subscribe()];
    addRoute();
    sim.overflowEvents();
    expect(await told(first)).toEqual(['overflow']);
    addRoute('172.20.2.0/24');
    expect(await told(first)).toEqual(['route-added']);
    expect([await told(second), await told(second)]).toEqual([['overflow'], ['route-added']]);
  });

  it('tells one that does not listen of an overflow, instead of keeping everything for it', async () => {
    const { kernel, addRoute } = makeHost(10);
    const [busy, idle] = [await kernel.subscribe(), await kernel.subscribe()];
    for (let index = 0; index < 25; index++) {
      addRoute(`172.20.${index}.0/24`);
      expect(await told(busy)).toEqual(['route-added']);
    }
    expect(typesOf(await idle.next(never))).toEqual(['overflow']);
    expect((await idle.next(never)).length).toBeLessThanOrEqual(10);
  });

  it('is opened anew after the last has left, and after it failed', async () => {
    const { kernel, opened, addRoute } = makeHost();
    (await kernel.subscribe()).close();
    const second = await kernel.subscribe();
    const waiting = second.next(never);
    opened[1]?.close();
    await expect(waiting).rejects.toMatchObject({ code: 'KERNEL_CLOSED' });
    const third = await kernel.subscribe();
    addRoute();
    expect(await told(third)).toEqual(['route-added']);
  });

  it('takes an aborted wait without losing an event', async () => {
    const { kernel, addRoute } = makeHost();
    const [first, second] = [await kernel.subscribe(), await kernel.subscribe()];
    const controller = new AbortController();
    const waiting = [first.next(controller.signal), second.next(never)];
    controller.abort(new Error('stop'));
    await expect(waiting[0]).rejects.toThrow('stop');
    addRoute();
    expect(typesOf((await waiting[1]) ?? [])).toEqual(['route-added']);
    expect(await told(first)).toEqual(['route-added']);
  });
});

describe('the dump of links and addresses that they share', () => {
  it('serves all of them until an event says that it is outdated', async () => {
    const { sim, kernel, addRoute } = makeHost();
    const events = await kernel.subscribe();
    const first = await kernel.addresses();
    await Promise.all([kernel.links(), kernel.addresses(), kernel.links()]);
    addRoute();
    await events.drain();
    expect(await kernel.addresses()).toBe(first);
    expect(sim.counters.dumps).toBe(2);
    sim.addAddress('eth0', '10.211.55.99/24');
    await events.drain();
    expect((await kernel.addresses()).map(({ address }) => address)).toContain('10.211.55.99');
    expect(sim.counters.dumps).toBe(4);
  });

  it('is never from before an event that was told while it was made', async () => {
    const { clock, sim, kernel } = makeHost();
    const events = await kernel.subscribe();
    sim.faults.slowNextDump(1_000);
    sim.faults.slowNextDump(1_000);
    const before = kernel.addresses();
    await clock.advance(1_500);
    sim.addAddress('eth0', '10.211.55.99/24');
    await events.drain();
    const after = kernel.addresses();
    await clock.advance(5_000);
    expect((await before).map(({ address }) => address)).not.toContain('10.211.55.99');
    expect((await after).map(({ address }) => address)).toContain('10.211.55.99');
  });

  it('is made again when it failed, and after five seconds', async () => {
    const { clock, sim, kernel } = makeHost();
    await kernel.subscribe();
    sim.faults.failNextDump('ENOBUFS');
    await expect(kernel.links()).rejects.toMatchObject({ errno: 'ENOBUFS' });
    await kernel.links();
    const dumps = sim.counters.dumps;
    await clock.advance(4_999);
    await kernel.links();
    expect(sim.counters.dumps).toBe(dumps);
    await clock.advance(1);
    await kernel.links();
    expect(sim.counters.dumps).toBe(dumps + 2);
  });

  it('fails for the reason that the stream failed for, when that is while it is made', async () => {
    const { clock, sim, kernel, opened } = makeHost();
    const events = await kernel.subscribe();
    const broken = new Error('the socket is broken');
    const [stream] = opened;
    if (stream === undefined) throw new Error('no stream');
    stream.drain = () => Promise.reject(broken);
    sim.faults.slowNextDump(1_000);
    const dump = expect(kernel.links()).rejects.toBe(broken);
    await expect(events.drain()).rejects.toBe(broken);
    await clock.advance(2_000);
    await dump;
  });

  it('is made for each call while nobody listens to events', async () => {
    const { sim, kernel } = makeHost();
    await kernel.links();
    await kernel.links();
    expect(sim.counters.dumps).toBe(4);
  });
});

it('a dual-stack daemon at rest has one stream, and dumps links and addresses about once in its interval', async () => {
  const config = JSON.stringify({
    EnableIPv6: true,
    Network: '172.20.0.0/16',
    IPv6Network: 'fc00:20::/48',
    Backend: { Type: 'host-gw' },
  });
  const cluster = makeCluster({ seed: 1, hosts: 1, ipv6: true, config });
  const host = cluster.host(0);
  host.start();
  await cluster.clock.advance(30_000);
  expect(host.kernel.listeners).toBe(1);
  const before = host.kernel.counters.dumps;
  await cluster.clock.advance(100_000);
  // Two families' routes every 10 s, and two dumps for links and addresses every 5 s at most.
  expect(host.kernel.counters.dumps - before).toBeLessThanOrEqual(2 * 12 + 2 * 20);
});
