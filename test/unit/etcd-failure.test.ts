import { describe, expect, it } from 'vitest';
import type { ConnectionFailure } from '../../src/subnet/etcd/connecting.ts';
import { registryError, watchCanceled } from '../../src/subnet/etcd/failure.ts';
import type { Way } from '../../src/subnet/etcd/verdict.ts';
import type { RegistryErrorCode } from '../../src/subnet/registry/registry.ts';

const endpoint = 'http://etcd.example:2379';

/** What grpc-js rejects with. */
const failure = (code: number, details: string) => Object.assign(new Error(details), { code, details });
const judged = (code: number, details: string, way: Partial<Way> = {}) =>
  registryError({
    way: { endpoint, names: {}, failure: undefined, ...way },
    key: '/net/config',
    write: true,
    sent: true,
    error: failure(code, details),
  });

type Row = readonly [code: number, details: string, kind: RegistryErrorCode, unknown: boolean, says: RegExp];

/** The errors of etcd's package rpctypes that a call of ours can meet, with the status of each version that has another one. */
const ofEtcd: readonly Row[] = [
  [5, 'etcdserver: requested lease not found', 'LEASE_NOT_FOUND', false, /does not exist any more/],
  [11, 'etcdserver: mvcc: required revision has been compacted', 'COMPACTED', false, /compacted/],
  [11, 'etcdserver: mvcc: required revision is a future revision', 'PROTOCOL', false, /future revision/],
  [8, 'etcdserver: mvcc: database space exceeded', 'EXHAUSTED', false, /NOSPACE/],
  [8, 'etcdserver: too many requests', 'EXHAUSTED', false, /overloaded/],
  [3, 'etcdserver: too many operations in txn request', 'PROTOCOL', false, /too many operations/],
  [9, 'etcdserver: lease already exists', 'PROTOCOL', false, /already exists/],
  [11, 'etcdserver: too large lease TTL', 'PROTOCOL', false, /too large lease TTL/],
  [7, 'etcdserver: permission denied', 'PERMISSION_DENIED', false, /may not use \/net\/config/],
  [3, 'etcdserver: authentication failed, invalid user ID or password', 'UNAUTHENTICATED', false, /nobody/],
  [16, 'etcdserver: invalid auth token', 'UNAUTHENTICATED', false, /invalid auth token/],
  [3, 'etcdserver: user name is empty', 'UNAUTHENTICATED', false, /requires a user name/],
  [2, 'auth: revision in header is old', 'UNAUTHENTICATED', false, /revision in header is old/],
  [3, 'etcdserver: revision of auth store is old', 'UNAUTHENTICATED', false, /revision of auth store/],
  [9, 'etcdserver: rpc not supported for learner', 'NOT_SERVING', false, /is a learner/],
  [14, 'etcdserver: rpc not supported for learner', 'NOT_SERVING', false, /is a learner/],
  [15, 'etcdserver: corrupt cluster', 'EXHAUSTED', false, /CORRUPT/],
  [14, 'etcdserver: no leader', 'UNAVAILABLE', false, /^etcd at \S+: no leader/],
  [9, 'etcdserver: not leader', 'UNAVAILABLE', false, /not the leader/],
  [14, 'etcdserver: leader changed', 'UNAVAILABLE', true, /leader changed/],
  [14, 'etcdserver: server stopped', 'UNAVAILABLE', true, /server stopped/],
  [14, 'etcdserver: not capable', 'UNAVAILABLE', true, /version/],
  [14, 'etcdserver: unhealthy cluster', 'UNAVAILABLE', true, /majority/],
  [14, 'etcdserver: request timed out', 'UNAVAILABLE', true, /majority/],
];

const gone = 'the address 10.211.55.103 of this host is gone';
const saysGone = new RegExp(`^etcd at \\S+: ${gone}$`);

/** What grpc-js says while no connection is up; the error it ends with is one it met before. */
const noConnection = 'No connection established. Last error: Error: anything. Resolution note: ';

/** What the member's connections failed with last. */
const failed = (code: string | undefined, message = '', more: object = {}, ofTls = false) => ({
  error: Object.assign(new Error(message), code === undefined ? more : { code, ...more }),
  ofTls,
});
const failedTo = (address: string, code: string) =>
  failed(code, `connect ${code} ${address}:2379`, { address });
const failedByTls = (code: string | undefined, message = '', more: object = {}) =>
  failed(code, message, more, true);

const otherName = (cert: object) => failedByTls('ERR_TLS_CERT_ALTNAME_INVALID', '', { cert });

