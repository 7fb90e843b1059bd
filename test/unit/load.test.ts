import { describe, expect, it, onTestFinished } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimCluster } from '../../sim/cluster.ts';
import { type Calls, callKinds } from '../../sim/etcd-member.ts';
import type { SimHost } from '../../sim/host.ts';
import { type LoadOptions, LoadWorld } from '../../sim/load/load-world.ts';
import { type Figures, LoadMeter } from '../../sim/load/meter.ts';
import { restart } from '../../sim/load/scenarios.ts';
import { Rotation } from '../../src/subnet/registry/rotation.ts';

const minuteMs = 60_000;
const hosts = 60;
/** Beside the hosts' own addresses. */
const config = '{"Network":"172.16.0.0/12","Backend":{"Type":"host-gw"}}';

/** What a simulation of either kind can be put through. */
interface Life {
  readonly calls: () => Calls;
  readonly startAll: () => Promise<void>;
  readonly pass: (ms: number) => Promise<void>;
  readonly restartAll: () => Promise<void>;
  readonly cutPower: () => Promise<void>;
  readonly restartEtcd: () => Promise<void>;
}

/** Whole hosts, with kernel, routes and firewall, each of which remembers all leases. */
function wholeHosts(): Life {
  const cluster = new SimCluster({ seed: 1, hosts, config, etcd: { latencyMs: 1 } });
  const { clock, etcd } = cluster;
  const loops = new Map<SimHost, AbortController>();
  const start = (host: SimHost) => {
    const loop = new AbortController();
    loops.set(host, loop);
    host.start({}, (parts) => {
      // What the process does beside the daemon.
      if (!(parts.registry instanceof Rotation)) throw new Error('the registry is no rotation');
      parts.registry.run(parts.clock, loop.signal).catch(() => undefined);
      return parts;
    });
  };
  const stop = async (host: SimHost) => {
    loops.get(host)?.abort(new Error('stopped'));
    await host.stop();
  };
  const isUp = () => cluster.meshed && cluster.hosts.every(({ running }) => running);
  const untilUp = () => clock.until('full mesh', isUp, 2 * minuteMs);
  const startAll = async () => {
    for (const host of cluster.hosts) start(host);
    await untilUp();
  };
  onTestFinished(async () => {
    for (const host of cluster.hosts) await stop(host);
    await cluster.close();
  });
  return {
    calls: () => ({ ...etcd.calls }),
    startAll,
    pass: (ms) => clock.advance(ms),
    restartAll: async () => {
      for (const host of cluster.hosts) await stop(host);
      await startAll();
    },
    cutPower: async () => {
      for (const host of cluster.hosts) {
        await stop(host);
        host.reboot();
      }
      await startAll();
    },
    restartEtcd: async () => {
      for (const member of etcd.members) etcd.stop(member);
      await clock.advance(2_000);
      for (const member of etcd.members) etcd.start(member);
      await clock.advance(minuteMs + 5_000);
    },
  };
}

function makeWorld(options: LoadOptions): LoadWorld {
  const world = new LoadWorld(options);
  onTestFinished(() => world.close());
  return world;
}

function loadHosts(): Life {
  const world = makeWorld({ hosts, latencyMs: 1 });
  const { clock, etcd } = world;
  return {
    calls: () => ({ ...etcd.calls }),
    startAll: async () => {
      await restart(world.hosts);
      await world.untilUp();
    },
    pass: (ms) => clock.advance(ms),
    restartAll: async () => {
      await restart(world.hosts);
      await world.untilUp();
    },
    cutPower: async () => {
      for (const host of world.hosts) await host.cutPower();
      await restart(world.hosts);
      await world.untilUp();
    },
    restartEtcd: async () => {
      for (const member of etcd.members) etcd.stop(member);
      await clock.advance(2_000);
      for (const member of etcd.members) etcd.start(member);
      await clock.advance(minuteMs + 5_000);
    },
  };
}

const events: Readonly<Record<string, (life: Life) => Promise<void>>> = {
  'the first start of all': (life) => life.startAll(),
  'two minutes at rest': (life) => life.pass(2 * minuteMs),
  'a restart of all': (life) => life.restartAll(),
  'a power cut': (life) => life.cutPower(),
  'a restart of etcd': (life) => life.restartEtcd(),
};

