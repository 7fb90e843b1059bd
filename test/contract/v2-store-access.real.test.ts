import { rmSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTcpServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { V2Store } from '../../src/subnet/etcd-v2/store.ts';
import { Authority, type Certificate } from '../testbed/certificates.ts';
import { run, until } from '../testbed/commands.ts';
import { type EtcdCluster, freePorts, startEtcd } from '../testbed/etcd.ts';
import { tempDir } from '../testbed/run.ts';
import { v2AccessContract } from './v2-store.ts';
import { askRaw, realV2World, v2Client } from './v2-store-real.ts';
import { Following, failureOf } from './v2-store-suite.ts';

const dir = tempDir('v2-access');
const { signal } = new AbortController();
const password = 'p:ä "quoted" password';
let ca: Authority;
let server: Certificate;
let client: Certificate;

beforeAll(async () => {
  ca = await Authority.create(join(dir, 'ca'), 'the cluster’s CA');
  [server, client] = await Promise.all([ca.issue('server'), ca.issue('client')]);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Turns v2's authentication on: root, and a user of /net/*; `guest` loses its rights. */
async function protect(endpoint: string): Promise<void> {
  const at = (path: string, content: object, auth?: string) =>
    askRaw(new URL(`/v2/auth/${path}`, endpoint), 'PUT', {
      json: JSON.stringify(content),
      ...(auth === undefined ? {} : { auth }),
    });
  const everything = { kv: { read: ['/*'], write: ['/*'] } };
  const net = { kv: { read: ['/net/*', '/elsewhere'], write: ['/net/*', '/elsewhere'] } };
  await at('users/root', { user: 'root', password: 'root’s' });
  await at('roles/net', { role: 'net', permissions: net });
  await at('users/flannel', { user: 'flannel', password, roles: ['net'] });
  await at('enable', {});
  await at('roles/guest', { role: 'guest', revoke: everything }, 'root:root’s');
}

v2AccessContract('etcd that asks for certificates', () => {
  const access = { tls: { caFile: ca.certFile, ...client } };
  const tls = { server, ca, client };
  return realV2World({ dir: join(dir, 'mutual'), members: 1, tls, access });
});

describe('an etcd with users of its own', () => {
  v2AccessContract('etcd with a password in a file', () => {
    const passwordFile = join(dir, 'password');
    writeFileSync(passwordFile, `${password}\n`);
    const access = { user: { username: 'flannel', passwordFile } };
    const other = 'root:root’s';
    return realV2World({ dir: join(dir, 'users'), members: 1, access, other, prepare: protect });
  });

  it('refuses a wrong password, an unknown user, nobody, and a key without a right; no message shows a password', async () => {
    const etcd = await startEtcd({ dir: join(dir, 'refusing'), args: ['--enable-v2'] });
    onTestFinished(() => etcd.close());
    await protect(etcd.endpoints);
    const right = { username: 'flannel', password };
    for (const [user, key, words] of [
      [{ username: 'flannel', password: 'secret' }, '/net/a', /user flannel is refused for \/net\/a \(/],
      [{ username: 'nobody', password: 'secret' }, '/net/a', /user nobody is refused/],
      [undefined, '/net/a', /it requires a user for \/net\/a \(.*code 110\)$/],
      [right, '/net', /user flannel is refused for \/net \(/],
      [right, '/other', /user flannel is refused for \/other \(/],
    ] as const) {
      const store = v2Client([etcd.endpoints], user === undefined ? {} : { user });
      const calls = [
        () => store.list(key, signal),
        () => store.create(key, '1', 60, signal),
        () => firstOf(store, key),
      ];
      for (const call of calls) {
        const error = await failureOf(call());
        expect(error).toMatchObject({ kind: 'REFUSED', message: expect.stringMatching(words) });
        expect(`${error.message} ${error.remedy}`).not.toMatch(/secret|quoted/);
      }
    }
    await v2Client([etcd.endpoints], { user: right }).create('/net/a', '1', 60, signal);
  });
});

async function firstOf(store: V2Store, key: string): Promise<unknown> {
  for await (const event of store.watch(key, { index: 3, clusterId: 'any' }, signal)) return event;
  return undefined;
}

describe('ways that do not lead to a v2 store', () => {
  let etcd: EtcdCluster;
  let withoutV2: EtcdCluster;
  let mutual: EtcdCluster;
  let closed: string;
  beforeAll(async () => {
    [etcd, withoutV2, mutual] = await Promise.all([
      startEtcd({ dir: join(dir, 'v2'), args: ['--enable-v2'] }),
      startEtcd({ dir: join(dir, 'v3'), args: ['--enable-v2=false'] }),
      startEtcd({ dir: join(dir, 'tls'), args: ['--enable-v2'], tls: { server, ca, client } }),
    ]);
    closed = `http://127.0.0.1:${(await freePorts(1))[0]}`;
  });
  afterAll(() => Promise.all([etcd, withoutV2, mutual].map((cluster) => cluster?.close())));

  /** All operations, one after another. */
  const calls = (store: V2Store): readonly (() => Promise<unknown>)[] => [
    () => store.list('/net/subnets', signal),
    () => store.get('/net/config', signal),
    () => store.create('/net/a', '1', 60, signal),
    () => store.replace('/net/a', '1', 4, 60, signal),
    () => store.expire('/net/a', '1', 4, signal),
    () => firstOf(store, '/net'),
  ];

  it('an etcd without --enable-v2 says that it does not serve it', async () => {
    for (const call of calls(v2Client([withoutV2.endpoints]))) {
      const error = await failureOf(call());
      expect(error.kind).toBe('NOT_SERVED');
      expect(error.message).toBe(`etcd at ${withoutV2.endpoints}: it does not serve the v2 API`);
      expect(error.remedy).toMatch(/--enable-v2=true/);
    }
  });

  it('a member out of reach may serve it, whatever the others say', async () => {
    for (const call of calls(v2Client([withoutV2.endpoints, closed]))) {
      const error = await failureOf(call());
      expect(error.kind).toBe('UNAVAILABLE');
      expect(error.message).toMatch(/connection refused.*; etcd at .*does not serve the v2 API$/);
    }
  });

  it('goes on to a member that serves, at once', async () => {
    const store = v2Client([closed, withoutV2.endpoints, etcd.endpoints]);
    await store.create('/net/first', '1', 60, signal);
    expect((await store.list('/net', signal)).nodes).toHaveLength(1);
  });

  it('tells a missing client certificate and an unknown CA from an etcd that is down', async () => {
    for (const [tls, words] of [
      [{ caFile: ca.certFile }, /wants a client certificate, and none is given/],
      [{ ...client }, /signed by no CA that the system trusts/],
    ] as const) {
      for (const call of calls(v2Client([mutual.endpoints], { tls }))) {
        const error = await failureOf(call());
        expect(error).toMatchObject({ kind: 'TLS', message: expect.stringMatching(words) });
      }
    }
    const tls = { caFile: join(dir, 'missing.pem') };
    expect(await failureOf(v2Client([mutual.endpoints], { tls }).list('/net', signal))).toMatchObject({
      kind: 'CREDENTIALS',
      message: expect.stringMatching(/missing.pem does not exist$/),
    });
    const plain = mutual.endpoints.replace('https', 'http');
    expect(await failureOf(v2Client([plain]).list('/net', signal))).toMatchObject({
      kind: 'UNAVAILABLE',
      message: expect.stringMatching(/closed the connection without an answer$/),
      remedy: expect.stringMatching(/https/),
    });
  });

  it('a server whose answers end early: reads fail, and writes have an unknown outcome', async () => {
    let asked = 0;
    const url = await listening((request, response) => {
      asked += 1;
      response.writeHead(200, { 'x-etcd-index': '7', 'x-etcd-cluster-id': 'abc', 'content-length': '500' });
      response.write('{"action":"get","node":{"key":"/net');
      // In the middle of the body, once the head is there.
      setImmediate(() => request.socket.destroy());
    });
    const [list, , create] = calls(v2Client([url]));
    const read = await failureOf(list?.() ?? Promise.resolve());
    expect(read).toMatchObject({
      kind: 'UNAVAILABLE',
      message: expect.stringMatching(/before its answer was complete$/),
    });
    const write = await failureOf(create?.() ?? Promise.resolve());
    expect(write).toMatchObject({ kind: 'OUTCOME_UNKNOWN' });
    expect(asked).toBe(2);
    // A watch asks once more before it gives up.
    const store = v2Client([url]);
    const following = new Following(store, '/net', { index: 5, clusterId: 'abc' });
    expect(await following.ended).toMatchObject({ kind: 'UNAVAILABLE' });
    expect(asked).toBe(4);
  });

  it('what speaks no HTTP is no etcd', async () => {
    const other = createTcpServer((socket) => {
      socket.on('error', () => undefined);
      socket.end('SSH-2.0-OpenSSH_9.2\r\n');
    });
    const error = await failureOf(v2Client([await urlOf(other)]).list('/net', signal));
    expect(error).toMatchObject({
      kind: 'UNAVAILABLE',
      message: expect.stringMatching(/does not speak HTTP$/),
    });
    expect(error.remedy).toMatch(/address and port/);
  });

  it('probes the connection of a silent poll every quarter of a minute', async () => {
    for (const [endpoint, tls] of [
      [etcd.endpoints, {}],
      [mutual.endpoints, { caFile: ca.certFile, ...client }],
    ] as const) {
      const store = v2Client([endpoint], { tls });
      const following = new Following(store, '/net', await store.list('/net', signal));
      // etcd has connections to itself.
      const ours = async () => {
        const { port } = new URL(endpoint);
        const all = await run('ss', ['-Htnop', 'state', 'established', 'dport', '=', port]);
        return all.split('\n').filter((line) => line.includes(`pid=${process.pid},`));
      };
      await until(async () => (await ours()).length === 1, 10_000, 'no connection');
      expect((await ours())[0]).toMatch(/timer:\(keepalive,(?:1[0-5]|\d)sec,0\)/);
      following.controller.abort(new Error('enough'));
      await until(async () => (await ours()).length === 0, 10_000, 'the connection is left');
    }
  });

  it('a web server is no etcd', async () => {
    const url = await listening((_, response) => response.writeHead(200).end('<html>'));
    for (const call of calls(v2Client([url]))) {
      const error = await failureOf(call());
      expect(['UNEXPECTED', 'OUTCOME_UNKNOWN']).toContain(error.kind);
    }
  });
});

async function listening(listener: RequestListener): Promise<string> {
  const web = createServer(listener);
  onTestFinished(() => web.closeAllConnections());
  return await urlOf(web);
}

/** Where it listens, until the test is over. */
async function urlOf(listener: Server): Promise<string> {
  listener.listen(0, '127.0.0.1');
  onTestFinished(() => void listener.close());
  await new Promise((resolve) => listener.once('listening', resolve));
  const address = listener.address();
  return `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`;
}
