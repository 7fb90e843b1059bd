import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Cluster, makeHosts, PREFIX } from '../testbed/cluster.ts';
import { addContainer, type NamespaceContainer } from '../testbed/container-namespace.ts';
import { until } from '../testbed/netns.ts';
import { type RunningPing, startPing } from '../testbed/ping.ts';
import { type Flannel, FlannelHost, OURS, THEIRS } from './flannel-process.ts';

const ROUTES_DEADLINE_MS = 15_000;

/**
 * Hosts that run two programs with flanneld's name and keys, and that go from one to the other and back while their
 * containers talk. FLANNELD=/path/to/flanneld names the other program.
 */
describe(`a cluster of hosts with ${OURS.name} and hosts with ${THEIRS.name}`, () => {
  let cluster: Cluster;
  let hosts: readonly FlannelHost[];
  const containers: NamespaceContainer[] = [];

  beforeAll(async () => {
    // vitest shows the name above only when something fails.
    console.log(`interop: ${OURS.name} beside ${THEIRS.name}`);
    cluster = await makeHosts({ hosts: 3 });
    const { endpoints } = await cluster.startEtcd();
    await cluster.storeConfig();
    hosts = cluster.hosts.map((host) => new FlannelHost(host, endpoints));
  });

  afterAll(async () => {
    await Promise.all(containers.map((container) => container.close()));
    await Promise.all((hosts ?? []).map((host) => host.close()));
    await cluster?.close();
  });

  const at = (index: number): FlannelHost => {
    const host = hosts[index];
    if (host === undefined) throw new Error(`there is no host ${index}`);
    return host;
  };
  /** The routes a host has to have: to each peer, and to nobody else. */
  const due = (host: FlannelHost, others: readonly string[] = []) =>
    hosts
      .filter((peer) => peer !== host)
      .map((peer) => `${peer.subnet} via ${peer.host.address} dev eth0`)
      .concat(others)
      .toSorted();
  /** flanneld says READY before it has routes. */
  const expectRoutes = async (others: readonly string[] = []) => {
    for (const host of hosts) {
      let seen: readonly string[] = [];
      const right = async () => {
        seen = await host.routes();
        return seen.join() === due(host, others).join();
      };
      const why = () =>
        `${host.host.name}: ${seen.join(', ')}, not ${due(host, others).join(', ')}\n${host.tail()}`;
      await until(right, ROUTES_DEADLINE_MS, why);
    }
  };
  /** The keys and values under subnets/. */
  const leases = () => cluster.etcd.ctl('get', '--prefix', `${PREFIX}/subnets/`);

  /** Pings between all containers, two by two, while `act` runs; resolves to what was lost. */
  const whilePinging = async (act: () => Promise<void>): Promise<readonly string[]> => {
    const pairs = containers.flatMap((from, index) =>
      containers.slice(index + 1).map((to) => ({ from, to })),
    );
    const pings: RunningPing[] = [];
    try {
      for (const { from, to } of pairs) pings.push(await startPing(from.where, to.address));
      await act();
      const results = await Promise.all(pings.map((ping) => ping.stop()));
      return results.flatMap(({ lost, sent }, index) => {
        const { from, to } = pairs[index] ?? {};
        return lost.map((sequence) => `${from?.name} to ${to?.name}: packet ${sequence} of ${sent}`);
      });
    } finally {
      await Promise.all(pings.map((ping) => ping.close()));
    }
  };

  it('comes up: one subnet each, and a route to every peer', async () => {
    const begin: readonly Flannel[] = [THEIRS, THEIRS, OURS];
    await Promise.all(begin.map((flannel, index) => at(index).start(flannel)));
    expect(new Set(hosts.map(({ subnet }) => subnet)).size).toBe(3);
    await expectRoutes();
    for (const host of hosts) containers.push(await addContainer(host.host.net, host.gateway));
    expect(await whilePinging(async () => {})).toEqual([]);
  });

  // From two to one, through all ours to all theirs, and back: each host goes both ways, beside both kinds of peers.
  it.each([
    { name: 'master', index: 0, way: 'to ours' },
    { name: 'node-1', index: 1, way: 'to ours' },
    { name: 'master', index: 0, way: 'to theirs' },
    { name: 'node-2', index: 2, way: 'to theirs' },
    { name: 'node-1', index: 1, way: 'to theirs' },
    { name: 'node-2', index: 2, way: 'to ours' },
    { name: 'node-1', index: 1, way: 'to ours' },
  ])('$name changes $way, and nobody loses a packet', async ({ index, way }) => {
    const [from, to] = way === 'to ours' ? [THEIRS, OURS] : [OURS, THEIRS];
    const host = at(index);
    const before = { subnet: host.subnet, leases: await leases() };
    expect(host.flannel).toBe(from);
    const lost = await whilePinging(async () => {
      await host.stop();
      await host.start(to);
      await expectRoutes();
    });
    expect(lost).toEqual([]);
    expect({ subnet: host.subnet, leases: await leases() }).toEqual(before);
  });

  it('a peer that joins, moves and leaves is routed to, rerouted and forgotten on every host, also across a change', async () => {
    const key = `${PREFIX}/subnets/172.20.9.0-24`;
    const [, leaseId = ''] =
      /lease (\S+) granted/.exec(await cluster.etcd.ctl('lease', 'grant', '86400')) ?? [];
    const put = async (publicIP: string) => {
      const value = JSON.stringify({ PublicIP: publicIP, PublicIPv6: null, BackendType: 'host-gw' });
      await cluster.etcd.ctl('put', `--lease=${leaseId}`, key, value);
      await expectRoutes([`172.20.9.0/24 via ${publicIP} dev eth0`]);
    };
    await put('10.211.55.240');
    // Each has the other's routes now, and has to deal with them as with its own.
    for (const [index, to] of [
      [0, OURS],
      [1, THEIRS],
    ] as const) {
      await at(index).stop();
      await at(index).start(to);
    }
    await expectRoutes(['172.20.9.0/24 via 10.211.55.240 dev eth0']);
    await put('10.211.55.241');
    await cluster.etcd.ctl('lease', 'revoke', leaseId);
    await expectRoutes();
  });
});
