import { join } from 'node:path';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { CONFIG, PREFIX } from '../testbed/cluster.ts';
import { DaemonProcess } from '../testbed/daemon.ts';
import { type EtcdCluster, startEtcd, startLearner } from '../testbed/etcd.ts';
import { until } from '../testbed/netns.ts';
import { RunningProcess } from '../testbed/process.ts';
import { runProgram } from './program.ts';
import { useCluster } from './use-cluster.ts';

/** Bytes that etcd's database may hold before the alarm NOSPACE is raised. */
const QUOTA = 1_000_000;

/** Two hosts for daemons, two for voters, and one each for a learner of their cluster and for a member of another one. */
const cluster = useCluster({ hosts: 6, etcd: false });
let etcd: EtcdCluster;
let daemons: DaemonProcess[] = [];

const [VOTER, VOTER2, LEARNER, STRANGER] = [
  '10.211.55.102',
  '10.211.55.103',
  '10.211.55.104',
  '10.211.55.105',
] as const;
const url = (address: string) => `http://${address}:2379`;

beforeAll(async () => {
  const place = (index: number, ip: string) => ({ netns: cluster.at(index).net.namespace, ip });
  // Its check wants members that know each other for five seconds.
  const args = [`--quota-backend-bytes=${QUOTA}`, '--strict-reconfig-check=false'];
  const dir = join(cluster.dir, 'etcd');
  const [own, stranger] = await Promise.all([
    startEtcd({ dir, members: [place(2, VOTER), place(3, VOTER2)], args }),
    startEtcd({ dir: join(cluster.dir, 'stranger'), members: [place(5, STRANGER)] }),
  ]);
  etcd = own;
  for (const each of [own, stranger]) cluster.onClose(() => each.close());
  const learner = await startLearner(etcd, dir, place(4, LEARNER));
  cluster.onClose(() => learner.kill());
  await etcd.ctl('put', `${PREFIX}/config`, JSON.stringify(CONFIG));
  const follows = async () => (await etcd.ctl('member', 'list')).includes('started, learner');
  await until(follows, 30_000, 'the learner does not follow');
});

afterEach(async () => {
  for (const daemon of daemons.splice(0)) await daemon.close();
  await etcd.ctl('del', '--prefix', `${PREFIX}/subnets/`);
});

/** The daemon of a host, told these endpoints. */
function daemonAt(index: number, ...endpoints: readonly string[]): DaemonProcess {
  const daemon = new DaemonProcess({ ...cluster.at(index).daemon.options, endpoints: endpoints.join(',') });
  daemons.push(daemon);
  return daemon;
}

const subnetsInEtcd = async () =>
  (await etcd.ctl('get', '--prefix', `${PREFIX}/subnets/`, '--keys-only')).trim();
const routesOf = async (index: number) => (await cluster.at(index).net.ip('route show proto 102')).trim();

/** What a daemon says of itself. */
async function statusOf(index: number): Promise<string> {
  const { stdout } = await runProgram({ ...cluster.at(index).daemon.options, argv: ['status'] });
  return stdout.join('\n');
}

const ready = (text: string) => /^flanneld-ts .*: ready/.test(text);

test.each([
  ['a learner first', () => [LEARNER, VOTER], /this member is a learner/],
  ['a learner in the middle', () => [VOTER, LEARNER, VOTER2], /this member is a learner/],
  ['a learner last', () => [VOTER, LEARNER], /this member is a learner/],
  ['a member of another cluster first', () => [STRANGER, VOTER, VOTER2], /another cluster/],
  ['a member of another cluster last', () => [VOTER, VOTER2, STRANGER], /another cluster/],
] as const)(
  '%s among the endpoints: ready, named, and ready again soon after a voter was away',
  async (_, addresses, says) => {
    const endpoints = addresses().map(url);
    await daemonAt(0, ...endpoints).start();
    expect(await subnetsInEtcd()).toMatch(/subnets\/172\.20\.\d+\.0-24$/);
    await etcd.first.kill();
    await until(async () => !ready(await statusOf(0)), 20_000, 'the outage is not noticed');
    await etcd.first.start();
    await until(async () => ready(await statusOf(0)), 20_000, 'not ready again');
    await daemonAt(1, ...endpoints).start();
    const routed = async () => (await routesOf(0)) !== '' && (await routesOf(1)) !== '';
    await until(routed, 10_000, 'no routes');
    expect((await statusOf(0)) + (await statusOf(1))).toMatch(says);
  },
);

