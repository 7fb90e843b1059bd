import { describe, expect, it } from 'vitest';
import { prefix } from '../../sim/cluster.ts';
import { examineHost } from '../../sim/doctor.ts';
import { subnet } from '../../sim/leases.ts';
import { checkRoutes } from '../../src/cli/doctor/check-routes.ts';
import type { LinkAddress, Route } from '../../src/kernel/kernel.ts';
import { type Lease, parseLease } from '../../src/subnet/lease/lease.ts';
import { cpuMs } from '../testbed/cpu-time.ts';
import { makeCluster } from './sim-worlds.ts';

// The doctor on hosts of other kinds, and with etcd's keys in disorder.

const ipv4 = { Network: '172.20.0.0/16', SubnetMin: '172.20.10.0', SubnetMax: '172.20.254.0' };
const ipv6 = { EnableIPv6: true, IPv6Network: 'fc00:20::/48' };
const configs = {
  'IPv4 alone': ipv4,
  'both families': { ...ipv4, ...ipv6 },
  'IPv6 alone': { EnableIPv4: false, ...ipv6 },
};
const bySubnet = (text: string) => `${prefix}/subnets/${text.replace('/', '-')}`;
const hourMs = 3_600_000;

async function meshed(kind: keyof typeof configs) {
  const config = JSON.stringify({ ...configs[kind], Backend: { Type: 'host-gw' } });
  const all = makeCluster({ seed: 12, hosts: 3, ipv6: true, config });
  for (const each of all.hosts) {
    for (const file of ['ipv4/ip_forward', 'ipv6/conf/all/forwarding'])
      await each.files.writeAtomic(`/proc/sys/net/${file}`, '1\n', 0o644);
    each.start();
  }
  await all.clock.until('ready', () => all.hosts.every(({ readiness }) => readiness.ready), 60_000);
  return { all, host: all.host(0), peer: all.host(1) };
}

const problems = (text: string) => text.split('\n').filter((line) => line.startsWith('PROBLEM'));

