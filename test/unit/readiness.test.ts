import { rootCertificates } from 'node:tls';
import { expect, it } from 'vitest';
import { prefix, type SimCluster, type SimHost, scenarioConfig } from '../../sim/cluster.ts';
import { examineHost } from '../../sim/doctor.ts';
import { SimFiles } from '../../sim/files.ts';
import { EtcdCalls, tellFitness } from '../../src/daemon/etcd-members.ts';
import { daemonMetrics } from '../../src/daemon/report/metrics.ts';
import { EtcdSecurity } from '../../src/subnet/etcd/security.ts';
import { formatLeaseValue } from '../../src/subnet/lease/lease.ts';
import { RegistryError } from '../../src/subnet/registry/registry.ts';
import { Operator } from '../contract/firewall-world.ts';
import { makeCluster } from './sim-worlds.ts';

// What /readyz says while lease, watch, routes or files are not as they should be, and that it stops saying so.

let cluster: SimCluster;

const FINE = { ready: true, reasons: [], degraded: [], notices: [] };

/** Two hosts that route to each other; the first is looked at, whose lease has the key. */
async function start() {
  cluster = await makeCluster({ seed: 1, hosts: 2 }).start();
  const [host, peer] = [cluster.host(0), cluster.host(1)];
  const subnet = (await host.subnet())?.text ?? '';
  return { cluster, etcd: cluster.etcd, host, peer, key: `${prefix}/subnets/${subnet.replace('/', '-')}` };
}

type World = Awaited<ReturnType<typeof start>>;

const conditions = ({ readiness: { reasons, degraded, notices } }: SimHost) => ({
  own: reasons,
  degraded,
  notice: notices,
});

/** The daemon looks every five seconds for what nobody reports, and twice before it logs what mostly passes. */
const lookedMs = 16_000;

/** Every line that the host says of itself is a series, with the same words in the log; there is none for what it does not say. */
async function expectToldEverywhere(host: SimHost): Promise<void> {
  const { clock, log } = cluster;
  await clock.advance(lookedMs);
  const { state } = host;
  if (state === undefined) throw new Error('no daemon');
  const text = await daemonMetrics(state, new EtcdCalls()).render();
  const series = text.split('\n').filter((line) => line.startsWith('flannel_trouble{'));
  const lasting = state.snapshot().troubles.filter(({ overMs }) => overMs === undefined);
  const logged = log.lines.filter(({ host: on }) => on === host.name).map(({ message }) => message);
  // How many more there are is not said where all are named.
  const said = Object.entries(conditions(host)).flatMap(([kind, lines]) =>
    lines.filter((line) => !/^\d+ more /.test(line)).map((line) => ({ kind, line })),
  );
  for (const { kind, line } of said) {
    const trouble = lasting.find((one) => one.kind === kind && one.message === line);
    expect(series, line).toContain(`flannel_trouble{what=${JSON.stringify(trouble?.what)},kind="${kind}"} 1`);
    expect(
      logged.some((message) => message.includes(line)),
      line,
    ).toBe(true);
    expect(state.statusLine()).toContain(line);
  }
  const isWhole = Object.values(conditions(host)).every((lines) => lines.length < 6);
  if (isWhole) expect(series).toHaveLength(said.length);
}

/** What `doctor` finds is what the daemon says, each line once, and it advises nothing that the daemon contradicts. */
async function expectDoctorAgrees(host: SimHost): Promise<void> {
  const { exit, text } = await examineHost(cluster, host);
  const { own, degraded, notice } = conditions(host);
  if (own.length > 0) expect(exit, text).toBe(1);
  // The daemon leaves the bridge to Docker, whose restart doctor advises.
  else if (degraded.length === 0 && !notice.join().startsWith('docker0'))
    expect(text).not.toMatch(/^PROBLEM/m);
  expect(text).not.toMatch(/→ Start the daemon|has no lease/);
  for (const line of [...own, ...degraded, ...notice])
    expect(text.split(line).length, `${line}\n${text}`).toBeLessThanOrEqual(2);
}

const PEER = `${prefix}/subnets/172.20.5.0-24`;
const other = formatLeaseValue({ ipv4: '10.211.99.9' });
const beyond = formatLeaseValue({ ipv4: '192.0.2.9' });

type Step = (world: World) => void;
/** What is wrong, the line that tells of it, how it comes and how it goes. */
type Fault = readonly [what: string, line: RegExp, act: Step, undo: Step];

