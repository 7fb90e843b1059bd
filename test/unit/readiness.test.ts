import { rootCertificates } from 'node:tls';
import { afterEach, expect, it } from 'vitest';
import { prefix, SimCluster, type SimHost } from '../../sim/cluster.ts';
import { SimFiles } from '../../sim/files.ts';
import type { DaemonParts } from '../../src/daemon/parts.ts';
import { EtcdSecurity } from '../../src/subnet/etcd/security.ts';
import { formatLeaseValue } from '../../src/subnet/lease.ts';

// What /readyz says while lease, watch, routes or files are not as they should be, and that it stops saying so.

let cluster: SimCluster | undefined;

afterEach(async () => {
  await cluster?.close();
  cluster = undefined;
});

interface World {
  readonly cluster: SimCluster;
  readonly host: SimHost;
  /** The key of the host's lease. */
  readonly key: string;
}

/** Two hosts that route to each other; the first is looked at. */
async function start(): Promise<World> {
  cluster = new SimCluster({ seed: 1, hosts: 2 });
  const [host] = cluster.hosts;
  if (host === undefined) throw new Error('no host');
  for (const each of cluster.hosts) each.start();
  await cluster.clock.until('full mesh', () => cluster?.meshed === true, 60_000);
  const subnet = (await host.subnet())?.text ?? '';
  return { cluster, host, key: `${prefix}/subnets/${subnet.replace('/', '-')}` };
}

const PEER = `${prefix}/subnets/172.20.5.0-24`;
const other = formatLeaseValue({ ipv4: '10.211.99.9' });
const beyond = formatLeaseValue({ ipv4: '192.0.2.9' });

type Step = (world: World) => void;

const TROUBLES: readonly (readonly [string, Step, RegExp, Step])[] = [
  [
    'the lease, that another host has taken',
    ({ cluster: { etcd }, key }) => etcd.put(key, other),
    /^the own lease is contested$/m,
    ({ cluster: { etcd }, key }) => etcd.delete(key),
  ],
  [
    'the lease, that has to move to another address and cannot',
    ({ cluster: { etcd }, host }) => {
      etcd.cut(host.name);
      // The kernel takes the routes along.
      host.kernel.removeAddress('eth0', `${host.address}/16`);
      host.kernel.addAddress('eth0', '10.211.77.7/16');
      const linkIndex = host.kernel.link('eth0').index;
      host.kernel.addRoute({ dst: '0.0.0.0/0', gateway: '10.211.0.1', linkIndex });
    },
    /^the own lease is moving$/m,
    ({ cluster: { etcd }, host }) => etcd.heal(host.name),
  ],
  [
    'the watch',
    ({ cluster: { etcd }, host }) => etcd.cut(host.name),
    /^the lease watch is not up$/m,
    ({ cluster: { etcd }, host }) => etcd.heal(host.name),
  ],
  [
    'a route that cannot be had',
    ({ cluster: { etcd } }) => etcd.put(PEER, beyond),
    /172\.20\.5\.0\/24 via 192\.0\.2\.9 is parked/,
    ({ cluster: { etcd } }) => etcd.delete(PEER),
  ],
  [
    'a file that cannot be written',
    ({ host }) => {
      host.files.writeError = 'ENOSPC';
      host.kernel.setMtu('eth0', 1400);
    },
    /\/run\/flannel\/subnet\.env cannot be written: ENOSPC/,
    ({ host }) => {
      host.files.writeError = undefined;
    },
  ],
];

it.each(TROUBLES)('tells of %s', async (_, act, reason, undo) => {
  const world = await start();
  const { clock } = world.cluster;
  const { host } = world;
  expect(host.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
  act(world);
  await clock.until('told', () => reason.test(host.readiness.reasons.join('\n')), 120_000);
  expect(host.readiness.ready).toBe(false);
  undo(world);
  await clock.until('ready again', () => host.readiness.ready, 120_000);
  expect(host.readiness.reasons).toEqual([]);
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
  cluster = new SimCluster({ seed: 1, hosts: 1 });
  const [host] = cluster.hosts;
  if (host === undefined) throw new Error('no host');
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
  await act(security, files);
  expect(host.readiness).toEqual({
    ready: true,
    reasons: [],
    degraded: [],
    notices: [expect.stringMatching(notice)],
  });
  expect(host.state?.statusLine()).toMatch(/^subnet .* peers routed; \S/);
  await undo(security, files);
  expect(host.readiness).toEqual({ ready: true, reasons: [], degraded: [], notices: [] });
});
