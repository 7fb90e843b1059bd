import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { StatusView } from '../../src/cli/ask-daemon.ts';
import { CONFIG, PREFIX } from '../testbed/cluster.ts';
import type { DaemonProcess, LogRecord } from '../testbed/daemon.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { NotifySocket } from '../testbed/notify-socket.ts';
import { RunningProcess, runToEnd } from '../testbed/process.ts';
import { useBench } from './bench.ts';
import { runProgram } from './program.ts';
import { etcdLeaseIds } from './route-watch.ts';

const HEALTHZ_PORT = 8472;

const bench = useBench();
let count = 0;

interface Waiting {
  readonly daemon: DaemonProcess;
  readonly notify: NotifySocket;
}

/** A daemon with its own network and an ear for what it tells its service manager. */
async function makeWaiting(flags: readonly string[], config: object = {}): Promise<Waiting> {
  const number = ++count;
  const prefix = `/host-${number}`;
  const network = { Network: `172.${20 + number}.0.0/16`, Backend: { Type: 'host-gw' }, ...config };
  await bench.etcd.ctl('put', `${prefix}/config`, JSON.stringify(network));
  const dir = join(bench.dir, `waiting-${number}`);
  mkdirSync(join(dir, 'run/flannel'), { recursive: true });
  const notify = new NotifySocket(join(dir, 'notify'));
  const env = { NOTIFY_SOCKET: notify.path };
  const daemon = bench.makeDaemon(`waiting-${number}`, { prefix, flags, env });
  bench.onClose(async () => notify.close());
  return { daemon, notify };
}

const troubles = (daemon: DaemonProcess): readonly LogRecord[] =>
  daemon.logs.filter(({ event }) => event === 'trouble');

const isReady = ({ notify }: Waiting) => notify.messages.some((message) => message.includes('READY=1'));

/** What the daemon says of itself to `flanneld-ts status`; undefined in its first second. */
async function statusOf(
  { options }: DaemonProcess,
  ...flags: readonly string[]
): Promise<StatusView | undefined> {
  const { stdout } = await runProgram({ ...options, argv: ['status', '--json', ...flags] });
  const answer: StatusView | { readonly error: string } = JSON.parse(stdout.join(''));
  return 'error' in answer ? undefined : answer;
}

async function untilTriedAgain(daemon: DaemonProcess, ...flags: readonly string[]): Promise<void> {
  const again = async () =>
    (await statusOf(daemon, ...flags))?.errors.some(({ over, attempts }) => over === null && attempts > 1) ===
    true;
  await until(again, 30_000, () => `it does not try again\n${daemon.process.tail()}`);
}

/** Not ready and alive after it has tried again, and nothing more to say than `lines` lines. */
async function expectPatience(waiting: Waiting, lines: number, ...flags: readonly string[]): Promise<void> {
  await untilTriedAgain(waiting.daemon, ...flags);
  expect(waiting.daemon.running).toBe(true);
  expect(isReady(waiting)).toBe(false);
  expect(troubles(waiting.daemon)).toHaveLength(lines);
}

async function expectGoesOn(waiting: Waiting): Promise<void> {
  await waiting.daemon.ready();
  expect(isReady(waiting)).toBe(true);
  expect(waiting.daemon.logs.filter(({ event }) => event === 'trouble-over').length).toBeGreaterThan(0);
  expect((await waiting.daemon.stop()).code).toBe(0);
}

test.each([
  ['subnet-file', (daemon: DaemonProcess) => daemon.subnetFile, '/run/flannel/subnet.env'],
  ['docker_opts.env', (daemon: DaemonProcess) => daemon.dockerOptsFile, '/run/docker_opts.env'],
])('a directory in the place of the %s is waited out', async (_what, fileOf, path) => {
  const waiting = await makeWaiting(['--iface=eth0']);
  const file = fileOf(waiting.daemon);
  mkdirSync(file, { recursive: true });
  waiting.daemon.launch();
  const line = await waiting.daemon.waitForLog('trouble');
  for (const text of [path, 'cannot be written', 'EISDIR']) expect(line.msg).toContain(text);
  await expectPatience(waiting, 1);
  rmdirSync(file);
  await expectGoesOn(waiting);
  expect(waiting.daemon.subnetEnv()['FLANNEL_MTU']).toBe('1500');
});

