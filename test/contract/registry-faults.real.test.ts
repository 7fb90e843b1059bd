import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { type Registry, RegistryError } from '../../src/subnet/registry/registry.ts';
import { freePorts, startEtcd } from '../testbed/etcd.ts';
import { connect, temporaryFolder } from './registry-real.ts';
import { collect, outcomeOf, put, rejectionOf, write } from './registry-suite.ts';

const dir = temporaryFolder();

async function failuresAt(endpoint: string) {
  const registry = connect(endpoint);
  const watch = AbortSignal.timeout(30_000);
  return await Promise.all([
    rejectionOf(registry.range({ key: 'a' })),
    rejectionOf(registry.txn({ compare: [], success: [put('a', '1')] })),
    rejectionOf(registry.leaseKeepAlive('7')),
    rejectionOf(collect(registry, 'a/', 1, () => false, watch)),
  ]);
}

describe('what is not an etcd', () => {
  const open: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const close of open.splice(0)) await close();
  });

  async function listen(server: Server): Promise<string> {
    const sockets = new Set<Socket>();
    server.on('connection', (socket: Socket) => {
      sockets.add(socket);
      socket.on('error', () => undefined);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    open.push(async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    });
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  it('nothing listens: UNAVAILABLE, naming the endpoint and the cause', async () => {
    const [port] = await freePorts(1);
    const endpoint = `http://127.0.0.1:${port}`;
    for (const error of await failuresAt(endpoint)) {
      expect(error).toMatchObject({ kind: 'UNAVAILABLE', endpoint, outcomeUnknown: false });
      expect(error.message).toBe(`etcd at ${endpoint}: connection refused, nothing listens there`);
      expect(error.remedy).toBeDefined();
    }
  });

  it('a name that does not resolve: UNAVAILABLE, saying so', async () => {
    for (const error of await failuresAt('http://tls.invalid:2379')) {
      expect(error).toMatchObject({ kind: 'UNAVAILABLE', outcomeUnknown: false });
      expect(error.message).toBe('etcd at http://tls.invalid:2379: the host name does not resolve');
    }
  });

  it('a web server: NOT_ETCD', async () => {
    const endpoint = await listen(createHttpServer((_, response) => response.end('hello')));
    for (const error of await failuresAt(endpoint)) {
      expect(error).toMatchObject({ kind: 'NOT_ETCD', outcomeUnknown: false });
      expect(error.remedy).toMatch(/address and port/);
    }
  });

  it('a server that sends garbage: NOT_ETCD', async () => {
    const endpoint = await listen(createServer((socket) => socket.write('SSH-2.0-OpenSSH_9.2\r\n')));
    for (const error of await failuresAt(endpoint))
      expect(error).toMatchObject({ kind: 'NOT_ETCD', outcomeUnknown: false });
  });

  it('a server that accepts and hangs up: UNAVAILABLE', async () => {
    const endpoint = await listen(createServer((socket) => socket.end()));
    for (const error of await failuresAt(endpoint))
      expect(error).toMatchObject({ kind: 'UNAVAILABLE', outcomeUnknown: false });
  });

  it('a server that accepts and stays silent: UNAVAILABLE at the deadline, a watch after 10 s', async () => {
    const endpoint = await listen(createServer(() => undefined));
    const [range, txn, keepalive, watch] = await failuresAt(endpoint);
    for (const error of [range, txn, keepalive]) {
      expect(error).toMatchObject({ kind: 'UNAVAILABLE', outcomeUnknown: false });
      expect(error?.message).toBe(`etcd at ${endpoint}: no answer within the deadline`);
      expect(error?.remedy).toMatch(/filters the port/);
    }
    expect(watch?.message).toBe(`etcd at ${endpoint}: no answer to a watch within 10 s`);
  });

  it('https where http is spoken: TLS', async () => {
    const endpoint = (await listen(createHttpServer())).replace('http:', 'https:');
    for (const error of await failuresAt(endpoint))
      expect(error).toMatchObject({ kind: 'TLS', outcomeUnknown: false });
  });
});

