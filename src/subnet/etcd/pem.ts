import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { FlannelError, messageOf } from '../../runtime/errors.ts';

/** A file that was read. */
export interface FileText {
  readonly path: string;
  readonly text: string;
}

/** A file for the way to etcd cannot be used. The message names it and says why; it never holds what is in it. */
export class CredentialsError extends FlannelError {
  constructor(message: string, options: { readonly remedy: string; readonly cause?: unknown }) {
    super('ETCD_CREDENTIALS', message, options);
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
  if (begun === 0)
    throw new CredentialsError(`${path} holds no certificate in PEM form`, { remedy: notPem(text) });
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
  return new CredentialsError(`${which} in ${path} is damaged or incomplete`, {
    cause,
    remedy: `Look at it with: openssl x509 -in ${path} -noout -text`,
  });
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
      {
        remedy: `Store it without one: openssl pkey -in ${path} -out NEW`,
      },
    );
  }
  if (!/-----BEGIN [A-Z ]*PRIVATE KEY-----/.test(text)) {
    const remedy = /BEGIN [A-Z0-9 ]*CERTIFICATE/.test(text)
      ? 'It holds a certificate: are the certificate file and the key file swapped?'
      : 'It has to have a block that begins with -----BEGIN PRIVATE KEY-----.';
    throw new CredentialsError(`${path} holds no private key in PEM form`, { remedy });
  }
  try {
    return createPrivateKey(text);
  } catch (cause) {
    throw new CredentialsError(`the private key ${path} is damaged or incomplete (${messageOf(cause)})`, {
      cause,
      remedy: `Look at it with: openssl pkey -in ${path} -noout`,
    });
  }
}