async function callsOf(life: Life): Promise<Readonly<Record<string, Calls>>> {
  const all: Record<string, Calls> = {};
  for (const [name, happen] of Object.entries(events)) {
    const before = life.calls();
    await happen(life);
    const after = life.calls();
    all[name] = { ...after };
    for (const kind of callKinds) all[name][kind] = after[kind] - before[kind];
  }
  return all;
}

const total = (calls: Calls) => callKinds.reduce((sum, kind) => sum + calls[kind], 0);

const differsBy = (found: number, expected: number) => Math.abs(found / expected - 1);

it('hosts that do nothing but ask etcd make the calls of whole hosts, within 5 %', async () => {
  const [whole, load] = [await callsOf(wholeHosts()), await callsOf(loadHosts())];
  for (const name of Object.keys(events)) {
    const [expected, found] = [whole[name], load[name]];
    if (expected === undefined || found === undefined) throw new Error(name);
    expect(differsBy(total(found), total(expected)), name).toBeLessThan(0.05);
    for (const kind of callKinds) {
      const few = Math.max(0.05 * expected[kind], 0.05 * hosts);
      expect(Math.abs(found[kind] - expected[kind]), `${name}: ${kind}`).toBeLessThanOrEqual(few);
    }
  }
}, 120_000);

/** Half an hour in which so many hosts of 64 come. */
async function halfAnHour(sample: number): Promise<Figures> {
  const world = makeWorld({ hosts: 64, sample });
  world.leaseToAll();
  await world.startWithin([...world.hosts], minuteMs);
  await world.untilUp();
  return await world.during(async () => {
    for (let come = 0; come < sample / 4; come++) {
      await world.clock.advance(minuteMs);
      world.addHost(1_000 + come).start();
    }
    await world.clock.advance(30 * minuteMs - (sample / 4) * minuteMs);
  });
}

describe('a sample of hosts', () => {
  it('stands for all: the sums agree within 5 %', async () => {
    const [all, some] = [await halfAnHour(64), await halfAnHour(16)];
    expect(differsBy(some.calls.sum, all.calls.sum)).toBeLessThan(0.05);
    expect(differsBy(some.receivedBytes.sum, all.receivedBytes.sum)).toBeLessThan(0.05);
    expect(differsBy(some.events.sum, all.events.sum)).toBeLessThan(0.15);
    expect(some.byKind.leaseGrant).toBe(16);
    expect(all.byKind.leaseGrant).toBe(16);
  });

  it('has no peaks that all have not', async () => {
    const peaks: number[] = [];
    for (const sample of [300, 60]) {
      const world = makeWorld({ hosts: 300, sample });
      world.leaseToAll();
      await world.startWithin([...world.hosts], minuteMs);
      await world.untilUp();
      const { calls } = await world.during(() => world.clock.advance(3 * minuteMs));
      expect(calls.sum).toBe(900);
      peaks.push(calls.peak);
    }
    const [all = 0, some = 0] = peaks;
    expect(differsBy(some, all)).toBeLessThan(0.4);
  });
});

describe('the meter', () => {
  it('counts the calls that etcd gets', async () => {
    const world = makeWorld({ hosts: 20 });
    world.meter.begin();
    await restart(world.hosts);
    await world.untilUp();
    await world.clock.advance(10 * minuteMs);
    expect(world.meter.end().byKind).toEqual(world.etcd.calls);
  });

  it('finds the busiest second, and counts what is delayed beyond the end as if time went round', async () => {
    const clock = new VirtualClock();
    const meter = new LoadMeter(clock);
    meter.begin();
    meter.add({ call: 'range', sentBytes: 10 }, [0]);
    await clock.advance(2_500);
    meter.add({ call: 'txn', sentBytes: 100 }, [0, 100, 1_000]);
    await clock.advance(500);
    const { seconds, calls, sentBytes, byKind } = meter.end();
    expect({ seconds, calls, sentBytes }).toEqual({
      seconds: 3,
      calls: { sum: 4, peak: 2 },
      sentBytes: { sum: 310, peak: 200 },
    });
    expect(byKind).toMatchObject({ range: 1, txn: 3, watch: 0 });
  });
});