test('a key that is deleted while the database is full: status says that it is gone and why, doctor names the alarm', async () => {
  const endpoints = [VOTER, VOTER2].map(url);
  await daemonAt(0, ...endpoints).start();
  const key = await subnetsInEtcd();
  const put = (n: number) =>
    etcd.ctl('put', 'ballast', String(n).padEnd(100_000, 'x')).then(
      () => true,
      () => false,
    );
  for (let n = 0; await put(n); n++) expect(n).toBeLessThan(100);
  await etcd.ctl('del', key);
  const gone = `the lease ${key} could not be renewed; its key is gone from etcd`;
  await until(async () => (await statusOf(0)).includes(gone), 20_000, 'nothing is said');
  expect(await statusOf(0)).toContain('the etcd database is full (alarm NOSPACE)');
  const flags = [`--etcd-endpoints=${endpoints.join(',')}`, `--etcd-prefix=${PREFIX}`, '--iface=eth0'];
  const doctor = await runProgram({ ...cluster.at(0).daemon.options, argv: ['doctor', ...flags] });
  expect(doctor.stdout.join('\n')).toMatch(
    /PROBLEM +etcd has raised the alarm NOSPACE \(member [\da-f]+\): .*\n.*etcdctl alarm disarm/,
  );
  const { revision } = JSON.parse(await etcd.ctl('get', 'ballast', '-w', 'json')).header as {
    revision: number;
  };
  await etcd.ctl('compact', '--physical', String(revision));
  for (const member of etcd.members) await member.ctl('defrag');
  await etcd.ctl('alarm', 'disarm');
  await until(async () => ready(await statusOf(0)), 30_000, 'not ready again');
  expect(await subnetsInEtcd()).toBe(key);
});

test('a proxy that loses its etcd: its silent watch is given up, and the next endpoint serves', async () => {
  const inHost = (...argv: string[]) =>
    new RunningProcess(cluster.at(0).net.command(...argv), {
      env: { PATH: process.env['PATH'], ETCDCTL_API: '3' },
    });
  const [behind, listen] = ['127.0.0.1:23791', '127.0.0.1:23790'];
  const gateway = inHost('etcd', 'gateway', 'start', `--endpoints=${VOTER}:2379`, `--listen-addr=${behind}`);
  const data = `--data-dir=${join(cluster.dir, 'proxy')}`;
  const proxy = inHost(
    'etcd',
    'grpc-proxy',
    'start',
    `--endpoints=${behind}`,
    `--listen-addr=${listen}`,
    data,
  );
  const serves = async () => (await inHost('etcdctl', `--endpoints=${listen}`, 'get', 'x').exit).code === 0;
  try {
    await until(serves, 20_000, 'the proxy does not serve');
    await daemonAt(0, `http://${listen}`, url(VOTER), url(VOTER2)).start();
    gateway.signal('SIGKILL');
    // Nothing is asked by this host meanwhile: the watch alone is to find out.
    await daemonAt(1, url(VOTER)).start();
    await until(async () => (await routesOf(0)) !== '', 90_000, 'no route to the host that joined');
    expect(ready(await statusOf(0))).toBe(true);
  } finally {
    for (const each of [proxy, gateway]) {
      each.signal('SIGKILL');
      await each.exit;
    }
  }
});
