import { createSecureContext } from 'node:tls';
import type { Clock } from '../../runtime/clock.ts';
import type { EtcdAddresses } from '../etcd-addresses.ts';
import { Call } from './call.ts';
import { type EtcdServices, MemberClient } from './client.ts';
import { Connecting } from './connecting.ts';
import { registryError, wantsNewToken } from './failure.ts';
import type { EtcdSecurity, SecurityNames } from './security.ts';
import { Session } from './session.ts';
import { TlsCredentials } from './tls-connect.ts';
import type { TlsMaterial } from './tls-material.ts';

export interface ConnectionOptions {
  readonly clock: Clock;
  readonly security: EtcdSecurity | undefined;
  readonly deadlineMs: number;
  readonly addresses: EtcdAddresses | undefined;
}

/** The way to one member, with the certificates and the token that calls need. Nothing is connected before the first call. */
export class Connection {
  readonly #endpoint: string;
  readonly #options: ConnectionOptions;
  readonly #client: MemberClient;
  readonly #session: Session;
  readonly #connecting: Connecting;
  /** What the connection in use was made with. */
  #madeWith: TlsMaterial | undefined;
  #authenticating: Call | undefined;

  constructor(endpoint: string, options: ConnectionOptions) {
    this.#endpoint = endpoint;
    this.#options = options;
    this.#connecting = new Connecting(endpoint, options.addresses);
    this.#client = new MemberClient(
      endpoint,
      isTls(endpoint) ? this.#credentials(options.security) : undefined,
    );
    this.#session = new Session({
      ...options,
      endpoint,
      authenticate: (name, password) => this.#authenticate(name, password),
    });
  }

  get names(): SecurityNames {
    return this.#options.security?.names ?? {};
  }

  /**
   * Makes a call. One that etcd refuses for its token alone is made once more with a new one; it had no effect. Rejects with
   * whatever grpc-js does, CredentialsError, or RegistryError when no token is to be had.
   */
  async call<T>(newCall: () => Call, run: (services: EtcdServices, call: Call) => Promise<T>): Promise<T> {
    return await this.#connecting.run(async () => {
      const first = await this.#token();
      try {
        return await run(this.#client.services(first), newCall());
      } catch (error) {
        if (this.#options.security?.user === undefined || !wantsNewToken(error)) throw error;
        await this.#session.discard(first);
        const second = await this.#token();
        return await run(this.#client.services(second), newCall());
      }
    });
  }

  /** Opens a stream. Whether etcd takes the token shows in its first answer. */
  async stream<T>(open: (services: EtcdServices) => Promise<T>): Promise<T> {
    return await this.#connecting.run(async () => {
      const token = await this.#token();
      return await open(this.#client.services(token));
    });
  }

  close(): void {
    this.#authenticating?.cancel();
    this.#client.close();
    this.#connecting.close();
  }

  async #token(): Promise<string | undefined> {
    await this.#takeUpCertificates();
    return await this.#session.token();
  }

  /** grpc-js would say no more than that it found no connection, had the first connection no certificates to begin with. */
  async #takeUpCertificates(): Promise<void> {
    const { security } = this.#options;
    if (security === undefined || !isTls(this.#endpoint)) return;
    const material = security.material ?? (await security.refresh());
    if (this.#madeWith === undefined || this.#madeWith === material) return;
    this.#madeWith = undefined;
    this.#client.reconnect(this.#credentials(security));
  }

  #credentials(security: EtcdSecurity | undefined): TlsCredentials {
    return new TlsCredentials(new URL(this.#endpoint).hostname.replace(/^\[(.*)\]$/, '$1'), async () => {
      if (security === undefined) return createSecureContext();
      const material = await security.refresh();
      this.#madeWith = material;
      return material.context;
    });
  }

  async #authenticate(name: string, password: string): Promise<string> {
    const { clock, deadlineMs } = this.#options;
    const call = new Call(clock.now() + deadlineMs);
    this.#authenticating = call;
    try {
      const { token } = await this.#client.services().auth.authenticate({ name, password }, call.options);
      return token;
    } catch (error) {
      const context = { endpoint: this.#endpoint, names: this.names };
      throw registryError({ ...context, write: false, sent: call.sent, error });
    } finally {
      this.#authenticating = undefined;
    }
  }
}

function isTls(endpoint: string): boolean {
  return endpoint.startsWith('https:');
}
