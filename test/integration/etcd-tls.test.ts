import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createServer } from 'node:tls';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { systemClock } from '../../src/daemon/host/clock.ts';
import { Activity } from '../../src/runtime/activity.ts';
import type { TlsFiles } from '../../src/subnet/etcd/tls-files.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { rejectionOf } from '../contract/registry-suite.ts';
import { type Authority, type Certificate, InstalledFiles, makeParties } from '../testbed/certificates.ts';
import { PREFIX } from '../testbed/cluster.ts';
import { type EtcdCluster, startEtcd } from '../testbed/etcd.ts';
import { connectTo, temporaryFolder } from './etcd-access.ts';

const dir = temporaryFolder();
const key = `${PREFIX}/config`;

let ca: Authority;
let otherCa: Authority;
let server: Certificate;
let client: Certificate;
let stranger: Certificate;
/** Asks clients for nothing. */
let open: EtcdCluster;
/** Asks clients for a certificate. */
let mutual: EtcdCluster;

beforeAll(async () => {
  ({ ca, otherCa, server, client, stranger } = await makeParties(dir));
  [open, mutual] = await Promise.all([
    startEtcd({ dir: join(dir, 'open'), tls: { server, ca } }),
    startEtcd({ dir: join(dir, 'mutual'), tls: { server, ca, client } }),
  ]);
});
afterAll(() => Promise.all([open?.close(), mutual?.close()]));

describe('what works', () => {
  const read = (endpoint: string, tls: TlsFiles) => connectTo(endpoint, { tls }).registry.range({ key });

  it('a CA alone', async () => {
    await expect(read(open.endpoints, { caFile: ca.certFile })).resolves.toMatchObject({ kvs: [] });
  });

  it('a server’s name', async () => {
    const endpoint = open.endpoints.replace('127.0.0.1', 'localhost');
    await expect(read(endpoint, { caFile: ca.certFile })).resolves.toMatchObject({ kvs: [] });
  });

  it('several CAs in one file, with comments between them, whichever of them is needed', async () => {
    const { caFile } = new InstalledFiles(join(dir, 'several')).ca(otherCa, ca);
    await expect(read(open.endpoints, { caFile })).resolves.toMatchObject({ kvs: [] });
  });

  it('the CAs that the system trusts, when no CA is named', async () => {
    const { registry } = connectTo(open.endpoints, { tls: {}, systemCas: ['/nowhere', ca.certFile] });
    await expect(registry.range({ key })).resolves.toMatchObject({ kvs: [] });
  });

  it('a client certificate', async () => {
    await expect(read(mutual.endpoints, { caFile: ca.certFile, ...client })).resolves.toMatchObject({
      kvs: [],
    });
  });
});

it.each([
  ['localhost', 'the name of the endpoint', 'localhost'],
  ['127.0.0.1', 'none for an address', false],
])('asks %s for a certificate by %s', async (host, _, expected) => {
  const listener = createServer({ cert: readFileSync(server.certFile), key: readFileSync(server.keyFile) });
  const asked = new Promise((resolve) =>
    listener.once('secureConnection', (socket) => {
      resolve(socket.servername);
      socket.destroy();
    }),
  );
  await new Promise<void>((resolve) => listener.listen(0, host, resolve));
  onTestFinished(() => void listener.close());
  const { port } = listener.address() as AddressInfo;
  const call = connectTo(`https://${host}:${port}`, { tls: { caFile: ca.certFile } }).registry.range({ key });
  const failure = rejectionOf(call);
  expect(await asked).toBe(expected);
  expect(await failure).toMatchObject({ kind: 'UNAVAILABLE' });
});

