import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { VirtualClock } from '../../sim/clock.ts';
import { systemClock } from '../../src/daemon/system-clock.ts';
import { RegistryError } from '../../src/subnet/registry.ts';
import { rotate } from '../../src/subnet/rotation.ts';
import { Authority, type Certificate, encryptKey, InstalledFiles } from '../testbed/certificates.ts';
import { type EtcdCluster, startEtcd } from '../testbed/etcd.ts';
import { connectTo, PREFIX, temporaryFolder } from './etcd-access.ts';

const dir = temporaryFolder();
const key = `${PREFIX}/config`;

let ca: Authority;
let otherCa: Authority;
let server: Certificate;
let client: Certificate;
let stranger: Certificate;
/** Asks clients for nothing. */
let open: EtcdCluster;
/** Asks clients for a certificate; its own is in `serverFiles`, which etcd reads at every handshake. */
let mutual: EtcdCluster;
let serverFiles: InstalledFiles;
let plain: EtcdCluster;

beforeAll(async () => {
  [ca, otherCa] = await Promise.all([
    Authority.create(join(dir, 'ca'), 'the cluster’s CA'),
    Authority.create(join(dir, 'other'), 'another CA'),
  ]);
  [server, client, stranger] = await Promise.all([
    ca.issue('server'),
    ca.issue('client'),
    otherCa.issue('stranger'),
  ]);
  serverFiles = new InstalledFiles(join(dir, 'server')).certificate(server).key(server);
  [open, mutual, plain] = await Promise.all([
    startEtcd({ dir: join(dir, 'open'), tls: { server, ca } }),
    startEtcd({ dir: join(dir, 'mutual'), tls: { server: serverFiles, ca, client } }),
    startEtcd({ dir: join(dir, 'plain') }),
  ]);
});
afterAll(() => Promise.all([open?.close(), mutual?.close(), plain?.close()]));

const written = (name: string, text: string): string => {
  const path = join(dir, name);
  writeFileSync(path, text);
  return path;
};
const contentOf = (file: string) => readFileSync(file, 'utf8');
const read = (endpoint: string, tls: Parameters<typeof connectTo>[1]['tls']) =>
  connectTo(endpoint, { tls }).registry.range({ key });

async function failureOf(promise: Promise<unknown>): Promise<RegistryError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(RegistryError);
  return error as RegistryError;
}

