import {
  type ClientRequest,
  type IncomingMessage,
  type RequestOptions,
  request as requestHttp,
} from 'node:http';
import { Agent, request as requestHttps } from 'node:https';
import type { SecureContext } from 'node:tls';
import type { Clock } from '../../runtime/effects.ts';
import { isTls } from '../etcd/connecting.ts';
import type { EtcdSecurity } from '../etcd/security.ts';
import { CredentialsError } from '../etcd/tls-files.ts';
import { unreached, wrongPort } from '../etcd/verdict.ts';
import { NoAnswer, type V2Answer, type V2Member, type V2Request } from './member.ts';

/** SYNs go out after 0, 1 and 3 s. What has not connected by then has sent nothing, so that another member may be asked. */
const connectTimeoutMs = 4_000;
/**
 * A silent connection is probed after this long and given up ten probes, a second each, later. A poll has no other sign of
 * life, and its silence of a minute counts as "nothing happened": see `watch.ts`.
 */
const keepAliveMs = 15_000;

/**
 * A member over Node's HTTP client, one connection a request. A connection kept for the next request may be closed by etcd while that
 * is on its way, which would leave the outcome of a write open for no reason.
 */
export class HttpV2Member implements V2Member {
  readonly endpoint: string;
  readonly #security: EtcdSecurity;
  readonly #clock: Clock;

  constructor(endpoint: string, security: EtcdSecurity, clock: Clock) {
    this.endpoint = endpoint;
    this.#security = security;
    this.#clock = clock;
  }

  get username(): string | undefined {
    return this.#security.user?.username;
  }

