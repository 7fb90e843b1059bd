import { rootCertificates } from 'node:tls';
import { expect, it } from 'vitest';
import { prefix, type SimCluster, type SimHost, scenarioConfig } from '../../sim/cluster.ts';
import { examineHost } from '../../sim/doctor.ts';
import { SimFiles } from '../../sim/files.ts';
import { EtcdCalls, tellFitness } from '../../src/daemon/etcd-members.ts';
import type { DaemonParts } from '../../src/daemon/parts.ts';
import { Metrics } from '../../src/daemon/report/metrics.ts';
import { EtcdSecurity } from '../../src/subnet/etcd/security.ts';
import { formatLeaseValue } from '../../src/subnet/lease/lease.ts';
import { RegistryError } from '../../src/subnet/registry/registry.ts';
import { Operator } from '../contract/firewall-world.ts';
import { makeCluster } from './sim-worlds.ts';

// What /readyz says while lease, watch, routes or files are not as they should be, and that it stops saying so.

let cluster: SimCluster;

interface World {
  readonly cluster: SimCluster;
  readonly host: SimHost;
  /** The key of the host's lease. */
  readonly key: string;
}

/** Two hosts that route to each other; the first is looked at. */
async function start(): Promise<World> {
  cluster = await makeCluster({ seed: 1, hosts: 2 }).start();
  const host = cluster.host(0);
  const subnet = (await host.subnet())?.text ?? '';
  return { cluster, host, key: `${prefix}/subnets/${subnet.replace('/', '-')}` };
}

const conditions = ({ readiness: { reasons, degraded, notices } }: SimHost) => ({
  own: reasons,
  degraded,
  notice: notices,
});

/** The daemon looks every five seconds for what nobody reports, and twice before it logs what mostly passes. */
const lookedMs = 16_000;

