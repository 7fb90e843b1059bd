import { excerpt } from '../../runtime/texts.ts';
import type { RegistryErrorCode } from '../registry/registry.ts';
import type { SecurityNames } from './security.ts';

/** Whom a call went to, on whose behalf, and what for. */
export interface CallContext {
  readonly endpoint: string;
  readonly names: SecurityNames;
  /** The key that decides whether the user may do it; undefined for calls that need no permission. */
  readonly key?: string | undefined;
}

/** What is made of a failure: the message's reason, and what can be done about it. */
export interface Verdict {
  readonly kind: RegistryErrorCode;
  readonly reason: string;
  readonly remedy?: string;
}

const giveUser = 'Name one that may use the keys: --etcd-username with --etcd-password-file.';

export function noUser(details: string): Verdict {
  return {
    kind: 'UNAUTHENTICATED',
    reason: `it requires a user name, and none is configured (${details})`,
    remedy: giveUser,
  };
}

/** etcd does not tell an unknown user from a wrong password. */
export function refusedUser(
  details: string,
  { username, passwordFile, certificate }: SecurityNames,
): Verdict {
  if (username === undefined) {
    const who = certificate === undefined ? 'nobody' : `the user that ${certificate} names (its CN)`;
    return { kind: 'UNAUTHENTICATED', reason: `it does not accept ${who} (${details})`, remedy: giveUser };
  }
  const source = passwordFile === undefined ? 'the password given' : `the password in ${passwordFile}`;
  return {
    kind: 'UNAUTHENTICATED',
    reason: `it does not accept user ${username} with ${source} (${details})`,
    remedy: `Correct the password, or set it in etcd: etcdctl user passwd ${username} (a user that does not exist yet: etcdctl user add)`,
  };
}

/** Not for the password: with that one a new token was fetched just before. */
export function refusedToken(details: string, { username = '' }: SecurityNames): Verdict {
  return {
    kind: 'UNAUTHENTICATED',
    reason: `it does not take the token that it gave user ${username} (${details})`,
    remedy: 'Check that all etcd members have the same --auth-token settings and clocks that agree.',
  };
}

/** etcd does not say which key it was. */
export function notPermitted({ names, key }: CallContext): Verdict {
  const { username, certificate, keyPrefix = '' } = names;
  const named = certificate === undefined ? 'the user' : `the user that ${certificate} names (its CN)`;
  const user = username === undefined ? named : `user ${username}`;
  const what = key === undefined ? 'what this call needs' : excerpt(key);
  return {
    kind: 'PERMISSION_DENIED',
    reason: `${user} may not use ${what} (permission denied)`,
    remedy: `Grant one of its roles (etcdctl user get ${username ?? 'USER'}) the keys: etcdctl role grant-permission ROLE --prefix=true readwrite ${keyPrefix}`,
  };
}
