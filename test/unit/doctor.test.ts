import { beforeEach, describe, expect, it } from 'vitest';
import { prefix, type SimCluster, type SimHost } from '../../sim/cluster.ts';
import { examineHost } from '../../sim/doctor.ts';
import { LensRegistry } from '../../sim/lens-registry.ts';
import type { DoctorOptions } from '../../src/cli/doctor/doctor.ts';
import { statusView } from '../../src/daemon/report/status-server.ts';
import { RegistryError } from '../../src/subnet/registry/registry.ts';
import { makeCluster } from './sim-worlds.ts';

let cluster: SimCluster;
let host: SimHost;
let peer: SimHost;

const FORWARDING = '/proc/sys/net/ipv4/ip_forward';

const leaseKeyOf = async (of: SimHost) =>
  `${prefix}/subnets/${(await of.subnet())?.text.replace('/', '-') ?? 'none'}`;

beforeEach(async () => {
  cluster = makeCluster({ seed: 11, hosts: 3 });
  for (const each of cluster.hosts) {
    await each.files.writeAtomic(FORWARDING, '1\n', 0o644);
    each.start();
  }
  await cluster.clock.until('full mesh', () => cluster.meshed, 60_000);
  [host, peer] = cluster.hosts as [SimHost, SimHost];
  bridge(`${bridgeAddress(await host.subnet())}/24`);
  await cluster.clock.advance(1_000);
});

function bridgeAddress(subnet: { readonly text: string } | undefined): string {
  return (subnet?.text ?? '').replace(/\.0\/24$/, '.1');
}

/** Makes docker0, with this address alone. */
function bridge(address: string): void {
  if (host.kernel.links().some(({ name }) => name === 'docker0')) host.kernel.deleteLink('docker0');
  host.kernel.createLink('docker0');
  host.kernel.addAddress('docker0', address);
}

/** Writes a file of the host. */
const write = (path: string, text: string) => host.files.writeAtomic(path, text, 0o644);
const put = (name: string, value: string) => cluster.etcd.put(`${prefix}/subnets/${name}`, value);
const lease = (address: string, backend = 'host-gw') =>
  JSON.stringify({ PublicIP: address, PublicIPv6: null, BackendType: backend });
const stopEtcd = () => {
  for (const member of cluster.etcd.members) cluster.etcd.stop(member);
};
const untilSeen = () => cluster.clock.until('the daemon sees it', () => !host.readiness.ready, 150_000);

function operator(table: string, ...rules: readonly string[]): void {
  const stdin = `*${table}\n${rules.join('\n')}\nCOMMIT\n`;
  const call = { program: 'iptables-restore', args: ['--noflush'], stdin };
  expect(host.firewall.answer(call)).toMatchObject({ exitCode: 0, stderr: '' });
}

function expectAll(text: string, parts: readonly string[]): void {
  for (const part of parts) expect(text).toContain(part);
}

/** What is found of a host that works, whatever of etcd can be read. */
const CHECKED = ['subnet.env matches', 'docker0 has', 'rules are in place'];
const ROUTED = 'all 2 peers are routed';

const examine = (options: Partial<DoctorOptions> = {}) => examineHost(cluster, host, options);

