import { isIP, type Socket } from 'node:net';
import { connect, type PeerCertificate, type SecureContext, type TLSSocket } from 'node:tls';
import { CallCredentials, ChannelCredentials, type experimental } from '@grpc/grpc-js';
import { excerpt } from '../../runtime/texts.ts';
import type { Verdict } from './refusal.ts';
import type { SecurityNames } from './security.ts';

/** A peer that accepts and stays silent would be waited for without end. */
const handshakeTimeoutMs = 4_000;

/**
 * TLS below gRPC, with what the certificate files hold when a connection is made (grpc-js' own credentials hold what they held
 * when the client was made). Every client of a member shares one, and with it one connection.
 */
export class TlsCredentials extends ChannelCredentials {
  readonly #host: string;
  readonly #context: () => Promise<SecureContext>;

  /** `host`: of the endpoint's URL, the name or address the server's certificate has to be for. */
  constructor(host: string, context: () => Promise<SecureContext>) {
    super();
    this.#host = host;
    this.#context = context;
  }

  override _isSecure(): boolean {
    return true;
  }

  override _equals(other: ChannelCredentials): boolean {
    return this === other;
  }

  override _createSecureConnector(): experimental.SecureConnector {
    const closing = new AbortController();
    return {
      waitForReady: () => Promise.resolve(),
      connect: async (socket) => {
        // The files are read meanwhile: a connection that is lost then has no other listener, and would end the process.
        let lost: TlsError | undefined;
        socket.on('error', (error) => {
          lost ??= error;
        });
        const context = await this.#context();
        if (lost !== undefined) throw new Error(describe(lost));
        return { socket: await handshake(socket, this.#host, context, closing.signal), secure: true };
      },
      getCallCredentials: () => CallCredentials.createEmpty(),
      destroy: () => closing.abort(),
    };
  }
}

type TlsError = Error & { readonly code?: string; readonly cert?: Partial<PeerCertificate> };

function describe({ code, message, cert }: TlsError): string {
  // Node's own words leave out names when an address was asked for.
  const names = cert && excerpt(cert.subjectaltname ?? `CN ${String(cert.subject?.CN)}`);
  if (code === undefined) return message;
  // The name of a system call's failure alone does not tell that it was the handshake that failed.
  return `${/^E[A-Z]+$/.test(code) ? 'TLS handshake: ' : ''}${code}: ${names ?? message}`;
}

/**
 * Rejects with what TLS calls the failure, then its message (`CERT_HAS_EXPIRED: certificate has expired`), or the names that a
 * certificate for another name is for.
 */
function handshake(
  socket: Socket,
  host: string,
  secureContext: SecureContext,
  closing: AbortSignal,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const secured = connect({
      socket,
      host,
      secureContext,
      ALPNProtocols: ['h2'],
      // No name is sent for an address (RFC 6066, section 3); Node checks the certificate against `host` then.
      ...(isIP(host) === 0 ? { servername: host } : {}),
    });
    const giveUp = (why: string) => secured.destroy(new Error(why));
    const onClosing = () => giveUp('closed');
    closing.addEventListener('abort', onClosing, { once: true });
    secured.setTimeout(handshakeTimeoutMs, () =>
      giveUp(`no TLS handshake within ${handshakeTimeoutMs / 1000} s`),
    );
    secured.once('close', () => closing.removeEventListener('abort', onClosing));
    const onError = (error: TlsError) => reject(new Error(describe(error)));
    // Stays: between the handshake and gRPC's own listener nobody else would take an error.
    secured.on('error', onError);
    if (closing.aborted) onClosing();
    secured.once('secureConnect', () => {
      secured.setTimeout(0);
      closing.removeEventListener('abort', onClosing);
      resolve(secured);
    });
  });
}

interface TlsRule {
  readonly pattern: RegExp;
  readonly reason: (names: SecurityNames, cause: string) => string;
  readonly remedy: (names: SecurityNames) => string;
}

/** OpenSSL's names (verify(1)), Node's (errors, ERR_TLS_…), and the alerts a server ends the handshake with (RFC 8446, 6.2). */
const rules: readonly TlsRule[] = [
  {
    pattern: /WRONG_VERSION_NUMBER|wrong version number|PACKET_LENGTH_TOO_LONG|HTTP_REQUEST/,
    reason: () => 'what answers there does not speak TLS',
    remedy: () => 'Does etcd serve https there? With http:// in --etcd-endpoints it is asked without TLS.',
  },
  {
    pattern: /CERT_HAS_EXPIRED/,
    reason: () => 'the certificate it shows, or that of its CA, has expired',
    remedy: () => "Renew it; also check that this host's clock is right.",
  },
  {
    pattern: /CERT_NOT_YET_VALID/,
    reason: () => 'the certificate it shows, or that of its CA, is not valid yet',
    remedy: () => "Check that this host's clock is right.",
  },
  {
    pattern:
      /UNABLE_TO_VERIFY_LEAF_SIGNATURE|SELF_SIGNED_CERT|UNABLE_TO_GET_ISSUER_CERT|CERT_SIGNATURE_FAILURE|CERT_UNTRUSTED|INVALID_CA/,
    reason: ({ ca }) =>
      `the certificate it shows is signed by ${ca === undefined ? 'no CA that the system trusts' : `no CA in ${ca}`}`,
    remedy: ({ ca }) =>
      ca === undefined
        ? 'Name the file with the CA that signed it: --etcd-cafile.'
        : 'Put the CA that signed it into that file; it may hold several.',
  },
  {
    pattern: /ERR_TLS_CERT_ALTNAME_INVALID/,
    reason: (_, cause) =>
      `the certificate it shows is not for this name or address, but for ${cause.replace(/^.*ALTNAME_INVALID: /, '')}`,
    remedy: () =>
      'Put a name or address that it has into --etcd-endpoints, or have a certificate made with this one.',
  },
  {
    pattern: /alert (number (4[2-68]|116)\b|bad certificate|certificate|unknown ca)/i,
    reason: ({ certificate, certificateNote }) =>
      certificate === undefined
        ? 'it wants a client certificate, and none is given'
        : `it does not accept the client certificate ${certificate}${certificateNote === undefined ? '' : `, which ${certificateNote}`}`,
    remedy: ({ certificate }) =>
      certificate === undefined
        ? 'Name it and its key: --etcd-certfile, --etcd-keyfile.'
        : "It has to be valid, for clients, and signed by a CA in the file that etcd's --trusted-ca-file names.",
  },
  {
    pattern: /ECONNRESET|socket disconnected before secure TLS|SOCKET_CLOSED/,
    reason: () => 'it closed the connection during the TLS handshake',
    remedy: () => 'Does etcd serve https there? With http:// in --etcd-endpoints it is asked without TLS.',
  },
];

/** Whether a failure is one of TLS; `cause` is what the last connection failed with. */
export const tlsPattern =
  /TLS|SSL|CERT|certificate|self.signed|altname|unable to (verify|get)|wrong version number/i;

/** Judges a failed handshake. */
export function tlsVerdict(cause: string, names: SecurityNames): Verdict {
  const rule = rules.find(({ pattern }) => pattern.test(cause));
  const reason = rule?.reason(names, cause) ?? cause;
  return {
    kind: 'TLS',
    reason: `no TLS connection: ${reason}`,
    remedy: rule?.remedy(names) ?? 'Check that etcd serves https there, and the certificate files.',
  };
}
