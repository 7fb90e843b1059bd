import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, beforeEach, expect, test } from 'vitest';
import type { StatusView } from '../../src/cli/ask-daemon.ts';
import { PREFIX } from '../testbed/cluster.ts';
import { quoted } from '../testbed/commands.ts';
import { PROGRAM } from '../testbed/daemon.ts';
import { onHost } from '../testbed/host.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { RunningProcess } from '../testbed/process.ts';
import { ENDPOINT, useBench } from './bench.ts';
import { runProgram } from './program.ts';
import { etcdLeaseIds } from './route-watch.ts';

// The commands beside the daemon, as the operator of a host runs them.

const PEER = '172.20.1.0/24 via 10.211.55.101';
const FAR = '172.20.4.0/24 via 192.0.2.9';
const RESERVED = '172.20.2.0/24';
const etcd = [`--etcd-endpoints=${ENDPOINT}`, `--etcd-prefix=${PREFIX}`];

const bench = useBench();

beforeAll(async () => {
  await bench.host.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1');
  await bench.putRoutes([PEER]);
});

beforeEach(async () => {
  if (!bench.daemon.running) await bench.daemon.start();
  await bench.haveRoutes([PEER]);
});

/** Runs the program on the host, with the daemon's /run. */
async function run(
  ...argv: readonly string[]
): Promise<{ readonly code: number | null; readonly text: string }> {
  const { code, stdout, stderr } = await runProgram({ ...bench.daemon.options, argv });
  return { code, text: [...stdout, ...stderr].join('\n') };
}

const doctor = (...flags: readonly string[]) => run('doctor', ...etcd, '--iface=eth0', ...flags);
/** What Docker from version 28 on sets for each container. */
const closedContainer = (action: '-A' | '-D') =>
  `-t raw ${action} PREROUTING -d 172.20.7.2 ! -i docker0 -j DROP`.split(' ');
const ownSubnet = () => `${bench.daemon.subnetEnv()['FLANNEL_SUBNET']?.replace('.1/24', '.0/24')}`;
const ownKey = () => leaseKey(ownSubnet());
const keys = async () =>
  (await bench.etcd.ctl('get', '--prefix', '--keys-only', `${PREFIX}/subnets/`)).split('\n').filter(Boolean);

test('status asks the daemon for its lease, its peers and its errors', async () => {
  const { code, text } = await run('status');
  expect(text).toMatch(/^flanneld-ts \d+\.\d+\.\d+, up .*: ready$/m);
  expect(text).toMatch(
    new RegExp(`^own lease +${ownSubnet()} at 10\\.211\\.55\\.100: held, (1 d|23 h 59 min) left$`, 'm'),
  );
  expect(text).toMatch(/^ {2}172\.20\.1\.0\/24 +10\.211\.55\.101 +routed +\d.*$/m);
  expect(code).toBe(0);
  await bench.putRoutes([FAR]);
  const json = async (): Promise<StatusView> => JSON.parse((await run('status', '--json')).text);
  const state = async () => (await json()).peers.find(({ subnet }) => subnet === FAR.split(' ', 1)[0]);
  await until(async () => (await state()) !== undefined, 10_000, 'the new peer is not told of');
  expect(await state()).toMatchObject({
    gateway: '192.0.2.9',
    state: 'parked',
    reason: "192.0.2.9 is not on eth0's network 10.211.55.0/24",
    fault: 'peer',
  });
  expect(await json()).toMatchObject({ ready: true, watching: true, leases: 3, lease: { state: 'held' } });
  expect((await run('status')).code).toBe(3);
  await bench.removeLease('172.20.4.0/24');
  await until(
    async () => (await json()).degraded.length === 0,
    10_000,
    'the peer that is gone is still told of',
  );
});

test('doctor finds no problem on a host that has none, and changes nothing', async () => {
  const before = [await bench.revision(), await bench.allRoutes()];
  const { code, text } = await doctor();
  expect(text).toMatch(/^ok +etcd at http:\/\/127\.0\.0\.1:2379 answers/m);
  expect(text).toContain('the only peer is routed');
  expect(text).toContain('No problems found.');
  expect(code).toBe(0);
  expect([await bench.revision(), await bench.allRoutes()]).toEqual(before);
});