/** What nobody knows: a later etcd's words, and a proxy's. A write had no effect only where the status says that it was refused. */
const unheardOf: readonly Row[] = [
  [9, 'etcdserver: not today', 'UNEXPECTED', true, /not today$/],
  [10, 'etcdserver: not today', 'UNEXPECTED', true, /not today$/],
  [12, 'etcdserver: not today', 'UNEXPECTED', false, /not today$/],
  [13, 'etcdserver: not today', 'UNAVAILABLE', true, /not today$/],
  [8, 'rate limit exceeded', 'UNEXPECTED', true, /rate limit exceeded \(gRPC status 8\)$/],
  [8, 'grpc: received message larger than max', 'UNEXPECTED', true, /larger than max \(gRPC status 8\)$/],
  [13, 'upstream is gone', 'UNAVAILABLE', true, /upstream is gone$/],
  [12, 'upstream is gone', 'NOT_ETCD', false, /upstream is gone/],
  [7, 'RBAC: access denied', 'UNEXPECTED', false, /access denied \(gRPC status 7\)$/],
  [16, 'who are you', 'UNEXPECTED', false, /who are you \(gRPC status 16\)$/],
  [3, 'bad request', 'UNEXPECTED', false, /bad request \(gRPC status 3\)$/],
];

/** What grpc-js 1.14 and proxies say when there is no etcd to answer. */
const ofTheWay: readonly Row[] = [
  [13, `Received RST_STREAM with code 2 triggered by: ${gone}`, 'UNAVAILABLE', true, saysGone],
  [4, 'Deadline exceeded after 3.001s,waiting for name resolution', 'UNAVAILABLE', true, /does not resolve$/],
  [14, noConnection.replace('anything', gone), 'UNAVAILABLE', true, saysGone],
  [14, 'Connection dropped', 'UNAVAILABLE', true, /: etcd closed the connection$/],
  [14, 'Name resolution failed for target dns:etcd.example:2379', 'UNAVAILABLE', true, /does not resolve/],
  [4, 'Deadline exceeded after 5.001s,Waiting for LB pick', 'UNAVAILABLE', true, /within the deadline/],
  [2, 'context deadline exceeded', 'UNAVAILABLE', true, /no answer within the deadline/],
  [14, 'transport is closing', 'UNAVAILABLE', true, /etcd closed the connection/],
  [14, noConnection.replace('Error: anything', 'null'), 'UNAVAILABLE', true, /closed before any request/],
  [14, noConnection.replace('anything', 'Protocol error'), 'NOT_ETCD', true, /is not etcd \(no gRPC\)$/],
  [14, 'Received HTTP status code 503', 'UNAVAILABLE', true, /a proxy .* reaches no etcd \(HTTP 503\)/],
  [14, 'Received HTTP status code 429', 'UNAVAILABLE', true, /HTTP 429/],
  [12, 'Received HTTP status code 404', 'NOT_ETCD', false, /HTTP 404/],
  [16, 'Received HTTP status code 401', 'NOT_ETCD', false, /HTTP 401/],
  [12, 'unknown method LeaseTimeToLive for service etcdserverpb.Lease', 'NOT_ETCD', false, /unknown method/],
  [8, 'Received message larger than max (70000000 vs. 67108864)', 'PROTOCOL', true, /too large/],
];

