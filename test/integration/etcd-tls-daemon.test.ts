import { chmodSync, chownSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Authority, InstalledFiles } from '../testbed/certificates.ts';
import { CONFIG, PREFIX } from '../testbed/cluster.ts';
import type { DaemonProcess } from '../testbed/daemon.ts';
import { leaseKey } from '../testbed/lease-keys.ts';
import { until } from '../testbed/netns.ts';
import { type Bench, httpGet, startBench } from './bench.ts';
import { temporaryFolder } from './etcd-access.ts';
import { addUser } from './etcd-user.ts';
import { runProgram } from './program.ts';

const dir = temporaryFolder();
const METRICS = 'http://127.0.0.3:2381';
const USER = 'flannel';
const WRONG_PASSWORD = 'hunter2-but-wrong';
const PASSWORD = 'correct-horse-battery';

/** The daemon's files; etcd's and etcdctl's own. */
const files = new InstalledFiles(join(dir, 'daemon'));
const etcdFiles = new InstalledFiles(join(dir, 'etcd'));
const ctlFiles = new InstalledFiles(join(dir, 'ctl'));
const passwordFile = join(dir, 'password');
const flags = [
  '--iface=eth0',
  '--log-level=debug',
  `--etcd-cafile=${files.caFile}`,
  `--etcd-certfile=${files.certFile}`,
  `--etcd-keyfile=${files.keyFile}`,
  `--etcd-username=${USER}`,
  `--etcd-password-file=${passwordFile}`,
];
const altNames = ['IP:127.0.0.1', 'IP:127.0.0.2'];

let bench: Bench;
let oldCa: Authority;
let newCa: Authority;

/** Gives etcd and etcdctl certificates of a CA; read at etcd's next start. */
async function serveWith(ca: Authority): Promise<void> {
  const server = await ca.issue('server', { altNames });
  etcdFiles.ca(ca).certificate(server).key(server);
  // What a certificate names is a user only for those who bring no password: etcdctl brings root's.
  ctlFiles.certificate(server).key(server);
}

beforeAll(async () => {
  [oldCa, newCa] = await Promise.all([
    Authority.create(join(dir, 'old-ca'), 'the old CA'),
    Authority.create(join(dir, 'new-ca'), 'the new CA'),
  ]);
  await serveWith(oldCa);
  bench = await startBench({
    config: null,
    flags,
    tls: { server: etcdFiles, ca: { certFile: etcdFiles.caFile }, client: ctlFiles },
    etcdArgs: [`--listen-metrics-urls=${METRICS}`, '--bcrypt-cost=4'],
  });
  await addUser(bench.etcd, { username: USER, password: PASSWORD });
  await bench.etcd.enableAuth('the root password');
});

afterAll(() => bench?.close());

const said = (...texts: readonly string[]) =>
  bench.daemon.waitForLog(({ msg = '' }) => texts.every((text) => msg.includes(text)));

/** How many calls etcd refused for lack of a permission. */
async function denied(): Promise<number> {
  const { body } = await httpGet(bench.host.namespace, `${METRICS}/metrics`);
  const counts = body.matchAll(/^grpc_server_handled_total\{grpc_code="PermissionDenied".*\} (\d+)$/gm);
  return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
}

/** A daemon of another host with these flags, which says `text`; resolves to the line. */
async function lineOf(text: string, options: Partial<DaemonProcess['options']>): Promise<string | undefined> {
  const daemon = bench.makeDaemon('other', { endpoints: 'https://127.0.0.1:2379', flags: [], ...options });
  daemon.launch();
  const { msg } = await daemon.waitForLog(({ msg: line = '' }) => line.includes(text), 15_000);
  await daemon.stop();
  return msg;
}

test('a key that root may not read, without CAP_DAC_OVERRIDE: says which, and why', async () => {
  const guarded = new InstalledFiles(join(dir, 'guarded')).ca(oldCa).certificate(oldCa).key(oldCa);
  chmodSync(guarded.keyFile, 0o600);
  chownSync(guarded.keyFile, 65_534, 65_534);
  const pair = [`--etcd-certfile=${guarded.certFile}`, `--etcd-keyfile=${guarded.keyFile}`];
  const through = ['setpriv', '--bounding-set=-dac_override,-dac_read_search', '--'];
  const line = await lineOf('cannot be read', { flags: pair, through });
  expect(line).toContain(`the private key ${guarded.keyFile} cannot be read: permission denied`);
  expect(line).toContain('CAP_DAC_OVERRIDE');
});

test('SSL_CERT_FILE names the CAs that the system trusts, as for flanneld', async () => {
  await lineOf('no CA that the system trusts', {});
  await lineOf('it wants a client certificate', { env: { SSL_CERT_FILE: oldCa.certFile } });
});

