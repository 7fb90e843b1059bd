import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { createSecureContext, rootCertificates, type SecureContext } from 'node:tls';
import type { Files } from '../../runtime/effects.ts';
import { codeOf, FlannelError, messageOf, systemReason } from '../../runtime/errors.ts';

/** The PEM files of the way to etcd, by path. A certificate comes with its key. */
export interface TlsFiles {
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
}

/** What the files held when they were read, checked as far as that is possible without asking etcd. */
export interface TlsMaterial {
  readonly context: SecureContext;
  /** Tells whether files hold the same as before. */
  readonly texts: string;
  /** When the client's certificate begins and ends, ms since the epoch. */
  readonly validity: { readonly fromMs: number; readonly toMs: number } | undefined;
}

/** Where distributions keep the system's CA certificates; the same list, in the same order, that Go's programs go by. */
export const systemCaFiles: readonly string[] = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/pki/tls/cacert.pem',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/ssl/cert.pem',
];

/**
 * Reads the files and checks that they can work: each one readable and PEM, the key the certificate's. Expired certificates
 * pass: this host's clock may be the one that is wrong, and etcd decides. Throws {@link CredentialsError}.
 */
export async function readTlsMaterial(
  files: Reader,
  { caFile, certFile, keyFile }: TlsFiles,
  systemCas: readonly string[],
): Promise<TlsMaterial> {
  const ca = caFile === undefined ? undefined : await readNeeded(files, 'the CA file', caFile);
  const cert =
    certFile === undefined ? undefined : await readNeeded(files, 'the client certificate', certFile);
  const key = keyFile === undefined ? undefined : await readNeeded(files, 'the private key', keyFile);
  const authorities =
    ca === undefined ? await systemCertificates(files, systemCas) : parseCertificates(ca).map(String);
  const identity = cert === undefined || key === undefined ? undefined : identityOf(cert, key);
  return {
    context: createContext(authorities, cert, key),
    texts: JSON.stringify([authorities, cert?.text, key?.text]),
    validity: identity && { fromMs: Date.parse(identity.validFrom), toMs: Date.parse(identity.validTo) },
  };
}

/** The client's certificate is the first of its file; what follows leads from it to a CA that etcd knows. */
function identityOf(cert: FileText, key: FileText): X509Certificate | undefined {
  const [own] = parseCertificates(cert);
  if (own?.checkPrivateKey(parseKey(key)) === false) {
    throw new CredentialsError(
      `the private key ${key.path} does not belong to the certificate ${cert.path}`,
      'Put the two files there that were made together. While they are being replaced this passes by itself.',
    );
  }
  return own;
}

function createContext(
  ca: readonly string[],
  cert: FileText | undefined,
  key: FileText | undefined,
): SecureContext {
  try {
    return createSecureContext({
      ca: [...ca],
      ...(cert === undefined || key === undefined ? {} : { cert: cert.text, key: key.text }),
    });
  } catch (cause) {
    // Such as a key too short for OpenSSL's security level.
    const names = cert === undefined ? 'the CA certificates' : `${cert.path} and its key`;
    const message = `OpenSSL refuses ${names}: ${messageOf(cause)}`;
    throw new CredentialsError(message, "Create new ones, with a key of today's size.", cause);
  }
}

/** The system's CA certificates: of the first file there is; Node's own collection where there is none. */
async function systemCertificates(files: Reader, paths: readonly string[]): Promise<readonly string[]> {
  for (const path of paths) {
    const text = await files.readText(path).catch(() => undefined);
    if (text !== undefined) return [text];
  }
  return rootCertificates;
}

/** A file that was read. */
export interface FileText {
  readonly path: string;
  readonly text: string;
}

/** A file for the way to etcd cannot be used. The message names it and says why; it never holds what is in it. */
export class CredentialsError extends FlannelError {
  constructor(message: string, remedy: string, cause?: unknown) {
    super('ETCD_CREDENTIALS', message, { remedy, cause });
  }
}

/** The blocks of a PEM file whose label ends in `CERTIFICATE` (OpenSSL has three such labels), comments left out. */
const certificateBlock = /-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----\r?\n[^-]*-----END \1-----/g;