test('a read-only file system under the subnet-file is waited out', async () => {
  const folder = join(bench.dir, 'read-only');
  mkdirSync(folder);
  // The socket lies elsewhere, so that the file is all there is to say.
  const socket = join(bench.dir, 'elsewhere.sock');
  const waiting = await makeWaiting([
    '--iface=eth0',
    `--subnet-file=${folder}/subnet.env`,
    `--status-socket=${socket}`,
  ]);
  const mount = async (...argv: string[]) => {
    const { exit, output } = await runToEnd(argv);
    expect(exit.code, output).toBe(0);
  };
  await mount('mount', '-t', 'tmpfs', 'tmpfs', folder);
  bench.onClose(() => mount('umount', folder));
  // Read-only for the daemon as soon as it has mounts of its own: those of its parent are copied as they are.
  await mount('mount', '-o', 'remount,bind,ro', folder);
  waiting.daemon.launch();
  const line = await waiting.daemon.waitForLog('trouble');
  for (const text of [`${folder}/subnet.env`, 'cannot be written', 'EROFS']) expect(line.msg).toContain(text);
  await expectPatience(waiting, 1, `--status-socket=${socket}`);
  const inDaemon = ['nsenter', `--mount=/proc/${waiting.daemon.pid}/ns/mnt`, '--'];
  await mount(...inDaemon, 'mount', '-o', 'remount,bind,rw', folder);
  await expectGoesOn(waiting);
});

test('a health port in use costs one warning and leaves the host ready; the daemon works, and serves the port once it is free', async () => {
  const server =
    "require('http').createServer((q, r) => r.end('another')).listen(PORT, '127.0.0.1', () => console.log('up'))";
  const code = server.replace('PORT', String(HEALTHZ_PORT));
  const other = new RunningProcess(bench.host.command(process.execPath, '-e', code));
  await other.waitFor((lines) => lines[0], 10_000, 'listening');
  const waiting = await makeWaiting([
    '--iface=eth0',
    '--healthz-ip=127.0.0.1',
    `--healthz-port=${HEALTHZ_PORT}`,
  ]);
  await waiting.daemon.start();
  expect(isReady(waiting)).toBe(true);
  await untilTriedAgain(waiting.daemon);
  const warnings = waiting.daemon.logs.filter(({ what }) => what === 'health-port');
  expect(warnings).toHaveLength(1);
  for (const text of ['127.0.0.1', String(HEALTHZ_PORT), '--healthz-port']) {
    expect(warnings[0]?.msg).toContain(text);
  }
  const view = () => statusOf(waiting.daemon);
  expect(await view()).toMatchObject({ ready: true, reasons: [], degraded: [], notices: [warnings[0]?.msg] });
  await other.stop('SIGKILL');
  await waiting.daemon.waitForLog('health-listening', 40_000);
  expect(await view()).toMatchObject({ ready: true, notices: [] });
  const { status, body } = await bench.get(`http://127.0.0.1:${HEALTHZ_PORT}/healthz`);
  expect([status, body.trim()]).toEqual([200, 'flanneld is running']);
  expect((await waiting.daemon.stop()).code).toBe(0);
});

test('an interface that is missing, then without an address, is waited out; the address is noticed at once', async () => {
  const waiting = await makeWaiting(['--iface=eth7']);
  waiting.daemon.launch();
  const missing = await waiting.daemon.waitForLog('trouble');
  for (const text of ['eth7', 'eth0 (10.211.55.100/24)']) expect(missing.msg).toContain(text);
  await expectPatience(waiting, 1);
  // Both at once: between two commands it would be told that the link is down.
  await bench.host.ip('link add eth7 up type bridge');
  const bare = await waiting.daemon.waitForLog(
    ({ event, msg }) => event === 'trouble' && msg?.includes('eth7 has no usable IPv4 address') === true,
  );
  expect(bare.msg).toContain('eth7 (no IPv4 address)');
  expect(troubles(waiting.daemon)).toHaveLength(2);
  await bench.host.ip('addr add 10.97.0.1/24 dev eth7');
  // By the kernel's event; the next look by itself would come after ten seconds.
  await waiting.daemon.ready(5_000);
  await expectGoesOn(waiting);
});

test('an exhausted pool is waited out, without an etcd lease for it, until a subnet is given back', async () => {
  await bench.etcd.ctl('put', leaseKey('172.20.10.0/24'), leaseValue('10.211.55.110'));
  const lease = await bench.etcd.grant(3_600);
  await bench.etcd.ctl('put', `--lease=${lease}`, leaseKey('172.20.11.0/24'), leaseValue('10.211.55.111'));
  const config = { ...CONFIG, SubnetMin: '172.20.10.0', SubnetMax: '172.20.11.0' };
  await bench.etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(config));
  const leases = () => etcdLeaseIds(bench.etcd.first);
  const before = await leases();
  const waiting = await makeWaiting(['--iface=eth0']);
  const daemon = bench.makeDaemon('exhausted', { env: { NOTIFY_SOCKET: waiting.notify.path } });
  daemon.launch();
  const line = await daemon.waitForLog('trouble');
  for (const text of ['172.20.10.0', '172.20.11.0', '2']) expect(line.msg).toContain(text);
  await expectPatience({ daemon, notify: waiting.notify }, 1);
  expect(await leases()).toEqual(before);
  await bench.etcd.ctl('lease', 'revoke', lease);
  await expectGoesOn({ daemon, notify: waiting.notify });
  expect(daemon.subnetEnv()['FLANNEL_SUBNET']).toBe('172.20.11.1/24');
});