/** A key that somebody puts and deletes. */
const leased = (name: string, value: string): readonly [Step, Step] => [
  ({ etcd }) => etcd.put(`${prefix}/subnets/${name}`, value),
  ({ etcd }) => etcd.delete(`${prefix}/subnets/${name}`),
];

const cut: Step = ({ etcd, host }) => etcd.cut(host.name);
const heal: Step = ({ etcd, host }) => etcd.heal(host.name);

/** A rule of the operator that drops packets. */
const dropping = (match: string): readonly [Step, Step] => {
  const change = ({ firewall: commands }: SimHost, rule: string) =>
    void new Operator({ commands, close: async () => undefined }).change('filter', [rule]);
  return [
    ({ host }) => change(host, `-I FORWARD 1 ${match} -j DROP`),
    ({ host }) => change(host, `-D FORWARD ${match} -j DROP`),
  ];
};

const forwarding =
  (value: string): Step =>
  ({ host }) =>
    void host.files.writeAtomic('/proc/sys/net/ipv4/ip_forward', value, 0o644);

const defaultRoute = ({ kernel }: SimHost) =>
  kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.0.1', linkIndex: kernel.link('eth0').index });

/** Exchanges the address of a host; the kernel takes its routes along. */
function readdress(host: SimHost, from: string, to: string): void {
  host.kernel.removeAddress('eth0', from);
  host.kernel.addAddress('eth0', to);
  if (to.endsWith('/16')) defaultRoute(host);
}

/** An address in the subnet of a host. */
function inside({ files }: SimHost): string {
  return /FLANNEL_SUBNET=(.*)\.1\/24/.exec(files.peek('/run/flannel/subnet.env') ?? '')?.[1] + '.9/24';
}

const TROUBLES: readonly Fault[] = [
  [
    'a lease that another host has taken',
    /^subnet \S+ of this host now belongs to 10\.211\.99\.9/m,
    ({ etcd, key }) => etcd.put(key, other),
    ({ etcd, key }) => etcd.delete(key),
  ],
  [
    'a lease that has to move to another address and cannot',
    /^this host's lease still names the former address/m,
    (world) => {
      cut(world);
      readdress(world.host, `${world.host.address}/16`, '10.211.77.7/16');
    },
    heal,
  ],
  ['a watch that is cut off from etcd', /^the leases under .* cannot be watched/m, cut, heal],
  [
    'an interface that is down',
    /^172\.20\.\d+\.0\/24: no route: interface eth0 is down$/m,
    ({ host }) => host.kernel.setLinkUp('eth0', false),
    ({ host }) => host.kernel.setLinkUp('eth0', true),
  ],
  [
    'an address of this host in a subnet that a peer has leased',
    /^172\.20\.\d+\.0\/24: no route: br9 of this host has an address in it \(172\.20\.\d+\.9\/24\)$/m,
    ({ host, peer }) => {
      host.kernel.createLink('br9');
      host.kernel.addAddress('br9', inside(peer));
    },
    ({ host }) => host.kernel.deleteLink('br9'),
  ],
  [
    'routes that the kernel refuses',
    /^172\.20\.5\.0\/24: no route: the kernel refused it: ENOBUFS/m,
    ({ etcd, host }) => {
      for (let i = 0; i < 5; i++) host.kernel.faults.failNextApply('ENOBUFS');
      etcd.put(PEER, other);
    },
    ({ etcd, host }) => {
      host.kernel.faults.clear();
      etcd.delete(PEER);
    },
  ],
  [
    'an own address without a network, where host-gw cannot work',
    /^\S+: no route: eth0 has 10\.211\.55\.20\/32 and no other address: this provider routes.*host-gw cannot work here/m,
    // As cloud providers do it.
    ({ host }) => readdress(host, `${host.address}/16`, `${host.address}/32`),
    ({ host }) => readdress(host, `${host.address}/32`, `${host.address}/16`),
  ],
  ['forwarding that is off', /^IPv4 forwarding is off/m, forwarding('0\n'), forwarding('1\n')],
  [
    'a firewall that drops what containers send',
    /^the firewall drops all packets between containers of different hosts \(172\.20\.0\.0\/16\): iptables, table filter/m,
    ...dropping('-s 172.20.0.0/16'),
  ],
  [
    'a firewall that cannot be set up',
    /^firewall: iptables-save is not installed/m,
    ({ host }) => void host.firewall.missing.add('iptables-save'),
    ({ host }) => host.firewall.missing.clear(),
  ],
  [
    'an interface that is gone',
    /^10\.211\.55\.20 is gone from eth0, and no other address can be used: /m,
    ({ host }) => host.kernel.deleteLink('eth0'),
    ({ host }) => {
      host.kernel.createLink('eth0');
      host.kernel.addAddress('eth0', `${host.address}/16`);
      defaultRoute(host);
    },
  ],
  [
    'another host with the address of this one',
    /^another host \(MAC address \S+\) uses this host's address/m,
    ({ host, peer }) => readdress(peer, `${peer.address}/16`, `${host.address}/16`),
    ({ host, peer }) => readdress(peer, `${host.address}/16`, `${peer.address}/16`),
  ],
  [
    'a file that cannot be written',
    /\/run\/flannel\/subnet\.env cannot be written: .*ENOSPC/,
    ({ host }) => {
      host.files.writeError = 'ENOSPC';
      host.kernel.setMtu('eth0', 1400);
    },
    ({ host }) => {
      host.files.writeError = undefined;
    },
  ],
];

