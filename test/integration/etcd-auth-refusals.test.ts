import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Registry } from '../../src/subnet/registry/registry.ts';
import { collect, rejectionOf } from '../contract/registry-suite.ts';
import { PREFIX } from '../testbed/cluster.ts';
import type { EtcdCluster } from '../testbed/etcd.ts';
import { connectTo, temporaryFolder } from './etcd-access.ts';
import { authentications, configKey, put, startWithUser, user } from './etcd-user.ts';

const dir = temporaryFolder();

const other = { username: 'other', password: 'first' };

let etcd: EtcdCluster;
beforeAll(async () => {
  etcd = await startWithUser(join(dir, 'etcd'), [], [other]);
});
afterAll(() => etcd?.close());

it.each([
  [
    'a wrong password',
    { ...user, password: 'wrong' },
    'user flannel with the password given',
    'user passwd flannel',
  ],
  [
    'an unknown user',
    { ...user, username: 'nobody' },
    'user nobody with the password given',
    'etcdctl user add',
  ],
  ['no user', undefined, 'it requires a user name, and none is configured', '--etcd-username'],
])('%s: says who, and what to do', async (_, as, said, remedy) => {
  const { registry } = connectTo(etcd.endpoints, { tls: {}, ...(as === undefined ? {} : { user: as }) });
  // One after the other: a rejection that nobody waits for yet ends a process.
  const calls = [
    () => registry.range({ key: configKey }),
    () => registry.txn({ compare: [], success: [put(configKey, '1')] }),
    () => collect(registry, `${PREFIX}/subnets/`, 1, () => false),
  ];
  for (const call of calls) {
    expect(await rejectionOf(call())).toMatchObject({
      code: 'ETCD_UNAUTHENTICATED',
      outcomeUnknown: false,
      message: expect.stringContaining(said),
      remedy: expect.stringContaining(remedy),
    });
  }
});

it.each([
  ['range', '/elsewhere', (registry: Registry) => registry.range({ key: '/elsewhere' })],
  [
    'txn',
    '/elsewhere',
    (registry: Registry) => registry.txn({ compare: [], success: [put('/elsewhere', '1')] }),
  ],
  [
    'txn that writes what may be read',
    configKey,
    (registry: Registry) => registry.txn({ compare: [], success: [put(configKey, '1')] }),
  ],
  ['watch', '/elsewhere', (registry: Registry) => collect(registry, '/elsewhere', 1, () => false)],
])('%s of a key that was not granted: names key, user and command', async (_, key, call) => {
  const { registry } = connectTo(etcd.endpoints, { tls: {}, user });
  expect(await rejectionOf(call(registry))).toMatchObject({
    code: 'ETCD_PERMISSION_DENIED',
    outcomeUnknown: false,
    message: `etcd at ${etcd.endpoints}: user flannel may not use ${key} (permission denied)`,
    remedy: expect.stringContaining(`etcdctl role grant-permission ROLE --prefix=true readwrite ${PREFIX}/`),
  });
});

it('a password that was refused is not offered again at once, a corrected one is', async () => {
  const passwordFile = join(dir, 'password');
  writeFileSync(passwordFile, 'wrong\n');
  const { registry } = connectTo(etcd.endpoints, {
    tls: {},
    user: { username: user.username, passwordFile },
  });
  const before = await authentications(etcd);
  for (let tries = 0; tries < 5; tries++) {
    expect(await rejectionOf(registry.range({ key: configKey }))).toMatchObject({
      code: 'ETCD_UNAUTHENTICATED',
      message: expect.stringContaining(`user flannel with the password in ${passwordFile}`),
    });
  }
  expect(await authentications(etcd)).toBeLessThan(before + 3);
  writeFileSync(passwordFile, `${user.password}\n`);
  await expect(registry.range({ key: configKey })).resolves.toHaveProperty('kvs');
});

it('a password that is changed is read again when the token is void', async () => {
  const passwordFile = join(dir, 'changing');
  writeFileSync(passwordFile, other.password);
  const { registry } = connectTo(etcd.endpoints, {
    tls: {},
    user: { username: other.username, passwordFile },
  });
  await registry.range({ key: configKey });
  // etcd voids the tokens of a user whose password changes.
  await etcd.first.setPassword(other.username, 'second');
  expect(await rejectionOf(registry.range({ key: configKey }))).toMatchObject({
    code: 'ETCD_UNAUTHENTICATED',
  });
  writeFileSync(passwordFile, 'second');
  await expect(registry.range({ key: configKey })).resolves.toHaveProperty('kvs');
});

it.each([
  ['that does not exist', '/nowhere/password', 'does not exist'],
  ['that is empty', join(dir, 'empty'), 'is empty'],
  ['that is a folder', dir, 'it is a folder'],
])('a password file %s: says so, and etcd is not asked', async (_, passwordFile, said) => {
  writeFileSync(join(dir, 'empty'), '\n');
  const { registry } = connectTo(etcd.endpoints, { tls: {}, user: { username: 'flannel', passwordFile } });
  const error = await rejectionOf(registry.range({ key: configKey }));
  expect(error).toMatchObject({ code: 'ETCD_CREDENTIALS' });
  expect(String(error)).toContain(`the password file of etcd user flannel ${passwordFile}`);
  expect(String(error)).toContain(said);
});
