import { mkdirSync } from 'node:fs';
import { createServer, type ListenOptions, type Server } from 'node:net';
import type { Certificate } from './certificates.ts';
import { type Addresses, type EtcdAccess, EtcdMember } from './etcd-member.ts';

export type { EtcdMember } from './etcd-member.ts';

/** Where a member runs: in a network namespace with an address of its own, ports 2379 and 2380. */
export interface EtcdPlace {
  readonly netns: string;
  readonly ip: string;
}

export interface EtcdOptions {
  /** Folder for data and logs; made when missing, left in place (its owner removes it). */
  readonly dir: string;
  /** How many members on free ports of 127.0.0.1, or the place of each. Default: one. */
  readonly members?: number | readonly EtcdPlace[];
  /** More command line for every member, e.g. `--quota-backend-bytes=2000000`. */
  readonly args?: readonly string[];
  /** Default: without TLS. */
  readonly tls?: EtcdTls;
}

/** How members serve https. */
export interface EtcdTls {
  readonly server: Certificate;
  /** The CA of the server's certificate and of clients'. */
  readonly ca: Pick<Certificate, 'certFile'>;
  /** etcdctl's certificate; when it is given, members want one of every client (`--client-cert-auth`). */
  readonly client?: Certificate;
}

/** A running etcd cluster of real processes. */
export interface EtcdCluster {
  readonly members: readonly EtcdMember[];
  /** The first member, which most tests talk to. */
  readonly first: EtcdMember;
  /** The client URLs of all members, comma separated. */
  readonly endpoints: string;
  /** etcdctl against the first member. */
  ctl(...args: string[]): Promise<string>;
  /** Grants a lease; resolves to its id, as etcdctl wants it. */
  grant(ttlSeconds: number): Promise<string>;
  /** Replaces everybody's data by that of a snapshot (`ctl('snapshot', 'save', file)`), under a new cluster id. */
  restore(snapshotFile: string): Promise<void>;
  /** Makes the user root with this password, enables authentication, and lets etcdctl be root from now on. */
  enableAuth(password: string): Promise<void>;
  /** Ends all processes, whatever their state, and waits for them. */
  close(): Promise<void>;
}

/** Starts a cluster and waits until every member is healthy. On failure nothing is left running. */
export async function startEtcd(options: EtcdOptions): Promise<EtcdCluster> {
  mkdirSync(options.dir, { recursive: true });
  const addresses = await addressesOf(options.members ?? 1, options.tls === undefined ? 'http' : 'https');
  const access = accessOf(options);
  const initialCluster = addresses.map(({ name, peerUrl }) => `${name}=${peerUrl}`).join(',');
  const members = addresses.map((a) => new EtcdMember(a, options.dir, initialCluster, access));
  const [first] = members;
  if (first === undefined) throw new RangeError('a cluster needs a member');
  const close = async (): Promise<void> => {
    await Promise.all(members.map((member) => member.kill()));
  };
  const startAll = async (): Promise<void> => {
    for (const member of members) member.launch();
    await Promise.all(members.map((member) => member.healthy()));
  };
  await startAll().catch(async (error: unknown) => {
    await close();
    throw error;
  });
  let restores = 0;
  return {
    members,
    first,
    endpoints: members.map((member) => member.clientUrl).join(','),
    ctl: (...args) => first.ctl(...args),
    async grant(ttlSeconds) {
      const answer = await first.ctl('lease', 'grant', String(ttlSeconds));
      return /^lease ([0-9a-f]{16}) granted/.exec(answer)?.[1] ?? answer;
    },
    async restore(snapshotFile) {
      await Promise.all(members.map((member) => member.stop()));
      restores += 1;
      for (const member of members) await member.restore(snapshotFile, `restore-${restores}`);
      await startAll();
    },
    async enableAuth(password) {
      await first.ctl('user', 'add', `root:${password}`);
      await first.ctl('auth', 'enable');
      access.ctlArgs.push(`--user=root:${password}`);
    },
    close,
  };
}

