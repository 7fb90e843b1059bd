import { generateKeyPairSync } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { Registry } from '../../src/subnet/registry/registry.ts';
import { Authority } from '../testbed/certificates.ts';
import { PREFIX } from '../testbed/cluster.ts';
import { type EtcdCluster, startEtcd } from '../testbed/etcd.ts';
import { connectTo, temporaryFolder } from './etcd-access.ts';
import { addUser, authentications, configKey, leaseKey, put, startWithUser, user } from './etcd-user.ts';

const dir = temporaryFolder();
function jwt(ttl: string): string {
  const { publicKey, privateKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs1', format: 'pem' },
  });
  writeFileSync(join(dir, 'jwt.pub'), publicKey);
  writeFileSync(join(dir, 'jwt.key'), privateKey);
  const files = `pub-key=${join(dir, 'jwt.pub')},priv-key=${join(dir, 'jwt.key')}`;
  return `--auth-token=jwt,${files},sign-method=RS256,ttl=${ttl}`;
}

/** Watches from now on; resolves once etcd has confirmed the watch. `next` is its next message. */
async function openWatch(registry: Registry, startRevision: number) {
  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  const request = { key: `${PREFIX}/subnets/`, rangeEnd: `${PREFIX}/subnets0`, startRevision };
  const watch = registry.watch(request, stop.signal)[Symbol.asyncIterator]();
  const { value } = await watch.next();
  expect(value).toMatchObject({ kind: 'created' });
  return async () => (await watch.next()).value;
}

/** Every call that there is, by a client of its own. */
const calls: Readonly<Record<string, (registry: Registry) => Promise<unknown>>> = {
  range: (registry) => registry.range({ key: configKey }),
  txn: (registry) => registry.txn({ compare: [], success: [put(leaseKey, 'once')] }),
  leaseGrant: (registry) => registry.leaseGrant(600),
  leaseKeepAlive: (registry) => registry.leaseKeepAlive('1'),
  leaseTimeToLive: (registry) => registry.leaseTimeToLive('1'),
  leaseRevoke: (registry) => registry.leaseRevoke('1'),
  watch: (registry) => openWatch(registry, 1),
};

const clientsOf = ({ endpoints }: EtcdCluster) =>
  Object.entries(calls).map(([what, call]) => ({ what, call, ...connectTo(endpoints, { tls: {}, user }) }));

const ONE_EACH = Object.fromEntries(Object.keys(calls).map((what) => [what, 1]));

describe.each([
  // Longer than the calls take: one that ran out on the way to its use would be fetched twice. JWTs end at a whole second.
  ['simple tokens', () => ['--auth-token=simple', '--auth-token-ttl=3']],
  ['JWT', () => [jwt('3s')]],
])('%s that run out', (name, args) => {
  let etcd: EtcdCluster;
  beforeAll(async () => {
    etcd = await startWithUser(join(dir, name.replaceAll(' ', '-')), args());
  });
  afterAll(() => etcd?.close());

  it('every kind of call fetches a new one, and an open stream needs none', async () => {
    const clients = clientsOf(etcd);
    const { header } = (await clients[0]?.registry.range({ key: configKey })) ?? {};
    for (const { registry } of clients) await registry.range({ key: configKey });
    const next = await openWatch(
      connectTo(etcd.endpoints, { tls: {}, user }).registry,
      (header?.revision ?? 0) + 1,
    );
    // etcd looks for tokens that have run out once a second.
    await sleep(4_500);
    const fetched: Record<string, number> = {};
    for (const { what, call, registry } of clients) {
      const before = await authentications(etcd);
      await call(registry);
      fetched[what] = (await authentications(etcd)) - before;
    }
    // Those two work without a valid token in 3.4.
    expect(fetched).toEqual({ ...ONE_EACH, leaseKeepAlive: 0, leaseTimeToLive: 0 });
    expect(await next()).toMatchObject({ events: [{ type: 'put', kv: { key: leaseKey, value: 'once' } }] });
    const [written] = (await clients[0]?.registry.range({ key: leaseKey }))?.kvs ?? [];
    expect(written?.createRevision).toBe(written?.modRevision);
  });
});

describe('tokens that become void', () => {
  it('a JWT from before a change of roles is replaced, for calls and watches', async () => {
    const etcd = await startWithUser(join(dir, 'jwt-revision'), [jwt('5m')]);
    onTestFinished(() => etcd.close());
    const clients = clientsOf(etcd);
    for (const { registry } of clients) await registry.range({ key: configKey });
    await etcd.ctl('role', 'grant-permission', 'flannel', 'read', '/another/key');
    for (const { call, registry } of clients) await call(registry);
    const { registry } = connectTo(etcd.endpoints, { tls: {}, user });
    const [written] = (await registry.range({ key: leaseKey })).kvs;
    expect(written?.createRevision).toBe(written?.modRevision);
  });

  it('calls and watches go on after a restart of etcd', async () => {
    const etcd = await startWithUser(join(dir, 'restarted'));
    onTestFinished(() => etcd.close());
    const { registry } = connectTo(etcd.endpoints, { tls: {}, user });
    await registry.range({ key: configKey });
    await etcd.first.kill();
    await etcd.first.start();
    await expect.poll(() => registry.range({ key: configKey }).catch(String)).toHaveProperty('kvs');
    await calls['watch']?.(registry);
    expect(await authentications(etcd)).toBeLessThanOrEqual(3);
  });
});

it('a user is given, but authentication is off: one warning, and calls go on when it is enabled', async () => {
  const etcd = await startEtcd({ dir: join(dir, 'enabled-later') });
  onTestFinished(() => etcd.close());
  const { registry, said } = connectTo(etcd.endpoints, { tls: {}, user });
  await registry.range({ key: configKey });
  await registry.txn({ compare: [], success: [put(leaseKey, '1')] });
  expect(said()).toEqual([
    expect.stringMatching(/authentication disabled: user flannel.*etcdctl auth enable/),
  ]);
  await addUser(etcd);
  await etcd.enableAuth('root’s password');
  await expect(registry.range({ key: leaseKey })).resolves.toMatchObject({ kvs: [{ value: '1' }] });
  expect(said()).toHaveLength(2);
  expect(said()[1]).toBe('etcd has authentication enabled now');
});

it('a client certificate names the user by its CN', async () => {
  const ca = await Authority.create(join(dir, 'ca'), 'the cluster’s CA');
  const [server, root, flannel, other] = await Promise.all([
    ca.issue('server'),
    ca.issue('root'),
    ca.issue('flannel'),
    ca.issue('other'),
  ]);
  const etcd = await startEtcd({ dir: join(dir, 'cn'), tls: { server, ca, client: root } });
  onTestFinished(() => etcd.close());
  await addUser(etcd);
  await etcd.enableAuth('root’s password');
  const as = (certificate: typeof flannel) =>
    connectTo(etcd.endpoints, { tls: { caFile: ca.certFile, ...certificate } }).registry;
  for (const call of Object.values(calls)) await call(as(flannel));
  await expect(as(other).range({ key: configKey })).rejects.toMatchObject({
    code: expect.stringMatching(/ETCD_(UNAUTHENTICATED|PERMISSION_DENIED)/),
    message: expect.stringContaining(`the user that ${other.certFile} names (its CN)`),
  });
});
