import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, beforeEach, expect, test } from 'vitest';
import { CONFIG, PREFIX } from '../testbed/cluster.ts';
import type { DaemonProcess } from '../testbed/daemon.ts';
import { runFolder } from '../testbed/host.ts';
import { until } from '../testbed/netns.ts';
import { ENDPOINT, useBench } from './bench.ts';
import { runProgram } from './program.ts';

// Two daemons on one host. The second one must not touch what the first one has.

const OTHER_PREFIX = '/other/network';
const argv = ['--log-format=json', `--etcd-endpoints=${ENDPOINT}`, '--iface=eth0'];

const bench = useBench();
let first: DaemonProcess;

beforeAll(async () => {
  first = bench.daemon;
  const network = { ...CONFIG, Network: '172.21.0.0/16', SubnetMin: undefined, SubnetMax: undefined };
  await bench.etcd.ctl('put', `${OTHER_PREFIX}/config`, JSON.stringify(network));
});

const rules = () => bench.host.exec('iptables', '-S');

beforeEach(async () => {
  if (!first.running) await first.start();
  await until(async () => (await rules()).includes('FLANNEL-FWD'), 20_000, 'no firewall rules');
});

/** What a second daemon could spoil. */
const state = async () => [
  await bench.revision(),
  await bench.allRoutes(),
  await rules(),
  readFileSync(first.subnetFile, 'utf8'),
  readFileSync(first.dockerOptsFile, 'utf8'),
];

/** The last line of a second daemon that is refused. */
async function refusal(flags: readonly string[], through: readonly string[] = []): Promise<string> {
  const { code, stderr } = await runProgram({ ...first.options, argv: [...argv, ...flags], through });
  expect(code, stderr.join('\n')).toBe(1);
  return stderr.at(-1) ?? '';
}

const lockFile = () => join(runFolder(first.options), 'flannel/.subnet.env.lock');

/** A second one on the host, with the same /run. */
const second = (flags: readonly string[], options: Partial<DaemonProcess['options']> = {}) =>
  bench.makeDaemon('second', { ...first.options, flags: ['--iface=eth0', ...flags], ...options });

test.each([
  ['with the same flags', [`--etcd-prefix=${PREFIX}`]],
  ['for another network', [`--etcd-prefix=${OTHER_PREFIX}`]],
  ['with another spelling of the path', ['--subnet-file=/run/./flannel//subnet.env']],
  ['with another status socket', ['--status-socket=/run/other.sock', '--docker-opts-file=']],
])(
  'a second daemon %s ends with exit code 1 and the id of the first, and touches nothing',
  async (_, flags) => {
    const before = await state();
    expect(JSON.parse(await refusal(flags))).toMatchObject({
      level: 'error',
      event: 'fatal',
      code: 'ALREADY_RUNNING',
      msg: expect.stringMatching(
        new RegExp(
          `a daemon \\(pid ${first.pid}\\) already runs with /run/.*subnet.env\\. Stop that one first`,
        ),
      ),
    });
    expect(await state()).toEqual(before);
    expect(existsSync(join(runFolder(first.options), 'other.sock'))).toBe(false);
  },
);

test('one in another process namespace is refused, too, where no process id can be told', async () => {
  const through = ['unshare', '--pid', '--fork', '--kill-child', '--'];
  expect(await refusal([`--etcd-prefix=${PREFIX}`], through)).toContain(
    'a daemon (in another container) already runs with /run/flannel/subnet.env',
  );
});

test('a killed daemon starts again at once, five times in a row', async () => {
  for (let round = 0; round < 5; round++) {
    await first.kill9();
    expect(existsSync(lockFile())).toBe(true);
    await first.start();
  }
  await first.restart();
});

