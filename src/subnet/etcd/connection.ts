import { createSecureContext } from 'node:tls';
import type { Clock } from '../../runtime/effects.ts';
import type { EtcdAddresses } from '../registry/addresses.ts';
import { RegistryError } from '../registry/registry.ts';
import { Call, type EtcdServices, MemberClient } from './client.ts';
import { Connecting, type ConnectionFailure, isTls, MemberCredentials } from './connecting.ts';
import { authenticationIsOff, registryError, wantsNewToken } from './failure.ts';
import type { EtcdSecurity, SecurityNames } from './security.ts';
import type { TlsMaterial } from './tls-files.ts';
import type { Way } from './verdict.ts';

export interface ConnectionOptions {
  readonly clock: Clock;
  readonly security: EtcdSecurity | undefined;
  readonly deadlineMs: number;
  readonly addresses: EtcdAddresses | undefined;
}

/** The way to one member, with the certificates and the token that calls need. Nothing is connected before the first call. */
export class Connection implements Way {
  readonly endpoint: string;
  readonly #options: ConnectionOptions;
  readonly #client: MemberClient;
  readonly #session: Session;
  readonly #connecting: Connecting;
  /** What the connection in use was made with. */
  #madeWith: TlsMaterial | undefined;
  #authenticating: Call | undefined;

  constructor(endpoint: string, options: ConnectionOptions) {
    this.endpoint = endpoint;
    this.#options = options;
    this.#connecting = new Connecting(endpoint, options.addresses);
    this.#client = new MemberClient(endpoint, this.#credentials());
    this.#session = new Session({
      ...options,
      endpoint,
      authenticate: (name, password) => this.#authenticate(name, password),
    });
  }

  get names(): SecurityNames {
    return this.#options.security?.names ?? {};
  }

  get failure(): ConnectionFailure | undefined {
    return this.#connecting.failure;
  }

  /**
   * Makes a call. One that etcd refuses for its token alone is made once more with a new one; it had no effect. Rejects with
   * whatever grpc-js does, CredentialsError, or RegistryError when it gets no token.
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

  /** Reads the certificates before the first connection. Without them grpc-js reports only that it has no connection. */
  async #takeUpCertificates(): Promise<void> {
    const { security } = this.#options;
    if (security === undefined || !isTls(this.endpoint)) return;
    const material = security.material ?? (await security.refresh());
    if (this.#madeWith === undefined || this.#madeWith === material) return;
    this.#madeWith = undefined;
    this.#client.reconnect(this.#credentials());
  }

  #credentials(): MemberCredentials {
    const { security } = this.#options;
    return new MemberCredentials(this.#connecting, async () => {
      if (security === undefined) return createSecureContext();
      this.#madeWith = await security.refresh();
      return this.#madeWith.context;
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
      throw registryError({ way: this, write: false, sent: call.sent, error });
    } finally {
      this.#authenticating = undefined;
    }
  }
}

interface SessionOptions extends Pick<ConnectionOptions, 'clock' | 'security'> {
  readonly endpoint: string;
  /** Asks etcd for a token; rejects with RegistryError. */
  readonly authenticate: (name: string, password: string) => Promise<string>;
}

/**
 * A refused password is not offered again at once: etcd works on each attempt for a tenth of a second (bcrypt), and there may be
 * a thousand hosts that were given the same wrong one.
 */
const firstPauseMs = 1_000;
const longestPauseMs = 30_000;

interface Refusal {
  readonly password: string;
  readonly error: RegistryError;
  readonly pauseMs: number;
  readonly untilMs: number;
}

/** The token by which one member knows our user: fetched when it is first needed, and again once etcd no longer takes it. */
class Session {
  readonly #options: SessionOptions;
  #token: Promise<string | undefined> | undefined;
  #refusal: Refusal | undefined;

  constructor(options: SessionOptions) {
    this.#options = options;
  }

  /**
   * The token for a call; undefined when there is no user, or etcd does without. Rejects with RegistryError, or with
   * CredentialsError when the password cannot be read.
   */
  token(): Promise<string | undefined> {
    if (this.#token === undefined) {
      const token = this.#fetch();
      this.#token = token;
      token.catch(() => this.#forget(token));
    }
    return this.#token;
  }

  /** To be called when etcd rejected what `token()` resolved to; the next call fetches another. */
  async discard(refused: string | undefined): Promise<void> {
    const token = this.#token;
    // Several calls may have failed with the same token, and one of them may have fetched another one already.
    if (token !== undefined && (await token.catch(() => undefined)) === refused) this.#forget(token);
  }

  #forget(token: Promise<string | undefined>): void {
    if (this.#token === token) this.#token = undefined;
  }

  async #fetch(): Promise<string | undefined> {
    const { security, clock, endpoint, authenticate } = this.#options;
    const user = security?.user;
    if (security === undefined || user === undefined) return undefined;
    const password = await security.password(user);
    const before = this.#refusal?.password === password ? this.#refusal : undefined;
    if (before !== undefined && clock.monotonic() < before.untilMs) throw before.error;
    try {
      const token = await authenticate(user.username, password);
      this.#refusal = undefined;
      security.noteAuthentication(true, endpoint);
      return token;
    } catch (error) {
      if (authenticationIsOff(error)) {
        security.noteAuthentication(false, endpoint);
        return undefined;
      }
      if (error instanceof RegistryError && error.kind === 'UNAUTHENTICATED') {
        const pauseMs = Math.min((before?.pauseMs ?? firstPauseMs / 2) * 2, longestPauseMs);
        this.#refusal = { password, error, pauseMs, untilMs: clock.monotonic() + pauseMs };
      }
      throw error;
    }
  }
}
