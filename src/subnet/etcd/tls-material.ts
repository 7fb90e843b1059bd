import type { X509Certificate } from 'node:crypto';
import { createSecureContext, rootCertificates, type SecureContext } from 'node:tls';
import { messageOf } from '../../runtime/errors.ts';
import { type Reader, readNeeded } from './credential-files.ts';
import { CredentialsError, type FileText, parseCertificates, parseKey } from './pem.ts';

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
    ca === undefined ? await systemCertificates(files, systemCas) : pemOf(parseCertificates(ca));
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
      {
        remedy:
          'Put the two files there that were made together. While they are being replaced this passes by itself.',
      },
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
    throw new CredentialsError(`OpenSSL refuses ${names}: ${messageOf(cause)}`, {
      cause,
      remedy: "Have them made anew, with a key of today's size.",
    });
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

function pemOf(certificates: readonly X509Certificate[]): readonly string[] {
  return certificates.map((certificate) => certificate.toString());
}