describe('the doctor', () => {
  it.each([
    ['IPv4 alone', ['IPv4']],
    ['both families', ['IPv4', 'IPv6']],
    ['IPv6 alone', ['IPv6']],
  ] as const)('finds nothing wrong with %s', async (kind, families) => {
    const { all, host } = await meshed(kind);
    const { text, exit } = await examineHost(all, host);
    expect(problems(text)).toEqual([]);
    for (const family of families) expect(text).toContain(`${family}: all 2 peers are routed`);
    expect(text).not.toContain('leases name the address');
    expect(exit).toBe(0);
  });

  it('misses an IPv6 route', async () => {
    const { all, host, peer } = await meshed('both families');
    await host.stop();
    const dst = (await peer.subnets()).ipv6?.text ?? '';
    host.kernel.deleteRoute({ dst, metric: 1024 });
    const { text } = await examineHost(all, host);
    expect(problems(text)).toEqual([
      expect.stringMatching(/IPv6: 1 of 2 peers is not routed: .*\(missing\)/),
    ]);
  });

  it('finds a lease that nobody renews any more', async () => {
    const { all, host } = await meshed('IPv4 alone');
    for (const each of all.hosts) await each.stop();
    await all.clock.advance(15 * hourMs);
    expect((await examineHost(all, host)).exit).toBe(0);
    await all.clock.advance(2 * hourMs);
    const { text } = await examineHost(all, host);
    expect(text).toMatch(
      /PROBLEM {2}own lease \S+: 6 h 59 min left; its renewal is overdue\n.*start flanneld/,
    );
  });

  it('takes the same lease for its own as the daemon, and names the others', async () => {
    const { all, host } = await meshed('IPv4 alone');
    const value = JSON.stringify({ PublicIP: host.address, BackendType: 'host-gw' });
    all.etcd.put(bySubnet('172.20.1.0/24'), value);
    const { text, exit } = await examineHost(all, host);
    expect(problems(text)).toEqual([]);
    expect(text).toMatch(/note {5}further keys carry this host's address: \S+172\.20\.1\.0-24\n/);
    expect(exit).toBe(0);
  });

  it('says of a bridge with an old subnet of the pool only that', async () => {
    const { all, host } = await meshed('IPv4 alone');
    host.kernel.createLink('docker0');
    host.kernel.addAddress('docker0', '172.20.200.1/24');
    const { text } = await examineHost(all, host);
    expect(problems(text)).toEqual([expect.stringContaining('docker0 has 172.20.200.1/24 instead of')]);
  });

  it('says of a bridge without the IPv6 subnet how Docker gets it', async () => {
    const { all, host } = await meshed('both families');
    const own = await host.subnets();
    host.kernel.createLink('docker0');
    host.kernel.addAddress('docker0', `${own.ipv4?.text.replace('.0/24', '.1/24')}`);
    const mend = `Pass --ipv6 --fixed-cidr-v6=${own.ipv6?.text} to dockerd`;
    expect((await examineHost(all, host)).text).toMatch(
      new RegExp(`note +docker0 has no IPv6 address.*\n.*${mend}`),
    );
    host.kernel.addAddress('docker0', 'fc00:99::1/64');
    const { text } = await examineHost(all, host);
    expect(problems(text)).toEqual([
      expect.stringContaining('docker0 has fc00:99::1/64 instead of fc00:20:'),
    ]);
    expect(text).toContain(mend);
    host.kernel.addAddress('docker0', `${own.ipv6?.text.replace('::/64', '::1/64')}`);
    expect(problems((await examineHost(all, host)).text)).toEqual([]);
  });

  it('goes on behind a file that cannot be read', async () => {
    const { all, host } = await meshed('IPv4 alone');
    const { text } = await examineHost(all, host, { subnetFile: '/run/flannel' });
    expect(problems(text)).toEqual([
      expect.stringMatching(/\/run\/flannel cannot be read: it is a folder \(EISDIR\)/),
    ]);
    expect(text).toContain('all 2 peers are routed');
  });

  it('stays short when one lease overlaps all others, and junk lies beside them', async () => {
    const { all, host } = await meshed('IPv4 alone');
    await host.stop();
    for (let i = 0; i < 200; i++) {
      all.etcd.put(bySubnet(`172.20.${10 + i}.0/24`), '{"PublicIP":"10.211.9.9","BackendType":"host-gw"}');
      all.etcd.put(`${prefix}/subnets/junk-${i}`, 'x');
      all.etcd.put(bySubnet(`10.9.${i}.0/24`), '{"PublicIP":"127.0.0.1","BackendType":"host-gw"}');
    }
    all.etcd.put(bySubnet('172.20.0.0/16'), '{"PublicIP":"10.211.9.8","BackendType":"host-gw"}');
    const { text, exit } = await examineHost(all, host);
    expect(text).toContain('IPv4: 201 leases cannot be routed');
    expect(text.split('\n').length).toBeLessThan(45);
    expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThan(1_500);
    expect(exit).toBe(1);
  });
});

describe('routes', () => {
  const self = { subnet: subnet('172.20.0.0/24'), address: '10.211.55.100', network: subnet('172.0.0.0/8') };
  const link = { index: 2, name: 'eth0', mtu: 1500, up: true, carrier: true, loopback: false };
  const br9 = { ...link, index: 3, name: 'br9' };
  const held = (linkIndex: number, address: string, prefixLength = 24): LinkAddress => {
    const flags = { scope: 'global', deprecated: false, temporary: false, permanent: true } as const;
    const detected = { tentative: false, dadFailed: false };
    return { family: 4, linkIndex, address, prefixLength, ...flags, ...detected };
  };
  const eth0 = held(2, '10.211.55.100');
  const connected = route({ dst: '10.211.55.0/24', protocol: 2, scope: 253 });
  const dstOf = (index: number) => `172.${100 + Math.floor(index / 256)}.${index % 256}.0/24`;
  const many = Array.from({ length: 10_000 }, (_, index) => lease(dstOf(index), '10.211.55.101'));
  const routes = many.map((_, index) => route({ dst: dstOf(index), gateway: '10.211.55.101' }));
  const peer = lease('172.20.9.0/24', '10.211.55.101');
  const toPeer = route({ dst: '172.20.9.0/24', gateway: '10.211.55.101' });

  function judge(
    leases: readonly Lease[],
    table: readonly Route[],
    addresses: readonly LinkAddress[] = [eth0],
  ) {
    const kernel = { links: [link, br9], addresses, routes: table };
    return checkRoutes({ self, kernel, link, protocol: 102, etcdAddresses: [], remedy: 'look', leases });
  }

  it.each([
    ['there', [connected, ...routes], /ok.*all 10000 peers are routed/],
    ['missing', [connected], /problem.*10000 of 10000 peers are not routed: .*\(missing\).* and 9995 more/],
    ['of no lease', [connected, ...routes, toPeer], /note.*1 route of ours belongs/],
    ['another daemon\u2019s', [connected, ...routes, route({ dst: '192.168.9.0/24' })], /^ok/],
  ])('of 10,000 peers that are %s are judged in a moment', (_, found, expected) => {
    const before = cpuMs();
    const { findings } = judge(many, found);
    expect(cpuMs() - before).toBeLessThan(4_000);
    expect(findings.at(-1)?.level + findings.map(({ text }) => text).join()).toMatch(expected);
  });

  it.each([
    [
      'of another interface',
      { gateway: '10.211.55.101', linkIndex: 3 },
      'via 10.211.55.101 dev br9 proto 102 is in its place',
    ],
    ['with a metric', { gateway: '10.211.55.101', metric: 100 }, 'metric 100 proto 102 is in its place'],
    [
      'to another gateway',
      { gateway: '10.211.55.9' },
      'the route 172.20.9.0/24 via 10.211.55.9 dev eth0 proto 102 is in its place',
    ],
    ['without a gateway', { protocol: 4 }, 'the route 172.20.9.0/24 dev eth0 proto static is in its place'],
    ['into nothing', { type: 'blackhole', protocol: 3 } as const, 'the route blackhole 172.20.9.0/24'],
  ])('%s are not those of a peer', (_, found, expected) => {
    const { findings, routed } = judge([peer], [connected, route({ dst: '172.20.9.0/24', ...found })]);
    expect(findings[0]).toMatchObject({ level: 'problem', text: expect.stringContaining(expected) });
    expect(routed).toEqual([]);
  });

  it('of flanneld, which this program would only mark, are right', () => {
    expect(judge([peer], [connected, { ...toPeer, protocol: 3 }]).findings).toMatchObject([{ level: 'ok' }]);
  });

  it('two keys of one peer with one gateway are in order, as they are to the daemon', () => {
    const both = [peer, lease('172.20.9.0/24', '10.211.55.101', '&fc00:9::-64')];
    expect(judge(both, [connected, toPeer]).findings).toMatchObject([
      { level: 'ok', text: 'IPv4: the only peer is routed' },
    ]);
  });

  it('a subnet with two owners is a problem that names the older lease and advises no deletion', () => {
    const both = [peer, lease('172.20.9.128/25', '10.211.55.102', '', 2)];
    const [finding] = judge(both, [connected, toPeer]).findings;
    expect(finding).toMatchObject({
      level: 'problem',
      text: expect.stringMatching(
        /9\.128-25 \(at 10\.211\.55\.102\): it overlaps 172\.20\.9\.0\/24 of the older lease \S+9\.0-24/,
      ),
    });
    expect(finding?.remedy).not.toMatch(/del|release/i);
  });

  it('a bridge of this host in a peer\u2019s subnet is named with its address', () => {
    const table = [connected, route({ dst: '172.20.9.0/24', protocol: 2, scope: 253, linkIndex: 3 })];
    const { findings } = judge([peer], table, [eth0, held(3, '172.20.9.9')]);
    expect(findings).toMatchObject([
      {
        text: 'IPv4: 1 of 1 peer is not routed: 172.20.9.0/24 via 10.211.55.101 (br9 of this host has an address in it (172.20.9.9/24))',
        remedy: 'ip addr del 172.20.9.9/24 dev br9',
      },
    ]);
  });

  it('a provider that gives single addresses is named, not a host elsewhere', () => {
    const [finding] = judge([peer], [], [held(2, '10.211.55.100', 32)]).findings;
    expect(finding?.text).toMatch(
      /eth0 has 10\.211\.55\.100\/32 and no other address: this provider routes between hosts itself/,
    );
    expect(finding?.remedy).toMatch(/give this interface its address with the network's prefix length/);
    expect(finding?.remedy).not.toContain('release');
  });

  it.each([
    ['alone', [eth0]],
    ['with an address of keepalived beside it', [held(2, '10.211.55.200', 32), eth0]],
  ])('to a host elsewhere are a problem that names the network of the link: %s', (_, addresses) => {
    expect(judge([lease('172.20.9.0/24', '192.0.2.9')], [connected], addresses).findings).toMatchObject([
      {
        text: "IPv4: 1 of 1 peer is not routed: 172.20.9.0/24 via 192.0.2.9 (192.0.2.9 is not on eth0's network 10.211.55.0/24)",
        remedy:
          'host-gw needs all hosts on one L2 network. Move that host, or if it is gone: flanneld-ts lease release 172.20.9.0/24',
      },
    ]);
  });
});

function lease(dst: string, publicIP: string, half = '', createRevision = 1): Lease {
  const value = `{"PublicIP":"${publicIP}","BackendType":"host-gw"}`;
  const kv = { key: bySubnet(dst) + half, value, createRevision, modRevision: createRevision, lease: '1' };
  const parsed = parseLease(`${prefix}/subnets/`, kv);
  if ('problem' in parsed) throw new RangeError(parsed.problem);
  return parsed.lease;
}

function route(fields: Partial<Route> & { readonly dst: string }): Route {
  const usual = {
    family: 4,
    tos: 0,
    metric: 0,
    protocol: 102,
    type: 'unicast',
    scope: 0,
    special: false,
  } as const;
  return { ...usual, linkIndex: 2, ...fields };
}
