import { afterEach, describe, expect, it } from 'vitest';
import { routeProtocol as protocol } from '../../sim/host.ts';
import { meshed, peers, ReconcilerHost } from '../../sim/route-hosts.ts';
import { ownFaults, peerFaults } from '../../src/backend/hostgw/status.ts';

let host: ReconcilerHost;
afterEach(() => host.stop());

const first = '172.20.1.0/24';
const stale = '172.20.50.0/24';

describe('the first sync', () => {
  it('changes nothing before the leases are known', async () => {
    host = new ReconcilerHost();
    const { kernel, eth0 } = host;
    kernel.addRoute({ dst: stale, gateway: '10.211.55.150', linkIndex: eth0, protocol });
    kernel.addRoute({ dst: first, gateway: '10.211.55.150', linkIndex: eth0 });
    host.start();
    await host.clock.advance(60_000);
    expect(kernel.counters.messages).toBe(0);
  });

  it('adds, adopts, removes what is stale and leaves an operator’s routes; then says that it is synced', async () => {
    host = new ReconcilerHost();
    const { kernel, eth0, clock } = host;
    const put = (dst: string, gateway: string, owner?: number) =>
      kernel.addRoute({ dst, gateway, linkIndex: eth0, ...(owner === undefined ? {} : { protocol: owner }) });
    put(first, '10.211.55.101');
    put('172.20.2.0/24', '10.211.55.150');
    put(stale, '10.211.55.150');
    put('172.20.51.0/24', '10.211.55.151', protocol);
    put('172.20.64.0/20', '10.211.55.9');
    put('192.168.9.0/24', '10.211.55.9');
    put('172.20.52.0/24', '10.211.55.9', 4);
    let synced = false;
    const done = host.reconciler.synced(new AbortController().signal).then(() => {
      synced = true;
    });
    host.start();
    await clock.advance(1_000);
    expect(synced).toBe(false);
    host.snapshot(peers);
    await clock.advance(100);
    await done;
    expect(host.own).toEqual(meshed);
    const others = host.routes((route) => route.protocol !== protocol && route.gateway !== undefined);
    const operators = ['192.168.9.0/24', '172.20.64.0/20', '172.20.52.0/24'].map(
      (dst) => `${dst} via 10.211.55.9`,
    );
    expect(others).toEqual(['0.0.0.0/0 via 10.211.55.1', ...operators].toSorted());
  });

  it('removes flanneld’s stale routes once: later ones are somebody’s', async () => {
    host = new ReconcilerHost();
    await host.settled(peers);
    host.kernel.addRoute({ dst: stale, gateway: '10.211.55.150', linkIndex: host.eth0 });
    host.kernel.overflowEvents();
    await host.clock.advance(60_000);
    expect(host.routes(({ dst }) => dst === stale)).toHaveLength(1);
  });

  it.each([10, 30, 50, 70, 90])(
    'removes them after the kernel refused, also when a link goes down %i ms after the refusal',
    async (ms) => {
      host = new ReconcilerHost();
      const { kernel, eth0, clock } = host;
      const linkIndex = kernel.createLink('veth0');
      kernel.addRoute({ dst: '192.168.77.0/24', linkIndex });
      kernel.addRoute({ dst: stale, gateway: '10.211.55.150', linkIndex: eth0 });
      kernel.faults.failNextApply('ENOBUFS');
      host.start();
      host.snapshot(peers);
      await clock.until('a refusal', () => kernel.counters.messages > 0, 1_000);
      await clock.advance(ms);
      kernel.setLinkUp('veth0', false);
      await clock.advance(15_000);
      expect(host.routes(({ dst }) => dst === stale)).toEqual([]);
      expect(host.own).toEqual(meshed);
    },
  );
});

describe('at rest', () => {
  it('sends nothing, logs nothing, and dumps no route without a reason', async () => {
    host = new ReconcilerHost();
    await host.settled(peers);
    const { counters } = host.kernel;
    const before = { ...counters };
    const lines = host.log.lines.length;
    await host.clock.advance(600_000);
    expect(counters.messages).toBe(before.messages);
    const checks = counters.digests - before.digests;
    expect(checks).toBeGreaterThan(50);
    // Links and addresses at each check; all of them at the first, because the start brought events.
    expect(counters.dumps - before.dumps).toBeLessThanOrEqual(2 * checks + 3);
    expect(host.log.lines.length).toBe(lines);
    expect(ownFaults(host.reconciler.status())).toEqual([]);
  });
});