describe('what works', () => {
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

interface Failure {
  readonly what: string;
  readonly endpoint?: () => string;
  readonly tls: () => Parameters<typeof connectTo>[1]['tls'];
  readonly code: string;
  /** What the message says, with paths of files as they are. */
  readonly said: () => readonly string[];
  readonly remedy: string;
}

const failures: readonly Failure[] = [
  {
    what: 'a CA file that does not exist',
    tls: () => ({ caFile: '/nowhere/ca.pem' }),
    code: 'ETCD_CREDENTIALS',
    said: () => ['the CA file /nowhere/ca.pem does not exist'],
    remedy: 'Put it there',
  },
  {
    what: 'a certificate that does not exist',
    tls: () => ({ certFile: '/nowhere/cert.pem', keyFile: client.keyFile }),
    code: 'ETCD_CREDENTIALS',
    said: () => ['the client certificate /nowhere/cert.pem does not exist'],
    remedy: 'Put it there',
  },
  {
    what: 'a key that does not exist',
    tls: () => ({ certFile: client.certFile, keyFile: '/nowhere/key.pem' }),
    code: 'ETCD_CREDENTIALS',
    said: () => ['the private key /nowhere/key.pem does not exist'],
    remedy: 'Put it there',
  },
  {
    what: 'a folder in a file’s place',
    tls: () => ({ caFile: dir }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`the CA file ${dir} cannot be read: it is a folder`],
    remedy: 'Name the file in it',
  },
  {
    what: 'an empty file',
    tls: () => ({ caFile: written('empty.pem', '\n') }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`the CA file ${join(dir, 'empty.pem')} is empty`],
    remedy: 'Fill it',
  },
  {
    what: 'a CA that is not PEM',
    tls: () => ({ caFile: written('noise.pem', '\u0030\u0082junk') }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`${join(dir, 'noise.pem')} holds no certificate in PEM form`],
    remedy: 'openssl x509 -inform der',
  },
  {
    what: 'junk in PEM’s clothes',
    tls: () => ({
      caFile: written('junk.pem', '-----BEGIN CERTIFICATE-----\nanVuaw==\n-----END CERTIFICATE-----\n'),
    }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`the certificate in ${join(dir, 'junk.pem')} is damaged`],
    remedy: 'openssl x509 -in',
  },
  {
    what: 'a second CA that is cut off',
    tls: () => ({ caFile: written('cut.pem', contentOf(ca.certFile).repeat(2).slice(0, -80)) }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`certificate 2 of 2 in ${join(dir, 'cut.pem')} is damaged or incomplete`],
    remedy: 'openssl x509 -in',
  },
  {
    what: 'certificate and key exchanged',
    tls: () => ({ certFile: client.keyFile, keyFile: client.certFile }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`${client.keyFile} holds no certificate`],
    remedy: 'exchanged?',
  },
  {
    what: 'a key that is a certificate',
    tls: () => ({ certFile: client.certFile, keyFile: client.certFile }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`${client.certFile} holds no private key`],
    remedy: 'exchanged?',
  },
  {
    what: 'a key that is cut off',
    tls: () => ({
      certFile: client.certFile,
      keyFile: written('cut-key.pem', contentOf(client.keyFile).slice(0, 120)),
    }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`the private key ${join(dir, 'cut-key.pem')} is damaged`],
    remedy: 'openssl pkey -in',
  },
  {
    what: 'an encrypted key',
    tls: () => ({ certFile: client.certFile, keyFile: join(dir, 'encrypted.pem') }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`the private key ${join(dir, 'encrypted.pem')} is encrypted`],
    remedy: 'Store it without one: openssl pkey',
  },
  {
    what: 'another certificate’s key',
    tls: () => ({ certFile: client.certFile, keyFile: stranger.keyFile }),
    code: 'ETCD_CREDENTIALS',
    said: () => [`${stranger.keyFile} does not belong to the certificate ${client.certFile}`],
    remedy: 'made together',
  },
  {
    what: 'a CA that did not sign the server’s certificate',
    tls: () => ({ caFile: otherCa.certFile, ...client }),
    code: 'ETCD_TLS',
    said: () => ['the certificate it shows is signed by no CA in', otherCa.certFile],
    remedy: 'Put the CA that signed it into that file',
  },
  {
    what: 'a server that the system’s CAs did not sign for',
    tls: () => ({}),
    code: 'ETCD_TLS',
    said: () => ['the certificate it shows is signed by no CA that the system trusts'],
    remedy: '--etcd-cafile',
  },
  {
    what: 'no certificate where one is wanted',
    tls: () => ({ caFile: ca.certFile }),
    code: 'ETCD_TLS',
    said: () => ['it wants a client certificate, and none is given'],
    remedy: '--etcd-certfile',
  },
  {
    what: 'a certificate of a CA that etcd does not know',
    tls: () => ({ caFile: ca.certFile, ...stranger }),
    code: 'ETCD_TLS',
    said: () => [`it does not accept the client certificate ${stranger.certFile}`],
    remedy: '--trusted-ca-file',
  },
  {
    what: 'a certificate that has expired',
    tls: () => ({
      caFile: ca.certFile,
      certFile: join(dir, 'ca/expired.pem'),
      keyFile: join(dir, 'ca/expired-key.pem'),
    }),
    code: 'ETCD_TLS',
    said: () => [`the client certificate ${join(dir, 'ca/expired.pem')}, which has expired at 20`],
    remedy: 'It has to be valid',
  },
  {
    what: 'an etcd without TLS',
    endpoint: () => plain.endpoints.replace('http:', 'https:'),
    tls: () => ({ caFile: ca.certFile }),
    code: 'ETCD_TLS',
    said: () => ['it closed the connection during the TLS handshake'],
    remedy: 'http:// in --etcd-endpoints',
  },
];

describe('what does not work says which file and why', () => {
  beforeAll(async () => {
    await ca.issue('expired', { days: -1 });
    await encryptKey(client, join(dir, 'encrypted.pem'));
  });

  it.each(failures)('$what', async ({ endpoint, tls, code, said, remedy }) => {
    const at = endpoint?.() ?? mutual.endpoints;
    const error = await failureOf(read(at, tls()));
    expect(error.code).toBe(code);
    expect(error.message).toContain(at);
    for (const text of said()) expect(error.message).toContain(text);
    expect(error.remedy).toContain(remedy);
    expect(`${error.message}${error.remedy}`).not.toMatch(/PRIVATE KEY-----\n|ssl3_read_bytes|node --use/);
  });

  it.each([
    ['that has expired', { days: -1 }, 'the certificate it shows, or that of its CA, has expired'],
    [
      'for another name',
      { altNames: ['DNS:etcd.example'] },
      'is not for this name or address, but for DNS:etcd.example',
    ],
  ])('a server’s certificate %s', async (what, options, said) => {
    const bad = await ca.issue(what.replaceAll(' ', '-'), options);
    serverFiles.certificate(bad).key(bad);
    try {
      const error = await failureOf(read(mutual.endpoints, { caFile: ca.certFile, ...client }));
      expect(error.code).toBe('ETCD_TLS');
      expect(error.message).toContain(said);
      expect(error.remedy).toBeDefined();
    } finally {
      serverFiles.certificate(server).key(server);
    }
  });

  it('a call that changes something certainly did not when no TLS connection was made', async () => {
    const { registry } = connectTo(mutual.endpoints, { tls: { caFile: ca.certFile } });
    const put = { op: 'put', key, value: '1', lease: '0' } as const;
    const error = await failureOf(registry.txn({ compare: [], success: [put] }));
    expect(error).toMatchObject({ kind: 'TLS', outcomeUnknown: false });
  });
});

describe('files that come or change while it runs', () => {
  it('files that are missing are used once they are there', async () => {
    const files = new InstalledFiles(join(dir, 'later'));
    const { caFile, certFile, keyFile } = files;
    const { registry } = connectTo(mutual.endpoints, { tls: { caFile, certFile, keyFile } });
    expect((await failureOf(registry.range({ key }))).message).toContain(`${caFile} does not exist`);
    files.ca(ca).certificate(client);
    expect((await failureOf(registry.range({ key }))).message).toContain(`${keyFile} does not exist`);
    files.key(client);
    await expect(registry.range({ key })).resolves.toMatchObject({ kvs: [] });
  });

  it('a certificate that will soon end is told of, once', async () => {
    const { security, said } = connectTo(
      mutual.endpoints,
      { tls: { caFile: ca.certFile, ...client } },
      new VirtualClock(Date.now() + 47 * 3_600_000),
    );
    await security.refresh();
    await security.refresh();
    expect(said()).toEqual([
      expect.stringMatching(`the client certificate ${client.certFile} expires at 20.*Renew it`),
    ]);
  });

  it('new files are used for calls a minute later, on a connection that is up; half of a pair is not', async () => {
    const files = new InstalledFiles(join(dir, 'rotated')).ca(ca).certificate(client).key(client);
    const { caFile, certFile, keyFile } = files;
    const clock = new VirtualClock(Date.now());
    const { registry, security, said } = connectTo(
      mutual.endpoints,
      { tls: { caFile, certFile, keyFile } },
      clock,
    );
    const stop = new AbortController();
    const running = security.run(stop.signal).catch(() => undefined);
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
    expect((await failureOf(registry.range({ key }))).message).toContain(
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

it('three members: goes on with the next when one is killed, and comes back to it after a restart', async () => {
  const etcd = await startEtcd({ dir: join(dir, 'three'), members: 3, tls: { server, ca, client } });
  try {
    const tls = { caFile: ca.certFile, ...client };
    const members = etcd.members.map(({ clientUrl }) => connectTo(clientUrl, { tls }).registry);
    const registry = rotate(members);
    await registry.range({ key });
    const [first, second] = etcd.members;
    await first?.kill();
    await expect
      .poll(() => registry.range({ key }).catch(String), { timeout: 30_000 })
      .toMatchObject({ kvs: [] });
    expect(registry.endpoint).not.toBe(first?.clientUrl);
    await first?.start();
    await second?.kill();
    await expect
      .poll(() => registry.range({ key }).catch(String), { timeout: 30_000 })
      .toMatchObject({ kvs: [] });
    await expect
      .poll(() => members[0]?.range({ key }).catch(String), { timeout: 30_000 })
      .toMatchObject({ kvs: [] });
  } finally {
    await etcd.close();
  }
});

it('the deadline of calls holds while a peer accepts and says nothing', async () => {
  const { registry } = connectTo(mutual.endpoints, { tls: { caFile: ca.certFile, ...client } });
  mutual.first.pause();
  try {
    const startedAtMs = systemClock.monotonic();
    expect(await failureOf(registry.range({ key }))).toMatchObject({
      kind: expect.stringMatching(/UNAVAILABLE|TLS/),
    });
    expect(systemClock.monotonic() - startedAtMs).toBeLessThan(10_000);
  } finally {
    mutual.first.resume();
  }
  await expect.poll(() => registry.range({ key }).catch(String), { timeout: 30_000 }).toHaveProperty('kvs');
});
