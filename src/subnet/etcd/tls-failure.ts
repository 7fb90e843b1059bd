import type { Verdict } from './refusal.ts';
import type { SecurityNames } from './security.ts';

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
