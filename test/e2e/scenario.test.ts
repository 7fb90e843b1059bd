import { readFileSync, statSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type Cluster,
  type ClusterHost,
  CONFIG,
  type Container,
  makeHosts,
  PREFIX,
} from '../testbed/cluster.ts';
import { until } from '../testbed/netns.ts';
import { startPing } from '../testbed/ping.ts';

/** 172.20.91.0/24 as the daemon wrote it on this host. */
interface Subnet {
  readonly gateway: string;
  readonly text: string;
  /** `172.20.91.` */
  readonly stem: string;
}

function subnetOf(host: ClusterHost): Subnet {
  const gateway = host.daemon.subnetEnv()['FLANNEL_SUBNET'] ?? '';
  const stem = gateway.replace(/1\/24$/, '');
  return { gateway, stem, text: `${stem}0/24` };
}

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
    const subnets = hosts.map(subnetOf);
    for (const [index, host] of hosts.entries()) {
      const third = Number(/^172\.20\.(\d+)\.1\/24$/.exec(subnets[index]?.gateway ?? '')?.[1]);
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
    expect(new Set(subnets.map(({ text }) => text)).size).toBe(3);

    for (const [index, host] of hosts.entries()) {
      const key = `${PREFIX}/subnets/${subnets[index]?.text.replace('/', '-')}`;
      const stored = JSON.parse(await cluster.etcd.ctl('get', '--write-out=json', key)) as {
        kvs: { value: string; lease: number }[];
      };
      const [entry] = stored.kvs;
      expect(Buffer.from(entry?.value ?? '', 'base64').toString()).toBe(
        `{"PublicIP":"${host.address}","PublicIPv6":null,"BackendType":"host-gw"}`,
      );
      expect(entry?.lease).toBeGreaterThan(0);
    }
  });

  it("7. makes docker_opts.env, the daemon's own and mk-docker-opts.sh's being the same", async () => {
    const expected = hosts.map(
      (host) => `DOCKER_OPTS=" --bip=${subnetOf(host).gateway} --ip-masq=true --mtu=1500"\n`,
    );
    const read = () => hosts.map(({ daemon }) => readFileSync(daemon.dockerOptsFile, 'utf8'));
    expect(read()).toEqual(expected);
    await cluster.writeDockerOptions();
    expect(read()).toEqual(expected);
  });

  it('8. gives docker0 the leased address', async () => {
    await cluster.startDocker();
    for (const host of hosts) {
      const { gateway } = subnetOf(host);
      expect(await host.net.ip('-4 -oneline addr show docker0')).toMatch(
        new RegExp(`inet ${gateway.replaceAll('.', '\\.')} .*scope global docker0`),
      );
    }
  });

  it('9. has one static route per peer on each host, and no other change', async () => {
    for (const [index, host] of hosts.entries()) {
      const peers = hosts.filter((other) => other !== host);
      const expected = peers.map((peer) => `${subnetOf(peer).text} ${peer.address} eth0 102`);
      const added = async () => {
        const routes = (await host.net.routes()).filter(({ gateway }) => gateway !== undefined);
        return routes
          .map(({ dst, gateway, dev, protocol }) => `${dst} ${gateway} ${dev} ${protocol}`)
          .toSorted((a, b) => a.localeCompare(b));
      };
      await until(async () => (await added()).length === peers.length, 10_000, `${host.name} lacks routes`);
      expect(await added()).toEqual(expected.toSorted((a, b) => a.localeCompare(b)));

      const others = (await allRoutes(host)).filter(
        (line) => !line.includes('dev docker0') && !line.includes('proto 102'),
      );
      expect(others).toEqual(routesBefore[index]);
    }
  });

  it("10. gives each container an address of its host's subnet", async () => {
    containers = await cluster.startContainers();
    for (const { host, address } of containers) expect(address).toBe(`${subnetOf(host).stem}2`);
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
    const before = hosts.map((host) => subnetOf(host).text);
    const [a, b] = containers;
    if (a === undefined || b === undefined) throw new Error('no containers');
    const ping = await startPing(await a.docker.inNetworkOf(a.name), b.address);
    try {
      for (const { daemon } of hosts) {
        await daemon.restart('SIGKILL');
        await daemon.restart('SIGTERM');
      }
      const { sent, lost } = await ping.stop();
      expect(lost).toEqual([]);
      expect(sent).toBeGreaterThan(50);
    } finally {
      await ping.close();
    }
    expect(hosts.map((host) => subnetOf(host).text)).toEqual(before);
  });
});
