import { beforeAll, describe, expect, it } from 'vitest';
import { type ClusterHost, CONFIG, PREFIX } from '../testbed/cluster.ts';
import { addContainer, type NamespaceContainer } from '../testbed/container-namespace.ts';
import { DaemonProcess, OUR_PROTOCOL } from '../testbed/daemon.ts';
import { untilLines } from '../testbed/netns.ts';
import { lostWhile, type Way } from '../testbed/ping.ts';
import { runProgram } from './program.ts';
import { useCluster, useRoutes } from './use-cluster.ts';

const SUBNETS = `${PREFIX}/subnets/`;
const dual = { ...CONFIG, EnableIPv6: true, IPv6Network: 'fd20::/48' };
const onlyIPv6 = { ...dual, EnableIPv4: false };
/** What a repair may take on a loaded machine; the periodic check comes every 9 to 11 s. */
const SOON_MS = 1_000;

/**
 * The network is turned from IPv4 to both families and to IPv6 alone while hosts run: a daemon applies the configuration at
 * its start, so that hosts of all three kinds are in one cluster. The tests are steps, in this order.
 */
describe('hosts with IPv4, with IPv6 and with both', () => {
  const cluster = useCluster({ hosts: 4, ipv6: true, flags: ['--iface=eth0', '--ip-blackhole-route'] });
  const routes = useRoutes(cluster);
  let both: readonly [ClusterHost, ClusterHost];
  let only4: ClusterHost;
  let only6: ClusterHost;
  const containers = new Map<ClusterHost, NamespaceContainer>();

  beforeAll(async () => {
    both = [cluster.at(0), cluster.at(1)];
    [only4, only6] = [cluster.at(2), cluster.at(3)];
    await Promise.all([...both, only4].map(({ daemon }) => daemon.start()));
  });

  const address6 = (host: ClusterHost) => host.net.addresses[1]?.split('/')[0] ?? '';
  const gatewaysOf = ({ daemon }: ClusterHost) => {
    const env = daemon.subnetEnv();
    return [env['FLANNEL_SUBNET'], env['FLANNEL_IPV6_SUBNET']].filter((gateway) => gateway !== undefined);
  };
  /** `172.20.9.1/24` → `172.20.9.0/24`, `fd20:0:0:5::1/64` → `fd20:0:0:5::/64`. */
  const subnetOf = (gateway: string) => gateway.replace('.1/', '.0/').replace('::1/', '::/');
  const subnet4 = (host: ClusterHost) => subnetOf(gatewaysOf(host).find((text) => !text.includes(':')) ?? '');
  const subnet6 = (host: ClusterHost) => subnetOf(gatewaysOf(host).find((text) => text.includes(':')) ?? '');

  /** Our routes of both families. */
  const ownRoutes = async ({ net }: ClusterHost) => {
    const all = [...(await net.routes(4)), ...(await net.routes(6))];
    const ours = all.filter(({ protocol }) => protocol === OUR_PROTOCOL);
    return ours
      .map(({ dst, gateway, metric }) => `${dst} ${gateway ? `via ${gateway}` : `blackhole ${metric}`}`)
      .toSorted();
  };
  /** Blackholes of anybody. */
  const blackholes = async ({ net }: ClusterHost) => {
    const all = await Promise.all(
      ['-4', '-6'].map((family) => net.ip(`${family} route show type blackhole`)),
    );
    const lines = all.flatMap((text) => text.trim().split('\n')).filter((line) => line !== '');
    return lines
      .map((line) => line.replace(/^blackhole (\S+) .*metric (\d+).*$/, '$1 blackhole $2'))
      .toSorted();
  };
  const expectRoutes = async (host: ClusterHost, expected: readonly string[]) => {
    await untilLines(
      () => ownRoutes(host),
      expected.toSorted(),
      20_000,
      () => host.daemon.process.tail(10),
    );
  };
  const own4 = (host: ClusterHost) => `${subnet4(host)} blackhole 2147483647`;
  const own6 = (host: ClusterHost) => `${subnet6(host)} blackhole 1024`;
  const to4 = (host: ClusterHost) => `${subnet4(host)} via ${host.address}`;
  const to6 = (host: ClusterHost) => `${subnet6(host)} via ${address6(host)}`;

  const container = (host: ClusterHost) => {
    const found = containers.get(host);
    if (found === undefined) throw new Error(`no container on ${host.name}`);
    return found;
  };
  const way = (from: ClusterHost, to: ClusterHost, family: 4 | 6): Way => {
    const target = container(to).addresses.find((address) => address.includes(':') === (family === 6));
    return { where: container(from).where, destination: target ?? '' };
  };

  it('keeps IPv4 subnets and routes when IPv6 is turned on, host by host', async () => {
    const before = both.map(subnet4);
    await cluster.storeConfig(dual);
    await routes.mark();
    for (const { daemon } of both) await daemon.restart();
    expect(both.map(subnet4)).toEqual(before);
    const [one, two] = both;
    await expectRoutes(one, [own4(one), own6(one), to4(two), to4(only4), to6(two)]);
    await expectRoutes(two, [own4(two), own6(two), to4(one), to4(only4), to6(one)]);
    await expectRoutes(only4, [own4(only4), to4(one), to4(two)]);
    expect(await routes.deletions()).toEqual([]);
  });

  it('routes a host with IPv6 alone where there is IPv6, and disturbs nobody', async () => {
    await cluster.storeConfig(onlyIPv6);
    await only6.daemon.start();
    const [one, two] = both;
    await expectRoutes(one, [own4(one), own6(one), to4(two), to4(only4), to6(two), to6(only6)]);
    await expectRoutes(two, [own4(two), own6(two), to4(one), to4(only4), to6(one), to6(only6)]);
    await expectRoutes(only4, [own4(only4), to4(one), to4(two)]);
    await expectRoutes(only6, [own6(only6), to6(one), to6(two)]);
    expect(await routes.deletions()).toEqual([]);
    const refused = cluster.hosts
      .flatMap(({ daemon }) => daemon.logs)
      .filter(({ msg }) => String(msg).includes('not routed'));
    expect(refused).toEqual([]);
  });

  it('sends nothing for its own subnet anywhere while there is no bridge', async () => {
    for (const gateway of gatewaysOf(both[0])) {
      const target = gateway.split('/')[0] ?? '';
      await expect(both[0].net.ip(`route get ${target}`)).rejects.toThrow(/Invalid argument|unreachable/i);
    }
  });

  it('lets containers of both families reach each other, with docker0 in front of the blackholes', async () => {
    for (const host of cluster.hosts) {
      const added = await addContainer(host.net, ...gatewaysOf(host));
      cluster.onClose(() => added.close());
      containers.set(host, added);
    }
    const [one, two] = both;
    const ways = [way(one, two, 4), way(one, two, 6), way(one, only4, 4), way(only6, one, 6)];
    expect(await lostWhile(ways, async () => {})).toEqual([]);
  });

  it('puts routes and blackholes back that are removed, and keeps a ping alive while a route is replaced', async () => {
    const [one, two] = both;
    const expected = await ownRoutes(one);
    // While two gateways are there, the kernel may send a packet to the wrong one; the way is whole again at the end.
    await lostWhile([way(one, two, 6)], async () => {
      await one.net.ip(`-6 route append ${to6(two).replace(address6(two), address6(only6))} dev eth0`);
      await expectRoutes(one, expected);
      await one.net.ip(`route del blackhole ${subnet4(one)}`);
      await one.net.ip(`-6 route del blackhole ${subnet6(one)} dev lo`);
      await one.net.ip(`-6 route del ${to6(only6)}`);
      await expectRoutes(one, expected);
    });
  });

  it('has its IPv6 routes back at once when the addresses are back that the link took along', async () => {
    const [one, two] = both;
    const expected = await ownRoutes(two);
    const monitor = await two.net.monitor();
    try {
      for (let round = 0; round < 3; round++) {
        await two.net.linkDown();
        await two.net.linkUp();
        await expectRoutes(two, [own4(two), own6(two), to4(one), to4(only4)]);
        const mark = await monitor.mark();
        await two.net.setAddresses([two.net.addresses[1] ?? '']);
        const set = await monitor.waitFor(new RegExp(`^\\[ADDR\\].*${address6(two)}/64`), mark);
        const back = await Promise.all(
          [to6(one), to6(only6)].map((route) =>
            monitor.waitFor(
              new RegExp(`^\\[ROUTE\\](?:replace )?${route} dev eth0 proto ${OUR_PROTOCOL}\\b`),
              mark,
            ),
          ),
        );
        expect(Math.max(...back.map(({ atMs }) => atMs)) - set.atMs).toBeLessThan(SOON_MS);
        await expectRoutes(two, expected);
      }
    } finally {
      await monitor.stop();
    }
    await lostWhile([way(two, one, 6)], async () => {});
  });

  it.each([
    ['a route to a part of it', (dst: string) => [`route add blackhole ${dst.replace('::/64', '::77/128')}`]],
    [
      'a route to a part of it by another gateway',
      (dst: string) => [`route add ${dst.replace('/64', '/65')} via ${address6(only4)} dev eth0`],
    ],
    [
      'a policy rule',
      (dst: string) => [
        `route add ${dst} via ${address6(only4)} dev eth0 table 99`,
        `rule add to ${dst} lookup 99 pref 1000`,
      ],
    ],
    ['a policy rule that refuses', (dst: string) => [`rule add to ${dst} prohibit pref 1001`]],
  ])('doctor sees that IPv6 packets are taken away by %s, and its command mends that', async (_, steal) => {
    const [host, peer] = both;
    const argv = ['doctor', '--iface=eth0', '--ip-blackhole-route'];
    const doctor = () => runProgram({ ...host.daemon.options, argv });
    for (const command of steal(subnet6(peer))) await host.net.ip(`-6 ${command}`);
    const { code, stdout } = await doctor();
    const text = stdout.join('\n');
    expect(text).toMatch(/PROBLEM +packets to fd20:\S+ bypass our route: /);
    expect(text).toContain(`packets to ${subnet6(peer)} bypass our route: `);
    expect(code).toBe(1);
    const mend = /→ (ip -6 (?:route|rule) del .*)$/m.exec(text)?.[1] ?? '';
    await host.net.exec('sh', '-c', mend);
    expect((await doctor()).stdout.join('\n')).not.toMatch(/bypass our route/);
    await host.net.exec('sh', '-c', 'ip -6 route flush table 99 || :');
  });

  it('leaves all of it when the daemons stop', async () => {
    const before = await Promise.all(cluster.hosts.map(ownRoutes));
    await Promise.all(cluster.hosts.map(({ daemon }) => daemon.stop()));
    expect(await Promise.all(cluster.hosts.map(ownRoutes))).toEqual(before);
  });

  it('gives back the lease of a host with IPv6 alone, and no other', async () => {
    const keys = async () => (await cluster.etcd.ctl('get', '--prefix', '--keys-only', SUBNETS)).split(/\n+/);
    const before = await keys();
    const own = before.filter((key) => key.endsWith(`&${subnet6(only6).replace('/', '-')}`));
    expect(own).toHaveLength(1);
    const { namespace, dir, env = {} } = only6.daemon.options;
    const place = { dir, ...(namespace !== undefined && { namespace }) };
    const argv = ['lease', 'release', '--iface=eth0'];
    const { code, stderr } = await runProgram({ ...place, env, argv });
    expect({ code, stderr }).toEqual({ code: 0, stderr: [] });
    expect(await keys()).toEqual(before.filter((key) => key !== own[0]));
  });

  it('takes away the blackhole of flanneld that came before docker0, and adopts the one of IPv6', async () => {
    const [one, two] = both;
    await one.net.linkDown('docker0');
    await one.net.ip(`route add blackhole ${subnet4(one)}`);
    await one.net.ip(`-6 route del blackhole ${subnet6(one)} dev lo`);
    await one.net.ip(`-6 route add blackhole ${subnet6(one)} dev lo metric 1024`);
    await one.net.linkUp('docker0');
    await one.net.setAddresses(gatewaysOf(one).slice(1), 'docker0');
    // That is what it does: containers get nothing.
    await expect(one.net.ip(`route get ${container(one).address}`)).rejects.toThrow(/Invalid argument/);
    await cluster.storeConfig(dual);
    await Promise.all(both.map(({ daemon }) => daemon.start()));
    expect(await blackholes(one)).toEqual([own4(one), own6(one)]);
    await lostWhile([way(two, one, 4)], async () => {});
  });

  it('leaves no blackhole when that is not asked for any more', async () => {
    const [one] = both;
    await one.daemon.stop();
    await one.net.ip(`-6 route change blackhole ${subnet6(one)} dev lo metric 1024 proto boot`);
    const plain = new DaemonProcess({ ...one.daemon.options, flags: ['--iface=eth0'] });
    try {
      await plain.start();
      expect(await blackholes(one)).toEqual([]);
    } finally {
      await plain.close();
    }
  });
});