/** Every line that the host says of itself is a series, with the same words in the log; there is none for what it does not say. */
async function expectToldEverywhere({ cluster: { clock, log } }: World, host: SimHost): Promise<void> {
  await clock.advance(lookedMs);
  const { state } = host;
  if (state === undefined) throw new Error('no daemon');
  const text = await new Metrics(state, new EtcdCalls()).render();
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
async function expectDoctorAgrees({ cluster: all }: World, host: SimHost): Promise<void> {
  const { exit, text } = await examineHost(all, host);
  const { own, degraded, notice } = conditions(host);
  if (own.length > 0) expect(exit, text).toBe(1);
  else if (degraded.length === 0) expect(text).not.toMatch(/^PROBLEM/m);
  expect(text).not.toMatch(/→ Start the daemon|has no lease/);
  for (const line of [...own, ...degraded, ...notice])
    expect(text.split(line).length, `${line}\n${text}`).toBeLessThanOrEqual(2);
}

const FORWARDING = '/proc/sys/net/ipv4/ip_forward';
const PEER = `${prefix}/subnets/172.20.5.0-24`;
const other = formatLeaseValue({ ipv4: '10.211.99.9' });
const beyond = formatLeaseValue({ ipv4: '192.0.2.9' });

type Step = (world: World) => void;

const operatorOf = ({ firewall: commands }: SimHost) =>
  new Operator({ commands, close: async () => undefined });

/** Exchanges the address of a host; the kernel takes its routes along. */
function readdress(host: SimHost | undefined, from = '', to = ''): void {
  if (host === undefined) throw new Error('no host');
  host.kernel.removeAddress('eth0', `${from}/16`);
  host.kernel.addAddress('eth0', `${to}/16`);
  const linkIndex = host.kernel.link('eth0').index;
  host.kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.0.1', linkIndex });
}

/** An address in the subnet that a subnet.env names. */
function inside(subnetEnv = ''): string {
  return /FLANNEL_SUBNET=(.*)\.1\/24/.exec(subnetEnv)?.[1] + '.9/24';
}

const TROUBLES: readonly (readonly [string, Step, RegExp, Step])[] = [
  [
    'the lease, that another host has taken',
    ({ cluster: { etcd }, key }) => etcd.put(key, other),
    /^subnet \S+ of this host now belongs to 10\.211\.99\.9/m,
    ({ cluster: { etcd }, key }) => etcd.delete(key),
  ],
  [
    'the lease, that has to move to another address and cannot',
    ({ cluster: { etcd }, host }) => {
      etcd.cut(host.name);
      readdress(host, host.address, '10.211.77.7');
    },
    /^this host's lease still names the former address/m,
    ({ cluster: { etcd }, host }) => etcd.heal(host.name),
  ],
  [
    'the watch',
    ({ cluster: { etcd }, host }) => etcd.cut(host.name),
    /^the leases under .* cannot be watched/m,
    ({ cluster: { etcd }, host }) => etcd.heal(host.name),
  ],
  [
    'the interface, when it is down',
    ({ host }) => host.kernel.setLinkUp('eth0', false),
    /^172\.20\.\d+\.0\/24: no route: interface eth0 is down$/m,
    ({ host }) => host.kernel.setLinkUp('eth0', true),
  ],
  [
    'an address of this host in a subnet that a peer has leased',
    ({ cluster: { hosts }, host }) => {
      host.kernel.createLink('br9');
      host.kernel.addAddress('br9', inside(hosts[1]?.files.peek('/run/flannel/subnet.env')));
    },
    /^172\.20\.\d+\.0\/24: no route: br9 of this host has an address in it \(172\.20\.\d+\.9\/24\)$/m,
    ({ host }) => host.kernel.deleteLink('br9'),
  ],
  [
    'routes that the kernel refuses',
    ({ cluster: { etcd }, host }) => {
      for (let i = 0; i < 5; i++) host.kernel.faults.failNextApply('ENOBUFS');
      etcd.put(PEER, other);
    },
    /^172\.20\.5\.0\/24: no route: the kernel refused it: ENOBUFS/m,
    ({ cluster: { etcd }, host }) => {
      host.kernel.faults.clear();
      etcd.delete(PEER);
    },
  ],
  [
    'forwarding, that is off',
    ({ host }) => void host.files.writeAtomic(FORWARDING, '0\n', 0o644),
    /^IPv4 forwarding is off/m,
    ({ host }) => void host.files.writeAtomic(FORWARDING, '1\n', 0o644),
  ],
  [
    'a firewall that drops what containers send',
    ({ host }) => void operatorOf(host).change('filter', ['-I FORWARD 1 -s 172.20.0.0/16 -j DROP']),
    /^the firewall drops all packets between containers of different hosts \(172\.20\.0\.0\/16\): iptables, table filter/m,
    ({ host }) => void operatorOf(host).change('filter', ['-D FORWARD -s 172.20.0.0/16 -j DROP']),
  ],
  [
    'a firewall that cannot be set up',
    ({ host }) => void host.firewall.missing.add('iptables-save'),
    /^firewall: iptables-save is not installed/m,
    ({ host }) => host.firewall.missing.clear(),
  ],
  [
    'the interface, when it is gone',
    ({ host }) => host.kernel.deleteLink('eth0'),
    /^10\.211\.55\.20 is gone from eth0, and no other address can be used: /m,
    ({ host }) => {
      host.kernel.createLink('eth0');
      host.kernel.addAddress('eth0', `${host.address}/16`);
      const linkIndex = host.kernel.link('eth0').index;
      host.kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.0.1', linkIndex });
    },
  ],
  [
    'another host with the address of this one',
    ({ cluster: { hosts }, host }) => readdress(hosts[1], hosts[1]?.address, host.address),
    /^another host \(MAC address \S+\) uses this host's address/m,
    ({ cluster: { hosts }, host }) => readdress(hosts[1], host.address, hosts[1]?.address),
  ],
  [
    'a file that cannot be written',
    ({ host }) => {
      host.files.writeError = 'ENOSPC';
      host.kernel.setMtu('eth0', 1400);
    },
    /\/run\/flannel\/subnet\.env cannot be written: .*ENOSPC/,
    ({ host }) => {
      host.files.writeError = undefined;
    },
  ],
];

/** Of these there is more than one line to say: without etcd nothing can be watched or renewed, and without the interface nothing routed. */
const SEVERAL = new Map([
  ['the lease, that has to move to another address and cannot', 3],
  ['the interface, when it is gone', 2],
]);

it.each(TROUBLES)('tells of %s', async (what, act, reason, undo) => {
  const world = await start();
  const { clock } = world.cluster;
  const { host } = world;
  expect(host.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
  act(world);
  await clock.until('told', () => reason.test(host.readiness.reasons.join('\n')), 120_000);
  expect(host.readiness.ready).toBe(false);
  await expectToldEverywhere(world, host);
  expect(host.readiness.reasons.length).toBeLessThanOrEqual(SEVERAL.get(what) ?? 1);
  await expectDoctorAgrees(world, host);
  undo(world);
  await clock.until('ready again', () => host.readiness.ready, 120_000);
  expect(host.readiness.reasons).toEqual([]);
  await expectToldEverywhere(world, host);
  await expectDoctorAgrees(world, host);
});

/** Keys that others have put, and the line that tells of each. */
const PEERS_FAULTS: readonly (readonly [what: string, name: string, value: string, line: RegExp])[] = [
  [
    'a gateway that is not on link',
    '172.20.5.0-24',
    beyond,
    /^172\.20\.5\.0\/24: no route: 192\.0\.2\.9 is not on eth0's network 10\.211\.0\.0\/16\. .*flanneld-ts lease release 172\.20\.5\.0\/24$/,
  ],
  [
    'a gateway that the kernel takes for none, as a broadcast address',
    '172.20.5.0-24',
    formatLeaseValue({ ipv4: '10.211.255.255' }),
    /^172\.20\.5\.0\/24: no route: the kernel refused it: EINVAL/,
  ],
  [
    'the network that all hosts are in',
    '10.211.0.0-24',
    other,
    /^10\.211\.0\.0\/24: no route: it overlaps 10\.211\.0\.0\/16, the network eth0 is connected to$/,
  ],
  [
    'a lease wider than the network',
    '172.16.0.0-12',
    other,
    /^\S+\/172\.16\.0\.0-12: not routed: it overlaps our own subnet/,
  ],
  [
    'another backend',
    '172.20.5.0-24',
    backend('vxlan'),
    /^\S+: not routed: its backend is "vxlan", not host-gw$/,
  ],
  ['no backend', '172.20.5.0-24', backend(''), /^\S+: not routed: its backend is missing, not host-gw$/],
  ['a key that is no subnet', 'nonsense', other, /^key \S+\/nonsense does not name a subnet/],
  [
    'a value that is none',
    '172.20.5.0-24',
    'nonsense',
    /^key \S+5\.0-24 holds no lease: its value is nonsense$/,
  ],
];

function backend(type: string): string {
  return JSON.stringify({ PublicIP: '10.211.99.9', BackendType: type });
}

it.each(PEERS_FAULTS)('stays ready beside %s, and is degraded', async (_, name, value, line) => {
  const world = await start();
  const { cluster: all, host } = world;
  const key = `${prefix}/subnets/${name}`;
  if (line.source.includes('EINVAL'))
    for (const each of all.hosts) each.kernel.faults.failNextApply('EINVAL');
  all.etcd.put(key, value);
  await all.clock.until(
    'told',
    () => all.hosts.every(({ readiness }) => readiness.degraded.length > 0),
    60_000,
  );
  for (const each of all.hosts) {
    expect(each.readiness).toEqual({
      ready: true,
      reasons: [],
      degraded: [expect.stringMatching(line)],
      notices: [],
    });
    await expectToldEverywhere(world, each);
    await expectDoctorAgrees(world, each);
  }
  all.etcd.delete(key);
  await all.clock.until('over', () => host.readiness.degraded.length === 0, 60_000);
  expect(host.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
});

it('says why peers have no route in one line for all that share the reason, with what to do', async () => {
  const world = await start();
  const { cluster: all, host } = world;
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
    await expectToldEverywhere(world, host);
    expect(host.readiness.degraded).toHaveLength(1);
  }
  expect(host.readiness.degraded).toEqual([
    expect.stringMatching(/^7 peers have no route: 192\.0\.2\.9 is not on .*lease release 172\.20\.2\.0\/24/),
  ]);
  for (let i = 2; i <= 8; i++)
    all.etcd.put(`${prefix}/subnets/172.20.${i}.0-24`, formatLeaseValue({ ipv4: `192.0.2.${i}` }));
  await all.clock.until('told', () => host.readiness.degraded.length > 1, 60_000);
  await expectToldEverywhere(world, host);
  expect(host.readiness.degraded).toHaveLength(6);
});

it("tells of a peer's fault again while it lasts, and when it is over, but not each time that it comes and goes", async () => {
  const world = await start();
  const { cluster: all, host } = world;
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

/** What a host notices and works in spite of. */
const NOTED: readonly (readonly [string, Step, RegExp, Step])[] = [
  [
    'a rule that drops some of the packets between containers',
    ({ host }) => void operatorOf(host).change('filter', ['-I FORWARD 1 -p tcp -s 172.20.0.0/16 -j DROP']),
    /^the firewall may drop packets .*-p tcp/,
    ({ host }) => void operatorOf(host).change('filter', ['-D FORWARD -p tcp -s 172.20.0.0/16 -j DROP']),
  ],
  [
    'a configuration that was changed',
    ({ cluster: { etcd } }) =>
      etcd.put(`${prefix}/config`, '{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}'),
    /^the network configuration \S+ was changed: Network 172\.20\.0\.0\/16 → 10\.5\.0\.0\/16/,
    ({ cluster: { etcd } }) => etcd.put(`${prefix}/config`, scenarioConfig),
  ],
  [
    'a configuration that was deleted',
    ({ cluster: { etcd } }) => etcd.delete(`${prefix}/config`),
    /^the network configuration \S+ was deleted/,
    ({ cluster: { etcd } }) => etcd.put(`${prefix}/config`, scenarioConfig),
  ],
];

it.each(NOTED)('is ready in spite of %s, and notes it', async (_, act, notice, undo) => {
  const world = await start();
  const { clock } = world.cluster;
  const { host } = world;
  act(world);
  await clock.until('told', () => host.readiness.notices.length > 0, 120_000);
  expect(host.readiness).toEqual({
    ready: true,
    reasons: [],
    degraded: [],
    notices: [expect.stringMatching(notice)],
  });
  await expectToldEverywhere(world, host);
  await expectDoctorAgrees(world, host);
  undo(world);
  await clock.until('over', () => host.readiness.notices.length === 0, 120_000);
  await expectToldEverywhere(world, host);
});

it('names a lease outside the network in a notice, and routes it', async () => {
  const world = await start();
  const { cluster: all, host } = world;
  const key = `${prefix}/subnets/192.168.5.0-24`;
  all.etcd.put(key, other);
  await all.clock.until('told', () => host.readiness.notices.length > 0, 60_000);
  const line = `${key}: routed, although 192.168.5.0/24 is outside the network 172.20.0.0/16`;
  expect(host.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [line] });
  expect(host.ownRoutes).toContain('192.168.5.0/24 via 10.211.99.9');
  await expectToldEverywhere(world, host);
  all.etcd.delete(key);
  await all.clock.until('over', () => host.readiness.notices.length === 0, 60_000);
});

it('names a member of etcd that cannot serve in a notice, in the same words as the log', async () => {
  cluster = makeCluster({ seed: 1, hosts: 1 });
  const host = cluster.host(0);
  let tell: ReturnType<typeof tellFitness> | undefined;
  host.start({}, (parts) => {
    tell = tellFitness(parts.notices);
    return parts;
  });
  await cluster.clock.until('ready', () => host.readiness.ready, 60_000);
  if (tell === undefined) throw new Error('not started');
  const world = { cluster, host, key: '' };
  const endpoint = 'http://etcd-1:2379';
  const line = `etcd at ${endpoint}: this member is a learner, which serves no clients`;
  tell(endpoint, new RegistryError('NOT_SERVING', endpoint, line));
  expect(host.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [line] });
  expect(host.state?.statusLine()).toContain(line);
  expect(cluster.log.lines.map(({ message }) => message)).toContain(line);
  await expectToldEverywhere(world, host);
  tell(endpoint, undefined);
  expect(host.readiness.notices).toEqual([]);
  await expectToldEverywhere(world, host);
});

it('names an old address of the bridge in a notice', async () => {
  const world = await start();
  const { cluster: all, host } = world;
  host.kernel.createLink('docker0');
  host.kernel.addAddress('docker0', '172.20.255.1/24');
  await all.clock.until('told', () => host.readiness.notices.length > 0, 60_000);
  expect(host.readiness.notices).toEqual([expect.stringMatching(/^docker0 has 172\.20\.255\.1\/24, and /)]);
  await expectToldEverywhere(world, host);
  host.kernel.deleteLink('docker0');
  await all.clock.until('over', () => host.readiness.notices.length === 0, 60_000);
  await expectToldEverywhere(world, host);
});

it('names the first few of many keys that are no leases, and counts the others', async () => {
  const world = await start();
  const { cluster: all, host } = world;
  for (let i = 0; i < 3_000; i++) all.etcd.put(`${prefix}/subnets/junk-${i}`, 'nonsense');
  const more = /^2995 more keys are not leases$/;
  await all.clock.until('told', () => more.test(host.readiness.degraded.at(-1) ?? ''), 60_000);
  expect(host.readiness.ready).toBe(true);
  expect(host.readiness.degraded).toHaveLength(6);
  expect(host.state?.snapshot().junk.first).toHaveLength(50);
  await expectToldEverywhere(world, host);
});

it('says that host-gw cannot work where the own address stands alone', async () => {
  const world = await start();
  const { cluster: all, host } = world;
  // As cloud providers do it.
  host.kernel.removeAddress('eth0', `${host.address}/16`);
  host.kernel.addAddress('eth0', `${host.address}/32`);
  const said = () => host.readiness.reasons.join('\n');
  await all.clock.until('told', () => said().includes('host-gw cannot work here'), 60_000);
  expect(said()).toMatch(/no route: eth0 has 10\.211\.55\.20\/32 and no other address: this provider routes/);
  expect(host.readiness.ready).toBe(false);
  await expectToldEverywhere(world, host);
});

const user = { username: 'flannel', passwordFile: '/etc/etcd/password' };
const tls = { caFile: '/etc/etcd/ca.pem' };

/** What is wrong on the way to etcd and keeps nothing from working. */
const NOTICES: readonly (readonly [
  string,
  (security: EtcdSecurity, files: SimFiles) => Promise<void>,
  RegExp,
  (security: EtcdSecurity, files: SimFiles) => Promise<void>,
])[] = [
  [
    'an etcd that asks for no user',
    async (security) => security.noteAuthentication(false, 'http://m0:2379'),
    /authentication disabled: user flannel/,
    async (security) => security.noteAuthentication(true, 'http://m0:2379'),
  ],
  [
    'a password file that is gone',
    async (security, files) => {
      await security.password(user);
      files.clear();
      await security.password(user);
    },
    /^going on with the password read before: .*\/etc\/etcd\/password does not exist/,
    async (security, files) => {
      await files.writeAtomic(user.passwordFile, 'another', 0o600);
      await security.password(user);
    },
  ],
  [
    'a CA file that is no CA any more',
    async (security, files) => {
      await security.refresh();
      await files.writeAtomic(tls.caFile, 'no certificate', 0o600);
      await security.refresh();
    },
    /^going on with the certificates read before: .*\/etc\/etcd\/ca.pem/,
    async (security, files) => {
      await files.writeAtomic(tls.caFile, rootCertificates[1] ?? '', 0o600);
      await security.refresh();
    },
  ],
];

it.each(NOTICES)('is ready in spite of %s, which is a notice', async (_, act, notice, undo) => {
  cluster = makeCluster({ seed: 1, hosts: 1 });
  const host = cluster.host(0);
  const files = new SimFiles();
  await files.writeAtomic(user.passwordFile, 'password', 0o600);
  await files.writeAtomic(tls.caFile, rootCertificates[0] ?? '', 0o600);
  let security: EtcdSecurity | undefined;
  const securedBy = (parts: DaemonParts) => {
    const { clock, log, notices } = parts;
    security = new EtcdSecurity({ tls, user, etcdPrefix: prefix, files, clock, log, notices });
    return parts;
  };
  host.start({}, securedBy);
  await cluster.clock.until('ready', () => host.readiness.ready, 60_000);
  if (security === undefined) throw new Error('no security');
  const world = { cluster, host, key: '' };
  await act(security, files);
  expect(host.readiness).toEqual({
    ready: true,
    reasons: [],
    degraded: [],
    notices: [expect.stringMatching(notice)],
  });
  expect(host.state?.statusLine()).toMatch(/^subnet [\d./]+; no other host has joined yet; \S/);
  await expectToldEverywhere(world, host);
  await undo(security, files);
  expect(host.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
});

it('the status line follows an etcd outage and its end at once', async () => {
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