test('a child that outlives the daemon does not keep the lock', async () => {
  await first.stop();
  const bin = join(bench.dir, 'bin');
  const started = join(bench.dir, 'child');
  mkdirSync(bin);
  writeFileSync(join(bin, 'iptables-save'), `#!/bin/sh\necho $$ >${started}; exec sleep 60\n`);
  chmodSync(join(bin, 'iptables-save'), 0o755);
  const options = { ...first.options, env: { PATH: `${bin}:${process.env['PATH']}` } };
  const parent = bench.makeDaemon('parent', options);
  parent.launch();
  await until(
    () => existsSync(started),
    20_000,
    () => parent.process.tail(),
  );
  await parent.kill9();
  const child = Number(readFileSync(started, 'utf8'));
  expect(existsSync(`/proc/${child}`)).toBe(true);
  await first.start();
  expect(existsSync(`/proc/${child}`)).toBe(true);
  process.kill(child, 'SIGKILL');
});

test('a container with its own /run has its own daemon', async () => {
  const other = bench.makeDaemon('container', { prefix: OTHER_PREFIX });
  await other.start();
  expect((await other.stop()).code).toBe(0);
});

test('two daemons with two subnet files in one folder both run; only the first one writes a shared docker_opts.env', async () => {
  const docker = readFileSync(first.dockerOptsFile, 'utf8');
  const other = second(['--subnet-file=/run/flannel/other.env'], { prefix: OTHER_PREFIX });
  await other.start();
  const { msg } = await other.waitForLog(({ msg: text = '' }) => text.includes('docker_opts.env'));
  expect(msg).toContain(`another daemon (pid ${first.pid}) writes /run/docker_opts.env: this one does not`);
  expect(msg).toContain('--docker-opts-file=PATH');
  expect(readFileSync(join(runFolder(first.options), 'flannel/other.env'), 'utf8')).toContain('172.21.');
  expect(readFileSync(first.dockerOptsFile, 'utf8')).toBe(docker);
  expect((await other.stop()).code).toBe(0);
  const apart = ['--subnet-file=/run/flannel/other.env', '--docker-opts-file=/run/other_opts.env'];
  const third = second(apart, { prefix: OTHER_PREFIX });
  await third.start();
  expect(third.logs.filter(({ msg: text = '' }) => text.includes('another daemon'))).toEqual([]);
  expect((await third.stop()).code).toBe(0);
});

test('a lock whose file was removed is taken again', async () => {
  rmSync(lockFile());
  await until(() => existsSync(lockFile()), 10_000, 'the lock is not taken again');
  expect(await refusal([`--etcd-prefix=${PREFIX}`])).toContain(`(pid ${first.pid})`);
});

test('a daemon whose lock another one took says so until the other one ends', async () => {
  first.process.signal('SIGSTOP');
  rmSync(lockFile());
  const other = second([], { prefix: PREFIX });
  await other.start();
  first.process.signal('SIGCONT');
  const text = `another daemon (pid ${other.pid}) uses /run/flannel/subnet.env, too: stop one of the two`;
  await first.waitForLog(({ msg = '' }) => msg.includes(text));
  await other.kill9();
  await first.waitForLog(
    ({ event, msg = '' }) => event === 'trouble-over' && msg.includes('no other daemon'),
  );
});

test('a folder that cannot be made yet is waited for, and locked once it is there', async () => {
  const blocked = join(runFolder(first.options), 'blocked');
  writeFileSync(blocked, '');
  const flags = ['--iface=eth0', '--subnet-file=/run/blocked/subnet.env', '--docker-opts-file='];
  const daemon = bench.makeDaemon('blocked', { ...first.options, prefix: OTHER_PREFIX, flags });
  daemon.launch();
  await daemon.waitForLog(({ msg = '' }) => msg.includes('/run/blocked/subnet.env cannot be written'));
  rmSync(blocked);
  await daemon.ready();
  await until(() => existsSync(join(blocked, '.subnet.env.lock')), 10_000, 'it is not locked');
  expect(await refusal(flags)).toContain(
    `a daemon (pid ${daemon.pid}) already runs with /run/blocked/subnet.env`,
  );
});
