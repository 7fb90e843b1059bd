import type { Activity } from '../../runtime/activity.ts';
import type { Clock, Logger } from '../../runtime/effects.ts';
import { explanationOf } from '../../runtime/errors.ts';
import type { TroubleLog } from '../../runtime/trouble.ts';
import { configKey } from '../keys.ts';
import {
  type Reader,
  readNeeded,
  readTlsMaterial,
  systemCaFiles,
  type TlsFiles,
  type TlsMaterial,
} from './tls-files.ts';

/** The etcd user: with a password, or the file whose first line it is. */
export type EtcdUser =
  | { readonly username: string; readonly password: string }
  | { readonly username: string; readonly passwordFile: string };

export interface SecurityOptions {
  /** Used by members whose URL is https. */
  readonly tls: TlsFiles;
  readonly user?: EtcdUser | undefined;
  /** The prefix of the keys the user needs, for the advice that goes with a refusal. */
  readonly etcdPrefix: string;
  readonly files: Reader;
  readonly clock: Clock;
  readonly log: Logger;
  /** Problems that the operator should fix although everything works: no call fails yet. */
  readonly notices: TroubleLog;
  /** Where the system's CA certificates may lie, instead of the usual places. */
  readonly systemCas?: readonly string[];
}

/** What there is by way of credentials, in words for messages. Never a secret. */
export interface SecurityNames {
  /** The CA certificates' path; undefined for those that the system trusts. */
  readonly ca?: string | undefined;
  /** The client certificate's path; undefined without one. */
  readonly certificate?: string | undefined;
  /** What is wrong with the client certificate at this time, if it is. */
  readonly certificateNote?: string | undefined;
  readonly username?: string | undefined;
  /** The password's path; undefined when it was given itself. */
  readonly passwordFile?: string | undefined;
  /** The keys the daemon needs begin with this. */
  readonly keyPrefix?: string;
}

/** How long a replaced file may go unnoticed as long as no connection is made. */
const checkIntervalMs = 60_000;
const loop = 'etcd-credentials';
/** A disk, or a network share, that does not answer for so long will not do so any more. */
const stuckMs = 120_000;
/** A certificate that has less than this part of its life left should have been replaced. */
const lastPart = 1 / 10;

/**
 * The credentials of the way to etcd, as the files hold them: read when they are first needed, at each new connection and
 * once a minute. Files that cannot be used, such as a new certificate beside the old key, change nothing: what was read before
 * stays in use, with a warning. One for all members.
 */
export class EtcdSecurity {
  readonly #options: SecurityOptions;
  #material: TlsMaterial | undefined;
  #reading: Promise<TlsMaterial> | undefined;
  #password: string | undefined;

  constructor(options: SecurityOptions) {
    this.#options = options;
  }

  /** What was read last and can be used; undefined before the first {@link EtcdSecurity.refresh}. */
  get material(): TlsMaterial | undefined {
    return this.#material;
  }

  get user(): EtcdUser | undefined {
    return this.#options.user;
  }

  get names(): SecurityNames {
    const { tls, user, etcdPrefix } = this.#options;
    return {
      ca: tls.caFile,
      keyPrefix: configKey(etcdPrefix).slice(0, -'config'.length),
      certificate: tls.certFile,
      certificateNote: this.#validityNote(),
      username: user?.username,
      passwordFile: user && 'passwordFile' in user ? user.passwordFile : undefined,
    };
  }

  /** Reads the TLS files again; throws CredentialsError while there was never anything that can be used. */
  async refresh(): Promise<TlsMaterial> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return await this.#reading;
  }

  /** The password as it is now; throws CredentialsError while there was never one. */
  async password(user: EtcdUser): Promise<string> {
    if ('password' in user) return user.password;
    const what = `the password file of etcd user ${user.username}`;
    try {
      const { text } = await readNeeded(this.#options.files, what, user.passwordFile);
      this.#password = /^[^\r\n]*/.exec(text)?.[0] ?? '';
      this.#options.notices.clear('etcd-password', `${what} can be used again`);
    } catch (error) {
      if (this.#password === undefined) throw error;
      this.#goOn('etcd-password', 'the password', error);
    }
    return this.#password;
  }

  /** Looks regularly at the files in use, so that replaced ones are picked up, and bad ones reported, in time. */
  async run(activity: Activity, signal: AbortSignal): Promise<never> {
    try {
      for (;;) {
        activity.round(loop, checkIntervalMs + stuckMs);
        await this.#options.clock.sleep(checkIntervalMs, signal);
        if (this.#material !== undefined) await this.refresh();
      }
    } finally {
      activity.end(loop);
    }
  }

  /** Says that etcd asks for no user, although one is given; and that it does again. */
  noteAuthentication(enabled: boolean, endpoint: string): void {
    const { notices, user } = this.#options;
    if (enabled) notices.clear('etcd-auth', 'etcd has authentication enabled now', { endpoint });
    else {
      const text = `etcd at ${endpoint} has authentication disabled: user ${user?.username} and its password are not used`;
      notices.report('etcd-auth', `${text}. Enable it with: etcdctl auth enable`);
    }
  }

  async #read(): Promise<TlsMaterial> {
    const { files, tls, systemCas = systemCaFiles, log, notices } = this.#options;
    const before = this.#material;
    let read: TlsMaterial;
    try {
      read = await readTlsMaterial(files, tls, systemCas);
    } catch (error) {
      if (before === undefined) throw error;
      this.#goOn('etcd-certificates', 'the certificates', error);
      return before;
    }
    notices.clear('etcd-certificates', 'the certificate files can be used again');
    // Connections that were made with the same texts stay.
    if (read.texts === before?.texts) read = before;
    else if (before !== undefined) {
      const text = 'the certificate files have changed; new connections use them';
      log.info({ event: 'certificates-replaced' }, text);
    }
    this.#material = read;
    this.#warnOfEnd();
    return read;
  }

  #goOn(what: string, things: string, error: unknown): void {
    const message = `going on with ${things} read before: ${explanationOf(error)}`;
    this.#options.notices.report(what, message, { error });
  }

  #warnOfEnd(): void {
    const note = this.#validityNote();
    const { tls, notices } = this.#options;
    if (note === undefined) notices.clear('etcd-certificate-end', 'the client certificate was renewed');
    else notices.report('etcd-certificate-end', `the client certificate ${tls.certFile} ${note}. Renew it.`);
  }

  #validityNote(): string | undefined {
    const validity = this.#material?.validity;
    if (validity === undefined) return undefined;
    const { fromMs, toMs } = validity;
    const nowMs = this.#options.clock.now();
    const day = (ms: number) => new Date(ms).toISOString().replace(/\.000Z$/, 'Z');
    if (nowMs > toMs) return `has expired at ${day(toMs)}`;
    if (nowMs < fromMs) return `is not valid before ${day(fromMs)}, by this host's clock`;
    return toMs - nowMs < (toMs - fromMs) * lastPart ? `expires at ${day(toMs)}` : undefined;
  }
}