describe('what a failed call is judged as', () => {
  it.each([...ofEtcd, ...unheardOf, ...ofTheWay])(
    '%i "%s" is %s',
    (code, details, kind, outcomeUnknown, says) => {
      const error = judged(code, details);
      expect(error).toMatchObject({ kind, outcomeUnknown, endpoint });
      expect(error.message).toMatch(says);
      expect(error.message).not.toMatch(/E[A-Z]{5,}\b(?<!ECONNRESET)|Last error|undefined/);
    },
  );

  it.each(ofEtcd)(
    '%i "%s": another status does not get by on the words alone, nor on the status',
    (code, details) => {
      const kind = judged(code, details).kind;
      if (['PROTOCOL', 'UNAVAILABLE'].includes(kind)) return;
      expect(judged(10, details).kind).toBe('UNEXPECTED');
      expect(judged(code, 'something else').kind).not.toBe(kind);
    },
  );

  // etcd's gRPC proxy hands on the words of its etcd under the status UNKNOWN.
  it.each(ofEtcd)(
    '%i "%s": is the same in the words of a proxy, but for what no rule knows',
    (code, details) => {
      const { kind, outcomeUnknown, message } = judged(code, details);
      const isKnown = !message.endsWith(details) || /already exists/.test(details);
      expect(judged(2, details)).toMatchObject(
        isKnown ? { kind, outcomeUnknown, message } : { kind: 'UNAVAILABLE', outcomeUnknown: true },
      );
    },
  );

  it.each<[ConnectionFailure, RegistryErrorCode, RegExp]>([
    [failedTo('::1', 'ECONNREFUSED'), 'UNAVAILABLE', /refused, nothing listens at ::1$/],
    [failedTo('10.211.55.250', 'EHOSTUNREACH'), 'UNAVAILABLE', /no host answers at 10\.211\.55\.250/],
    [failedTo('10.211.55.100', 'ENETUNREACH'), 'UNAVAILABLE', /this host has no route to 10\.211\.55\.100$/],
    [failedTo('10.211.55.100', 'ETIMEDOUT'), 'UNAVAILABLE', /nothing answers at 10\.211\.55\.100$/],
    [failed('ETIMEDOUT', 'no connection within 4 s'), 'UNAVAILABLE', /nothing answers there$/],
    [failedTo('10.211.55.100', 'EPERM'), 'UNAVAILABLE', /does not let the connection out$/],
    [failed('ECONNRESET', 'read ECONNRESET'), 'UNAVAILABLE', /: etcd closed the connection$/],
    [failed(undefined, 'closed'), 'UNAVAILABLE', /: closed$/],
    [failedByTls('ERR_SSL_WRONG_VERSION_NUMBER'), 'TLS', /does not speak TLS$/],
    [failedByTls('CERT_HAS_EXPIRED'), 'TLS', /has expired$/],
    [failedByTls('CERT_NOT_YET_VALID'), 'TLS', /is not valid yet$/],
    [failedByTls('DEPTH_ZERO_SELF_SIGNED_CERT'), 'TLS', /signed by no CA that the system trusts$/],
    [failedByTls('UNABLE_TO_GET_ISSUER_CERT_LOCALLY'), 'TLS', /signed by no CA that the system trusts$/],
    [otherName({ subjectaltname: 'DNS:etcd.example' }), 'TLS', /but for DNS:etcd\.example$/],
    [otherName({ subject: { CN: 'old' } }), 'TLS', /not for this name or address, but for CN old$/],
    [failedByTls('ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED'), 'TLS', /wants a client certificate/],
    [failedByTls('ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE'), 'TLS', /wants a client certificate/],
    [failedByTls('ERR_SSL_TLSV1_ALERT_UNKNOWN_CA'), 'TLS', /wants a client certificate/],
    [failedByTls('ECONNRESET'), 'TLS', /closed the connection during the TLS handshake$/],
    [failedByTls(undefined, 'no TLS handshake within 4 s'), 'TLS', /: no TLS handshake within 4 s$/],
    [
      failedByTls('ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION', '40:error:0A:x', {
        reason: 'tlsv1 alert protocol version',
      }),
      'TLS',
      /: tlsv1 alert protocol version \(ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION\)$/,
    ],
  ])('no connection, after %o, is %s', (last, kind, says) => {
    const error = judged(14, noConnection, { failure: last });
    expect(error).toMatchObject({ kind, noAnswer: true, endpoint });
    expect(error.message).toMatch(says);
    expect(error.message).not.toContain('Last error');
    // A call that had its connection, and what etcd says itself, is not judged by it.
    const messageOf = (details: string) => judged(14, details, { failure: last }).message;
    expect(messageOf('Connection dropped')).toMatch(/etcd closed the connection$/);
    expect(messageOf('etcdserver: no leader')).toMatch(/: no leader/);
  });

  it('names the address only where the endpoint does not', () => {
    const refused = (host: string, address: string) =>
      judged(14, noConnection, {
        endpoint: `http://${host}:2379`,
        failure: failedTo(address, 'ECONNREFUSED'),
      });
    expect(refused('localhost', '::1').message).toMatch(/, nothing listens at ::1$/);
    expect(refused('127.0.0.1', '127.0.0.1').message).toMatch(/, nothing listens there$/);
    expect(refused('[::1]', '::1').message).toMatch(/, nothing listens there$/);
  });

  it('does not blame a password for a token', () => {
    const names = { username: 'flannel', passwordFile: '/p' };
    const { message } = judged(16, 'etcdserver: invalid auth token', { names });
    expect(message).toContain('does not take the token that it gave user flannel');
    expect(message).not.toContain('/p');
  });

  it.each([
    ['etcdserver: permission denied', 'PERMISSION_DENIED'],
    ['etcdserver: invalid auth token', 'UNAUTHENTICATED'],
    ['etcdserver: no leader', 'UNAVAILABLE'],
    ['etcdserver: rpc not supported for learner', 'NOT_SERVING'],
    ['', 'UNAVAILABLE'],
  ])('a watch that is canceled for "%s" is %s: it has no status', (reason, kind) => {
    expect(watchCanceled({ way: { endpoint, names: {}, failure: undefined } }, reason, 0).kind).toBe(kind);
  });
});
