import { afterEach, describe, expect, it } from 'vitest';
import { altered } from '../../sim/altered.ts';
import { routeProtocol as protocol } from '../../sim/host.ts';
import type { SimEventStream } from '../../sim/kernel-events.ts';
import { type HostOptions, meshed, peers, ReconcilerHost } from '../../sim/route-hosts.ts';
import { peerFaults } from '../../src/backend/hostgw/status.ts';
import { type ChangeResult, type Kernel, KernelError, type RouteChange } from '../../src/kernel/kernel.ts';

let host: ReconcilerHost;
let watching: SimEventStream | undefined;

function make(options: HostOptions = {}): ReconcilerHost {
  host = new ReconcilerHost(options);
  return host;
}

afterEach(async () => {
  watching?.close();
  watching = undefined;
  await host.stop();
});

const first = '172.20.1.0/24';

/** A kernel that answers every change with `answer` and makes none of them; latency as usual. */
function deaf(answer: (change: RouteChange) => ChangeResult): HostOptions {
  const apply: Kernel['apply'] = async (changes, signal) => {
    host.kernel.counters.batches++;
    host.kernel.counters.messages += changes.length;
    await host.clock.sleep(1, signal);
    return changes.map(answer);
  };
  return { wrap: (kernel) => altered(kernel, { apply }) };
}

/** Another program: does something a millisecond after every such event of a route of ours. */
function onOurRoute(type: 'route-added' | 'route-removed', react: (dst: string) => void): void {
  const { kernel, clock } = host;
  const stream = kernel.subscribe();
  watching = stream;
  void (async () => {
    for (;;) {
      for (const event of await stream.next(new AbortController().signal)) {
        if (event.type !== type || event.route.protocol !== protocol) continue;
        await clock.sleep(1);
        react(event.route.dst);
      }
    }
  })().catch(() => undefined);
}

/** What ten minutes of an endless quarrel about three destinations may cost: a dozen tries each, then one a minute. */
async function expectPatience(): Promise<void> {
  const { kernel, clock, log } = host;
  const before = { ...kernel.counters };
  const lines = log.lines.length;
  await clock.advance(600_000);
  const checks = 600_000 / 9_000;
  expect(kernel.counters.batches - before.batches).toBeLessThan(75);
  expect((kernel.counters.dumps - before.dumps) / 3).toBeLessThan(checks + 75);
  expect(log.lines.length - lines).toBeLessThan(60);
}

describe('a kernel that does not do as it is told is not asked over and over', () => {
  it.each<[string, ChangeResult]>([
    ['answers EEXIST to every addition', { outcome: 'failed', errno: 'EEXIST' }],
    ['accepts every addition without showing it', { outcome: 'done' }],
    ['loses every answer', { outcome: 'unknown' }],
    ['refuses everything with EPERM', { outcome: 'failed', errno: 'EPERM' }],
    ['refuses everything with ENOBUFS', { outcome: 'failed', errno: 'ENOBUFS' }],
    ['answers ESRCH to every addition', { outcome: 'failed', errno: 'ESRCH' }],
    ['finds every gateway off link', { outcome: 'failed', errno: 'ENETUNREACH' }],
  ])('when it %s', async (_what, answer) => {
    make(deaf(() => answer));
    await host.settled(peers);
    await expectPatience();
    expect(host.own).toEqual([]);
    expect(host.state(first)).toContain('parked');
  });

  it.each<[string, ChangeResult]>([
    ['answers EPERM to every removal', { outcome: 'failed', errno: 'EPERM' }],
    ['answers ESRCH to every removal', { outcome: 'failed', errno: 'ESRCH' }],
    ['accepts every removal without making it', { outcome: 'done' }],
  ])('when it %s', async (_what, answer) => {
    make(deaf(() => answer));
    host.kernel.addRoute({ dst: first, gateway: '10.211.55.101', linkIndex: host.eth0, protocol });
    await host.settled({});
    await expectPatience();
  });

  it('when its notifications fail at once, every time', async () => {
    let subscriptions = 0;
    const broken = (kernel: Kernel) =>
      altered(kernel, {
        subscribe: async () => {
          subscriptions++;
          const next = () => Promise.reject(new KernelError('EIO', 'notifications are broken'));
          return altered(await kernel.subscribe(), { next });
        },
      });
    make({ wrap: broken });
    await host.settled(peers);
    expect(host.own).toEqual(meshed);
    await expectPatience();
    expect(subscriptions).toBeLessThan(120);
    expect(host.trouble.has('kernel')).toBe(true);
  });
});

