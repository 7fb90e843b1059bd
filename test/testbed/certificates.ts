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

const newKey = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes';

/** Runs openssl with the words of `line` (the folders tests make have no spaces in their names), then `more`. */
async function openssl(line: string, ...more: string[]): Promise<void> {
  await run('openssl', [...line.split(' '), ...more]);
}

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
    const { keyFile, certFile } = authority;
    await openssl(`req -x509 ${newKey} -days 2 -keyout ${keyFile} -out ${certFile} -subj`, `/CN=${name}`);
    return authority;
  }

  /** Signs a new key, good for servers and clients. */
  async issue(name: string, options: CertificateOptions = {}): Promise<Certificate> {
    const { commonName = name, altNames = ['IP:127.0.0.1', 'DNS:localhost'] } = options;
    const file = join(this.#dir, name);
    const issued = { certFile: `${file}.pem`, keyFile: `${file}-key.pem` };
    const use = `subjectAltName=${altNames.join(',')} -addext extendedKeyUsage=serverAuth,clientAuth`;
    await openssl(
      `req ${newKey} -keyout ${issued.keyFile} -out ${file}.csr -addext ${use} -subj`,
      `/CN=${commonName}`,
    );
    // openssl's own count is kept in a file, which two that sign at once would spoil.
    const by = `-CA ${this.certFile} -CAkey ${this.keyFile} -set_serial 0x${randomBytes(8).toString('hex')}`;
    const days = `-days ${options.expired ? 0 : 2} -copy_extensions copy`;
    await openssl(`x509 -req -in ${file}.csr ${days} ${by} -out ${issued.certFile}`);
    // It ended in the second in which it was made: openssl 3.5 makes none that ends before it begins.
    if (options.expired) await sleep(1_100);
    return issued;
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
  await openssl(`pkey -in ${keyFile} -aes256 -passout pass:secret -out ${to}`);
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