test('doctor names what is wrong, and what to do', async () => {
  await bench.host.exec('sysctl', '-qw', 'net.ipv4.ip_forward=0');
  await bench.putRoutes(['172.20.3.0/24 via 192.0.2.7']);
  await bench.host.ip('link add docker0 type bridge');
  await bench.host.ip('addr add 172.17.0.1/16 dev docker0');
  await bench.host.exec('iptables', ...closedContainer('-A'));
  const { code, text } = await doctor('--ip-masq');
  expect(text).toMatch(/PROBLEM +net\.ipv4\.ip_forward is off.*\n.*sysctl -w net\.ipv4\.ip_forward=1/);
  expect(text).toMatch(
    /PROBLEM +IPv4: 1 of 2 peers is not routed: 172\.20\.3\.0\/24 via 192\.0\.2\.7 \(192\.0\.2\.7 is not on eth0's network 10\.211\.55\.0\/24\)\n.*lease release 172\.20\.3\.0\/24/,
  );
  expect(text).toMatch(/PROBLEM +docker0 has 172\.17\.0\.1\/16.*\n.*systemctl restart docker/);
  expect(text).toMatch(/PROBLEM +Docker drops all packets from other hosts to 1 of this host's containers/);
  expect(text).toMatch(/PROBLEM +iptables nat: our rules are missing/);
  expect(text).toContain('5 problems found.');
  expect(code).toBe(1);
  await bench.host.exec('iptables', ...closedContainer('-D'));
  await bench.host.ip('link del docker0');
  await bench.removeLease('172.20.3.0/24');
  await bench.host.exec('sysctl', '-qw', 'net.ipv4.ip_forward=1');
  // The daemon looks at forwarding every ten seconds: it may have seen that it was off.
  await until(async () => (await doctor()).code === 0, 20_000, 'doctor still finds a problem');
});

test.each([
  [
    'a route to the upper half of a peer\u2019s subnet',
    'route add 172.20.1.128/25 via 10.211.55.9',
    'ip route del 172.20.1.128/25 via 10.211.55.9 dev eth0',
    /packets to 172\.20\.1\.0\/24 bypass our route: the route 172\.20\.1\.128\/25 via 10\.211\.55\.9 dev eth0 takes them/,
  ],
  [
    'a blackhole for one container of it',
    'route add blackhole 172.20.1.77/32',
    'ip route del blackhole 172.20.1.77/32',
    /packets to 172\.20\.1\.0\/24 bypass our route: the route blackhole 172\.20\.1\.77\/32/,
  ],
  [
    'a policy rule that leads elsewhere',
    'route add 172.20.0.0/16 via 10.211.55.9 table 99\nrule add to 172.20.0.0/16 lookup 99 pref 1000',
    'ip rule del pref 1000 to 172.20.0.0/16 lookup 99',
    /the policy rule 1000 \(to 172\.20\.0\.0\/16 lookup 99\) sends them to 172\.20\.0\.0\/16 via 10\.211\.55\.9 dev eth0/,
  ],
  [
    'a policy rule that refuses',
    'rule add to 172.20.1.0/24 prohibit pref 1001',
    'ip rule del pref 1001 to 172.20.1.0/24',
    /the policy rule 1001 \(to 172\.20\.1\.0\/24\) drops or refuses them/,
  ],
])('doctor sees %s, and the command that it gives mends it', async (_, commands, mend, expected) => {
  for (const command of commands.split('\n')) await bench.host.ip(command);
  const { code, text } = await doctor();
  expect(text).toMatch(expected);
  expect(text).toContain(`\u2192 ${mend}`);
  expect(code).toBe(1);
  await bench.host.exec(...(mend.split(' ') as [string, ...string[]]));
  expect(await doctor()).toMatchObject({
    code: 0,
    text: expect.stringContaining('the kernel uses our routes to 1 peer'),
  });
});

test('doctor sees a policy rule that is for packets of containers alone', async () => {
  const address = bench.daemon.subnetEnv()['FLANNEL_SUBNET'] ?? '';
  const subnet = ownSubnet();
  const commands = [
    'link add docker0 type bridge',
    `addr add ${address} dev docker0`,
    'link set docker0 up',
    'route add default via 10.211.55.9 table 98',
    `rule add from ${subnet} lookup 98 pref 1000`,
  ];
  for (const command of commands) await bench.host.ip(command);
  const { code, text } = await doctor();
  expect(text).toContain(
    `packets to 172.20.1.0/24 bypass our route: the policy rule 1000 (from ${subnet} lookup 98) sends them to default via 10.211.55.9 dev eth0`,
  );
  expect(code).toBe(1);
  await bench.host.ip(`rule del pref 1000 from ${subnet} lookup 98`);
  expect((await doctor()).text).toContain('the kernel uses our routes to 1 peer');
  await bench.host.ip('link del docker0');
});

test('doctor does not count a daemon that serves another network', async () => {
  await bench.etcd.ctl('put', '/other/config', '{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}');
  const { text } = await run(
    'doctor',
    `--etcd-endpoints=${ENDPOINT}`,
    '--etcd-prefix=/other',
    '--iface=eth0',
  );
  expect(text).toMatch(
    /^note +the daemon that answers serves another network: its lease is \/atomic\.io\/network\/subnets/m,
  );
  expect(text).toMatch(/^PROBLEM +this host has no lease\n.*systemctl start flanneld/m);
  await bench.etcd.ctl('del', '/other/config');
});

test('doctor says what it cannot reach', async () => {
  const { code, text } = await run(
    'doctor',
    '--etcd-endpoints=http://127.0.0.1:1',
    `--etcd-prefix=${PREFIX}`,
  );
  expect(text).toMatch(/PROBLEM +etcd at http:\/\/127\.0\.0\.1:1: connection refused/);
  // Without --iface: the daemon says which one it uses.
  expect(text).toMatch(/^ok +peers reach this host at 10\.211\.55\.100 on eth0/m);
  expect(code).toBe(1);
});

test.each([
  ['of this host', ['--iface=eth0']],
  ['of this host by its address', ['--public-ip=10.211.55.100']],
  ['of its subnet', []],
])('lease release leaves the lease %s to the daemon that runs', async (_, flags) => {
  const operand = flags.length > 0 ? [] : [ownSubnet()];
  const before = await bench.revision();
  const { code, text } = await run('lease', 'release', ...operand, ...etcd, ...flags);
  expect(text).toBe(
    `the daemon of this host (pid ${bench.daemon.pid}) holds ${ownKey()}; nothing was released. ` +
      'Stop it first (systemctl stop flanneld), or pass --force',
  );
  expect(code).toBe(1);
  expect(await bench.revision()).toBe(before);
});

test('lease release leaves the lease of a host whose daemon answers, whichever host it is asked on', async () => {
  const elsewhere = (...flags: string[]) =>
    runProgram({
      namespace: bench.host.namespace,
      dir: join(bench.dir, 'elsewhere'),
      argv: ['lease', 'release', ...etcd, '--public-ip=10.211.55.100', ...flags],
    });
  const leases = await etcdLeaseIds(bench.etcd.first);
  const refused = await elsewhere();
  expect(refused.stderr).toEqual([
    `the daemon of 10.211.55.100 runs and holds ${ownKey()}; nothing was released. ` +
      'Stop it first, or pass --force',
  ]);
  expect(refused.code).toBe(1);
  const before = await bench.revision();
  const dry = await elsewhere('--dry-run');
  expect(dry.stdout[0]).toContain(`delete ${ownKey()}`);
  expect(dry.code).toBe(0);
  expect(await bench.revision()).toBe(before);
  expect(await etcdLeaseIds(bench.etcd.first)).toEqual(leases);
  expect((await run('status')).code).toBe(0);
});

test('lease release asks at a terminal, and an empty answer means no', async () => {
  await bench.daemon.stop();
  const key = ownKey();
  const input = join(bench.dir, 'input');
  await bench.host.exec('mkfifo', input);
  const line = quoted(PROGRAM, 'lease', 'release', ...etcd, '--iface=eth0');
  const shown = join(bench.dir, 'shown');
  const at = async (answer: string) => {
    const terminal = ['sh', '-c', 'exec script -qefc "$1" "$2" <>"$3"', 'sh', line, shown, input];
    const child = new RunningProcess(onHost(bench.daemon.options, terminal));
    bench.onClose(async () => void (await child.stop('SIGKILL')));
    // The question ends without a new line.
    const text = () => readFileSync(shown, 'utf8');
    const asked = () => existsSync(shown) && text().includes('[y/N]');
    await until(asked, 20_000, () => child.tail());
    writeFileSync(input, answer);
    const { code } = await child.exit;
    const all = text();
    rmSync(shown);
    return { code, text: all };
  };
  for (const answer of ['n\n', '\n', '\u0004']) {
    const { code, text } = await at(answer);
    expect(text).toMatch(
      /answers for 172\.20\.\d+\.0\/24 of 10\.211\.55\.100 \(a flanneld never does\); its lease was renewed /,
    );
    expect(text).toContain('nothing was released');
    expect(code).toBe(1);
    expect(await keys()).toContain(key);
  }
  const { code, text } = await at('y\n');
  expect(text).toContain(`deleted ${key}`);
  expect(code).toBe(0);
});

test('cleanup leaves all to a daemon that runs', async () => {
  const rules = () => bench.host.exec('iptables', '-S');
  const before = [await rules(), await bench.allRoutes()];
  const running = `a daemon (pid ${bench.daemon.pid}) runs on this host`;
  const refused = await run('cleanup', '--routes');
  expect(refused.text).toBe(
    `${running}; nothing was removed. Stop it first (systemctl stop flanneld), or remove all the same: --force`,
  );
  expect(refused.code).toBe(1);
  const dry = await run('cleanup', '--routes', '--dry-run');
  expect(dry.text).toContain('would remove our rules: iptables filter');
  expect(dry.text).toContain('would remove our route to 172.20.1.0/24');
  expect(dry.text).toContain(running);
  expect(dry.code).toBe(0);
  expect([await rules(), await bench.allRoutes()]).toEqual(before);
  expect((await run('cleanup', '--force')).text).toContain('removed our rules: iptables filter');
});

test('cleanup finds a daemon whose files lie elsewhere, and takes one of another network namespace for none', async () => {
  const elsewhere = ['cleanup', '--routes', '--subnet-file=/run/elsewhere/subnet.env'];
  const running = `a daemon (pid ${bench.daemon.pid}) runs on this host`;
  const before = await bench.allRoutes();
  const refused = await run(...elsewhere);
  expect(refused.text).toMatch(`${running}; nothing was removed.`);
  expect(refused.code).toBe(1);
  expect((await run(...elsewhere, '--dry-run')).text).toContain(`${running}: stop it first`);
  expect(await bench.allRoutes()).toEqual(before);
  const through = ['unshare', '--net', '--'];
  const apart = await runProgram({ ...bench.daemon.options, argv: elsewhere, through });
  expect(apart).toMatchObject({ code: 0, stderr: [], stdout: ['nothing to remove'] });
  // The daemon may put it back before anybody can look.
  expect((await run(...elsewhere, '--force')).text).toMatch(
    /removed our routes: 1 of IPv4|a running daemon put back the route to 172\.20\.1\.0\/24/,
  );
  await bench.haveRoutes([PEER]);
});

test('lease release gives back the lease of a host that is gone, with its etcd lease, and leaves others alone', async () => {
  await bench.daemon.stop();
  const key = ownKey();
  await bench.etcd.ctl('put', leaseKey(RESERVED), leaseValue('10.211.55.102'));
  expect(await keys()).toContain(key);
  const released = await run('lease', 'release', ...etcd, '--iface=eth0');
  expect(released).toMatchObject({ code: 0, text: expect.stringContaining(key) });
  expect(await keys()).toEqual([leaseKey('172.20.1.0/24'), leaseKey(RESERVED)]);
  expect(await etcdLeaseIds(bench.etcd.first)).toEqual([]);
  expect((await run('lease', 'release', ...etcd, '--iface=eth0')).code).toBe(1);
  await bench.removeLease(RESERVED);
});

/** As {@link run}, but whoever was to read the output is gone before anything is printed, as `grep -q` may be. */
async function runUnread(...argv: readonly string[]) {
  const gone = 'exec 3> >(exit 0); wait $!; exec "$@" >&3 3>&-';
  const through = ['bash', '--norc', '-c', gone, 'bash'];
  const { code, stdout, stderr } = await runProgram({ ...bench.daemon.options, argv, through });
  return { code, text: [...stdout, ...stderr].join('\n') };
}

test.each([
  ['--help', 0],
  ['--version', 0],
  ['health --healthz-port=1', 1],
  ['status', 0],
  ['status --watch', 0],
  ['doctor', 0],
])('%s ends with exit code %i and prints nothing when its reader is gone', async (line, code) => {
  const argv = line === 'doctor' ? [line, ...etcd, '--iface=eth0'] : line.split(' ');
  expect(await runUnread(...argv)).toEqual({ code, text: '' });
});

test('lease release and cleanup finish their work when their reader is gone', async () => {
  await bench.daemon.stop();
  expect(await runUnread('lease', 'release', ...etcd, '--iface=eth0')).toEqual({ code: 0, text: '' });
  expect(await keys()).not.toContain(ownKey());
  expect(await etcdLeaseIds(bench.etcd.first)).toEqual([]);
  expect(await bench.ourRoutes()).toContain(PEER);
  expect(await runUnread('cleanup', '--routes')).toEqual({ code: 0, text: '' });
  expect(await bench.ourRoutes()).toEqual([]);
  expect(await bench.host.exec('iptables-save')).not.toContain('FLANNEL');
});
