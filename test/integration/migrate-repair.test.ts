import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { askRaw } from '../contract/v2-store-real.ts';
import { Cluster, type ClusterHost, CONFIG, PREFIX } from '../testbed/cluster.ts';
import type { DaemonProcess } from '../testbed/daemon.ts';
import { type EtcdCluster, startEtcd } from '../testbed/etcd.ts';
import { onHost as onHostOf } from '../testbed/host.ts';
import { leaseKey, leaseValue } from '../testbed/lease-keys.ts';
import { enterNamespace, until } from '../testbed/netns.ts';
import { runToEnd } from '../testbed/process.ts';
import { runProgram } from './program.ts';
import { RouteWatch, type StoredLease, storedLeases, untilOwnRoutes } from './route-watch.ts';

const cluster = new Cluster({ hosts: 2, endpoints: 'own' });
const routes = new RouteWatch();
let etcd: EtcdCluster;
let host: ClusterHost;
let peer: ClusterHost;
let daemon: DaemonProcess;

const [OWN, PEERS, RESERVED] = ['172.20.40.0/24', '172.20.50.0/24', '172.20.60.0/24'];
const oldValue = (ip: string) => `{"PublicIP":"${ip}","BackendType":"host-gw"}`;

/** Two leases and a reservation of flannel 0.7.1, carried over by `etcdctl migrate`; a daemon on each host. */
beforeAll(async () => {
  await cluster.make();
  [host, peer] = [cluster.at(0), cluster.at(1)];
  daemon = host.daemon;
  const dir = join(cluster.dir, 'etcd');
  const members = [{ netns: host.net.namespace, ip: host.address }];
  etcd = await startEtcd({ dir, members, args: ['--enable-v2'] });
  cluster.onClose(() => etcd.close());
  const leave = enterNamespace(host.net.namespace);
  cluster.onClose(async () => leave());
  const put = (key: string, value: string, ttl?: number) => {
    const fields = { value, ...(ttl !== undefined && { ttl: String(ttl) }) };
    const form = new URLSearchParams(fields).toString();
    return askRaw(new URL(`/v2/keys${key}`, etcd.endpoints), 'PUT', { form });
  };
  await put(`${PREFIX}/config`, JSON.stringify(CONFIG));
  await put(leaseKey(OWN), oldValue(host.address), 86_400);
  await put(leaseKey(PEERS), oldValue(peer.address), 86_400);
  await put(leaseKey(RESERVED), oldValue('10.211.55.199'));
  await etcd.first.stop();
  const argv = ['env', 'ETCDCTL_API=3', 'etcdctl', 'migrate', `--data-dir=${join(dir, etcd.first.name)}`];
  expect((await runToEnd(argv)).exit).toMatchObject({ code: 0 });
  await etcd.first.start();
  // flannel 0.7.1 on the peer goes on: only this host is on v3.
  await daemon.start();
  await untilOwnRoutes(host, [
    `${PEERS} via ${peer.address} dev eth0`,
    `${RESERVED} via 10.211.55.199 dev eth0`,
  ]);
  await routes.start([host]);
});
afterAll(async () => {
  await routes.stop();
  await cluster.close();
});

const stored = async (subnet: string): Promise<StoredLease | undefined> =>
  (await storedLeases(etcd.first)).find(({ key }) => key === leaseKey(subnet));

const access = () => [`--etcd-endpoints=${etcd.endpoints}`, `--etcd-prefix=${PREFIX}`];
const onHost = (...argv: readonly string[]) =>
  runProgram({ namespace: host.net.namespace, dir: host.dir, argv: [...argv, ...access()] });
const repair = (...argv: readonly string[]) => onHost('migrate', '--repair', ...argv);

const noLease = '0'.repeat(16);

it('etcdctl migrate has made reservations of the leases, and the daemon lives on its own', async () => {
  expect(daemon.subnetEnv()['FLANNEL_SUBNET']).toBe('172.20.40.1/24');
  expect(await stored(OWN)).toMatchObject({ value: leaseValue(host.address), leaseId: noLease });
  expect(await stored(PEERS)).toMatchObject({ value: oldValue(peer.address), leaseId: noLease });
});