  async ask(request: V2Request, signal: AbortSignal): Promise<V2Answer> {
    const { secureContext, authorization } = await this.#credentials(request.asUser);
    signal.throwIfAborted();
    const exchange = new Exchange(this.endpoint, this.#security, signal);
    const form = request.form && new URLSearchParams(request.form).toString();
    const options: RequestOptions = {
      method: request.method,
      signal,
      headers: {
        ...(authorization === undefined ? {} : { authorization }),
        ...(form === undefined
          ? {}
          : {
              'content-type': 'application/x-www-form-urlencoded',
              'content-length': Buffer.byteLength(form),
            }),
      },
    };
    const url = urlOf(this.endpoint, request);
    const sending =
      secureContext === undefined
        ? requestHttp(url, { ...options, agent: false })
        : requestHttps(url, { ...options, agent: new Agent({ secureContext }) });
    return await exchange.run(sending, form, this.#clock);
  }

  async #credentials(
    asUser: boolean,
  ): Promise<{ readonly secureContext?: SecureContext; readonly authorization?: string }> {
    try {
      const { user } = this.#security;
      const password = asUser && user !== undefined ? await this.#security.password(user) : undefined;
      const secrets = `${user?.username}:${password}`;
      return {
        ...(isTls(this.endpoint) ? { secureContext: (await this.#security.refresh()).context } : {}),
        ...(password === undefined
          ? {}
          : { authorization: `Basic ${Buffer.from(secrets).toString('base64')}` }),
      };
    } catch (cause) {
      if (!(cause instanceof CredentialsError)) throw cause;
      const { message, remedy } = cause;
      throw new NoAnswer('CREDENTIALS', `it cannot be asked: ${message}`, { isSent: false, remedy, cause });
    }
  }
}

/** A slash stays one; whatever else a key has in it is data. */
function urlOf(endpoint: string, { key, query }: V2Request): URL {
  const path = key.split('/').map(encodeURIComponent).join('/').replace(/^\//, '');
  const url = new URL(`/v2/keys/${path}`, endpoint);
  url.search = new URLSearchParams(query).toString();
  return url;
}

/** One request on its connection. */
class Exchange {
  readonly #endpoint: string;
  readonly #security: EtcdSecurity;
  readonly #signal: AbortSignal;
  /** The connection, with TLS where there is TLS, stands. */
  #isReady = false;
  /** The head of the answer is there. */
  #isAnswering = false;

  constructor(endpoint: string, security: EtcdSecurity, signal: AbortSignal) {
    this.#endpoint = endpoint;
    this.#security = security;
    this.#signal = signal;
  }

  run(sending: ClientRequest, form: string | undefined, clock: Clock): Promise<V2Answer> {
    const connecting = new AbortController();
    return new Promise((resolve, reject) => {
      sending.once('socket', (socket) => {
        socket.setKeepAlive(true, keepAliveMs);
        socket.once(isTls(this.#endpoint) ? 'secureConnect' : 'connect', () => {
          this.#isReady = true;
          connecting.abort();
        });
      });
      // Stays: an error after the answer's head would end the process if nobody listened.
      sending.on('error', (error) => {
        connecting.abort();
        reject(this.#failure(error));
      });
      sending.once('response', (response) => resolve(this.#answer(sending, response)));
      clock.sleep(connectTimeoutMs, connecting.signal).then(
        () => sending.destroy(new Error(`no connection within ${connectTimeoutMs / 1000} s`)),
        () => undefined,
      );
      sending.end(form);
    });
  }

  #answer(sending: ClientRequest, response: IncomingMessage): V2Answer {
    this.#isAnswering = true;
    const { statusCode = 0, headers } = response;
    // Read from the beginning: data that nobody takes would keep a broken connection from being noticed.
    const body = textOf(response);
    body.catch(() => undefined);
    const clusterId = headers['x-etcd-cluster-id'];
    return {
      status: statusCode,
      index: numberOf(headers['x-etcd-index']),
      clusterId: typeof clusterId === 'string' ? clusterId : undefined,
      body: () =>
        body.catch((error: unknown) => {
          throw this.#failure(error as Error);
        }),
      drop: () => void sending.destroy(),
    };
  }

  /** Whatever a socket fails with, in the words that the v3 API's calls have for it. */
  #failure(error: Error & { readonly code?: string }): unknown {
    if (this.#signal.aborted) return this.#signal.reason;
    // With TLS 1.3 a server refuses the client's certificate by an alert, after the client's end of the handshake.
    const isAlert = error.code?.startsWith('ERR_SSL_') === true || error.code === 'EPROTO';
    const isSent = this.#isReady && !isAlert;
    if (isSent) {
      const reason = error.code === undefined ? error.message : this.#lossBy(error.code);
      // As an etcd that serves https does with a request without TLS.
      const remedy = isTls(this.#endpoint) || this.#isAnswering ? undefined : wrongPort;
      return new NoAnswer('UNAVAILABLE', reason, { isSent, remedy, cause: error });
    }
    const ofTls = isTls(this.#endpoint) && error.code !== undefined && !tcpCodes.test(error.code);
    const way = { endpoint: this.#endpoint, names: this.#security.names, failure: { error, ofTls } };
    const { kind, reason, remedy } = unreached('', { way });
    return new NoAnswer(kind === 'TLS' ? 'TLS' : 'UNAVAILABLE', reason, { isSent, remedy, cause: error });
  }

  #lossBy(code: string): string {
    if (code.startsWith('HPE_')) return 'what answers there does not speak HTTP';
    if (this.#isAnswering) return 'it closed the connection before its answer was complete';
    return 'it closed the connection without an answer';
  }
}

/** What connections fail with before TLS begins. */
const tcpCodes =
  /^(?:ECONNREFUSED|EHOSTUNREACH|EHOSTDOWN|ENETUNREACH|ENETDOWN|EADDRNOTAVAIL|EACCES|EPERM|ETIMEDOUT|ENOTFOUND|EAI_\w+)$/;

async function textOf(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}

function numberOf(header: string | readonly string[] | undefined): number | undefined {
  return typeof header === 'string' && /^\d+$/.test(header) ? Number(header) : undefined;
}