test('the daemon waits for each file and for etcd’s permission, and says so', async () => {
  const { daemon, etcd } = bench;
  daemon.launch();
  await said('waiting for etcd', `the CA file ${files.caFile} does not exist`);
  const client = await oldCa.issue('client');
  files.ca(oldCa).certificate(client);
  await said('waiting for etcd', `the private key ${files.keyFile} does not exist`);
  files.key(client);
  await said(`the password file of etcd user ${USER} ${passwordFile} does not exist`);
  writeFileSync(passwordFile, `${WRONG_PASSWORD}\n`);
  await said(`does not accept user ${USER} with the password in ${passwordFile}`);
  writeFileSync(passwordFile, `${PASSWORD}\n`);
  // It may not look around in etcd for other prefixes.
  await said(`no network configuration at ${PREFIX}/config`);
  await etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(CONFIG));
  await daemon.ready();
  expect(daemon.subnetEnv()['FLANNEL_NETWORK']).toBe(CONFIG.Network);
});

test('needs no other permission than these two', async () => {
  const { daemon, etcd } = bench;
  const before = await denied();
  await bench.putLease('172.20.1.0/24', '10.211.55.101');
  await bench.haveRoutes(['172.20.1.0/24 via 10.211.55.101']);
  await bench.removeLease('172.20.1.0/24');
  await bench.haveRoutes([]);
  const own = leaseKey(`${daemon.subnetEnv()['FLANNEL_SUBNET']}`.replace('.1/', '.0/'));
  const exists = async () => (await etcd.ctl('get', '--keys-only', own)).includes(own);
  expect(await exists()).toBe(true);
  await etcd.ctl('del', own);
  await until(exists, 20_000, () => `the lease is not taken again\n${daemon.process.tail()}`);
  await daemon.restart();
  expect(await denied()).toBe(before);
  expect(readFileSync(daemon.logFile, 'utf8')).not.toContain('may not use');
  // The one look around.
  expect(before).toBe(1);
});

test('doctor uses the daemon’s credentials, needs no other permission, and names what is missing', async () => {
  const { daemon } = bench;
  const doctor = async (...more: readonly string[]) => {
    const access = ['--etcd-endpoints=https://127.0.0.1:2379', `--etcd-prefix=${PREFIX}`, ...flags];
    const argv = ['doctor', ...access, ...more];
    const { code, stdout, stderr } = await runProgram({ ...daemon.options, argv });
    return { code, text: [...stdout, ...stderr].join('\n') };
  };
  const before = await denied();
  const { text } = await doctor();
  expect(text).toContain('ok       etcd at https://127.0.0.1:2379 answers');
  expect(text).toMatch(/^ok +own lease \S+: (1 d|23 h 5\d min) left, renewed/m);
  expect(text).not.toContain('PROBLEM');
  expect(await denied()).toBe(before);
  const wrong = join(dir, 'wrong-password');
  writeFileSync(wrong, `${WRONG_PASSWORD}\n`);
  const cases = [
    [`--etcd-password-file=${wrong}`, `does not accept user ${USER}`],
    [`--etcd-password-file=${wrong}.none`, 'does not exist'],
    [`--etcd-cafile=${newCa.certFile}`, 'no TLS connection'],
  ] as const;
  for (const [flag, expected] of cases) {
    const refused = await doctor(flag);
    expect(refused.text).toMatch(/^PROBLEM +etcd/m);
    expect(refused.text).toContain(expected);
    expect(refused.text).not.toContain(WRONG_PASSWORD);
    expect(refused.code).toBe(1);
  }
}, 60_000);

test('the running daemon goes over to another CA; half of a new pair changes nothing', async () => {
  const { daemon, etcd } = bench;
  const { pid } = daemon;
  const renewed = await newCa.issue('client');
  files.ca(oldCa, newCa).certificate(renewed);
  await etcd.first.kill();
  await serveWith(newCa);
  ctlFiles.ca(newCa);
  await etcd.first.start();
  await said('going on with the certificates read before', `${files.keyFile} does not belong to`);
  await bench.putLease('172.20.2.0/24', '10.211.55.102');
  files.key(renewed);
  await said('the certificate files have changed');
  await bench.haveRoutes(['172.20.2.0/24 via 10.211.55.102']);
  expect(daemon.pid).toBe(pid);
  expect(daemon.running).toBe(true);
});

test('the log of all this holds no password, nothing of a key, and no complaint of Node’s', () => {
  const log = readFileSync(bench.daemon.logFile, 'utf8');
  expect(log).toContain(passwordFile);
  const key = readFileSync(files.keyFile, 'utf8').split('\n').slice(1, -2);
  expect(key.length).toBeGreaterThan(1);
  for (const secret of [WRONG_PASSWORD, PASSWORD, ...key]) expect(log).not.toContain(secret);
  expect(log).not.toMatch(/DEP0123|Deprecation|PRIVATE KEY-----/);
});