it('--repair gives both a lease of a day; the daemon goes on and renews its own, and no route changes', async () => {
  const before = await storedLeases(etcd.first);
  expect((await onHost('doctor', '--iface=eth0')).stdout.join('\n')).toMatch(
    /^note {5}2 reservations in the v3 store are leases in the v2 store, .*: 172\.20\.40\.0\/24 of 10\.211\.55\.100, 172\.20\.50\.0\/24 of 10\.211\.55\.101\n +→ .*flanneld-ts migrate --repair$/m,
  );
  expect(await repair('--dry-run')).toMatchObject({ code: 0, stderr: [] });
  expect(await storedLeases(etcd.first)).toEqual(before);

  const result = await repair();
  expect(result).toMatchObject({ code: 0, stderr: [] });
  expect(result.stdout).toContain('reservations: 2 repaired, 1 kept');
  const { before: was, after } = await daemon.waitForLog('lease-changed');
  expect([was, after]).toEqual(['0', expect.stringMatching(/^[1-9]\d+$/)]);
  const own = await stored(OWN);
  expect(own?.value).toBe(leaseValue(host.address));
  expect(BigInt(`0x${own?.leaseId}`).toString()).toBe(after);
  expect(await stored(RESERVED)).toEqual(before.find(({ key }) => key === leaseKey(RESERVED)));

  const left = async () => {
    const said = await etcd.ctl('lease', 'timetolive', own?.leaseId ?? '');
    return Number(/remaining\((\d+)s\)/.exec(said)?.[1]);
  };
  await until(async () => (await left()) < 86_397, 10_000, 'the lease does not grow older');
  await daemon.restart();
  expect(await left()).toBeGreaterThan(86_396);
  expect(await stored(OWN)).toEqual(own);

  const again = await repair();
  expect(again).toMatchObject({ code: 0, stderr: [] });
  expect(again.stdout).toContain('reservations: 1 kept');
  expect(await stored(OWN)).toEqual(own);
  expect(await routes.changes()).toEqual([]);
});

it('--check on a host with flannel 0.7.1 names its process, unit, flags and lease, and what stands in the way', async () => {
  const run = join(peer.dir, 'run');
  const write = (path: string, text: string) => {
    mkdirSync(dirname(join(run, path)), { recursive: true });
    writeFileSync(join(run, path), text, { mode: 0o755 });
  };
  const units = 'systemd/system';
  write('flanneld', '#!/bin/sh\nread end\n');
  write('sysconfig', `FLANNEL_ETCD_ENDPOINTS=${etcd.endpoints}\nFLANNEL_ETCD_PREFIX=${PREFIX}\n`);
  write(
    `${units}/flanneld.service`,
    '[Service]\nEnvironmentFile=/run/sysconfig\nExecStart=/run/flanneld -iface=eth0 $FLANNEL_OPTIONS\n',
  );
  write(`${units}/docker.service`, '[Service]\nExecStart=/usr/bin/dockerd\n');
  write(`${units}/docker.service.d/flannel.conf`, '[Service]\nEnvironmentFile=-/run/flannel/docker\n');
  write(
    'flannel/subnet.env',
    'FLANNEL_NETWORK=172.20.0.0/16\nFLANNEL_SUBNET=172.20.50.1/24\nFLANNEL_MTU=1500\n',
  );
  const place = { namespace: peer.net.namespace, dir: peer.dir };
  const files = () =>
    readdirSync(run, { recursive: true, encoding: 'utf8' }).map((path) => [
      path,
      statSync(join(run, path)).mtimeMs,
    ]);
  const before = [await storedLeases(etcd.first), files()];

  // It does not run: its unit says where etcd is.
  const idle = await runProgram({ ...place, argv: ['migrate', '--check'] });
  expect(idle).toMatchObject({ code: 0, stderr: [] });
  expect(idle.stdout).toEqual(
    expect.arrayContaining([
      'found       flanneld does not run; its flags are those of flanneld.service',
      'found       flanneld.service: /run/systemd/system/flanneld.service',
      `same        FLANNEL_ETCD_ENDPOINTS=${etcd.endpoints}`,
      'same        --iface=eth0',
      'same        Docker reads /run/flannel/docker, and starts without it',
      `same        the configuration ${PREFIX}/config: backend host-gw`,
      `same        this host's lease ${PEERS} (172.20.50.1/24 in subnet.env) is in the v3 store, for ${peer.address}`,
      'Nothing stands in the way.',
    ]),
  );

  const [program = '', ...words] = onHostOf(place, [
    '/run/flanneld',
    `-etcd-endpoints=${etcd.endpoints}`,
    `-etcd-prefix=${PREFIX}`,
    '-networks=blue',
    '-public-ip=192.0.2.1',
  ]);
  const flanneld = spawn(program, words, { stdio: ['pipe', 'ignore', 'inherit'] });
  const ended = once(flanneld, 'exit');
  const comm = () => readFileSync(`/proc/${flanneld.pid}/comm`, 'utf8').trim();
  await until(() => comm() === 'flanneld', 10_000, 'flanneld does not start');
  const result = await runProgram({ ...place, argv: ['migrate', '--check'] });
  flanneld.stdin.end();
  await ended;
  expect(result).toMatchObject({ code: 1, stderr: [] });
  expect(result.stdout[0]).toMatch(new RegExp(`^found {7}flanneld runs \\(pid ${flanneld.pid}\\b`));
  expect(result.stdout.filter((line) => line.startsWith('IN THE WAY'))).toEqual([
    expect.stringMatching(/--public-ip=192\.0\.2\.1 is no address of this host/),
    expect.stringMatching(/--networks: several networks in one daemon are not supported/),
  ]);
  expect([await storedLeases(etcd.first), files()]).toEqual(before);
});