/** Of these there is more than one line to say: without etcd nothing can be watched or renewed, and without the interface nothing routed. */
const SEVERAL = new Map([
  ['a lease that has to move to another address and cannot', 3],
  ['an interface that is gone', 2],
]);

it.each(TROUBLES)('is not ready because of %s, and says so everywhere', async (what, line, act, undo) => {
  const world = await start();
  const { clock } = world.cluster;
  const { host } = world;
  expect(host.readiness).toEqual(FINE);
  act(world);
  await clock.until('told', () => line.test(host.readiness.reasons.join('\n')), 120_000);
  expect(host.readiness.ready).toBe(false);
  await expectToldEverywhere(host);
  expect(host.readiness.reasons.length).toBeLessThanOrEqual(SEVERAL.get(what) ?? 1);
  await expectDoctorAgrees(host);
  undo(world);
  await clock.until('ready again', () => host.readiness.ready, 120_000);
  expect(host.readiness.reasons).toEqual([]);
  await expectToldEverywhere(host);
  await expectDoctorAgrees(host);
});

const backend = (type: string) => JSON.stringify({ PublicIP: '10.211.99.9', BackendType: type });

/** Keys that others have put. */
const DEGRADED: readonly Fault[] = [
  [
    'a gateway that is not on link',
    /^172\.20\.5\.0\/24: no route: 192\.0\.2\.9 is not on eth0's network 10\.211\.0\.0\/16\. .*flanneld-ts lease release 172\.20\.5\.0\/24$/,
    ...leased('172.20.5.0-24', beyond),
  ],
  [
    'a gateway that the kernel takes for none, as a broadcast address',
    /^172\.20\.5\.0\/24: no route: the kernel refused it: EINVAL/,
    ({ cluster: { hosts }, etcd }) => {
      for (const { kernel } of hosts) kernel.faults.failNextApply('EINVAL');
      etcd.put(PEER, formatLeaseValue({ ipv4: '10.211.255.255' }));
    },
    ({ etcd }) => etcd.delete(PEER),
  ],
  [
    'the network that all hosts are in',
    /^10\.211\.0\.0\/24: no route: it overlaps 10\.211\.0\.0\/16, the network eth0 is connected to$/,
    ...leased('10.211.0.0-24', other),
  ],
  [
    'a lease wider than the network',
    /^\S+\/172\.16\.0\.0-12: not routed: it overlaps our own subnet/,
    ...leased('172.16.0.0-12', other),
  ],
  [
    'another backend',
    /^\S+: not routed: its backend is "vxlan", not host-gw$/,
    ...leased('172.20.5.0-24', backend('vxlan')),
  ],
  [
    'no backend',
    /^\S+: not routed: its backend is missing, not host-gw$/,
    ...leased('172.20.5.0-24', backend('')),
  ],
  ['a key that is no subnet', /^key \S+\/nonsense does not name a subnet/, ...leased('nonsense', other)],
  [
    'a value that is none',
    /^key \S+5\.0-24 holds no lease: its value is nonsense$/,
    ...leased('172.20.5.0-24', 'nonsense'),
  ],
];

