import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { TlsFiles } from '../../src/subnet/etcd/tls-files.ts';
import { rotate } from '../../src/subnet/registry/rotation.ts';
import { rejectionOf } from '../contract/registry-suite.ts';
import {
  type Authority,
  type Certificate,
  encryptKey,
  InstalledFiles,
  makeParties,
} from '../testbed/certificates.ts';
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
/** Asks clients for a certificate; its own is in `serverFiles`, which etcd reads at every handshake. */
let mutual: EtcdCluster;
let serverFiles: InstalledFiles;
let plain: EtcdCluster;

beforeAll(async () => {
  ({ ca, otherCa, server, client, stranger } = await makeParties(dir));
  await ca.issue('expired', { expired: true });
  await encryptKey(client, join(dir, 'encrypted.pem'));
  serverFiles = new InstalledFiles(join(dir, 'server')).certificate(server).key(server);
  [mutual, plain] = await Promise.all([
    startEtcd({ dir: join(dir, 'mutual'), tls: { server: serverFiles, ca, client } }),
    startEtcd({ dir: join(dir, 'plain') }),
  ]);
});
afterAll(() => Promise.all([mutual?.close(), plain?.close()]));

const written = (name: string, text: string): string => {
  writeFileSync(join(dir, name), text);
  return join(dir, name);
};
const read = (endpoint: string, tls: TlsFiles) => connectTo(endpoint, { tls }).registry.range({ key });

interface Failure {
  readonly what: string;
  readonly endpoint?: () => string;
  readonly tls: () => TlsFiles;
  /** Default: ETCD_CREDENTIALS, and etcd was not asked. */
  readonly code?: string;
  /** What the message says, with paths of files as they are. */
  readonly said: () => readonly string[];
  readonly remedy: string;
}

const failures: readonly Failure[] = [
  {
    what: 'a CA file that does not exist',
    tls: () => ({ caFile: '/nowhere/ca.pem' }),
    said: () => ['the CA file /nowhere/ca.pem does not exist'],
    remedy: 'Put it there',
  },
  {
    what: 'a CA file in a folder that the unit hides',
    tls: () => ({ caFile: '/home/nobody/ca.pem' }),
    said: () => ['the CA file /home/nobody/ca.pem does not exist'],
    remedy: 'The systemd unit hides /home',
  },
  {
    what: 'a folder in a file’s place',
    tls: () => ({ caFile: dir }),
    said: () => [`the CA file ${dir} cannot be read: it is a folder`],
    remedy: 'Name the file in it',
  },
  {
    what: 'an empty file',
    tls: () => ({ caFile: written('empty.pem', '\n') }),
    said: () => [`the CA file ${join(dir, 'empty.pem')} is empty`],
    remedy: 'Fill it',
  },
  {
    what: 'a CA that is not PEM',
    tls: () => ({ caFile: written('noise.pem', '\u0030\u0082junk') }),
    said: () => [`${join(dir, 'noise.pem')} holds no certificate in PEM form`],
    remedy: 'openssl x509 -inform der',
  },
  {
    what: 'PEM lines around junk',
    tls: () => ({
      caFile: written('junk.pem', '-----BEGIN CERTIFICATE-----\nanVuaw==\n-----END CERTIFICATE-----\n'),
    }),
    said: () => [`the certificate in ${join(dir, 'junk.pem')} is damaged`],
    remedy: 'openssl x509 -in',
  },
  {
    what: 'a second CA that is cut off',
    tls: () => ({ caFile: written('cut.pem', readFileSync(ca.certFile, 'utf8').repeat(2).slice(0, -80)) }),
    said: () => [`certificate 2 of 2 in ${join(dir, 'cut.pem')} is damaged or incomplete`],
    remedy: 'openssl x509 -in',
  },
  {
    what: 'certificate and key exchanged',
    tls: () => ({ certFile: client.keyFile, keyFile: client.certFile }),
    said: () => [`${client.keyFile} holds no certificate`],
    remedy: 'swapped?',
  },
  {
    what: 'a key that is a certificate',
    tls: () => ({ certFile: client.certFile, keyFile: client.certFile }),
    said: () => [`${client.certFile} holds no private key`],
    remedy: 'swapped?',
  },
  {
    what: 'a key that is cut off',
    tls: () => ({
      certFile: client.certFile,
      keyFile: written('cut-key.pem', readFileSync(client.keyFile, 'utf8').slice(0, 120)),
    }),
    said: () => [`the private key ${join(dir, 'cut-key.pem')} is damaged`],
    remedy: 'openssl pkey -in',
  },
  {
    what: 'an encrypted key',
    tls: () => ({ certFile: client.certFile, keyFile: join(dir, 'encrypted.pem') }),
    said: () => [`the private key ${join(dir, 'encrypted.pem')} is encrypted`],
    remedy: 'Store it without one: openssl pkey',
  },
  {
    what: 'another certificate’s key',
    tls: () => ({ certFile: client.certFile, keyFile: stranger.keyFile }),
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

it.each(failures)('$what', async ({ endpoint, tls, code, said, remedy }) => {
  const at = endpoint?.() ?? mutual.endpoints;
  const error = await rejectionOf(read(at, tls()));
  expect(error.code).toBe(code ?? 'ETCD_CREDENTIALS');
  expect(error.message).toContain(at);
  for (const text of said()) expect(error.message).toContain(text);
  expect(error.remedy).toContain(remedy);
  expect(`${error.message}${error.remedy}`).not.toMatch(/PRIVATE KEY-----\n|ssl3_read_bytes|node --use/);
});

it.each([
  ['that has expired', { expired: true }, 'the certificate it shows, or that of its CA, has expired'],
  [
    'for another name',
    { altNames: ['DNS:etcd.example'] },
    'is not for this name or address, but for DNS:etcd.example',
  ],
])('a server’s certificate %s', async (what, options, said) => {
  const bad = await ca.issue(`server-${what.replaceAll(' ', '-')}`, options);
  serverFiles.certificate(bad).key(bad);
  try {
    const error = await rejectionOf(read(mutual.endpoints, { caFile: ca.certFile, ...client }));
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
  const error = await rejectionOf(registry.txn({ compare: [], success: [put] }));
  expect(error).toMatchObject({ kind: 'TLS', outcomeUnknown: false });
});

it('a file that cannot be used is said once, whatever the number of members: no other would do better', async () => {
  const tls = { caFile: '/nowhere/ca.pem' };
  const moves: string[] = [];
  const members = ['https://127.0.0.1:1', mutual.endpoints].map(
    (endpoint) => connectTo(endpoint, { tls }).registry,
  );
  const registry = rotate(members, { onMove: (from, to) => moves.push(`${from} → ${to}`) });
  const error = await rejectionOf(registry.range({ key }));
  expect(error.message).toBe(
    'etcd at https://127.0.0.1:1 cannot be asked: the CA file /nowhere/ca.pem does not exist',
  );
  expect(moves).toEqual([]);
});
