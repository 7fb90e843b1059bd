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

const leaseKeyOf = async (of: SimHost) =>
  `${prefix}/subnets/${(await of.subnet())?.text.replace('/', '-') ?? 'none'}`;

beforeEach(async () => {
  cluster = makeCluster({ seed: 11, hosts: 3 });
  for (const each of cluster.hosts) {
    await each.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '1\n', 0o644);
    each.start();
  }
  await cluster.clock.until('full mesh', () => cluster.meshed, 60_000);
  [host, peer] = cluster.hosts as [SimHost, SimHost];
  host.kernel.createLink('docker0');
  host.kernel.addAddress('docker0', `${bridgeAddress(await host.subnet())}/24`);
  await cluster.clock.advance(1_000);
});

function bridgeAddress(subnet: { readonly text: string } | undefined): string {
  return (subnet?.text ?? '').replace(/\.0\/24$/, '.1');
}

const examine = (options: Partial<DoctorOptions> = {}) => examineHost(cluster, host, options);

describe('the doctor', () => {
  it('finds nothing wrong with a healthy host, and says what it looked at', async () => {
    const { exit, text } = await examine();
    expect(text).not.toMatch(/PROBLEM|^note/m);
    for (const part of [
      'etcd at',
      'network 172.20.0.0/16',
      'ip_forward is on',
      'eth0',
      '3 leases',
      'subnet.env matches',
    ])
      expect(text).toContain(part);
    expect(text).toContain('all 2 peers are routed');
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

  it('passes on what was noticed on the way to etcd; it works, so it is no problem', async () => {
    const { exit, text } = await examine({ notices: { current: ['the certificate ends\nsoon'] } });
    expect(text.split('\n').filter((line) => line.startsWith('note'))).toEqual([
      'note     the certificate ends soon',
    ]);
    expect(exit).toBe(0);
  });

  const faults: readonly (readonly [string, () => void | Promise<void>, RegExp])[] = [
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
      async () => {
        await host.stop();
        cluster.etcd.delete(`${prefix}/config`);
      },
      /PROBLEM {2}no network configuration at .*\/config .*\n.*etcdctl put/,
    ],
    [
      'a configuration that cannot be used, for a host without a daemon',
      async () => {
        await host.stop();
        cluster.etcd.put(`${prefix}/config`, '{"Network":"10.0.0.0/30","Backend":{"Type":"host-gw"}}');
      },
      /PROBLEM {2}the network configuration at .* cannot be used: Network is 10\.0\.0\.0\/30/,
    ],
    [
      'a daemon.json that keeps Docker from starting beside our flags',
      async () => {
        await host.files.writeAtomic('/etc/docker/daemon.json', '{"bip": "172.18.0.1/16"}', 0o644);
        const dropIn = '[Service]\nExecStart=\nExecStart=/usr/bin/dockerd -H fd:// $DOCKER_OPTS\n';
        const path = '/usr/local/lib/systemd/system/docker.service.d/flannel.conf';
        await host.files.writeAtomic(path, dropIn, 0o644);
      },
      /PROBLEM {2}\/etc\/docker\/daemon\.json .*bip.*\n +→ /,
    ],
    [
      'forwarding switched off',
      () => host.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '0\n', 0o644),
      /PROBLEM {2}net\.ipv4\.ip_forward is off.*\n.*sysctl -w net\.ipv4\.ip_forward=1/,
    ],
    [
      'no usable interface',
      async () => {
        await host.stop();
        host.kernel.deleteLink('eth0');
      },
      /PROBLEM {2}no usable interface/,
    ],
    [
      'no lease',
      async () => {
        await host.stop();
        cluster.etcd.delete(await leaseKeyOf(host));
      },
      /PROBLEM {2}this host has no lease/,
    ],
    ['a junk key', () => cluster.etcd.put(`${prefix}/subnets/x`, '1'), /note {5}1 key is no lease/],
    [
      'a subnet.env of another subnet',
      async () => {
        await host.stop();
        await host.files.writeAtomic('/run/flannel/subnet.env', 'FLANNEL_SUBNET=172.20.1.1/24\n', 0o644);
      },
      /PROBLEM {2}\/run\/flannel\/subnet\.env does not match the lease/,
    ],
    [
      'a bridge that kept an old address (flannel #195)',
      () => {
        host.kernel.deleteLink('docker0');
        host.kernel.createLink('docker0');
        host.kernel.addAddress('docker0', '172.17.0.1/16');
      },
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
  ];

  it('repeats the daemon, and contradicts it nowhere, when the lease is contested', async () => {
    const key = await leaseKeyOf(host);
    cluster.etcd.put(key, '{"PublicIP":"10.211.55.177","PublicIPv6":null,"BackendType":"host-gw"}');
    await cluster.clock.until('the daemon sees it', () => !host.readiness.ready, 60_000);
    const { exit, text } = await examine();
    expect(text).toMatch(
      /PROBLEM {2}the daemon says: subnet \S+ of this host now belongs to 10\.211\.55\.177/,
    );
    expect(text).not.toMatch(/start the daemon|no lease/i);
    expect(text).toMatch(/subnet\.env matches the lease/);
    expect(text).toContain('all 2 peers are routed');
    expect(exit).toBe(1);
  });

  it('goes on without etcd by what the daemon knows', async () => {
    for (const name of ['etcd-0', 'etcd-1', 'etcd-2']) cluster.etcd.stop(name);
    await cluster.clock.until('the daemon sees it', () => !host.readiness.ready, 60_000);
    const { exit, text } = await examine();
    expect(text).toMatch(/note {5}the checks below rely on the daemon: this host has 172\.20\.\d+\.0\/24/);
    for (const part of [
      'ip_forward is on',
      'subnet.env matches',
      'docker0 has',
      'all 2 peers are routed',
      'rules are in place',
    ])
      expect(text).toContain(part);
    expect(text).not.toMatch(/start the daemon/i);
    expect(exit).toBe(1);
  });

  it('goes on by what the daemon knows when only the leases cannot be read', async () => {
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
    for (const part of ['subnet.env matches', 'docker0 has', 'all 2 peers are routed', 'rules are in place'])
      expect(text).toContain(part);
    expect(text).toMatch(/1 problem found\.$/);
    expect(exit).toBe(1);
  });

  it('names a fault of peers once, however many reasons the daemon sums up', async () => {
    for (let i = 1; i <= 8; i++)
      cluster.etcd.put(
        `${prefix}/subnets/10.9.${i}.0-24`,
        `{"PublicIP":"192.0.2.${i}","BackendType":"host-gw"}`,
      );
    await cluster.clock.until('told', () => host.readiness.degraded.length > 5, 60_000);
    for (const name of ['etcd-0', 'etcd-1', 'etcd-2']) cluster.etcd.stop(name);
    await cluster.clock.until('the daemon sees it', () => !host.readiness.ready, 60_000);
    const { text } = await examine();
    expect(host.readiness.degraded).toContain('3 more reasons why peers have no route');
    expect(text).not.toContain('more reasons why');
    expect(text).toContain('IPv4: 8 of 10 peers are not routed');
  });

  it('goes on without etcd and without a daemon by subnet.env and the routes that are left', async () => {
    const subnet = (await host.subnet())?.text ?? '';
    await host.stop();
    for (const name of ['etcd-0', 'etcd-1', 'etcd-2']) cluster.etcd.stop(name);
    const { text } = await examine();
    expect(text).toContain(`the checks below rely on subnet.env: this host has ${subnet}`);
    expect(text).toContain('IPv4: 2 routes of ours; the peers are not known');
    for (const part of ['ip_forward is on', 'subnet.env matches', 'docker0 has', 'rules are in place'])
      expect(text).toContain(part);
  });

  it('names a peer of another backend, a lease outside of Network, and says what to do', async () => {
    const value = (backend: string, last = 77) =>
      `{"PublicIP":"10.211.55.${last}","BackendType":"${backend}"}`;
    cluster.etcd.put(`${prefix}/subnets/172.20.9.0-24`, value('vxlan'));
    cluster.etcd.put(`${prefix}/subnets/192.168.5.0-24`, value('host-gw', 78));
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

  const astray: readonly (readonly [string, (dst: string) => void, RegExp])[] = [
    [
      'a route to the upper half of a peer\u2019s subnet',
      (dst) =>
        host.kernel.addRoute({
          dst: dst.replace('.0/24', '.128/25'),
          gateway: '10.211.99.9',
          linkIndex: host.kernel.link('eth0').index,
        }),
      /PROBLEM {2}packets to \S+\.0\/24 bypass our route: the route \S+\.128\/25 via 10\.211\.99\.9 dev eth0 takes them\n +→ ip route del \S+\.128\/25 via 10\.211\.99\.9 dev eth0/,
    ],
    [
      'a blackhole for a few addresses of it',
      (dst) => host.kernel.addRoute({ dst: dst.replace('.0/24', '.64/30'), type: 'blackhole' }),
      /PROBLEM {2}packets to \S+ bypass our route: the route blackhole \S+\.64\/30 takes them\n +→ ip route del blackhole \S+\.64\/30/,
    ],
  ];

  it.each(astray)('sees %s', async (_, steal, expected) => {
    steal((await peer.subnet())?.text ?? '');
    await cluster.clock.advance(1_000);
    const { exit, text } = await examine();
    expect(text).toMatch(expected);
    expect(text).toContain('all 2 peers are routed');
    expect(exit).toBe(1);
  });

  const operator = (input: string) => {
    const { exitCode, stderr } = host.firewall.answer({
      program: 'iptables-restore',
      args: ['--noflush'],
      stdin: input,
    });
    expect(`${exitCode}${stderr}`).toBe('0');
  };

  const firewallFaults: readonly (readonly [
    string,
    Partial<DoctorOptions>,
    () => void | Promise<void>,
    RegExp,
  ])[] = [
    [
      'rules that are gone',
      {},
      () => operator('*filter\n-F FORWARD\nCOMMIT\n'),
      /PROBLEM {2}iptables filter: our rules are missing/,
    ],
    [
      'masquerading that is not there',
      { ipMasq: true },
      () => {},
      /PROBLEM {2}iptables nat: our rules are missing/,
    ],
    [
      'rules that stand behind a REJECT',
      { iptablesForwardPosition: 'last' },
      () => operator('*filter\n-I FORWARD 1 -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n'),
      /PROBLEM {2}the firewall drops all packets between containers .*chain FORWARD, rule "-j REJECT .*\n.*iptables -D FORWARD -j REJECT/,
    ],
    [
      'Docker that drops what comes from other hosts',
      {},
      () =>
        operator(
          '*filter\n-N DOCKER\n-I FORWARD 1 -j DOCKER\n-A DOCKER ! -i docker0 -o docker0 -j DROP\nCOMMIT\n',
        ),
      /PROBLEM {2}Docker drops packets .*\n.*--iptables-forward-position=first/,
    ],
    [
      'containers closed in the table raw (Docker 28)',
      {},
      async () => {
        const own = bridgeAddress(await host.subnet()).replace(/1$/, '2');
        const raw = '-d 172.17.0.2 ! -i br-1 -j DROP\n-A PREROUTING -d 127.0.0.1 ! -i lo -j DROP';
        operator(`*raw\n-A PREROUTING -d ${own} ! -i docker0 -j DROP\n-A PREROUTING ${raw}\nCOMMIT\n`);
      },
      /PROBLEM {2}Docker drops all packets from other hosts to 1 of .*\n.*allow-direct-routing/,
    ],
    [
      'iptables that fails',
      {},
      () => {
        host.firewall.before = () => ({ exitCode: 4, stdout: '', stderr: 'Permission denied' });
      },
      /PROBLEM {2}iptables filter: .*Permission denied.*\nPROBLEM {2}cannot read the packet filter/,
    ],
  ];

  it.each(firewallFaults)('tells of %s', async (_, options, breakIt, expected) => {
    await host.stop();
    await breakIt();
    const { text } = await examine(options);
    expect(text).toMatch(expected);
    expect(text).toContain('all 2 peers are routed');
  });

  it('has nothing against Docker where our rules come first', async () => {
    await host.stop();
    const docker = '-N DOCKER\n-A FORWARD -j DOCKER\n-A DOCKER ! -i docker0 -o docker0 -j DROP';
    operator(`*filter\n${docker}\nCOMMIT\n`);
    expect(await examine({ iptablesForwardPosition: 'first' })).toMatchObject({ exit: 0 });
  });

  it.each(faults)('tells of %s', async (_, breakIt, expected) => {
    await breakIt();
    await cluster.clock.advance(100);
    const { exit, text } = await examine();
    expect(text).toMatch(expected);
    expect(exit).toBe(/PROBLEM/.test(text) ? 1 : 0);
  });

  it.each([
    [
      'forwarding that is off',
      /ip_?forward/,
      () => host.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '0\n', 0o644),
    ],
    [
      'forwarding that is off on the link',
      /conf\.eth0\.forwarding/,
      () => host.files.writeAtomic('/proc/sys/net/ipv4/conf/eth0/forwarding', '0\n', 0o644),
    ],
    [
      'an old address of docker0',
      /docker0/,
      () => {
        host.kernel.deleteLink('docker0');
        host.kernel.createLink('docker0');
        host.kernel.addAddress('docker0', '172.20.0.1/24');
      },
    ],
    ['several peers without a route', /not routed|no route/, () => host.kernel.setLinkUp('eth0', false)],
  ] as const)('says once what the daemon says, too: %s', async (_, about, breakIt) => {
    await breakIt();
    const before = host.state?.statusLine();
    await cluster.clock.advance(70_000);
    expect(host.state?.statusLine()).not.toBe(before);
    const problems = (await examine()).text.split('\n').filter((line) => line.startsWith('PROBLEM'));
    expect(problems.filter((line) => about.test(line))).toHaveLength(1);
    expect(problems.join('\n')).not.toMatch(/the daemon says: .*(forwarding|docker0|no route)/);
  });

  it('calls a host degraded that the daemon calls so', async () => {
    cluster.etcd.put(`${prefix}/subnets/x`, '1');
    await cluster.clock.advance(1_000);
    expect((await examine()).text).toMatch(/^note {5}the daemon runs \(.*\) and is ready, degraded$/m);
  });

  it.each([
    [
      'a chain that drops all packets',
      () => operator('*raw\n-A PREROUTING -s 172.20.0.0/16 -j DROP\nCOMMIT\n'),
      () => operator('*raw\n-D PREROUTING -s 172.20.0.0/16 -j DROP\nCOMMIT\n'),
      /the firewall drops all packets/,
    ],
    [
      'forwarding that is off',
      () => host.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '0\n', 0o644),
      () => host.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', '1\n', 0o644),
      /forwarding is off/,
    ],
  ] as const)('passes on what the daemon says and is over since: %s', async (_, breakIt, mend, about) => {
    await breakIt();
    await cluster.clock.until('the daemon sees it', () => !host.readiness.ready, 150_000);
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
  });

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

  it('says once what the daemon says of another host with this address', async () => {
    peer.kernel.addAddress('eth0', `${host.address}/16`);
    cluster.segment.say({
      operation: 'request',
      senderMac: '02:00:00:00:00:99',
      sender: host.address,
      target: host.address,
    });
    await cluster.clock.until('the daemon sees it', () => !host.readiness.ready, 10_000);
    const { text } = await examine();
    expect(text.match(/another host \(MAC address/g)).toHaveLength(1);
  });

  it('notes that ARP cannot be used', async () => {
    cluster.segment.refusal = 'EPERM';
    const { exit, text } = await examine();
    expect(text).toMatch(
      /^note {5}cannot find out whether another host uses \S+: cannot open an ARP socket: EPERM$/m,
    );
    expect(exit).toBe(0);
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

  it('calls a setting that cannot be read not off', async () => {
    host.files.remove('/proc/sys/net/ipv4/ip_forward');
    const { exit, text } = await examine();
    expect(text).toContain('note     net.ipv4.ip_forward cannot be read');
    expect(exit).toBe(0);
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
  ])('knows of a daemon that gives no answer what can be known: %j', async (answer, said, remedy) => {
    await host.stop();
    host.kernel.deleteRoute({ dst: (await peer.subnet())?.text ?? '' });
    operator('*filter\n-F FORWARD\nCOMMIT\n');
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

  it('lets no value from etcd move the cursor', async () => {
    cluster.etcd.put(`${prefix}/subnets/\u001b[2J`, 'x');
    const { text } = await examine();
    expect(text).toContain('1 key is no lease');
    expect(text.split('').every((character) => character === '\n' || character >= ' ')).toBe(true);
  });
});