/** What a host notices and works in spite of. */
const NOTED: readonly Fault[] = [
  [
    'a rule that drops some of the packets between containers',
    /^the firewall may drop packets .*-p tcp/,
    ...dropping('-p tcp -s 172.20.0.0/16'),
  ],
  [
    'a configuration that was changed',
    /^the network configuration \S+ was changed: Network 172\.20\.0\.0\/16 → 10\.5\.0\.0\/16/,
    ({ etcd }) => etcd.put(`${prefix}/config`, '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}'),
    ({ etcd }) => etcd.put(`${prefix}/config`, scenarioConfig),
  ],
  [
    'a configuration that was deleted',
    /^the network configuration \S+ was deleted/,
    ({ etcd }) => etcd.delete(`${prefix}/config`),
    ({ etcd }) => etcd.put(`${prefix}/config`, scenarioConfig),
  ],
  [
    'a lease outside the network',
    /^\S+192\.168\.5\.0-24: routed, although 192\.168\.5\.0\/24 is outside the network 172\.20\.0\.0\/16$/,
    ...leased('192.168.5.0-24', other),
  ],
  [
    'an old address of the bridge',
    /^docker0 has 172\.20\.255\.1\/24, and /,
    ({ host }) => {
      host.kernel.createLink('docker0');
      host.kernel.addAddress('docker0', '172.20.255.1/24');
    },
    ({ host }) => host.kernel.deleteLink('docker0'),
  ],
];

it.each([
  ...DEGRADED.map((fault) => ['degraded', ...fault] as const),
  ...NOTED.map((fault) => ['notices', ...fault] as const),
])('stays ready, with one line under %s: %s', async (kind, _, line, act, undo) => {
  const world = await start();
  const { clock, hosts } = world.cluster;
  const told = kind === 'degraded' ? hosts : [world.host];
  act(world);
  await clock.until('told', () => told.every(({ readiness }) => readiness[kind].length > 0), 120_000);
  for (const each of told) {
    expect(each.readiness).toEqual({ ...FINE, [kind]: [expect.stringMatching(line)] });
    await expectToldEverywhere(each);
    await expectDoctorAgrees(each);
  }
  undo(world);
  await clock.until('over', () => world.host.readiness[kind].length === 0, 120_000);
  expect(world.host.readiness).toEqual(FINE);
  await expectToldEverywhere(world.host);
});

it('says why peers have no route in one line for all that share the reason, with what to do', async () => {
  const { cluster: all, host } = await start();
  const put = (from: number, to: number) => {
    for (let i = from; i <= to; i++) all.etcd.put(`${prefix}/subnets/172.20.${i}.0-24`, beyond);
  };
  for (const [from, to] of [
    [2, 2],
    [3, 3],
    [4, 8],
  ] as const) {
    put(from, to);
    await all.clock.until('told', () => host.state?.snapshot().leases === to + 1, 60_000);
    await expectToldEverywhere(host);
    expect(host.readiness.degraded).toHaveLength(1);
  }
  expect(host.readiness.degraded).toEqual([
    expect.stringMatching(/^7 peers have no route: 192\.0\.2\.9 is not on .*lease release 172\.20\.2\.0\/24/),
  ]);
  for (let i = 2; i <= 8; i++)
    all.etcd.put(`${prefix}/subnets/172.20.${i}.0-24`, formatLeaseValue({ ipv4: `192.0.2.${i}` }));
  await all.clock.until('told', () => host.readiness.degraded.length > 1, 60_000);
  await expectToldEverywhere(host);
  expect(host.readiness.degraded).toHaveLength(6);
});

it("logs a peer's fault again while it lasts, and once it is over, but not each time that it comes and goes", async () => {
  const { cluster: all, host } = await start();
  const lines = () =>
    all.log.lines.filter(
      ({ host: on, message }) => on === host.name && message.includes('192.0.2.9 is not on'),
    );
  all.etcd.put(PEER, beyond);
  await all.clock.advance(3_600_000);
  expect(lines()).toHaveLength(3);
  all.etcd.delete(PEER);
  await all.clock.advance(lookedMs);
  expect(lines().at(-1)?.message).toMatch(/^over: 172\.20\.5\.0\/24: no route: /);
  expect(host.state?.snapshot().troubles).toMatchObject([{ kind: 'degraded', overMs: expect.any(Number) }]);
  for (let i = 0; i < 100; i++) {
    all.etcd.put(PEER, beyond);
    await all.clock.advance(6_000);
    all.etcd.delete(PEER);
    await all.clock.advance(6_000);
  }
  expect(lines().length).toBeLessThan(20);
});

