import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SimFiles } from '../../sim/files.ts';
import { checkBridge, checkDaemonJson } from '../../src/cli/doctor/check-host.ts';
import type { Finding } from '../../src/cli/doctor/finding.ts';
import { parseSubnet } from '../../src/ip/ip.ts';
import { BUSYBOX, makeBusyboxImage } from '../testbed/busybox.ts';
import { startDocker } from '../testbed/docker.ts';
import { makeNetwork, type Network } from '../testbed/netns.ts';
import { tempDir } from '../testbed/run.ts';
import { runInstall } from './installer.ts';

// What doctor and script/install say about daemon.json and docker0, held against a dockerd that is started with it and with our flags.

const SUBNET = '172.20.30.0/24';
const OPTIONS = '--bip=172.20.30.1/24 --ip-masq=true --mtu=1450';
const DROP_IN = readFileSync(
  join(import.meta.dirname, '../../systemd/docker.service.d/flannel.conf'),
  'utf8',
);

let network: Network;
const dir = tempDir('daemon-json');

beforeAll(async () => {
  network = await makeNetwork([{ name: 'host', addresses: ['10.211.55.100/24'] }]);
});

afterAll(async () => {
  await network?.close();
  rmSync(dir, { recursive: true, force: true });
});

/** What dockerd says when it does not start with this daemon.json; undefined when it does. */
async function dockerd(json: string): Promise<string | undefined> {
  const path = join(dir, 'daemon.json');
  const optionsFile = join(dir, 'docker_opts.env');
  writeFileSync(path, json);
  writeFileSync(optionsFile, `DOCKER_OPTS=" ${OPTIONS}"\n`);
  const namespace = network.hosts[0]?.namespace ?? '';
  // The -H of our drop-in names a socket that systemd opens.
  const args = ['--config-file', path, '--host', 'unix:///run/docker.sock', '--iptables=false'];
  try {
    const docker = await startDocker({ namespace, dir: join(dir, 'host'), optionsFile, args });
    await docker.close();
    return undefined;
  } catch (error) {
    return String(error);
  }
}

async function doctor(json: string, wanted: Finding['level'] = 'problem'): Promise<readonly string[]> {
  const files = new SimFiles();
  await files.writeAtomic('/etc/docker/daemon.json', json, 0o644);
  await files.writeAtomic('/usr/local/lib/systemd/system/docker.service.d/flannel.conf', DROP_IN, 0o644);
  const ipv4 = parseSubnet(SUBNET);
  const findings = await checkDaemonJson(files, { ...(ipv4 && { ipv4 }) });
  return findings.filter(({ level }) => level === wanted).map(({ text, remedy }) => `${text} ${remedy}`);
}

function installer(json: string): string {
  const destdir = join(dir, 'root');
  mkdirSync(join(destdir, 'etc/docker'), { recursive: true });
  writeFileSync(join(destdir, 'etc/docker/daemon.json'), json);
  const { stdout, stderr, status } = runInstall({ destdir });
  rmSync(destdir, { recursive: true });
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
  return stdout
    .split('\n')
    .filter((line) => line.startsWith('note:'))
    .join('\n');
}

test.each([
  ['{"bip":"172.20.30.1/24"}', /specified both as a flag and in the configuration file: bip/, 'bip'],
  ['{"bip":""}', /specified both as a flag and in the configuration file: bip/, 'bip'],
  ['{"mtu":1450}', /specified both as a flag .*: mtu/, 'mtu'],
  ['{"ip-masq":true,"mtu":1400}', /specified both as a flag .*ip-masq/, 'ip-masq, mtu'],
  ['{"bridge":"br0"}', /-b & --bip, mutually exclusive/, 'bridge'],
  ['{"hosts":["unix:///run/docker.sock"]}', /specified both as a flag .*: hosts/, 'hosts'],
  [
    '{"containerd":"/run/containerd/containerd.sock"}',
    /specified both as a flag .*: containerd/,
    'containerd',
  ],
  ['{"log-level":"warn",}', /unable to configure the Docker daemon/, 'is not valid'],
  ["{'mtu':1450}", /unable to configure the Docker daemon/, 'is not valid'],
])('dockerd does not start with %s, and doctor and script/install say why', async (json, said, named) => {
  expect(await dockerd(json)).toMatch(said);
  expect(await doctor(json)).toEqual([expect.stringContaining(named)]);
  const noted = installer(json);
  expect(noted).toContain(named);
  expect(noted).not.toMatch(/Unexpected|Expected|JSON\.parse|position \d/);
});

