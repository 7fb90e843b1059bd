import { describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { prefix, type SimCluster } from '../../sim/cluster.ts';
import { SimLog } from '../../sim/log.ts';
import { ownFaults, type PeerRoute, peerFaults } from '../../src/backend/hostgw/status.ts';
import { EtcdCalls } from '../../src/daemon/etcd-members.ts';
import { daemonMetrics } from '../../src/daemon/report/metrics.ts';
import { State } from '../../src/daemon/state.ts';
import { Activity } from '../../src/runtime/activity.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { makeCluster } from './sim-worlds.ts';

type DaemonMetrics = ReturnType<typeof daemonMetrics>;

type Kind = 'trouble' | 'notices';

let cluster: SimCluster;

/** A cluster at work, and the metrics of its first host. */
async function setup(hosts: number) {
  cluster = await makeCluster({ seed: 5, hosts }).start();
  const host = cluster.host(0);
  if (host.state === undefined) throw new Error('no daemon');
  const calls = new EtcdCalls();
  const metrics = daemonMetrics(host.state, calls);
  return { cluster, host, calls, metrics, read: () => read(metrics) };
}

/** The samples by series as written: `flannel_routes{family="ipv4",state="installed"}`. */
async function read(metrics: DaemonMetrics): Promise<Readonly<Record<string, number>>> {
  const lines = (await metrics.render()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const samples = lines.map((line): [string, number] => {
    const [, series = '', value = ''] = /^(.*) (\S+)$/.exec(line) ?? [];
    return [series, value === '+Inf' ? Number.POSITIVE_INFINITY : Number(value)];
  });
  return Object.fromEntries(samples);
}

/** The series of one name, with their values, as lines. */
async function seriesOf(metrics: DaemonMetrics, name: string): Promise<readonly string[]> {
  return (await metrics.render()).split('\n').filter((line) => line.startsWith(`${name}{`));
}

function route(key: string, dst: string, state: PeerRoute['state']): PeerRoute {
  return { key, dst, gateway: '192.0.2.9', state, sinceMs: 0 };
}

/** The metrics of a daemon with these routes. */
function metricsOf(
  peers: readonly PeerRoute[],
  tell?: (logs: Record<Kind, TroubleLog>) => void,
): DaemonMetrics {
  const clock = new VirtualClock();
  const log = new SimLog(clock).of('h0');
  const logs = { trouble: new TroubleLog(clock, log), notices: new TroubleLog(clock, log) };
  tell?.(logs);
  const state = new State({ clock, log, ...logs, activity: new Activity(clock) });
  const counts = { peers: peers.length, routed: peers.filter((one) => one.state === 'installed').length };
  const status = { counts, peers, refused: [], outside: [] };
  const view = { ...status, watching: true, leases: 0, junk: { count: 0, first: [] } };
  const faults = () => ({ reasons: ownFaults(status), degraded: peerFaults(status), notices: [] });
  state.noteReady();
  state.follow({ faults, summary: undefined, view: () => view });
  state.logFaults();
  return daemonMetrics(state, new EtcdCalls());
}

const putPeer = ({ etcd }: SimCluster, subnet: string, address: string) =>
  etcd.put(
    `${prefix}/subnets/${subnet}`,
    JSON.stringify({ PublicIP: address, PublicIPv6: null, BackendType: 'host-gw' }),
  );

describe('metrics', () => {
  it('show a host that works', async () => {
    const { cluster: world, read: now } = await setup(3);
    await world.clock.advance(3_600_000);
    const metric = await now();
    expect(metric).toMatchObject({
      flannel_ready: 1,
      flannel_troubles: 0,
      flannel_leases: 3,
      flannel_lease_watch_up: 1,
      'flannel_peers{state="installed"}': 2,
      'flannel_peers{state="parked"}': 0,
      'flannel_routes{family="ipv4",state="installed"}': 2,
      'flannel_routes{family="ipv6",state="installed"}': 0,
      'flannel_own_lease{state="held"}': 1,
      'flannel_own_lease{state="lost"}': 0,
      'flannel_route_changes_total{cause="missing"}': 2,
    });
    const leftS = metric['flannel_own_lease_remaining_seconds'];
    expect(leftS).toBeGreaterThan(86_400 - 3_700);
    expect(leftS).toBeLessThanOrEqual(86_400);
    const syncedS = metric['flannel_last_sync_timestamp_seconds'] ?? 0;
    expect(world.clock.now() / 1000 - syncedS).toBeLessThan(12);
  });

  it('count repairs and junk, and tell the states of routes', async () => {
    const { cluster: world, host, read: now } = await setup(2);
    const { clock, etcd } = world;
    const [ownRoute] = host.ownRoutes;
    host.kernel.deleteRoute({ dst: ownRoute?.split(' ', 1)[0] ?? '' });
    etcd.put(`${prefix}/subnets/junk`, '{}');
    putPeer(world, '172.20.1.0-24', '192.0.2.9');
    putPeer(world, '172.20.2.0-24', host.address);
    await clock.advance(30_000);
    const metric = await now();
    expect(metric).toMatchObject({
      'flannel_route_changes_total{cause="repaired"}': 1,
      flannel_leases_skipped_total: 1,
      flannel_leases: 4,
      flannel_leases_refused: 1,
      'flannel_peers{state="parked"}': 1,
      'flannel_routes{family="ipv4",state="parked"}': 1,
      flannel_ready: 1,
      flannel_degraded: 3,
      flannel_junk_keys: 1,
      flannel_leases_outside_network: 0,
      flannel_notices: 0,
    });
    expect(metric).not.toHaveProperty(['flannel_relists_total{reason="compacted"}']);
  });

  it('count a peer of two families by the worse of its routes', async () => {
    const metric = await read(
      metricsOf([
        route('a', '172.20.1.0/24', 'installed'),
        route('a', 'fc00:1::/64', 'parked'),
        route('b', '172.20.2.0/24', 'pending'),
        route('b', 'fc00:2::/64', 'installed'),
        route('c', '172.20.3.0/24', 'installed'),
        route('c', 'fc00:3::/64', 'installed'),
      ]),
    );
    expect(metric).toMatchObject({
      'flannel_peers{state="installed"}': 1,
      'flannel_peers{state="pending"}': 1,
      'flannel_peers{state="parked"}': 1,
      'flannel_peers{state="conflict"}': 0,
      'flannel_routes{family="ipv4",state="installed"}': 2,
      'flannel_routes{family="ipv6",state="installed"}': 2,
      'flannel_routes{family="ipv6",state="parked"}': 1,
    });
  });

  it('name at most 50 routes that are not installed', async () => {
    const peers = Array.from({ length: 200 }, (_, i) => route(`k${i}`, `172.20.${i}.0/24`, 'parked'));
    const named = (metrics: DaemonMetrics) => seriesOf(metrics, 'flannel_route_problem');
    expect(await named(metricsOf(peers.slice(0, 1)))).toEqual([
      'flannel_route_problem{dst="172.20.0.0/24",gateway="192.0.2.9",state="parked"} 1',
    ]);
    expect(await named(metricsOf(peers))).toHaveLength(50);
    expect(await named(metricsOf([]))).toEqual([]);
  });

  it('name at most 50 troubles that last, this host’s own first', async () => {
    const named = (tell: (logs: Record<Kind, TroubleLog>) => void, known: readonly PeerRoute[] = []) =>
      seriesOf(metricsOf(known, tell), 'flannel_trouble');
    const reason = { text: 'not on link', fault: 'peer' } as const;
    const peer = { ...route('k', '172.20.9.0/24', 'parked'), reason };
    const few = await named(
      ({ trouble, notices }) => {
        for (let i = 0; i < 3; i++) notices.report(`etcd-member http://m${i}:2379`, 'unfit');
        trouble.report('forwarding-ipv4', 'off');
        trouble.report('etcd', 'gone');
        trouble.clear('etcd', 'there');
      },
      [peer],
    );
    expect(few).toEqual([
      'flannel_trouble{what="forwarding-ipv4",kind="own"} 1',
      'flannel_trouble{what="no route: not on link",kind="degraded"} 1',
      'flannel_trouble{what="etcd-member http://m0:2379",kind="notice"} 1',
      'flannel_trouble{what="etcd-member http://m1:2379",kind="notice"} 1',
      'flannel_trouble{what="etcd-member http://m2:2379",kind="notice"} 1',
    ]);
    const many = await named(({ trouble, notices }) => {
      for (let i = 0; i < 200; i++) notices.report(`etcd-member http://m${i}:2379`, 'unfit');
      trouble.report('forwarding-ipv4', 'off');
    });
    expect(many).toHaveLength(50);
    expect(many[0]).toContain('forwarding-ipv4');
    expect(await named(() => {})).toEqual([]);
  });

  it('leave out what is not known, rather than say 0', async () => {
    cluster = makeCluster({ seed: 5, hosts: 1, config: null });
    const [host] = cluster.hosts;
    host?.start();
    await cluster.clock.advance(5_000);
    if (host?.state === undefined) throw new Error('no host');
    const metric = await read(daemonMetrics(host.state, new EtcdCalls()));
    expect(metric).toMatchObject({
      flannel_ready: 0,
      flannel_troubles: 1,
      'flannel_own_lease{state="acquiring"}': 1,
    });
    const unknown = /^flannel_(own_lease_remaining|last_sync_timestamp)_seconds$|^flannel_(leases$|peers{)/;
    expect(Object.keys(metric).filter((name) => unknown.test(name))).toEqual([]);
  });

  it('say that a reservation does not end', async () => {
    const { cluster: world, host, read: now } = await setup(1);
    const key = host.state?.snapshot().lease?.key ?? '';
    putPeer(world, key.replace(`${prefix}/subnets/`, ''), host.address);
    await world.clock.advance(60_000);
    expect((await now())['flannel_own_lease_remaining_seconds']).toBe(Number.POSITIVE_INFINITY);
  });

  it('time calls to etcd, those before the first question too, and count failures by kind', async () => {
    cluster = makeCluster({ seed: 5, hosts: 1 });
    const [host] = cluster.hosts;
    host?.start();
    if (host?.state === undefined) throw new Error('no host');
    const calls = new EtcdCalls();
    const endpoint = 'http://10.0.0.1:2379';
    calls.add({ endpoint, call: 'range', durationMs: 3 });
    const metrics = daemonMetrics(host.state, calls);
    calls.add({ endpoint, call: 'range', durationMs: 5_000, error: 'UNAVAILABLE' });
    calls.add({ endpoint, call: 'watch', error: 'UNAVAILABLE' });
    const metric = await read(metrics);
    const name = 'flannel_etcd_request_duration_seconds';
    expect(metric).toMatchObject({
      [`${name}_bucket{le="0.0025",call="range"}`]: 0,
      [`${name}_bucket{le="0.005",call="range"}`]: 1,
      [`${name}_count{call="range"}`]: 2,
      [`${name}_sum{call="range"}`]: expect.closeTo(5.003),
      [`flannel_etcd_errors_total{endpoint="${endpoint}",call="range",kind="UNAVAILABLE"}`]: 1,
      [`flannel_etcd_errors_total{endpoint="${endpoint}",call="watch",kind="UNAVAILABLE"}`]: 1,
    });
  });

  it('keep the last calls only, while nobody asks', async () => {
    const calls = new EtcdCalls();
    for (let index = 0; index < 5_000; index++)
      calls.add({ endpoint: 'e', call: 'range', durationMs: index });
    const seen: (number | undefined)[] = [];
    calls.handTo(({ durationMs }) => seen.push(durationMs));
    expect([seen.length, seen[0], seen.at(-1)]).toEqual([1_000, 4_000, 4_999]);
  });

  it("tell the process's own figures", async () => {
    const { read: now } = await setup(1);
    const metric = await now();
    expect(metric['process_resident_memory_bytes']).toBeGreaterThan(10e6);
    expect(metric['process_cpu_seconds_total']).toBeGreaterThan(0);
    expect(metric['process_open_fds']).toBeGreaterThan(3);
    expect(metric['process_max_fds']).toBeGreaterThan(100);
    const startedS = metric['process_start_time_seconds'] ?? 0;
    expect(Math.abs(Date.now() / 1000 - process.uptime() - startedS)).toBeLessThan(2);
  });
});