it('names the first few of many keys that are no leases, and counts the others', async () => {
  const { cluster: all, host } = await start();
  for (let i = 0; i < 3_000; i++) all.etcd.put(`${prefix}/subnets/junk-${i}`, 'nonsense');
  const more = /^2995 more keys are not leases$/;
  await all.clock.until('told', () => more.test(host.readiness.degraded.at(-1) ?? ''), 60_000);
  expect(host.readiness.ready).toBe(true);
  expect(host.readiness.degraded).toHaveLength(6);
  expect(host.state?.snapshot().junk.first).toHaveLength(50);
  await expectToldEverywhere(host);
});

const user = { username: 'flannel', passwordFile: '/etc/etcd/password' };
const tls = { caFile: '/etc/etcd/ca.pem' };
const MEMBER = 'http://etcd-1:2379';

interface Ways {
  readonly security: EtcdSecurity;
  readonly files: SimFiles;
  readonly tell: ReturnType<typeof tellFitness>;
}

/** What is wrong on the way to etcd and keeps nothing from working. */
const NOTICES: readonly (readonly [string, RegExp, (ways: Ways) => unknown, (ways: Ways) => unknown])[] = [
  [
    'an etcd that asks for no user',
    /authentication disabled: user flannel/,
    ({ security }) => security.noteAuthentication(false, MEMBER),
    ({ security }) => security.noteAuthentication(true, MEMBER),
  ],
  [
    'a password file that is gone',
    /^going on with the password read before: .*\/etc\/etcd\/password does not exist/,
    async ({ security, files }) => {
      await security.password(user);
      files.clear();
      await security.password(user);
    },
    async ({ security, files }) => {
      await files.writeAtomic(user.passwordFile, 'another', 0o600);
      await security.password(user);
    },
  ],
  [
    'a CA file that is no CA any more',
    /^going on with the certificates read before: .*\/etc\/etcd\/ca.pem/,
    async ({ security, files }) => {
      await security.refresh();
      await files.writeAtomic(tls.caFile, 'no certificate', 0o600);
      await security.refresh();
    },
    async ({ security, files }) => {
      await files.writeAtomic(tls.caFile, rootCertificates[1] ?? '', 0o600);
      await security.refresh();
    },
  ],
  [
    'a member of etcd that cannot serve',
    /^this member is a learner$/,
    ({ tell }) => tell(MEMBER, new RegistryError('NOT_SERVING', MEMBER, 'this member is a learner')),
    ({ tell }) => tell(MEMBER, undefined),
  ],
];

it.each(NOTICES)('stays ready, with one notice: %s', async (_, notice, act, undo) => {
  cluster = makeCluster({ seed: 1, hosts: 1 });
  const host = cluster.host(0);
  const files = new SimFiles();
  await files.writeAtomic(user.passwordFile, 'password', 0o600);
  await files.writeAtomic(tls.caFile, rootCertificates[0] ?? '', 0o600);
  let ways: Ways | undefined;
  host.start({}, (parts) => {
    const { clock, log, notices } = parts;
    const security = new EtcdSecurity({ tls, user, etcdPrefix: prefix, files, clock, log, notices });
    ways = { security, files, tell: tellFitness(notices) };
    return parts;
  });
  await cluster.clock.until('ready', () => host.readiness.ready, 60_000);
  if (ways === undefined) throw new Error('not started');
  await act(ways);
  expect(host.readiness).toEqual({ ...FINE, notices: [expect.stringMatching(notice)] });
  expect(host.state?.statusLine()).toMatch(/^subnet [\d./]+; no other host has joined yet; \S/);
  await expectToldEverywhere(host);
  await undo(ways);
  expect(host.readiness).toEqual(FINE);
  await expectToldEverywhere(host);
});

it('the status line names an etcd outage at once, and drops it at once when it is over', async () => {
  const { cluster: world, host } = await start();
  const { clock, etcd } = world;
  const line = () => host.notifier.sent.findLast((text) => text.startsWith('STATUS=')) ?? '';
  const seen = async (what: string, condition: () => boolean) => {
    await clock.until(what, condition, 120_000);
    await clock.advance(300);
  };
  for (const member of etcd.members) etcd.stop(member);
  await seen('not ready', () => !host.readiness.ready);
  expect(line()).toContain('cannot be watched');
  for (const member of etcd.members) etcd.start(member);
  await seen('ready again', () => host.readiness.ready);
  expect(line()).not.toContain('cannot be watched');
});