/** Starts one more member of the cluster, as a learner: it follows and serves no clients. */
export async function startLearner(
  cluster: EtcdCluster,
  dir: string,
  place?: EtcdPlace,
): Promise<EtcdMember> {
  const [addresses] = await addressesOf(place === undefined ? 1 : [place], 'http');
  if (addresses === undefined) throw new RangeError('no address');
  const learner = { ...addresses, name: 'learner' };
  await cluster.ctl('member', 'add', learner.name, '--learner', `--peer-urls=${learner.peerUrl}`);
  // ID, status, name, peer addresses, client addresses, learner or not.
  const list = (await cluster.ctl('member', 'list')).trim().split('\n');
  const voters = list
    .map((line) => line.split(', '))
    .flatMap(([, , name, url]) => (name ? [`${name}=${url}`] : []));
  const initialCluster = [...voters, `${learner.name}=${learner.peerUrl}`].join(',');
  const access = { args: ['--initial-cluster-state', 'existing'], ctlArgs: [] };
  const member = new EtcdMember(learner, dir, initialCluster, access);
  member.launch();
  return member;
}

function accessOf({ args = [], tls }: EtcdOptions): EtcdAccess {
  if (tls === undefined) return { args, ctlArgs: [] };
  const { server, ca, client } = tls;
  const asked = client === undefined ? [] : ['--client-cert-auth', `--trusted-ca-file=${ca.certFile}`];
  const shown = client === undefined ? [] : [`--cert=${client.certFile}`, `--key=${client.keyFile}`];
  return {
    args: [`--cert-file=${server.certFile}`, `--key-file=${server.keyFile}`, ...asked, ...args],
    ctlArgs: [`--cacert=${ca.certFile}`, ...shown],
  };
}

async function addressesOf(
  members: number | readonly EtcdPlace[],
  scheme: 'http' | 'https',
): Promise<readonly Addresses[]> {
  if (typeof members !== 'number') {
    return members.map(({ netns, ip }, index) => ({
      name: `etcd-${index}`,
      netns,
      clientUrl: `${scheme}://${ip}:2379`,
      listenClientUrls: `${scheme}://${ip}:2379,${scheme}://127.0.0.1:2379`,
      peerUrl: `http://${ip}:2380`,
    }));
  }
  const ports = await freePorts(members * 2);
  return Array.from({ length: members }, (_, index) => {
    const clientUrl = `${scheme}://127.0.0.1:${ports[index * 2]}`;
    const peerUrl = `http://127.0.0.1:${ports[index * 2 + 1]}`;
    return { name: `etcd-${index}`, clientUrl, listenClientUrls: clientUrl, peerUrl };
  });
}

/**
 * Ports of 127.0.0.1 nobody listens on, from below the range the kernel gives to outgoing connections: a member that is
 * stopped for a while finds its port still free. They are this process's until it ends: tests of another run beside this one take others.
 */
export async function freePorts(count: number): Promise<readonly number[]> {
  const ports: number[] = [];
  while (ports.length < count) {
    const port = 10_000 + Math.floor(Math.random() * 22_000);
    if ((await isOurs(port)) && (await isFree(port))) ports.push(port);
  }
  return ports;
}

/** Takes a port by a socket of its name, which is as wide as ports are, one network namespace, and goes with the process. */
async function isOurs(port: number): Promise<boolean> {
  const claim = createServer();
  return (await listens(claim, { path: `\0flanneld-ts-test-port-${port}` })) && claim.unref().listening;
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const free = await listens(server, { port, host: '127.0.0.1' });
  if (free) await new Promise((resolve) => server.close(resolve));
  return free;
}

function listens(server: Server, where: ListenOptions): Promise<boolean> {
  return new Promise((resolve) => {
    server.once('error', () => resolve(false));
    server.listen(where, () => resolve(true));
  });
}