/**
 * The certificates of a PEM file in their order, at least one. Throws {@link CredentialsError} when there is none or one of
 * them is damaged: OpenSSL would leave out the damaged one and all that follow without a word.
 */
export function parseCertificates({ path, text }: FileText): readonly X509Certificate[] {
  const begun = text.match(/-----BEGIN [A-Z0-9 ]*CERTIFICATE-----/g)?.length ?? 0;
  if (begun === 0) throw new CredentialsError(`${path} holds no certificate in PEM form`, notPem(text));
  const blocks = text.match(certificateBlock) ?? [];
  const certificates = blocks.map((block, index) => {
    try {
      return new X509Certificate(block);
    } catch (cause) {
      throw damaged(path, index, begun, cause);
    }
  });
  if (certificates.length < begun) throw damaged(path, certificates.length, begun, undefined);
  return certificates;
}

function damaged(path: string, index: number, count: number, cause: unknown): CredentialsError {
  const which = count === 1 ? 'the certificate' : `certificate ${index + 1} of ${count}`;
  const remedy = `Look at it with: openssl x509 -in ${path} -noout -text`;
  return new CredentialsError(`${which} in ${path} is damaged or incomplete`, remedy, cause);
}

function notPem(text: string): string {
  if (/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text))
    return 'It holds a private key: are the certificate file and the key file swapped?';
  return 'It has to have a block that begins with -----BEGIN CERTIFICATE-----; from DER: openssl x509 -inform der.';
}

/** The private key of a PEM file. Throws {@link CredentialsError}. */
export function parseKey({ path, text }: FileText): KeyObject {
  if (/BEGIN ENCRYPTED PRIVATE KEY|^Proc-Type: 4,ENCRYPTED/m.test(text)) {
    throw new CredentialsError(
      `the private key ${path} is encrypted, and nobody is there to ask for its passphrase`,
      `Store it without one: openssl pkey -in ${path} -out NEW`,
    );
  }
  if (!/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text)) {
    const remedy = /BEGIN [A-Z0-9 ]*CERTIFICATE/.test(text)
      ? 'It holds a certificate: are the certificate file and the key file swapped?'
      : 'It has to have a block that begins with -----BEGIN PRIVATE KEY-----.';
    throw new CredentialsError(`${path} holds no private key in PEM form`, remedy);
  }
  try {
    return createPrivateKey(text);
  } catch (cause) {
    const message = `the private key ${path} is damaged or incomplete (${messageOf(cause)})`;
    throw new CredentialsError(message, `Look at it with: openssl pkey -in ${path} -noout`, cause);
  }
}

/** Reading is all that is done with these files. */
export type Reader = Pick<Files, 'readText'>;

/** Reads a file the way to etcd needs. `what` it is for goes into the message. Throws {@link CredentialsError}. */
export async function readNeeded(files: Reader, what: string, path: string): Promise<FileText> {
  let text: string | undefined;
  try {
    text = await files.readText(path);
  } catch (cause) {
    const remedy = remedies[codeOf(cause) ?? ''] ?? 'Check the file and the disk it lies on.';
    const message = `${what} ${path} cannot be read: ${systemReason(cause)}`;
    throw new CredentialsError(message, `${remedy}${hiddenBy(path)}`, cause);
  }
  if (text === undefined) {
    const remedy = 'Put it there, or correct the flag that names it; the daemon keeps looking for it.';
    throw new CredentialsError(`${what} ${path} does not exist`, `${remedy}${hiddenBy(path)}`);
  }
  if (text.trim() === '')
    throw new CredentialsError(`${what} ${path} is empty`, 'Fill it; it is read again all the time.');
  return { path, text };
}

/** Folders that the unit of this program does not show to it (ProtectHome, PrivateTmp). */
function hiddenBy(path: string): string {
  return /^\/(home|root|run\/user|tmp|var\/tmp)\//.test(path)
    ? ' The systemd unit hides /home, /root and /tmp from the daemon: keep it in /etc.'
    : '';
}

const remedies: Readonly<Record<string, string>> = {
  EACCES:
    'Let the user that the daemon runs as own it, with mode 0600. Under systemd root has no right to read what others own ' +
    '(CapabilityBoundingSet= without CAP_DAC_OVERRIDE).',
  EISDIR: 'Name the file in it.',
  ENOTDIR: 'Correct the flag that names it.',
};
