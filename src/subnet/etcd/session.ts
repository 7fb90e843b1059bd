import type { Clock } from '../../runtime/effects.ts';
import { RegistryError } from '../registry/registry.ts';
import { authenticationIsOff } from './failure.ts';
import type { EtcdSecurity } from './security.ts';

export interface SessionOptions {
  readonly security: EtcdSecurity | undefined;
  readonly clock: Clock;
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
export class Session {
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

  /** To be called when etcd did not take what `token()` resolved to; the next one is fetched anew. */
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
