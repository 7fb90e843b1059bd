import { isIP, type Socket } from 'node:net';
import { connect, type PeerCertificate, type SecureContext, type TLSSocket } from 'node:tls';
import { CallCredentials, ChannelCredentials, type experimental } from '@grpc/grpc-js';
import { excerpt } from '../../runtime/excerpt.ts';

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
