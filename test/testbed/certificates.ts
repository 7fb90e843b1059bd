import { randomBytes } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from './commands.ts';

/** The PEM files of a certificate. */
export interface Certificate {
  readonly certFile: string;
  readonly keyFile: string;
}

export interface CertificateOptions {
  /** Subject's common name: the etcd user, when etcd has authentication on and the client no user. Default: the file's name. */
  readonly commonName?: string;
  /** `IP:127.0.0.1`, `DNS:etcd.example`; default: both names of the loopback. */
  readonly altNames?: readonly string[];
  /** One that has ended. Default: it ends in two days. */
  readonly expired?: boolean;
}

const newKey = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'.split(' ');

/** A certificate authority of a test, and what it has signed; all its files lie in one folder. */
export class Authority implements Certificate {
  readonly certFile: string;
  readonly keyFile: string;
  readonly #dir: string;

  private constructor(dir: string) {
    this.#dir = dir;
    this.certFile = join(dir, 'ca.pem');
    this.keyFile = join(dir, 'ca-key.pem');
  }

  /** Makes a key and a self-signed certificate in `dir`. `name` is the subject; two authorities need two. */
  static async create(dir: string, name: string): Promise<Authority> {
    mkdirSync(dir, { recursive: true });
    const authority = new Authority(dir);
    await run('openssl', [
      'req',
      '-x509',
      ...newKey,
      '-days',
      '2',
      '-subj',
      `/CN=${name}`,
      '-keyout',
      authority.keyFile,
      '-out',
      authority.certFile,
    ]);
    return authority;
  }

  /** Signs a new key, good for servers and clients. */
  async issue(name: string, options: CertificateOptions = {}): Promise<Certificate> {
    const { commonName = name, altNames = ['IP:127.0.0.1', 'DNS:localhost'] } = options;
    const file = (suffix: string) => join(this.#dir, `${name}${suffix}`);
    await run('openssl', [
      'req',
      ...newKey,
      '-subj',
      `/CN=${commonName}`,
      '-keyout',
      file('-key.pem'),
      '-out',
      file('.csr'),
      '-addext',
      `subjectAltName=${altNames.join(',')}`,
      '-addext',
      'extendedKeyUsage=serverAuth,clientAuth',
    ]);
    // openssl's own count is kept in a file, which two that sign at once would spoil.
    const serial = `0x${randomBytes(8).toString('hex')}`;
    await run('openssl', [
      'x509',
      '-req',
      '-in',
      file('.csr'),
      '-days',
      options.expired ? '0' : '2',
      '-copy_extensions',
      'copy',
      '-CA',
      this.certFile,
      '-CAkey',
      this.keyFile,
      '-set_serial',
      serial,
      '-out',
      file('.pem'),
    ]);
    // It ended in the second in which it was made: openssl 3.5 makes none that ends before it begins.
    if (options.expired) await sleep(1_100);
    return { certFile: file('.pem'), keyFile: file('-key.pem') };
  }
}

/** Puts the files of a certificate, with the CA's, where a program is told to look for them. */
export class InstalledFiles implements Certificate {
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;

  constructor(dir: string) {
    mkdirSync(dir, { recursive: true });
    this.caFile = join(dir, 'ca.crt');
    this.certFile = join(dir, 'client.crt');
    this.keyFile = join(dir, 'client.key');
  }

  ca(...authorities: readonly Certificate[]): this {
    const texts = authorities.map(({ certFile }) => readFileSync(certFile, 'utf8'));
    writeFileSync(this.caFile, texts.join('# and\n'));
    return this;
  }

  certificate({ certFile }: Certificate): this {
    copyFileSync(certFile, this.certFile);
    return this;
  }

  key({ keyFile }: Certificate): this {
    copyFileSync(keyFile, this.keyFile);
    return this;
  }
}

/** The same key under a passphrase. */
export async function encryptKey({ keyFile }: Certificate, to: string): Promise<void> {
  await run('openssl', ['pkey', '-in', keyFile, '-aes256', '-passout', 'pass:secret', '-out', to]);
}

/** A cluster with its CA, and somebody whom another CA vouches for. */
export interface Parties {
  readonly ca: Authority;
  readonly otherCa: Authority;
  readonly server: Certificate;
  readonly client: Certificate;
  readonly stranger: Certificate;
}

/** Makes their certificates in folders of their own under `dir`. */
export async function makeParties(dir: string): Promise<Parties> {
  const [ca, otherCa] = await Promise.all([
    Authority.create(join(dir, 'ca'), 'the cluster’s CA'),
    Authority.create(join(dir, 'other'), 'another CA'),
  ]);
  const [server, client, stranger] = await Promise.all([
    ca.issue('server'),
    ca.issue('client'),
    otherCa.issue('stranger'),
  ]);
  return { ca, otherCa, server, client, stranger };
}
