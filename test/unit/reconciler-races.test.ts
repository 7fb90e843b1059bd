import { afterEach, describe, expect, it } from 'vitest';
import { altered } from '../../sim/altered.ts';
import { type HostOptions, meshed, peers, ReconcilerHost } from '../../sim/route-hosts.ts';

let host: ReconcilerHost;

function make(options: HostOptions = {}): ReconcilerHost {
  host = new ReconcilerHost(options);
  return host;
}

afterEach(() => host.stop());

const first = '172.20.1.0/24';

describe('what happens at the same time', () => {
  it('repairs after link up when an overflow swallowed that it went down', async () => {
    const { kernel, clock } = make();
    await host.settled(peers);
    kernel.setLinkUp('eth0', false);
    await clock.advance(200);
    kernel.setLinkUp('eth0', true);
    await clock.advance(200);
    expect(host.own).toEqual(meshed);
    kernel.setLinkUp('eth0', false);
    kernel.overflowEvents();
    await clock.advance(200);
    expect(host.state(first)).toBe('parked: interface eth0 is down');
    kernel.setLinkUp('eth0', true);
    await clock.advance(250);
    expect(host.own).toEqual(meshed);
  });

  it('tries a gateway at once that arrives while the kernel is still refusing the old one', async () => {
    const { clock } = make({ latencyMs: 20 });
    await host.settled(peers);
    host.put(first, '10.99.0.1');
    await clock.advance(10);
    host.put(first, '10.211.55.111');
    await clock.advance(250);
    expect(host.own).toContain(`${first} via 10.211.55.111`);
  });

  it('tries again when the gateway became reachable while the kernel was refusing it', async () => {
    const { clock, kernel } = make({ latencyMs: 20 });
    await host.settled(peers);
    // Refused at 20 ms; the address is there before that answer has been read.
    kernel.faults.failNextApply('ENETUNREACH');
    host.put(first, '10.99.0.1');
    await clock.advance(10);
    kernel.addAddress('eth0', '10.99.0.2/24');
    await clock.advance(250);
    expect(host.own).toContain(`${first} via 10.99.0.1`);
  });

  it.each(['prepend', 'replace'] as const)(
    'leaves a network alone that an operator connects in place of a route that is just being replaced (%s)',
    async (mode) => {
      const { clock, kernel } = make();
      await host.settled(peers);
      kernel.createLink('br0');
      const another = { dst: first, gateway: '10.211.55.101', linkIndex: host.eth0, protocol: 3 };
      kernel.addRoute(another, mode);
      // Nothing of this has reached the host when its answer to the route is on its way.
      await clock.advance(0);
      kernel.addAddress('br0', '172.20.1.1/24');
      kernel.deleteRoute({ dst: first, protocol: 3 });
      await clock.advance(200);
      expect(kernel.routes(4).filter(({ dst }) => dst === first)).toMatchObject([{ protocol: 2 }]);
      expect(host.state(first)).toContain('conflict');
      kernel.removeAddress('br0', '172.20.1.1/24');
      await clock.advance(200);
      expect(host.own).toEqual(meshed);
    },
  );

  it.each(
    (['append', 'prepend', 'replace'] as const).flatMap((mode) =>
      [0, 10, 5_000].map((pauseMs) => ({ mode, pauseMs })),
    ),
  )(
    'names the network of a bridge, not a static route that came before it and is gone, and never takes its place: $mode, $pauseMs ms between',
    async ({ mode, pauseMs }) => {
      const { clock, kernel } = make();
      await host.settled(peers);
      kernel.createLink('br0');
      const foreign = { dst: first, gateway: '10.211.55.150', linkIndex: host.eth0, protocol: 4 };
      kernel.addRoute(foreign, mode);
      await clock.advance(pauseMs);
      kernel.addAddress('br0', '172.20.1.1/24');
      await clock.advance(pauseMs);
      // Ours may have taken its place by now.
      if (kernel.routes(4).some(({ dst, protocol }) => dst === first && protocol === 4))
        kernel.deleteRoute(foreign);
      for (const waitMs of [250, 60_000]) {
        await clock.advance(waitMs);
        expect(kernel.routes(4).filter(({ dst }) => dst === first)).toMatchObject([{ protocol: 2 }]);
        expect(host.state(first)).toBe('conflict: br0 of this host has an address in it (172.20.1.1/24)');
      }
      expect(host.own).toEqual(meshed.slice(1));
      kernel.removeAddress('br0', '172.20.1.1/24');
      await clock.advance(250);
      expect(host.own).toEqual(meshed);
      expect(host.state(first)).toBe('installed');
    },
  );

  it('leaves another program’s route alone when the kernel refuses the one that is to take its place', async () => {
    const { clock, kernel } = make();
    const dst = '172.20.4.0/24';
    kernel.addRoute({ dst, gateway: '10.211.55.150', linkIndex: host.eth0, protocol: 4 });
    await host.settled({ ...peers, [dst]: '10.99.0.1' });
    await clock.advance(5_000);
    expect(host.state(dst)).toBe("parked: 10.99.0.1 is not on eth0's network 10.211.55.0/24");
    expect(host.routes((route) => route.dst === dst)).toEqual([`${dst} via 10.211.55.150`]);
  });

  it('removes the route that was replaced again when the kernel refused to', async () => {
    let refusals = 1;
    make({
      wrap: (kernel) =>
        altered(kernel, {
          apply: async (changes, signal) => {
            if (refusals === 0 || changes.some(({ op }) => op !== 'remove'))
              return await kernel.apply(changes, signal);
            refusals--;
            return changes.map(() => ({ outcome: 'failed', errno: 'ENOBUFS' }) as const);
          },
        }),
    });
    host.kernel.addRoute({ dst: first, gateway: '10.211.55.150', linkIndex: host.eth0 });
    await host.settled(peers);
    await host.clock.advance(15_000);
    expect(refusals).toBe(0);
    expect(host.routes(({ dst }) => dst === first)).toEqual([`${first} via 10.211.55.101`]);
  });

  it('needs no look at the kernel for a lease that comes back after it went while its route was being added', async () => {
    const { clock, kernel } = make();
    await host.settled(peers);
    const dst = '172.20.4.0/24';
    const { dumps } = kernel.counters;
    host.put(dst, '10.211.55.104');
    await clock.advance(0);
    host.remove(dst);
    await clock.advance(200);
    expect(host.own).toEqual(meshed);
    host.put(dst, '10.211.55.104');
    await clock.advance(200);
    expect(host.own).toHaveLength(meshed.length + 1);
    expect(kernel.counters.dumps).toBe(dumps);
  });

  it('tries a gateway at once that a new list brings, whatever became of the old one', async () => {
    const { clock } = make();
    await host.settled({ ...peers, [first]: '10.99.0.1' });
    expect(host.state(first)).toBe("parked: 10.99.0.1 is not on eth0's network 10.211.55.0/24");
    host.snapshot(peers);
    await clock.advance(50);
    expect(host.own).toEqual(meshed);
  });

  it('notices that a route vanished with the address it preferred as source, on another link', async () => {
    const { clock, kernel } = make();
    const other = kernel.createLink('eth1');
    kernel.addAddress('eth1', '10.9.0.1/24');
    kernel.createLink('eth2');
    kernel.addAddress('eth2', '10.8.0.1/32');
    await host.settled({});
    const foreign = { dst: first, gateway: '10.9.0.2', linkIndex: other, protocol: 4, source: '10.8.0.1' };
    host.put(first, '10.211.55.101');
    for (let i = 0; i < 4; i++) {
      kernel.addRoute(foreign, 'replace');
      await clock.advance(1000);
    }
    expect(host.state(first)).toContain('conflict');
    kernel.removeAddress('eth2', '10.8.0.1/32');
    await clock.advance(250);
    expect(host.own).toEqual(meshed.slice(0, 1));
  });

  it('tries everything again after nobody listened for a while', async () => {
    const { clock, kernel } = make();
    await host.settled({ [first]: '10.99.0.1' });
    kernel.faults.failNextDump('EBUSY');
    await clock.until('the check fails', () => host.trouble.has('kernel'), 12_000);
    kernel.addAddress('eth0', '10.99.0.2/24');
    await clock.advance(250);
    expect(host.own).toEqual([`${first} via 10.99.0.1`]);
    await clock.advance(1_000);
    expect(host.trouble.has('kernel')).toBe(false);
  });

  it('repairs a route that vanished while the routes were being dumped', async () => {
    const { clock, kernel } = make();
    await host.settled(peers);
    // Links, addresses, routes.
    for (const ms of [0, 0, 100]) kernel.faults.slowNextDump(ms);
    kernel.overflowEvents();
    await clock.advance(50);
    kernel.deleteRoute({ dst: first });
    await clock.advance(250);
    expect(kernel.faults.pending).toEqual([]);
    expect(host.own).toEqual(meshed);
  });

  it('looks at the kernel when it lost the answers, and sends nothing twice', async () => {
    const { clock, kernel } = make();
    await host.settled(peers);
    const { dumps, messages } = kernel.counters;
    kernel.faults.loseNextReplies();
    host.put('172.20.4.0/24', '10.211.55.104');
    await clock.advance(250);
    expect(host.own).toHaveLength(4);
    expect(kernel.counters).toMatchObject({ dumps: dumps + 3, messages: messages + 1 });
  });
});
