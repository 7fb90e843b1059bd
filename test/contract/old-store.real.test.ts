import { rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { SimLog } from '../../sim/log.ts';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { nodeFiles } from '../../src/daemon/host/files.ts';
import { TroubleLog } from '../../src/runtime/trouble.ts';
import { EtcdSecurity } from '../../src/subnet/etcd/security.ts';
import type { TlsFiles } from '../../src/subnet/etcd/tls-files.ts';
import { HttpV2Member } from '../../src/subnet/etcd-v2/http-member.ts';
import { EtcdOldStore } from '../../src/subnet/etcd-v2/old-store.ts';
import { Authority } from '../testbed/certificates.ts';
import { type EtcdCluster, freePorts, startEtcd } from '../testbed/etcd.ts';
import { tempDir } from '../testbed/run.ts';
import { oldStoreContract } from './old-store.ts';

const dir = tempDir('old-store');
let plain: EtcdCluster;
let mutual: EtcdCluster;
let tls: TlsFiles;
/** A port nobody listens on. */
let closed: string;

beforeAll(async () => {
  const ca = await Authority.create(join(dir, 'ca'), 'the cluster’s CA');
  const [server, client] = await Promise.all([ca.issue('server'), ca.issue('client')]);
  tls = { caFile: ca.certFile, ...client };
  const args = ['--enable-v2'];
  [plain, mutual] = await Promise.all([
    startEtcd({ dir: join(dir, 'plain'), args }),
    startEtcd({ dir: join(dir, 'mutual'), args, tls: { server, ca, client } }),
  ]);
  closed = `http://127.0.0.1:${(await freePorts(1))[0]}`;
});
afterAll(async () => {
  await Promise.all([plain?.close(), mutual?.close()]);
  rmSync(dir, { recursive: true, force: true });
});

function storeAt(endpoints: string, files: TlsFiles = {}): EtcdOldStore {
  const log = new SimLog(new VirtualClock()).of('host');
  const notices = new TroubleLog(systemClock, log);
  const more = { etcdPrefix: '/net', files: nodeFiles, clock: systemClock, log, notices };
  const security = new EtcdSecurity({ tls: files, ...more });
  const members = endpoints.split(',').map((endpoint) => new HttpV2Member(endpoint, security, systemClock));
  return new EtcdOldStore(members, systemClock);
}

oldStoreContract('a real etcd', () => ({
  served: storeAt(`${closed},${plain.endpoints}`),
  set: async (key) => void (await plain.first.ctlV2('set', key, '{}')),
  absent: storeAt(closed),
}));

oldStoreContract('a real etcd that asks for certificates', () => ({
  served: storeAt(mutual.endpoints, tls),
  set: async (key) => void (await mutual.first.ctlV2('set', key, '{}')),
  absent: storeAt(mutual.endpoints, {}),
}));

test('an etcd that does not serve v2 does not say that there is no key', async () => {
  const etcd = await startEtcd({ dir: join(dir, 'v3'), args: ['--enable-v2=false'] });
  try {
    const { signal } = new AbortController();
    await expect(storeAt(etcd.endpoints).has('/net/config', signal)).resolves.toBeUndefined();
  } finally {
    await etcd.close();
  }
});

test('one that accepts and says nothing is not waited for, and a signal ends the wait', async () => {
  const server = createServer(() => undefined).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const address = server.address();
  const store = storeAt(`http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`);
  try {
    await expect(store.has('/net/config', new AbortController().signal)).resolves.toBeUndefined();
    await expect(store.has('/net/config', AbortSignal.timeout(50))).rejects.toThrow(/aborted/);
  } finally {
    server.close();
  }
});
