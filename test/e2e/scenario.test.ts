import { readFileSync, statSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { gatewayOf, routesTo, storedLease, subnetOf, untilOwnRoutes } from '../integration/route-watch.ts';
import {
  type Cluster,
  type ClusterHost,
  CONFIG,
  type Container,
  makeHosts,
  PREFIX,
} from '../testbed/cluster.ts';
import { leaseKey } from '../testbed/lease-keys.ts';
import { lostWhile } from '../testbed/ping.ts';

/** Every ordered pair of different elements. */
function pairs<T>(elements: readonly T[]): readonly (readonly [T, T])[] {
  return elements.flatMap((from) => elements.filter((to) => to !== from).map((to) => [from, to] as const));
}

/** Every IPv4 route of the host, the local table's too. */
async function allRoutes(host: ClusterHost): Promise<readonly string[]> {
  return (await host.net.ip('-4 -N route show table all'))
    .trim()
    .split('\n')
    .map((line) => line.trim());
}

// One scenario told in steps: each stands on the one before it.
describe('three hosts with etcd, the daemon and Docker', () => {
  let cluster: Cluster;
  let hosts: readonly ClusterHost[];
  let containers: readonly Container[] = [];
  let routesBefore: readonly (readonly string[])[] = [];

  beforeAll(async () => {
    cluster = await makeHosts({ endpoints: 'own' });
    hosts = cluster.hosts;
    routesBefore = await Promise.all(hosts.map(allRoutes));
  });

  afterAll(async () => {
    await cluster?.close();
  });

  it('1. prepares hosts that forward packets, each at its address', async () => {
    expect(hosts.map(({ name, address }) => [name, address])).toEqual([
      ['master', '10.211.55.100'],
      ['node-1', '10.211.55.101'],
      ['node-2', '10.211.55.102'],
    ]);
    for (const host of hosts) {
      expect(await host.net.exec('cat', '/proc/sys/net/ipv4/ip_forward')).toBe('1\n');
    }
  });

  it('2. starts an etcd cluster of three healthy members, one per host', async () => {
    const etcd = await cluster.startEtcd();
    const members = (await etcd.ctl('member', 'list')).trim().split('\n');
    expect(members).toHaveLength(3);
    for (const { address } of hosts) {
      expect(
        members.filter((line) => line.includes(`http://${address}:2379`) && line.includes('started')),
      ).toHaveLength(1);
    }
    for (const host of hosts) {
      const argv = ['etcdctl', '--endpoints=http://127.0.0.1:2379', 'endpoint', 'health'];
      const health = await host.net.exec('sh', '-c', `ETCDCTL_API=3 ${argv.join(' ')} 2>&1`);
      expect(health).toContain('http://127.0.0.1:2379 is healthy');
    }
  });

  it('3. and 5. starts daemons that wait for the configuration and say where they look for it', async () => {
    for (const { daemon } of hosts) daemon.launch();
    for (const { daemon } of hosts) {
      const waiting = await daemon.waitForLog((record) => String(record.msg).includes(`${PREFIX}/config`));
      expect(waiting.level).not.toBe('info');
      expect(daemon.running).toBe(true);
    }
  });

  it('4. goes on by itself when the operator stores the configuration', async () => {
    await cluster.storeConfig(CONFIG);
    for (const { daemon } of hosts) expect((await daemon.ready()).event).toBe('ready');
  });

  it('6. leases each host a /24 of its own and writes subnet.env', async () => {
    for (const host of hosts) {
      const third = Number(/^172\.20\.(\d+)\.1\/24$/.exec(gatewayOf(host))?.[1]);
      expect(third).toBeGreaterThanOrEqual(10);
      expect(third).toBeLessThanOrEqual(254);
      const expected = [
        'FLANNEL_NETWORK=172.20.0.0/16',
        `FLANNEL_SUBNET=172.20.${third}.1/24`,
        'FLANNEL_MTU=1500',
        'FLANNEL_IPMASQ=false',
      ];
      expect(readFileSync(host.daemon.subnetFile, 'utf8')).toBe(`${expected.join('\n')}\n`);
      expect(statSync(host.daemon.subnetFile).mode & 0o777).toBe(0o644);
    }
    expect(new Set(hosts.map(subnetOf)).size).toBe(3);

    for (const host of hosts) {
      const { key, value, leaseId } = await storedLease(cluster, host);
      expect(key).toBe(leaseKey(subnetOf(host)));
      expect(value).toBe(`{"PublicIP":"${host.address}","PublicIPv6":null,"BackendType":"host-gw"}`);
      expect(leaseId).not.toMatch(/^0+$/);
    }
  });

  it("7. makes docker_opts.env, the daemon's own and mk-docker-opts.sh's being the same", async () => {
    const expected = hosts.map(
      (host) => `DOCKER_OPTS=" --bip=${gatewayOf(host)} --ip-masq=true --mtu=1500"\n`,
    );
    const read = () => hosts.map(({ daemon }) => readFileSync(daemon.dockerOptsFile, 'utf8'));
    expect(read()).toEqual(expected);
    await cluster.writeDockerOptions();
    expect(read()).toEqual(expected);
  });

  it('8. gives docker0 the leased address', async () => {
    await cluster.startDocker();
    for (const host of hosts) {
      expect(await host.net.ip('-4 -oneline addr show docker0')).toMatch(
        new RegExp(`inet ${gatewayOf(host).replaceAll('.', '\\.')} .*scope global docker0`),
      );
    }
  });

  it('9. has one static route per peer on each host, and no other change', async () => {
    for (const [index, host] of hosts.entries()) {
      await untilOwnRoutes(host, routesTo(host, hosts));
      const others = (await allRoutes(host)).filter(
        (line) => !line.includes('dev docker0') && !line.includes('proto 102'),
      );
      expect(others).toEqual(routesBefore[index]);
    }
  });

  it("10. gives each container an address of its host's subnet", async () => {
    containers = await cluster.startContainers();
    for (const { host, address } of containers) expect(address).toBe(gatewayOf(host).replace(/1\/24$/, '2'));
  });

  it('11. lets every container ping every other one over two hops, without a tunnel', async () => {
    const seen: string[] = [];
    for (const [from, to] of pairs(containers)) {
      const output = await from.docker.exec(from.name, 'ping', '-c', '1', '-W', '5', to.address);
      expect(output).toMatch(
        new RegExp(`^64 bytes from ${to.address.replaceAll('.', '\\.')}: seq=0 ttl=62 `, 'm'),
      );
      seen.push(output);
    }
    expect(seen).toHaveLength(6);
  });

  it('keeps the containers talking, with the same subnets, while every daemon is killed or stopped and started again', async () => {
    const before = hosts.map(subnetOf);
    const [a, b] = containers;
    if (a === undefined || b === undefined) throw new Error('no containers');
    const where = await a.docker.inNetworkOf(a.name);
    const lost = await lostWhile([{ where, destination: b.address }], async () => {
      for (const { daemon } of hosts) {
        await daemon.restart('SIGKILL');
        await daemon.restart('SIGTERM');
      }
    });
    expect(lost).toEqual([]);
    expect(hosts.map(subnetOf)).toEqual(before);
  });
});
