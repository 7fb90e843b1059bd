import { afterEach, describe, expect, it } from 'vitest';
import { prefix, SimCluster, type SimHost } from '../../sim/cluster.ts';

let cluster: SimCluster | undefined;

function start(options: ConstructorParameters<typeof SimCluster>[0]): SimCluster {
  cluster = new SimCluster(options);
  return cluster;
}

afterEach(async () => {
  await cluster?.close();
  // Nothing that was started outlives its daemon: no timer is left on the clock.
  expect(cluster?.clock.pending ?? 0).toBe(0);
  cluster = undefined;
});

async function subnetsOf(hosts: readonly SimHost[]): Promise<string[]> {
  return Promise.all(hosts.map(async (host) => (await host.subnet())?.text ?? 'none'));
}

describe('a three-host cluster in one process', () => {
  it('leases a subnet per host and routes each to both others', async () => {
    const { clock, hosts } = start({ seed: 1, hosts: 3 });
    for (const host of hosts) host.start();
    await clock.until('full mesh', () => cluster?.meshed === true, 60_000);
    const subnets = await subnetsOf(hosts);
    expect(new Set(subnets).size).toBe(3);
    hosts.forEach((host, self) => {
      const expected = hosts.flatMap((peer, i) => (i === self ? [] : [`${subnets[i]} via ${peer.address}`]));
      expect(host.ownRoutes).toEqual(expected.toSorted());
      expect(host.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
    });
  });

  it('takes the same steps on every run of a seed, and others for another seed', async () => {
    const run = async (seed: number) => {
      const { clock, hosts, log } = start({ seed, hosts: 3 });
      for (const host of hosts) host.start();
      await clock.advance(120_000);
      hosts[1]?.kernel.setLinkUp('eth0', false);
      await clock.advance(5_000);
      hosts[1]?.kernel.setLinkUp('eth0', true);
      await clock.advance(60_000);
      await cluster?.close();
      return log.toString();
    };
    const first = await run(7);
    expect(first).toContain('ready: subnet');
    expect(await run(7)).toBe(first);
    expect(await run(8)).not.toBe(first);
  });

  it('says that the network configuration was edited, goes on with the old one, and applies the new one at the next start', async () => {
    const { clock, hosts, etcd } = start({ seed: 4, hosts: 2 });
    for (const host of hosts) host.start();
    await clock.until('full mesh', () => cluster?.meshed === true, 60_000);
    const before = await subnetsOf(hosts);
    etcd.put(`${prefix}/config`, '{"Network":"10.99.0.0/16","Backend":{"Type":"host-gw"}}');
    await clock.advance(60_000);
    for (const host of hosts) {
      expect(host.readiness).toMatchObject({ ready: true, reasons: [] });
      expect(host.readiness.notices.join()).toMatch(
        /Network .* → 10\.99\.0\.0\/16.*restart the daemon to apply it/,
      );
    }
    expect(await subnetsOf(hosts)).toEqual(before);
    expect(cluster?.meshed).toBe(true);
    for (const host of hosts) {
      await host.stop();
      host.start();
    }
    await clock.until('new subnets', () => hosts.every((host) => host.readiness.ready), 60_000);
    expect((await subnetsOf(hosts)).every((text) => text.startsWith('10.99.'))).toBe(true);
    expect(hosts.flatMap((host) => host.readiness.notices)).toEqual([]);
  });

  it('takes a configuration that is mended while there is no subnet to be had', async () => {
    const { clock, hosts, etcd } = start({
      seed: 5,
      hosts: 3,
      config: '{"Network":"10.5.0.0/16","SubnetMax":"10.5.2.0","Backend":{"Type":"host-gw"}}',
    });
    for (const host of hosts) host.start();
    const waiting = () => hosts.filter((host) => !host.readiness.ready);
    await clock.until('two are served', () => waiting().length === 1, 60_000);
    await clock.until(
      'one waits',
      () => waiting()[0]?.readiness.reasons.join().includes('no free subnet') ?? false,
    );
    const [last] = waiting();
    etcd.put(`${prefix}/config`, '{"Network":"10.5.0.0/16","EnableIPv6":true,"Backend":{"Type":"host-gw"}}');
    await clock.until(
      'told why not',
      () => last?.readiness.reasons.join().includes('IPv6Network is missing') ?? false,
    );
    etcd.put(`${prefix}/config`, '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}');
    await clock.until('all are served', () => waiting().length === 0, 60_000);
    expect(await last?.subnet()).toMatchObject({ length: 24 });
    expect(last?.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
    expect(hosts.filter((host) => host.readiness.notices.length === 1)).toHaveLength(2);
    expect(etcd.leaseIds).toHaveLength(3);
  });

  it('makes at most 8 etcd calls to start and one for each endpoint, however many peers there are', async () => {
    const { clock, hosts, etcd } = start({ seed: 2, hosts: 1 });
    for (let i = 0; i < 200; i++) {
      etcd.put(
        `${prefix}/subnets/172.20.${20 + i}.0-24`,
        `{"PublicIP":"10.211.200.${i + 1}","PublicIPv6":null,"BackendType":"host-gw"}`,
      );
    }
    hosts[0]?.start();
    await clock.until('ready', () => hosts[0]?.notifier.isReady === true);
    expect(hosts[0]?.ownRoutes).toHaveLength(200);
    const calls = Object.values(etcd.calls).reduce((sum, count) => sum + count, 0);
    expect(calls).toBeLessThanOrEqual(8 + etcd.members.length);
    // One more peer costs no call at all, and no dump.
    const dumps = hosts[0]?.kernel.counters.dumps;
    etcd.put(
      `${prefix}/subnets/172.20.10.0-24`,
      '{"PublicIP":"10.211.201.1","PublicIPv6":null,"BackendType":"host-gw"}',
    );
    await clock.until('its route', () => hosts[0]?.ownRoutes.length === 201, 1_000);
    expect(Object.values(etcd.calls).reduce((sum, count) => sum + count, 0)).toBe(calls);
    expect(hosts[0]?.kernel.counters.dumps).toBe(dumps);
  });

  it('keeps subnet and routes over a stop and a start', async () => {
    const { clock, hosts, etcd } = start({ seed: 3, hosts: 3 });
    for (const host of hosts) host.start();
    await clock.until('full mesh', () => cluster?.meshed === true);
    const subnets = await subnetsOf(hosts);
    const routes = hosts[0]?.ownRoutes;
    const leases = etcd.leaseIds;
    expect(await hosts[0]?.stop()).toBeUndefined();
    expect(hosts[0]?.ownRoutes).toEqual(routes);
    expect(hosts[0]?.notifier.sent.at(-1)).toBe('STOPPING=1');
    hosts[0]?.start();
    await clock.until('ready again', () => cluster?.meshed === true);
    expect(await subnetsOf(hosts)).toEqual(subnets);
    expect(hosts[0]?.ownRoutes).toEqual(routes);
    expect(etcd.leaseIds).toEqual(leases);
  });

  it('keeps its lease beyond its day, by renewals', async () => {
    const { clock, hosts, etcd } = start({ seed: 4, hosts: 1 });
    for (const host of hosts) host.start();
    await clock.until('full mesh', () => cluster?.meshed === true);
    const subnets = await subnetsOf(hosts);
    const { leaseIds } = etcd;
    await clock.advance(30 * 3_600_000);
    expect(etcd.leaseIds).toEqual(leaseIds);
    expect(await subnetsOf(hosts)).toEqual(subnets);
    expect(cluster?.meshed).toBe(true);
  }, 60_000);

  it('takes its subnet again at once when its key is deleted, and peers keep routing to it', async () => {
    const { clock, hosts, etcd } = start({ seed: 5, hosts: 3 });
    for (const host of hosts) host.start();
    await clock.until('full mesh', () => cluster?.meshed === true);
    const [subnet] = await subnetsOf(hosts);
    const key = `${prefix}/subnets/${subnet?.replace('/', '-')}`;
    etcd.delete(key);
    await clock.until('the lease is back', () => etcd.get(key) !== undefined, 1_000);
    await clock.until('full mesh again', () => cluster?.meshed === true, 1_000);
    expect(await subnetsOf(hosts)).toContain(subnet);
  });

  it('is not ready, and keeps trying, when the first list fails after the lease was taken', async () => {
    const { clock, hosts, etcd, log } = start({ seed: 12, hosts: 2 });
    hosts[1]?.start();
    await clock.until('the peer', () => hosts[1]?.readiness.ready === true, 60_000);
    hosts[0]?.start();
    await clock.until('a lease', () => log.events('lease-acquired').length === 2);
    etcd.cut('h0');
    await clock.advance(3_600_000);
    expect(hosts[0]?.notifier.isReady).toBe(false);
    expect(hosts[0]?.readiness.ready).toBe(false);
    expect(hosts[0]?.readiness.reasons.join()).toContain('cannot be watched');
    etcd.heal('h0');
    await clock.until('full mesh', () => cluster?.meshed === true, 60_000);
    expect(etcd.leaseIds).toHaveLength(2);
  });

  it('never overwrites its subnet when another host took it, and says so', async () => {
    const { clock, hosts, etcd, log } = start({ seed: 6, hosts: 3 });
    for (const host of hosts) host.start();
    await clock.until('full mesh', () => cluster?.meshed === true);
    const [subnet] = await subnetsOf(hosts);
    const key = `${prefix}/subnets/${subnet?.replace('/', '-')}`;
    const theirs = '{"PublicIP":"10.211.99.99","PublicIPv6":null,"BackendType":"host-gw"}';
    etcd.put(key, theirs);
    await clock.advance(600_000);
    expect(etcd.get(key)?.value).toBe(theirs);
    expect(hosts[0]?.readiness.ready).toBe(false);
    expect(hosts[0]?.readiness.reasons.join()).toContain('10.211.99.99');
    expect(log.lines.filter(({ fields }) => fields['what'] === 'contested').length).toBe(1);
    etcd.delete(key);
    await clock.until('ours again', () => hosts[0]?.readiness.ready === true, 60_000);
  });

  it('freezes routes while etcd is away and catches up after', async () => {
    const { clock, hosts, etcd } = start({ seed: 9, hosts: 3 });
    for (const host of hosts) host.start();
    await clock.until('full mesh', () => cluster?.meshed === true);
    const routes = hosts.map((host) => host.ownRoutes);
    for (const member of etcd.members) etcd.stop(member);
    await clock.advance(30_000);
    etcd.put(`${prefix}/subnets/172.20.11.0-24`, '{"PublicIP":"10.211.99.1","BackendType":"host-gw"}');
    expect(hosts.map((host) => host.ownRoutes)).toEqual(routes);
    expect(hosts[0]?.readiness.ready).toBe(false);
    for (const member of etcd.members) etcd.start(member);
    await clock.until('the new peer', () => hosts.every((host) => host.ownRoutes.length === 3), 10_000);
  });

  it('is not ready while a host does not forward packets, at the start and later', async () => {
    const { clock, hosts, log } = start({ seed: 10, hosts: 2 });
    await hosts[0]?.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '0\n', 0o644);
    await hosts[1]?.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '1\n', 0o644);
    for (const host of hosts) host.start();
    // Docker, which starts after this daemon, is not held up by it.
    await clock.until('READY=1', () => hosts.every(({ notifier }) => notifier.isReady), 60_000);
    // The last to join is still to be routed to.
    await clock.advance(1_000);
    expect(log.events('not-forwarding').map(({ host }) => host)).toEqual(['h0']);
    expect(hosts.map(({ readiness }) => readiness.ready)).toEqual([false, true]);
    await hosts[0]?.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '1\n', 0o644);
    await hosts[1]?.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '0\n', 0o644);
    await clock.advance(11_000);
    expect(hosts.map(({ readiness }) => readiness.ready)).toEqual([true, false]);
    expect(hosts[1]?.readiness.reasons.join()).toMatch(
      /^IPv4 forwarding is off .*sysctl -w net.ipv4.ip_forward=1$/,
    );
  });

  it('keeps its lease, and its subnet, while a full disk holds up the files of a first boot for days', async () => {
    const { clock, hosts, etcd } = start({ seed: 11, hosts: 1 });
    const [host] = hosts;
    if (host === undefined) throw new Error('there is no host');
    host.files.writeError = 'ENOSPC';
    host.start();
    await clock.until('a lease', () => etcd.leaseIds.length === 1);
    const { leaseIds } = etcd;
    await clock.advance(30 * 3_600_000);
    expect(etcd.leaseIds).toEqual(leaseIds);
    expect(host.notifier.isReady).toBe(false);
    host.files.writeError = undefined;
    await clock.until('ready', () => host.notifier.isReady, 60_000);
    expect(etcd.get(`${prefix}/subnets/${(await host.subnet())?.text.replace('/', '-')}`)).toBeDefined();
  }, 60_000);
});