describe('files that come or change while it runs', () => {
  it('files that are missing are used once they are there', async () => {
    const files = new InstalledFiles(join(dir, 'later'));
    const { caFile, certFile, keyFile } = files;
    const { registry } = connectTo(mutual.endpoints, { tls: { caFile, certFile, keyFile } });
    expect((await rejectionOf(registry.range({ key }))).message).toContain(`${caFile} does not exist`);
    files.ca(ca);
    expect((await rejectionOf(registry.range({ key }))).message).toContain(`${certFile} does not exist`);
    files.certificate(client);
    expect((await rejectionOf(registry.range({ key }))).message).toContain(`${keyFile} does not exist`);
    files.key(client);
    await expect(registry.range({ key })).resolves.toMatchObject({ kvs: [] });
  });

  it('a certificate that will soon expire: one warning', async () => {
    const clock = new VirtualClock(Date.now());
    const { security, said } = connectTo(
      mutual.endpoints,
      { tls: { caFile: ca.certFile, ...client } },
      clock,
    );
    await security.refresh();
    expect(said()).toEqual([]);
    // The file stays as it is.
    await clock.advance(47 * 3_600_000);
    await security.refresh();
    await security.refresh();
    expect(said()).toEqual([
      expect.stringMatching(`the client certificate ${client.certFile} expires at 20.*Renew it`),
    ]);
  });

  it('new files are used a minute later by calls on a connection that is up; half of a new pair is not', async () => {
    const files = new InstalledFiles(join(dir, 'rotated')).ca(ca).certificate(client).key(client);
    const { caFile, certFile, keyFile } = files;
    const clock = new VirtualClock(Date.now());
    const { registry, security, said } = connectTo(
      mutual.endpoints,
      { tls: { caFile, certFile, keyFile } },
      clock,
    );
    const stop = new AbortController();
    const running = security.run(new Activity(clock), stop.signal).catch(() => undefined);
    await registry.range({ key });
    const before = security.material;
    // So that the next connection shows which certificate it is made with.
    files.certificate(stranger);
    await clock.advance(60_000);
    await expect
      .poll(said)
      .toEqual([
        expect.stringMatching(
          `going on with the certificates read before: the private key ${keyFile} does not belong`,
        ),
      ]);
    expect(security.material).toBe(before);
    await registry.range({ key });
    files.key(stranger);
    await clock.advance(60_000);
    await expect.poll(() => security.material).not.toBe(before);
    expect(said().slice(1)).toEqual([
      'the certificate files can be used again',
      'the certificate files have changed; new connections use them',
    ]);
    expect((await rejectionOf(registry.range({ key }))).message).toContain(
      'does not accept the client certificate',
    );
    files.certificate(client).key(client);
    await expect.poll(() => registry.range({ key }).catch(String)).toMatchObject({ kvs: [] });
    stop.abort();
    await running;
  });

  it('a watch that is open goes on while calls move to a connection with the new files', async () => {
    const files = new InstalledFiles(join(dir, 'watched')).ca(ca).certificate(client).key(client);
    const { caFile, certFile, keyFile } = files;
    const { registry, security } = connectTo(mutual.endpoints, { tls: { caFile, certFile, keyFile } });
    const stop = new AbortController();
    const { header } = await registry.range({ key });
    const request = { key: `${PREFIX}/`, rangeEnd: `${PREFIX}0`, startRevision: header.revision + 1 };
    const watch = registry.watch(request, stop.signal)[Symbol.asyncIterator]();
    expect((await watch.next()).value).toMatchObject({ kind: 'created' });
    const renewed = await ca.issue('renewed');
    files.certificate(renewed).key(renewed);
    await security.refresh();
    await registry.txn({ compare: [], success: [{ op: 'put', key, value: '1', lease: '0' }] });
    expect((await watch.next()).value).toMatchObject({ events: [{ type: 'put', kv: { key } }] });
    stop.abort(new Error('enough'));
    await expect(watch.next()).rejects.toThrow('enough');
  });
});

it('goes on with the other member when one is killed, and comes back to it when the other one is', async () => {
  const etcd = await startEtcd({ dir: join(dir, 'three'), members: 3, tls: { server, ca, client } });
  try {
    const tls = { caFile: ca.certFile, ...client };
    // Two of the three, so that it is known where it goes; the third is for the quorum.
    const [first, second] = etcd.members;
    if (first === undefined || second === undefined) throw new Error('too few members');
    const registry = rotate([first, second].map(({ clientUrl }) => connectTo(clientUrl, { tls }).registry));
    const answers = () =>
      expect
        .poll(() => registry.range({ key }).catch(String), { timeout: 30_000 })
        .toMatchObject({ kvs: [] });
    await answers();
    expect(registry.endpoint).toBe(first.clientUrl);
    await first.kill();
    await answers();
    expect(registry.endpoint).toBe(second.clientUrl);
    await first.start();
    await second.kill();
    await answers();
    expect(registry.endpoint).toBe(first.clientUrl);
  } finally {
    await etcd.close();
  }
});

it('the deadline of calls holds while a peer accepts and says nothing', async () => {
  const { registry } = connectTo(mutual.endpoints, { tls: { caFile: ca.certFile, ...client } });
  mutual.first.pause();
  try {
    const startedAtMs = systemClock.monotonic();
    expect(await rejectionOf(registry.range({ key }))).toMatchObject({
      kind: expect.stringMatching(/UNAVAILABLE|TLS/),
    });
    expect(systemClock.monotonic() - startedAtMs).toBeLessThan(10_000);
  } finally {
    mutual.first.resume();
  }
  await expect.poll(() => registry.range({ key }).catch(String), { timeout: 30_000 }).toHaveProperty('kvs');
});