describe('leases that change all the time', () => {
  const dumpsOf = async (latencyMs: number) => {
    host = new ReconcilerHost({ latencyMs });
    await host.settled(peers);
    await host.clock.advance(15_000);
    const before = host.kernel.counters.dumps;
    for (let i = 0; i < 240; i++) {
      host.put(`172.20.${1 + (i % 3)}.0/24`, `10.211.55.${101 + (i % 2)}`);
      await host.clock.advance(1_000);
    }
    // Of links, addresses and routes.
    return (host.kernel.counters.dumps - before) / 3;
  };

  it('cost a look at all routes every ten seconds, as events may not tell all', async () => {
    const dumps = await dumpsOf(1);
    expect(dumps).toBeGreaterThanOrEqual(20);
  });

  it('wait a hundredth of their time for it at most, where it takes long, and it is made once a minute', async () => {
    const dumps = await dumpsOf(400);
    expect(dumps).toBeGreaterThanOrEqual(3);
    expect(dumps).toBeLessThanOrEqual(7);
  });
});

describe('many changes at once', () => {
  const crowd = (gateway: (i: number) => string) =>
    Object.fromEntries(
      Array.from({ length: 3_500 }, (_, i) => [`172.20.${i >> 6}.${(i & 63) << 2}/30`, gateway(i)]),
    );

  it('are sent a thousand at a time, so that probes and renewals have their turn', async () => {
    host = new ReconcilerHost();
    await host.settled(crowd(() => '10.211.55.101'));
    const { counters } = host.kernel;
    const before = { ...counters };
    const after = crowd((i) => (i % 2 ? '10.211.55.102' : '10.211.55.103'));
    host.snapshot(after);
    await host.clock.advance(1_000);
    expect(counters.batches - before.batches).toBeGreaterThanOrEqual(4);
    expect(host.own).toHaveLength(3_500);
    expect(host.own.filter((route) => route.includes(' via 10.211.55.102'))).toHaveLength(1_750);
    expect(host.own.filter((route) => route.includes(' via 10.211.55.103'))).toHaveLength(1_750);
  });
});

describe('beside a full table of another program', () => {
  const others = 20_000;
  const afterADump = async () => {
    host = new ReconcilerHost();
    const { kernel } = host;
    const linkIndex = kernel.createLink('eth1');
    for (let i = 0; i < others; i++)
      kernel.addRoute({ dst: `11.0.${i >> 8}.${i & 255}/32`, linkIndex, protocol: 99 });
    await host.settled(peers);
    kernel.deleteRoute({ dst: first });
    kernel.overflowEvents();
  };
  const turnsUntil = async (route: string) => {
    for (let turns = 1; turns < 200; turns++) {
      await host.clock.advance(1);
      if (host.own.includes(route)) return turns;
    }
    return Number.POSITIVE_INFINITY;
  };

  it('a dump is taken over in parts, so that probes and renewals have their turn', async () => {
    await afterADump();
    expect(await turnsUntil(meshed[0] ?? '')).toBeGreaterThan(others / 5_000);
  });

  it('a lease that changes after a dump does not wait until all routes are planned', async () => {
    await afterADump();
    expect(await turnsUntil(meshed[0] ?? '')).toBeLessThan(100);
    host.put(first, '10.211.55.111');
    expect(await turnsUntil(`${first} via 10.211.55.111`)).toBeLessThan(8);
  });
});

describe('a change', () => {
  it('of a peer’s address puts the new route before the old one, which then goes', async () => {
    host = new ReconcilerHost();
    await host.settled(peers);
    const stream = host.kernel.subscribe();
    host.put(first, '10.211.55.111');
    await host.clock.advance(20_000);
    expect(await stream.drain()).toMatchObject([
      { type: 'route-added', appended: false, route: { dst: first, gateway: '10.211.55.111' } },
      { type: 'route-removed', route: { dst: first, gateway: '10.211.55.101' } },
    ]);
    stream.close();
  });

  it('of many leases is one batch', async () => {
    host = new ReconcilerHost();
    await host.settled({});
    const { batches } = host.kernel.counters;
    for (let i = 1; i <= 90; i++) host.put(`172.20.${i}.0/24`, `10.211.55.${i + 100}`);
    await host.clock.advance(100);
    expect(host.own).toHaveLength(90);
    expect(host.kernel.counters.batches).toBe(batches + 1);
  });

  it.each([
    ['the daemon made', 1],
    ['the daemon found at the start', 0],
  ])('takes the route that %s, outside the network, along with its lease', async (how, batches) => {
    host = new ReconcilerHost();
    const { kernel, eth0, clock } = host;
    const route = { dst: '192.168.77.0/24', gateway: '10.211.55.101', linkIndex: eth0, protocol };
    if (how.includes('found')) kernel.addRoute(route);
    await host.settled({ [route.dst]: route.gateway });
    expect(kernel.counters.batches).toBe(batches);
    expect(host.own).toHaveLength(1);
    host.remove(route.dst);
    await clock.advance(100);
    expect(host.own).toEqual([]);
    // Later, another daemon with our protocol may have a route there.
    kernel.addRoute({ ...route, gateway: '10.211.55.9' });
    await clock.advance(60_000);
    expect(host.own).toHaveLength(1);
  });
});