async function started(name: string, options: { args?: string[]; members?: number } = {}) {
  const etcd = await startEtcd({ dir: join(dir, name), ...options });
  onTestFinished(() => etcd.close());
  return etcd;
}

describe('members in trouble', () => {
  it('a frozen member ends a watch within 15 s', async () => {
    const etcd = await started('frozen');
    let frozenAt = 0;
    const watch = collect(connect(etcd.first.clientUrl), 'a/', 1, () => {
      etcd.first.pause();
      frozenAt = performance.now();
      return false;
    });
    const error = await rejectionOf(watch);
    expect(error.kind).toBe('UNAVAILABLE');
    expect(performance.now() - frozenAt).toBeLessThan(15_000);
  });

  it('a full database: EXHAUSTED, and the write certainly did not happen', async () => {
    // Etcd looks at the size of its file, which grows with a commit: here of 20 writes, else every 100 ms, and later on a busy machine.
    const args = ['--quota-backend-bytes=100000', '--backend-batch-limit=20'];
    const etcd = await started('full', { args });
    const registry = connect(etcd.first.clientUrl);
    let outcome: unknown;
    for (let written = 0; written < 100 && !(outcome instanceof RegistryError); written++)
      outcome = await outcomeOf(write(registry, put(`k${written}`, 'x'.repeat(10_000))));
    expect(outcome).toMatchObject({ kind: 'EXHAUSTED', outcomeUnknown: false });
    expect(await rejectionOf(registry.leaseGrant(60))).toMatchObject({ kind: 'EXHAUSTED' });
    expect((await registry.range({ key: 'k0' })).kvs).toHaveLength(1);
  });

  it('a member without its quorum ends its watch and refuses calls; the others serve on', async () => {
    const etcd = await started('quorum', { members: 3 });
    const [first, second, third] = etcd.members.map((member) => connect(member.clientUrl)) as [
      Registry,
      Registry,
      Registry,
    ];
    const watch = rejectionOf(collect(first, 'a/', 1, () => false));
    await etcd.members[1]?.kill();
    await rejectionOf(second.range({ key: 'a' }));
    // Two of three: an election may be under way, then all is as before.
    await expect
      .poll(() => third.txn({ compare: [], success: [put('a', '1')] }).catch(String), { timeout: 30_000 })
      .toMatchObject({ succeeded: true });
    await etcd.members[2]?.kill();
    expect(await watch).toMatchObject({ kind: 'UNAVAILABLE' });
    await expect
      .poll(() => first.txn({ compare: [], success: [] }).catch(String), { timeout: 30_000 })
      .toMatch(/no leader: this member is cut off/);
    await etcd.members[1]?.start();
    await expect
      .poll(() => second.range({ key: 'a' }).catch(String), { timeout: 30_000 })
      .toMatchObject({ kvs: [{ value: '1' }] });
  });

  it('a restored cluster has another id and an older revision', async () => {
    const etcd = await started('restored');
    const registry = connect(etcd.first.clientUrl);
    const { id } = await registry.leaseGrant(60);
    const saved = await registry.txn({ compare: [], success: [put('a', '1', id)] });
    await etcd.ctl('snapshot', 'save', join(dir, 'snapshot'));
    const after = await registry.txn({ compare: [], success: [put('b', '2')] });
    await etcd.restore(join(dir, 'snapshot'));
    const restored = await registry.range({ key: 'a', rangeEnd: 'c' });
    expect(restored.kvs).toMatchObject([{ key: 'a', lease: id }]);
    expect(restored.header.revision).toBe(saved.header.revision);
    expect(restored.header.clusterId).not.toBe(after.header.clusterId);
    expect(await registry.leaseKeepAlive(id)).toEqual({ ttlSeconds: 60 });
    const batches = await collect(registry, 'a', after.header.revision + 1, () => true);
    expect(batches).toMatchObject([{ kind: 'created', header: { revision: saved.header.revision } }]);
  });
});