test('an empty daemon.json keeps some versions of Docker from starting, and doctor and script/install say so', async () => {
  const said = await dockerd('');
  if (said !== undefined) expect(said).toMatch(/unable to configure the Docker daemon/);
  expect(await doctor('', 'note')).toEqual([expect.stringContaining('is empty')]);
  expect(installer('')).toContain('is empty');
});

test.each([
  '{}',
  '{"bridge":"","log-driver":"json-file","live-restore":true}',
  '{"fixed-cidr":"172.20.30.128/25","default-gateway":"172.20.30.254"}',
  '{"ipv6":true,"fixed-cidr-v6":"fc00:5::/64"}',
])('dockerd starts with %s, and neither doctor nor script/install says anything', async (json) => {
  expect(await dockerd(json)).toBeUndefined();
  expect(await doctor(json)).toEqual([]);
  expect(installer(json)).toBe('');
});

test.each([
  [
    'does not start',
    'default-gateway',
    '10.9.0.1',
    /DefaultGatewayIPv4:10\.9\.0\.1\) must belong to the master pool/,
  ],
  // Nobody routes to its containers.
  ['starts', 'fixed-cidr', '10.9.0.0/24', undefined],
])('dockerd %s with a %s outside of the subnet, and doctor says so', async (_, name, value, said) => {
  const json = JSON.stringify({ [name]: value });
  if (said === undefined) expect(await dockerd(json)).toBeUndefined();
  else expect(await dockerd(json)).toMatch(said);
  expect(await doctor(json)).toEqual([expect.stringContaining(`"${name}": "${value}", which is outside`)]);
});

test('without our options in its command Docker may have any key: nothing is a problem', async () => {
  const files = new SimFiles();
  await files.writeAtomic('/etc/docker/daemon.json', '{"bip":"172.20.30.1/24","hosts":["fd://"]}', 0o644);
  expect(await checkDaemonJson(files, {})).toMatchObject([{ level: 'note' }]);
  const override = 'etc/systemd/system/docker.service.d/override.conf';
  const destdir = join(dir, 'other');
  for (const path of ['etc/docker/daemon.json', override])
    mkdirSync(join(destdir, dirname(path)), { recursive: true });
  writeFileSync(join(destdir, 'etc/docker/daemon.json'), '{"hosts":["fd://"]}');
  writeFileSync(join(destdir, override), '[Service]\nExecStart=\nExecStart=/usr/bin/dockerd $DOCKER_OPTS\n');
  expect(runInstall({ destdir }).stdout).not.toContain('note:');
});

test('docker0 has the MTU of its containers; doctor judges it only while one of them runs', async () => {
  const host = network.hosts[0];
  if (host === undefined) throw new Error('no host');
  const optionsFile = join(dir, 'docker_opts.env');
  writeFileSync(optionsFile, `DOCKER_OPTS=" ${OPTIONS}"\n`);
  const docker = await startDocker({ namespace: host.namespace, dir: join(dir, 'mtu'), optionsFile });
  const judge = async (wanted: number) => {
    const [shown]: [{ mtu: number; flags: string[]; ifindex: number }] = JSON.parse(
      await host.ip('-j link show docker0'),
    );
    const carrier = shown.flags.includes('LOWER_UP');
    const link = {
      index: shown.ifindex,
      name: 'docker0',
      mtu: shown.mtu,
      up: true,
      carrier,
      loopback: false,
    };
    const findings = checkBridge({ links: [link], addresses: [], mtu: wanted }, {});
    return { mtu: shown.mtu, levels: findings.map(({ level }) => level) };
  };
  try {
    // Docker 20.10 gives the bridge its MTU with the first container, 26 at once.
    expect((await judge(1450)).levels).toEqual([]);
    await docker.docker('import', await makeBusyboxImage(dir), BUSYBOX);
    await docker.run('first', BUSYBOX, 'sleep', '1000');
    expect(await judge(1450)).toEqual({ mtu: 1450, levels: [] });
    expect(await judge(1400)).toEqual({ mtu: 1450, levels: ['problem'] });
    expect(await judge(1500)).toEqual({ mtu: 1450, levels: ['note'] });
  } finally {
    await docker.close();
  }
});