describe('a foreign route with a peer’s destination', () => {
  it('is replaced three times a minute, then left with an alarm, and replaced again later', async () => {
    host = new ReconcilerHost();
    await host.settled(peers);
    const { kernel, clock, eth0 } = host;
    const put = () =>
      kernel.addRoute({ dst: first, gateway: '10.211.55.9', linkIndex: eth0, protocol: 4 }, 'replace');
    for (let i = 0; i < 3; i++) {
      put();
      await clock.advance(2_000);
      expect(host.own).toEqual(meshed);
    }
    put();
    await clock.advance(2_000);
    expect(host.own).toEqual(meshed.slice(1));
    expect(host.state(first)).toContain('keeps adding a unicast route via 10.211.55.9 of protocol 4');
    await clock.advance(70_000);
    expect(host.own).toEqual(meshed);
    expect(host.state(first)).toBe('installed');
  });
});

it('a change beside a route that takes its packets costs no dump (IPv6)', async () => {
  host = new ReconcilerHost({ family: 6 });
  const { kernel, eth0, clock } = host;
  const dst = host.in('172.20.4.0/24');
  kernel.addRoute({ dst, gateway: host.in('10.211.55.101'), linkIndex: eth0, metric: 100 });
  await host.settled(peers);
  await clock.advance(9_500);
  const { dumps } = kernel.counters;
  for (const peer of [104, 105, 106, 107]) {
    host.put('172.20.4.0/24', `10.211.55.${peer}`);
    await clock.advance(1_100);
    expect(host.own).toContain(`${dst} via ${host.in(`10.211.55.${peer}`)}`);
  }
  const [fault] = ownFaults(host.reconciler.status());
  expect(fault?.text).toContain('takes its packets');
  expect(kernel.counters.dumps - dumps).toBeLessThanOrEqual(3);
});

describe('a lease that goes while its route cannot be programmed', () => {
  it.each(['by itself', 'with everything else listed again'])('is forgotten, %s', async (how) => {
    host = new ReconcilerHost();
    const far = '172.20.9.0/24';
    await host.settled(peers);
    host.put(far, '192.0.2.9');
    await host.clock.advance(1_000);
    expect(peerFaults(host.reconciler.status())).toMatchObject([{ text: expect.stringContaining(far) }]);
    const since = () => host.reconciler.status().peers.find(({ dst }) => dst === far)?.sinceMs ?? 0;
    const before = since();
    if (how === 'by itself') host.remove(far);
    else host.snapshot(peers);
    await host.clock.advance(1_000);
    expect(peerFaults(host.reconciler.status())).toEqual([]);
    host.put(far, '192.0.2.9');
    await host.clock.advance(1_000);
    expect(since()).toBeGreaterThan(before);
  });
});

describe('many', () => {
  it('leases and a storm of foreign routes lose nothing', async () => {
    host = new ReconcilerHost();
    const { kernel, clock, eth0 } = host;
    kernel.addAddress('eth0', '10.100.0.1/16');
    const leases = Array.from({ length: 10_000 }, (_, i) => {
      return [`11.${i >> 8}.${i & 255}.0/24`, `10.100.${1 + (i >> 8)}.${i & 255}`] as const;
    }).filter(([, gateway]) => !gateway.endsWith('.255.255'));
    await host.settled(Object.fromEntries(leases));
    expect(host.own).toHaveLength(leases.length);
    expect(kernel.counters.batches).toBe(1);
    const { dumps } = kernel.counters;
    for (let i = 0; i < 10_000; i++) {
      const dst = `12.${i >> 8}.${i & 255}.0/24`;
      kernel.addRoute({ dst, gateway: '10.211.55.9', linkIndex: eth0, protocol: 4 });
      if (i === 5_000) kernel.deleteRoute({ dst: '11.3.3.0/24' });
    }
    host.put('172.20.1.0/24', '10.211.55.101');
    await clock.advance(250);
    expect(host.own).toHaveLength(leases.length + 1);
    expect(kernel.counters.dumps).toBe(dumps);
    expect(kernel.routes(4).filter((route) => route.protocol === 4)).toHaveLength(10_000);
    // More than the event buffer holds: everything is looked at again.
    for (let i = 0; i < 10_000; i++) {
      const dst = `12.${i >> 8}.${i & 255}.0/24`;
      kernel.deleteRoute({ dst });
      kernel.addRoute({ dst, gateway: '10.211.55.8', linkIndex: eth0, protocol: 4 });
      if (i % 1_000 === 0) kernel.deleteRoute({ dst: `11.${i >> 8}.${i & 255}.0/24` });
    }
    await clock.advance(250);
    expect(host.own).toHaveLength(leases.length + 1);
  }, 30_000);
});
