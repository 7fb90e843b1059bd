import { excerpt } from '../../runtime/texts.ts';
import type { RegistryErrorCode } from '../registry/registry.ts';
import { type ConnectionFailure, hostOf } from './connecting.ts';
import type { SecurityNames } from './security.ts';

/** The way to a member, as far as failures are explained by it. */
export interface Way {
  readonly endpoint: string;
  readonly names: SecurityNames;
  /** How the last connection ended; undefined before one has. */
  readonly failure: ConnectionFailure | undefined;
}

/** Which way a call went, and what for. */
export interface CallContext {
  readonly way: Way;
  /** The key that decides whether the user may do it; undefined for calls that need no permission. */
  readonly key?: string | undefined;
}

/** What is made of a failure: the message's reason, and what can be done about it. */
export interface Verdict {
  readonly kind: RegistryErrorCode;
  readonly reason: string;
  readonly remedy?: string | undefined;
}

const giveUser = 'Name one that may use the keys: --etcd-username with --etcd-password-file.';

/** etcd does not tell an unknown user from a wrong password. */
export function refusedUser(details: string, { way }: CallContext): Verdict {
  const { username, passwordFile, certificate } = way.names;
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
export function refusedToken(details: string, { way }: CallContext): Verdict {
  const { username } = way.names;
  if (username === undefined) {
    const reason = `it requires a user name, and none is configured (${details})`;
    return { kind: 'UNAUTHENTICATED', reason, remedy: giveUser };
  }
  return {
    kind: 'UNAUTHENTICATED',
    reason: `it does not take the token that it gave user ${username} (${details})`,
    remedy: 'Check that all etcd members have the same --auth-token settings and clocks that agree.',
  };
}

/** etcd does not say which key it was. */
export function notPermitted(_: string, { way, key }: CallContext): Verdict {
  const { username, certificate, keyPrefix = '' } = way.names;
  const named = certificate === undefined ? 'the user' : `the user that ${certificate} names (its CN)`;
  const user = username === undefined ? named : `user ${username}`;
  const what = key === undefined ? 'what this call needs' : excerpt(key);
  return {
    kind: 'PERMISSION_DENIED',
    reason: `${user} may not use ${what} (permission denied)`,
    remedy: `Grant one of its roles (etcdctl user get ${username ?? 'USER'}) the keys: etcdctl role grant-permission ROLE --prefix=true readwrite ${keyPrefix}`,
  };
}

export const wrongPort = 'Check the address and port, and whether it needs https://.';

export const etcdClosed: Verdict = { kind: 'UNAVAILABLE', reason: 'etcd closed the connection' };

/** What an etcd that serves https does with a client that speaks http. */
export const hungUp: Verdict = {
  kind: 'UNAVAILABLE',
  reason: 'the connection was closed before any request was sent',
  remedy: wrongPort,
};

/** There is no connection that could take a request. */
export function unreached(_: string, { way }: CallContext): Verdict {
  const { failure } = way;
  if (failure === undefined) return hungUp;
  const { error, ofTls } = failure;
  const { code = '', message, reason: words = message } = error;
  const rule = (ofTls ? tlsRules : tcpRules).find(({ codes }) => codes.some((part) => code.includes(part)));
  const reason = rule?.reason(way, error) ?? (code === '' ? message : `${words} (${code})`);
  const remedy = rule?.remedy?.(way.names);
  if (!ofTls) return { kind: 'UNAVAILABLE', reason, remedy };
  const checkAll = 'Check that etcd serves https there, and the certificate files.';
  return { kind: 'TLS', reason: `no TLS connection: ${reason}`, remedy: remedy ?? checkAll };
}

interface FailureRule {
  /** Parts of codes: the beginning of OpenSSL's name for an alert differs between versions. */
  readonly codes: readonly string[];
  readonly reason: (way: Way, error: ConnectionFailure['error']) => string;
  readonly remedy?: (names: SecurityNames) => string;
}

const tcpRules: readonly FailureRule[] = [
  {
    codes: ['ECONNREFUSED'],
    reason: (way, error) => `connection refused, nothing listens ${placeOf(way, error)}`,
    remedy: () => 'Check that etcd runs there.',
  },
  {
    codes: ['EHOSTUNREACH', 'EHOSTDOWN'],
    reason: (way, error) => `no host answers ${placeOf(way, error)} (it is down, or not on this network)`,
    remedy: () => 'Check that the host is up, and its address.',
  },
  {
    codes: ['ENETUNREACH', 'ENETDOWN', 'EADDRNOTAVAIL'],
    reason: ({ endpoint }, { address }) => `this host has no route to ${address ?? endpoint}`,
    remedy: () => 'Check that its interface is up and has an address (ip address, ip route).',
  },
  {
    codes: ['EACCES', 'EPERM'],
    reason: () => 'this host does not let the connection out',
    remedy: () => 'Check the rules of its firewall for outgoing packets, and its routes (ip route).',
  },
  {
    codes: ['ETIMEDOUT'],
    reason: (way, error) => `nothing answers ${placeOf(way, error)}`,
    remedy: () => 'Check that the host is up, and that nothing filters the port.',
  },
  { codes: ['ECONNRESET', 'EPIPE'], reason: () => etcdClosed.reason },
];

/** `there`, or the address where the endpoint is a name: `localhost` may be ::1. */
function placeOf({ endpoint }: Way, { address }: ConnectionFailure['error']): string {
  const isNamed = address === undefined || hostOf(endpoint) === address;
  return isNamed ? 'there' : `at ${address}`;
}

const servesHttps = () =>
  'Does etcd serve https there? With http:// in --etcd-endpoints it is asked without TLS.';

/** OpenSSL's names (verify(1)), Node's (ERR_TLS_…), and alerts that end the handshake (RFC 8446, 6.2). */
const tlsRules: readonly FailureRule[] = [
  {
    codes: ['WRONG_VERSION_NUMBER', 'PACKET_LENGTH_TOO_LONG', 'HTTP_REQUEST'],
    reason: () => 'what answers there does not speak TLS',
    remedy: servesHttps,
  },
  {
    codes: ['CERT_HAS_EXPIRED'],
    reason: () => 'the certificate it shows, or that of its CA, has expired',
    remedy: () => "Renew it; also check that this host's clock is right.",
  },
  {
    codes: ['CERT_NOT_YET_VALID'],
    reason: () => 'the certificate it shows, or that of its CA, is not valid yet',
    remedy: () => "Check that this host's clock is right.",
  },
  {
    codes: ['UNABLE_TO_', 'SELF_SIGNED_CERT', 'CERT_SIGNATURE_FAILURE', 'CERT_UNTRUSTED', 'INVALID_CA'],
    reason: ({ names: { ca } }) =>
      `the certificate it shows is signed by ${ca === undefined ? 'no CA that the system trusts' : `no CA in ${ca}`}`,
    remedy: ({ ca }) =>
      ca === undefined
        ? 'Name the file with the CA that signed it: --etcd-cafile.'
        : 'Put the CA that signed it into that file; it may hold several.',
  },
  {
    codes: ['ERR_TLS_CERT_ALTNAME_INVALID'],
    // Node's own words leave out names when an address was asked for.
    reason: (_, { cert }) => {
      const names = cert?.subjectaltname ?? `CN ${String(cert?.subject?.CN)}`;
      return `the certificate it shows is not for this name or address, but for ${excerpt(names)}`;
    },
    remedy: () =>
      'Put a name or address that it has into --etcd-endpoints, or have a certificate made with this one.',
  },
  {
    codes: ['ALERT_BAD_CERT', 'ALERT_UNSUPPORTED_CERT', 'ALERT_CERTIFICATE_', 'ALERT_UNKNOWN_CA'],
    reason: ({ names: { certificate, certificateNote } }) =>
      certificate === undefined
        ? 'it wants a client certificate, and none is given'
        : `it does not accept the client certificate ${certificate}${certificateNote === undefined ? '' : `, which ${certificateNote}`}`,
    remedy: ({ certificate }) =>
      certificate === undefined
        ? 'Name it and its key: --etcd-certfile, --etcd-keyfile.'
        : "It has to be valid, for clients, and signed by a CA in the file that etcd's --trusted-ca-file names.",
  },
  {
    codes: ['ECONNRESET', 'EPIPE'],
    reason: () => 'it closed the connection during the TLS handshake',
    remedy: servesHttps,
  },
];