describe('the doctor', () => {
  it('finds nothing wrong with a healthy host, and says what it looked at', async () => {
    const { exit, text } = await examine();
    expect(text).not.toMatch(/PROBLEM|^note/m);
    const etcd = ['etcd at', 'network 172.20.0.0/16', '3 leases'];
    expectAll(text, [...etcd, 'ip_forward is on', 'eth0', 'subnet.env matches', ROUTED]);
    expect(text).toMatch(/No problems found\.$/);
    expect(exit).toBe(0);
  });

  it('does not count the peers of a host that is the first', async () => {
    for (const other of cluster.hosts.slice(1)) {
      await other.stop();
      cluster.etcd.delete(await leaseKeyOf(other));
    }
    await cluster.clock.advance(1_000);
    const { exit, text } = await examine();
    expect(text).toMatch(/^ok +IPv4: no other host has joined yet$/m);
    expect(text).not.toMatch(/\b0 (of|peers|routes)/);
    expect(exit).toBe(0);
  });

  /** Does it while no daemon runs. */
  const stopped = (act: () => unknown) => async () => {
    await host.stop();
    await act();
  };
  const DOCKER_DROPS = '-A DOCKER ! -i docker0 -o docker0 -j DROP';

  const faults: readonly [string, () => unknown, RegExp, Partial<DoctorOptions>?][] = [
    [
      'a notice of the way to etcd',
      () => {},
      /^note {5}the certificate ends soon$(?![^]*^note)/m,
      { notices: { current: ['the certificate ends\nsoon'] } },
    ],
    [
      'a setting that cannot be read',
      () => host.files.remove(FORWARDING),
      /note {5}net\.ipv4\.ip_forward cannot/,
    ],
    [
      'ARP that cannot be used',
      () => {
        cluster.segment.refusal = 'EPERM';
      },
      /^note {5}cannot find out whether another host uses \S+: cannot open an ARP socket: EPERM$/m,
    ],
    [
      'an etcd member that is down',
      () => cluster.etcd.stop('etcd-0'),
      /PROBLEM {2}etcd at http:\/\/etcd-0:2379: connection refused/,
    ],
    [
      'a learner among members that serve',
      () => cluster.etcd.spoil('etcd-1', 'learner'),
      /note {5}etcd at http:\/\/etcd-1:2379: this member is a learner/,
    ],
    [
      'members of different clusters',
      () => cluster.etcd.replace('etcd-0'),
      /PROBLEM {2}the etcd endpoints belong to different clusters: http:\/\/etcd-0:2379 to [\da-f]+; http:\/\/etcd-1:2379, http:\/\/etcd-2:2379 to [\da-f]+\n.*\n(?!.*no network configuration)/,
    ],
    [
      'a full database',
      () => cluster.etcd.fill(true),
      /PROBLEM {2}etcd has raised the alarm NOSPACE \(member e7cd\): .*\n.*etcdctl alarm disarm/,
    ],
    [
      'no configuration',
      () => cluster.etcd.delete(`${prefix}/config`),
      /note {5}the daemon says: the network configuration \S+ was deleted\. This host keeps using .*/,
    ],
    [
      'no configuration for a host without a daemon',
      stopped(() => cluster.etcd.delete(`${prefix}/config`)),
      /PROBLEM {2}no network configuration at .*\/config .*\n.*etcdctl put/,
    ],
    [
      'a configuration that cannot be used, for a host without a daemon',
      stopped(() => cluster.etcd.put(`${prefix}/config`, '{"Network":"10.0.0.0/30"}')),
      /PROBLEM {2}the network configuration at .* cannot be used: Backend is missing: /,
    ],
    [
      'a daemon.json that keeps Docker from starting beside our flags',
      async () => {
        await write('/etc/docker/daemon.json', '{"bip": "172.18.0.1/16"}');
        const dropIn = '[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -H fd:// $DOCKER_OPTS\n';
        await write('/usr/local/lib/systemd/system/docker.service.d/flannel.conf', dropIn);
      },
      /PROBLEM {2}\/etc\/docker\/daemon\.json .*bip.*\n +→ /,
    ],
    [
      'forwarding switched off',
      () => write(FORWARDING, '0\n'),
      /PROBLEM {2}net\.ipv4\.ip_forward is off.*\n.*sysctl -w net\.ipv4\.ip_forward=1/,
    ],
    ['no usable interface', stopped(() => host.kernel.deleteLink('eth0')), /PROBLEM {2}no usable interface/],
    [
      'no lease',
      stopped(async () => cluster.etcd.delete(await leaseKeyOf(host))),
      /PROBLEM {2}this host has no lease/,
    ],
    [
      'a junk key, which moves no cursor',
      () => put('\u001b[2J', '1'),
      /the daemon runs \(.*\) and is ready, degraded\n[^]*note {5}1 key is no lease/,
    ],
    [
      'a subnet.env of another subnet',
      stopped(() => write('/run/flannel/subnet.env', 'FLANNEL_SUBNET=172.20.1.1/24\n')),
      /PROBLEM {2}\/run\/flannel\/subnet\.env does not match the lease/,
    ],
    [
      'a bridge that kept an old address (flannel #195)',
      () => bridge('172.17.0.1/16'),
      /PROBLEM {2}docker0 has 172\.17\.0\.1\/16 instead of .*\n.*systemctl restart docker/,
    ],
    [
      'a bridge with a larger MTU than the interface',
      () => host.kernel.setMtu('docker0', 9000),
      /PROBLEM {2}docker0 has the MTU 9000, the interface to the other hosts 1500: .*\n.*systemctl restart docker/,
    ],
    [
      'a pool over the network of this host (flannel #611)',
      () => {
        host.kernel.createLink('eth1');
        host.kernel.addAddress('eth1', '172.20.77.5/24');
      },
      /PROBLEM {2}172\.20\.77\.0\/24 of eth1 lies in the range/,
    ],
    [
      'a route to the upper half of a peer\u2019s subnet',
      async () => {
        const dst = (await peer.subnet())?.text.replace('.0/24', '.128/25') ?? '';
        host.kernel.addRoute({ dst, gateway: '10.211.99.9', linkIndex: host.kernel.link('eth0').index });
      },
      /all 2 peers are routed[^]*PROBLEM {2}packets to \S+\.0\/24 bypass our route: the route \S+\.128\/25 via 10\.211\.99\.9 dev eth0 takes them\n +→ ip route del \S+\.128\/25 via 10\.211\.99\.9 dev eth0/,
    ],
    [
      'a blackhole for a few addresses of a peer\u2019s subnet',
      async () => {
        const dst = (await peer.subnet())?.text.replace('.0/24', '.64/30') ?? '';
        host.kernel.addRoute({ dst, type: 'blackhole' });
      },
      /PROBLEM {2}packets to \S+ bypass our route: the route blackhole \S+\.64\/30 takes them\n +→ ip route del blackhole \S+\.64\/30/,
    ],
    [
      'rules that are gone',
      stopped(() => operator('filter', '-F FORWARD')),
      /PROBLEM {2}iptables filter: our rules are missing/,
    ],
    [
      'masquerading that is not there',
      stopped(() => {}),
      /PROBLEM {2}iptables nat: our rules are missing/,
      { ipMasq: true },
    ],
    [
      'rules that stand behind a REJECT',
      stopped(() => operator('filter', '-I FORWARD 1 -j REJECT --reject-with icmp-host-prohibited')),
      /PROBLEM {2}the firewall drops all packets between containers .*chain FORWARD, rule "-j REJECT .*\n.*iptables -D FORWARD -j REJECT/,
      { iptablesForwardPosition: 'last' },
    ],
    [
      'Docker that drops what comes from other hosts',
      stopped(() => operator('filter', '-N DOCKER', '-I FORWARD 1 -j DOCKER', DOCKER_DROPS)),
      /PROBLEM {2}Docker drops packets .*\n.*--iptables-forward-position=first/,
    ],
    [
      'containers closed in the table raw (Docker 28)',
      stopped(async () => {
        const own = bridgeAddress(await host.subnet()).replace(/1$/, '2');
        const dropped = [`${own} ! -i docker0`, '172.17.0.2 ! -i br-1', '127.0.0.1 ! -i lo'];
        operator('raw', ...dropped.map((match) => `-A PREROUTING -d ${match} -j DROP`));
      }),
      /PROBLEM {2}Docker drops all packets from other hosts to 1 of .*\n.*allow-direct-routing/,
    ],
    [
      'iptables that fails',
      stopped(() => {
        host.firewall.before = () => ({ exitCode: 4, stdout: '', stderr: 'Permission denied' });
      }),
      /PROBLEM {2}iptables filter: .*Permission denied.*\nPROBLEM {2}cannot read the packet filter/,
    ],
    [
      'a lease that another host has taken',
      async () => {
        cluster.etcd.put(await leaseKeyOf(host), lease('10.211.55.177'));
        await untilSeen();
      },
      /PROBLEM {2}the daemon says: subnet \S+ of this host now belongs to 10\.211\.55\.177[^]*subnet\.env matches the lease[^]*all 2 peers are routed/,
    ],
  ];

  it('judges the host by what the daemon knows while etcd is away', async () => {
    stopEtcd();
    await untilSeen();
    const { exit, text } = await examine();
    expect(text).toMatch(/note {5}the checks below rely on the daemon: this host has 172\.20\.\d+\.0\/24/);
    expectAll(text, [...CHECKED, ROUTED, 'ip_forward is on']);
    expect(text).not.toMatch(/start the daemon/i);
    expect(exit).toBe(1);
  });

  it('judges the host by what the daemon knows when only the leases cannot be read', async () => {
    const members = cluster.etcd.connect('refused').map((member) => {
      const refusing = new LensRegistry(member);
      refusing.onRange = ({ key }) => {
        if (key.startsWith(`${prefix}/subnets/`))
          throw new RegistryError('PERMISSION_DENIED', member.endpoint, 'the user may not use /subnets/');
      };
      return refusing;
    });
    const { exit, text } = await examine({ members });
    for (const member of members) member.close();
    expect(text).toContain('PROBLEM  leases: the user may not use /subnets/');
    expect(text).toMatch(/note {5}the checks below rely on the daemon: this host has 172\.20\.\d+\.0\/24/);
    expectAll(text, [...CHECKED, ROUTED]);
    expect(text).toMatch(/1 problem found\.$/);
    expect(exit).toBe(1);
  });

  it('names a fault of peers once, however many reasons the daemon sums up', async () => {
    for (let i = 1; i <= 8; i++) put(`10.9.${i}.0-24`, lease(`192.0.2.${i}`));
    await cluster.clock.until('told', () => host.readiness.degraded.length > 5, 60_000);
    stopEtcd();
    await untilSeen();
    const { text } = await examine();
    expect(host.readiness.degraded).toContain('3 more reasons why peers have no route');
    expect(text).not.toContain('more reasons why');
    expect(text).toContain('IPv4: 8 of 10 peers are not routed');
  });

  it('judges the host by subnet.env and its routes when neither etcd nor a daemon answers', async () => {
    const subnet = (await host.subnet())?.text ?? '';
    await host.stop();
    stopEtcd();
    const { text } = await examine();
    const said = `the checks below rely on subnet.env: this host has ${subnet}`;
    expectAll(text, [
      ...CHECKED,
      said,
      'ip_forward is on',
      'IPv4: 2 routes of ours; the peers are not known',
    ]);
  });

  it('names a peer of another backend, a lease outside of Network, and says what to do', async () => {
    put('172.20.9.0-24', lease('10.211.55.77', 'vxlan'));
    put('192.168.5.0-24', lease('10.211.55.78'));
    await cluster.clock.advance(1_000);
    const { text } = await examine();
    // Once: what the daemon says of them, too, is left out.
    expect(text.match(/172\.20\.9\.0-24/g)).toHaveLength(1);
    expect(text).not.toContain('the daemon says');
    expect(text).toMatch(
      /PROBLEM {2}IPv4: 1 lease cannot be routed: \S+9\.0-24 \(at 10\.211\.55\.77\): its backend is "vxlan", not host-gw\n +→/,
    );
    expect(text).toMatch(
      /note {5}1 lease is outside Network 172\.20\.0\.0\/16: \S+192\.168\.5\.0-24 \(at .*\n +→/,
    );
  });

  it('has nothing against Docker where our rules come first', async () => {
    await host.stop();
    operator('filter', '-N DOCKER', '-A FORWARD -j DOCKER', DOCKER_DROPS);
    expect(await examine({ iptablesForwardPosition: 'first' })).toMatchObject({ exit: 0 });
  });

  it.each(faults)('names %s', async (_, breakIt, expected, options) => {
    await breakIt();
    await cluster.clock.advance(1_000);
    const { exit, text } = await examine(options);
    expect(text).toMatch(expected);
    expect(text).not.toMatch(/(?!\n)\p{Cc}/u);
    expect(exit).toBe(/PROBLEM/.test(text) ? 1 : 0);
  });

  /** The peer takes the address of the host, and asks others for it. */
  const takeAddress = () => {
    const { address: sender } = host;
    peer.kernel.addAddress('eth0', `${sender}/16`);
    cluster.segment.say({ operation: 'request', senderMac: '02:00:00:00:00:99', sender, target: sender });
  };

  it.each([
    ['forwarding that is off', /ip_?forward/, () => write(FORWARDING, '0\n')],
    [
      'forwarding that is off on the link',
      /conf\.eth0\.forwarding/,
      () => write('/proc/sys/net/ipv4/conf/eth0/forwarding', '0\n'),
    ],
    ['an old address of docker0', /docker0/, () => bridge('172.20.0.1/24')],
    ['several peers without a route', /not routed|no route/, () => host.kernel.setLinkUp('eth0', false)],
    ['another host with this address', /another host \(MAC address/, takeAddress],
  ] as const)('says once what the daemon says, too: %s', async (_, about, breakIt) => {
    await breakIt();
    const before = host.state?.statusLine();
    await cluster.clock.advance(70_000);
    expect(host.state?.statusLine()).not.toBe(before);
    const problems = (await examine()).text.split('\n').filter((line) => line.startsWith('PROBLEM'));
    expect(problems.filter((line) => about.test(line))).toHaveLength(1);
    expect(problems.join('\n')).not.toMatch(/the daemon says: .*(forwarding|docker0|no route)/);
  });

  it.each([
    [
      'a chain that drops all packets',
      () => operator('raw', '-A PREROUTING -s 172.20.0.0/16 -j DROP'),
      () => operator('raw', '-D PREROUTING -s 172.20.0.0/16 -j DROP'),
      /the firewall drops all packets/,
    ],
    [
      'forwarding that is off',
      () => write(FORWARDING, '0\n'),
      () => write(FORWARDING, '1\n'),
      /forwarding is off/,
    ],
  ] as const)(
    'passes on what the daemon still says of a fault that is over: %s',
    async (_, breakIt, mend, about) => {
      await breakIt();
      await untilSeen();
      await mend();
      const { exit, text } = await examine();
      expect(host.readiness.ready).toBe(false);
      const told = text.split('\n').filter((line) => about.test(line));
      expect(told).toEqual([expect.stringMatching(/^PROBLEM {2}the daemon says: /)]);
      expect(text).toMatch(
        /→ doctor does not see this fault \(any more\)\. The daemon checks again within a minute/,
      );
      expect(exit).toBe(1);
      await cluster.clock.until('the daemon sees that it is over', () => host.readiness.ready, 150_000);
      expect((await examine()).exit).toBe(0);
    },
  );

  it('finds another host with this address by probes alone, beside a daemon that has heard nothing of it', async () => {
    const { kernel } = peer;
    kernel.addAddress('eth0', `${host.address}/16`);
    const [before, { mac } = {}] = [
      cluster.segment.sent.length,
      kernel.links().find(({ name }) => name === 'eth0'),
    ];
    const { exit, text } = await examine();
    expect(text).toContain(
      `PROBLEM  another host (MAC address ${mac}) uses this host's address ${host.address} on eth0`,
    );
    expect(text).toContain('→ Give one of the two hosts another address.');
    expect(exit).toBe(1);
    const probes = cluster.segment.sent.slice(before).filter(({ target }) => target === host.address);
    expect(probes[0]).toMatchObject({ operation: 'request', sender: '0.0.0.0' });
  });

  it('passes on why the daemon cannot switch forwarding on', async () => {
    const { state } = host;
    if (state === undefined) throw new Error('no daemon');
    const { errors, ...view } = statusView(state.snapshot());
    const message =
      'IPv4 forwarding is off (net.ipv4.ip_forward = 0), so containers reach no other host, and the daemon cannot switch it on: EROFS. Run: x';
    const error = {
      what: 'forwarding-ipv4',
      kind: 'own',
      message,
      since: view.now,
      over: null,
      attempts: 1,
    } as const;
    const answer = { ...view, ready: false, reasons: [message], errors: [...errors, error] };
    const { text } = await examine({ askDaemon: async () => ({ view: answer }) });
    expect(text).toContain('cannot switch it on: EROFS');
  });

  it.each([
    [
      { silent: 'Nobody is there', absent: true },
      /Nobody is there\n +→ Without a daemon,/,
      / Start the daemon, which corrects/,
    ],
    [
      { silent: 'Nobody is there', absent: true, holder: 'pid 12' },
      /→ A daemon runs \(pid 12\) and listens elsewhere/,
      /The daemon runs and corrects/,
    ],
    [{ silent: 'Only root may' }, /Only root may\n\S/, /Start the daemon unless it runs; it corrects/],
    [{ silent: 'Only root may', holder: 'pid 12' }, /Only root may\n\S/, /The daemon runs and corrects/],
  ])('advises by what is known of a daemon that gives no answer: %j', async (answer, said, remedy) => {
    await host.stop();
    host.kernel.deleteRoute({ dst: (await peer.subnet())?.text ?? '' });
    operator('filter', '-F FORWARD');
    const { text } = await examine({ askDaemon: async () => answer });
    expect(text).toMatch(said);
    expect(text.match(new RegExp(remedy, 'g'))).toHaveLength(2);
  });

  it.each([
    ['use --iface=10.211.55.100 or --iface=eth0', undefined],
    ['fe80::1 is link-local, so it does not say which host it is: take a global address', undefined],
    ['eth0 has no usable IPv6 address: fc00::1 is still being checked for duplicates', undefined],
    [
      'eth0 has no usable IPv6 address: fc00::1 is in use by another host: duplicate address detection failed',
      'Give one of the two hosts another address.',
    ],
    ['eth7 has no usable IPv4 address', 'Give that interface an address, or name another one: --iface=NAME.'],
  ])('advises by the reason: %s', async (reason, advice) => {
    await host.stop();
    const { text } = await examine({ chooseInterface: async () => reason });
    const [, next = ''] = text.split('\n').slice(text.split('\n').findIndex((line) => line.includes(reason)));
    if (advice === undefined) expect(next).not.toContain('→');
    else expect(next).toContain(`→ ${advice}`);
  });
});