describe('another program that undoes our work is not fought', () => {
  it('when it deletes our route at once each time', async () => {
    make();
    onOurRoute('route-added', (dst) => host.kernel.deleteRoute({ dst, protocol }));
    await host.settled({ [first]: '10.211.55.101' });
    await expectPatience();
    expect(host.state(first)).toContain('another program on this host keeps removing or changing it');
  });

  it('when it puts a route of its own in place of ours each time', async () => {
    const { kernel, eth0: linkIndex } = make();
    onOurRoute('route-added', (dst) =>
      kernel.addRoute({ dst, gateway: '10.211.55.9', linkIndex, protocol: 4 }, 'replace'),
    );
    await host.settled({ [first]: '10.211.55.101' });
    await expectPatience();
  });

  it('when it restores a route of ours that no lease asks for', async () => {
    const { kernel, eth0: linkIndex } = make();
    const restore = (dst: string) => kernel.addRoute({ dst, gateway: '10.211.55.9', linkIndex, protocol });
    onOurRoute('route-removed', restore);
    restore(first);
    await host.settled({});
    await expectPatience();
  });

  it('and repairs at once again when it has stopped for some minutes', async () => {
    make();
    let hostile = true;
    onOurRoute('route-added', (dst) => hostile && host.kernel.deleteRoute({ dst, protocol }));
    await host.settled({ [first]: '10.211.55.101' });
    await host.clock.advance(120_000);
    hostile = false;
    await host.clock.advance(66_000);
    expect(host.own).toEqual([`${first} via 10.211.55.101`]);
    await host.clock.advance(300_000);
    host.kernel.deleteRoute({ dst: first, protocol });
    await host.clock.advance(10);
    expect(host.own).toEqual([`${first} via 10.211.55.101`]);
  });
});

it('a route that the kernel refused once, and took since, is repaired at once', async () => {
  for (const errno of ['ENETUNREACH', 'ENOBUFS']) {
    make();
    await host.settled(peers);
    host.kernel.faults.failNextApply(errno);
    host.kernel.deleteRoute({ dst: first, protocol });
    await host.clock.advance(70_000);
    expect(host.own).toEqual(meshed);
    host.kernel.deleteRoute({ dst: first, protocol });
    await host.clock.advance(10);
    expect(host.own).toEqual(meshed);
    await host.stop();
  }
});

describe('noise', () => {
  it('a link that flaps a hundred times a second costs a bounded number of dumps and comes back', async () => {
    make();
    await host.settled(peers);
    const { kernel, clock } = host;
    const dumps = kernel.counters.dumps;
    for (let i = 0; i < 500; i++) {
      kernel.setLinkUp('eth0', i % 2 === 1);
      await clock.advance(10);
    }
    expect((kernel.counters.dumps - dumps) / 3).toBeLessThan(110);
    await clock.advance(250);
    expect(host.own).toEqual(meshed);
  });

  it('a thousand unreachable peers are tried once a second at most, all together', async () => {
    make();
    const leases = Array.from({ length: 1000 }, (_, i) => [
      `172.20.${i >> 4}.${(i & 15) << 4}/28`,
      '10.99.0.1',
    ]);
    await host.settled(Object.fromEntries(leases));
    const { batches } = host.kernel.counters;
    await host.clock.advance(600_000);
    expect(host.kernel.counters.batches - batches).toBeLessThanOrEqual(600);
    expect(host.log.lines.length).toBeLessThanOrEqual(1);
    expect(peerFaults(host.reconciler.status())).toHaveLength(1);
  });

  it('a thousand leases that cannot be routed take a handful of lines', async () => {
    make();
    const leases = Array.from({ length: 1000 }, (_, i) => [`127.${i >> 8}.${i & 255}.0/24`, '10.211.55.101']);
    await host.settled(Object.fromEntries(leases));
    const faults = peerFaults(host.reconciler.status());
    expect(faults).toHaveLength(6);
    expect(faults.at(-1)?.text).toBe('995 more leases are not routed');
  });
});
