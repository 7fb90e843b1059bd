import { type ClientRequest, request as requestHttp } from 'node:http';
import { Agent, request as requestHttps } from 'node:https';
import type { SecureContext } from 'node:tls';
import type { OldStore } from '../registry/registry.ts';
import { isTls } from './connecting.ts';
import type { EtcdSecurity } from './security.ts';

/** It is asked for a hint alone: the configuration is waited for meanwhile. */
const deadlineMs = 2_000;

/**
 * The v2 store behind these endpoints, asked by etcd's keys API (`GET /v2/keys/…`; on by default before
 * etcd 3.4, gone in 3.6). No user is named: those of v2 are others than v3's.
 */
export class EtcdV2Store implements OldStore {
  readonly #endpoints: readonly string[];
  readonly #security: EtcdSecurity;

  constructor(endpoints: readonly string[], security: EtcdSecurity) {
    this.#endpoints = endpoints;
    this.#security = security;
  }

  async has(key: string, signal: AbortSignal): Promise<boolean | undefined> {
    const answers = await Promise.all(this.#endpoints.map((endpoint) => this.#ask(endpoint, key, signal)));
    return answers.find((answer) => answer !== undefined);
  }

  async #ask(endpoint: string, key: string, signal: AbortSignal): Promise<boolean | undefined> {
    try {
      const tls = isTls(endpoint) ? await this.#security.refresh() : undefined;
      return await statusOf(urlOf(endpoint, key), tls?.context, signal);
    } catch {
      // Unreadable certificates, a refused connection: the v3 API's calls tell of them.
      signal.throwIfAborted();
      return undefined;
    }
  }
}

function urlOf(endpoint: string, key: string): URL {
  const path = key.split('/').map(encodeURIComponent).join('/');
  return new URL(`/v2/keys/${path.replace(/^\//, '')}`, endpoint);
}

/** Whether the key is there; undefined when the answer is not the v2 store's, which names its index. */
function statusOf(
  url: URL,
  secureContext: SecureContext | undefined,
  signal: AbortSignal,
): Promise<boolean | undefined> {
  return new Promise((resolve, reject) => {
    const ends = AbortSignal.any([signal, AbortSignal.timeout(deadlineMs)]);
    const asked: ClientRequest =
      secureContext === undefined
        ? requestHttp(url, { signal: ends, agent: false })
        : requestHttps(url, { signal: ends, agent: new Agent({ secureContext }) });
    asked.once('error', reject);
    asked.once('response', ({ statusCode, headers }) => {
      const isStore = headers['x-etcd-index'] !== undefined;
      resolve(isStore && (statusCode === 200 || statusCode === 404) ? statusCode === 200 : undefined);
      // Its value is of no interest, and may be of any size.
      asked.destroy();
    });
    asked.end();
  });
}
