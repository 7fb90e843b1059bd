import { status } from '@grpc/grpc-js';
import { RegistryError } from '../registry/registry.ts';
import { CredentialsError } from './tls-files.ts';
import {
  type CallContext,
  etcdClosed,
  hungUp,
  notPermitted,
  refusedToken,
  refusedUser,
  unreached,
  type Verdict,
  wrongPort,
} from './verdict.ts';

/** What is known about a gRPC call that failed. */
export interface CallFailure extends CallContext {
  /** The call changes something, so it matters whether it took effect. */
  readonly write: boolean;
  /** A connection took the request; without one it cannot have reached anybody. */
  readonly sent: boolean;
  readonly error: unknown;
}

/** Statuses that leave open whether a request that was sent took effect. All others are the server's answer. */
const inconclusive: readonly status[] = [
  status.CANCELLED,
  status.UNKNOWN,
  status.DEADLINE_EXCEEDED,
  status.INTERNAL,
  status.UNAVAILABLE,
];

/** Statuses by which a request is refused before anything is done about it, whoever says so. */
const refusals: readonly status[] = [
  status.INVALID_ARGUMENT,
  status.PERMISSION_DENIED,
  status.UNAUTHENTICATED,
  status.UNIMPLEMENTED,
];
/** Statuses by which etcd finds fault with the request itself, in whatever words. */
const ofRequest: readonly status[] = [
  status.INVALID_ARGUMENT,
  status.NOT_FOUND,
  status.PERMISSION_DENIED,
  status.OUT_OF_RANGE,
];

const addressGone = /the address \S+ of this host is gone/;

/** Fits a failure by its gRPC status and by a pattern in its details: by both where both are given. */
interface Rule {
  readonly codes?: readonly status[];
  readonly pattern?: RegExp;
  /** Etcd refused before it did anything, although the status alone would leave that open. */
  readonly refused?: true;
  readonly verdict: Verdict | ((details: string, context: CallContext) => Verdict);
}

/** What etcd answers to a token that has run out, that a restart has lost, or that is older than the newest change of a role. */
const staleToken = /invalid auth token|revision (in header|of auth store) is old|user name is empty/;

/** Turns whatever etcd3 or grpc-js threw into the error the rest of the program knows. */
export function registryError(failure: CallFailure): RegistryError {
  const { way, write, sent, error } = failure;
  const { endpoint } = way;
  if (error instanceof RegistryError) return error;
  if (error instanceof CredentialsError) {
    const message = `etcd at ${endpoint} cannot be asked: ${error.message}`;
    return new RegistryError('CREDENTIALS', endpoint, message, { cause: error, remedy: error.remedy });
  }
  const { code, details } = asEtcdSaysIt(statusOf(error));
  const { verdict, refused, noAnswer = false } = judge(code, details, failure);
  const lostAnswer = code === status.RESOURCE_EXHAUSTED && !details.startsWith('etcdserver');
  const unheardOf = verdict.kind === 'UNEXPECTED' && !refusals.includes(code);
  return new RegistryError(verdict.kind, endpoint, `etcd at ${endpoint}: ${verdict.reason}`, {
    cause: error,
    noAnswer,
    outcomeUnknown: write && sent && !refused && (inconclusive.includes(code) || lostAnswer || unheardOf),
    remedy: verdict.remedy,
  });
}

/** Whether a call failed for its token alone: it had no effect, and may do better with a new one. */
export function wantsNewToken(error: unknown): boolean {
  return staleToken.test(statusOf(error).details);
}

/** Whether etcd refused to give a token because it has authentication disabled. */
export function authenticationIsOff(error: unknown): boolean {
  const cause = error instanceof RegistryError ? error.cause : error;
  return /authentication is not enabled/.test(statusOf(cause).details);
}

/** The error of a watch that the server itself ended (`canceled`), which carries no gRPC status. */
export function watchCanceled(context: CallContext, reason: string, compactRevision: number): RegistryError {
  const { endpoint } = context.way;
  const message = (text: string) => `etcd at ${endpoint}: ${text}`;
  if (compactRevision > 0) {
    const text = `the revision to watch from is compacted, the oldest that is left is ${compactRevision}`;
    return new RegistryError('COMPACTED', endpoint, message(text), { compactRevision });
  }
  // Judged by its text alone: an expired token and a missing permission have the same shape here.
  const text = reason === '' ? 'the server ended it without a reason' : reason;
  const { verdict } = judge(undefined, text, context);
  return new RegistryError(verdict.kind, endpoint, message(verdict.reason), { remedy: verdict.remedy });
}

interface Answer {
  readonly code: status;
  readonly details: string;
}

/** etcd's gRPC proxy hands on the words of its etcd, all with the status UNKNOWN. */
function asEtcdSaysIt({ code, details }: Answer): Answer {
  const rule = answers.find(({ pattern }) => pattern?.test(details));
  return { code: (code === status.UNKNOWN ? rule?.codes?.[0] : undefined) ?? code, details };
}

/** gRPC status and details of what a call failed with; whatever else was thrown counts as status UNKNOWN. */
function statusOf(error: unknown): Answer {
  if (!(error instanceof Error)) return { code: status.UNKNOWN, details: String(error) };
  if ('code' in error && typeof error.code === 'number' && 'details' in error)
    return { code: error.code, details: String(error.details) };
  return { code: status.UNKNOWN, details: error.message };
}

/** What etcd itself says (its package rpctypes); versions differ in some of the statuses. */
const answers: readonly Rule[] = [
  {
    codes: [status.NOT_FOUND],
    pattern: /requested lease not found/,
    verdict: { kind: 'LEASE_NOT_FOUND', reason: 'the etcd lease does not exist any more' },
  },
  {
    codes: [status.OUT_OF_RANGE],
    pattern: /has been compacted/,
    verdict: { kind: 'COMPACTED', reason: 'the revision asked for is compacted' },
  },
  {
    codes: [status.FAILED_PRECONDITION],
    pattern: /lease already exists/,
    verdict: (details) => ({ kind: 'PROTOCOL', reason: details }),
  },
  {
    codes: [status.PERMISSION_DENIED],
    pattern: /permission denied/,
    verdict: notPermitted,
  },
  {
    codes: [status.INVALID_ARGUMENT, status.UNAUTHENTICATED],
    pattern: /authentication failed/,
    verdict: refusedUser,
  },
  {
    codes: [status.UNKNOWN, status.INVALID_ARGUMENT, status.UNAUTHENTICATED],
    pattern: staleToken,
    refused: true,
    verdict: refusedToken,
  },
  {
    codes: [status.RESOURCE_EXHAUSTED],
    pattern: /space exceeded/,
    verdict: {
      kind: 'EXHAUSTED',
      reason: 'the etcd database is full (alarm NOSPACE), it accepts no writes',
      remedy: 'Compact and defragment etcd, then disarm the alarm (etcdctl alarm disarm).',
    },
  },
  {
    codes: [status.RESOURCE_EXHAUSTED],
    pattern: /too many requests/,
    verdict: { kind: 'EXHAUSTED', reason: 'this member is overloaded (too many requests)' },
  },
  {
    // 9 in etcd 3.4, 14 since.
    codes: [status.FAILED_PRECONDITION, status.UNAVAILABLE],
    pattern: /not supported for learner/,
    refused: true,
    verdict: {
      kind: 'NOT_SERVING',
      reason: 'this member is a learner, which serves no clients',
      remedy:
        'Promote it (etcdctl member promote ID), or leave it out of --etcd-endpoints as long as it is one.',
    },
  },
  {
    codes: [status.DATA_LOSS],
    pattern: /corrupt cluster/,
    verdict: {
      kind: 'EXHAUSTED',
      reason: 'the data of its members differ (alarm CORRUPT), it accepts no writes',
      remedy: 'Find the corrupt member (etcdctl endpoint hashkv --cluster) and replace it.',
    },
  },
  {
    codes: [status.UNAVAILABLE],
    pattern: /etcdserver: no leader/,
    refused: true,
    verdict: {
      kind: 'UNAVAILABLE',
      reason: 'no leader: this member is cut off from the majority of its cluster',
      remedy: 'Check the health of the other etcd members.',
    },
  },
  {
    codes: [status.FAILED_PRECONDITION],
    pattern: /etcdserver: not leader/,
    verdict: { kind: 'UNAVAILABLE', reason: 'this member is not the leader any more' },
  },
  {
    codes: [status.UNAVAILABLE],
    pattern: /etcdserver: (request timed out|unhealthy cluster)/,
    verdict: (details) => ({
      kind: 'UNAVAILABLE',
      reason: `the majority of the etcd members does not answer this one (${details})`,
      remedy: 'Check the health of the etcd members, and how fast their disks are.',
    }),
  },
  {
    codes: [status.UNAVAILABLE],
    pattern: /etcdserver: (not capable|cluster version not found)/,
    verdict: (details) => ({
      kind: 'UNAVAILABLE',
      reason: `this member has not agreed on a version with the others yet (${details})`,
    }),
  },
  {
    codes: [status.UNAVAILABLE],
    pattern: /HTTP status code (429|50[234])/,
    verdict: (details) => ({
      kind: 'UNAVAILABLE',
      reason: `a proxy answers there and reaches no etcd (HTTP ${httpStatus(details)})`,
      remedy: 'Check the proxy, and the etcd behind it.',
    }),
  },
];

const tooLate: Verdict = {
  kind: 'UNAVAILABLE',
  reason: 'no answer within the deadline',
  remedy: 'Check that etcd runs there, is healthy, and that nothing filters the port.',
};

/** What the way to etcd says. */
const connections: readonly Rule[] = [
  {
    // Ours (see Connecting), inside whatever grpc-js makes of a socket that is destroyed.
    pattern: addressGone,
    verdict: (details) => ({ kind: 'UNAVAILABLE', reason: addressGone.exec(details)?.[0] ?? details }),
  },
  {
    pattern: /HTTP status code \d+/,
    verdict: (details) => ({
      kind: 'NOT_ETCD',
      reason: `what answers there does not speak etcd's v3 API (HTTP ${httpStatus(details)})`,
      remedy: wrongPort,
    }),
  },
  {
    codes: [status.UNIMPLEMENTED],
    verdict: (details) => ({
      kind: 'NOT_ETCD',
      reason: `what answers there does not know etcd's v3 API (${details})`,
      remedy: 'Check the address and port; etcd 3.3 or later is needed.',
    }),
  },
  {
    pattern: /Protocol error|Parse Error|invalid http|Unexpected content-type|without gRPC status/i,
    verdict: { kind: 'NOT_ETCD', reason: 'what answers there is not etcd (no gRPC)', remedy: wrongPort },
  },
  {
    // The second: a call ends by its deadline before the resolver has given up.
    pattern: /^Name resolution failed|waiting for name resolution$/,
    verdict: {
      kind: 'UNAVAILABLE',
      reason: 'the host name does not resolve',
      remedy: 'Check the name and the resolver.',
    },
  },
  {
    pattern: /^No connection established. Last error: (null|Failed to connect|Connection closed)/,
    verdict: hungUp,
  },
  // The way keeps the error itself. What grpc-js makes of it here is only text.
  { pattern: /^No connection established/, verdict: unreached },
  // The last is what a proxy says.
  { pattern: /ECONNRESET|EPIPE|Connection dropped|transport is closing/, verdict: etcdClosed },
  { codes: [status.DEADLINE_EXCEEDED], verdict: tooLate },
  // A proxy's own deadline.
  { pattern: /context deadline exceeded/, verdict: tooLate },
  {
    pattern: /^Received message larger than max/,
    verdict: (details) => ({ kind: 'PROTOCOL', reason: `the answer is too large (${details})` }),
  },
];

interface Judgement {
  readonly verdict: Verdict;
  readonly refused: boolean;
  /** Nobody spoke at the other end. */
  readonly noAnswer?: true;
}

/**
 * By the first rule that fits: etcd's own words before what the way to it says, and what nobody knows last. Without a code the
 * words alone decide.
 */
function judge(code: status | undefined, details: string, context: CallContext): Judgement {
  const answer = firstThatFits(answers, code, details, context);
  if (answer !== undefined) return answer;
  const certain = (verdict: Verdict): Judgement => ({ verdict, refused: false });
  if (details.startsWith('etcdserver') && code !== undefined && !inconclusive.includes(code))
    return certain({ kind: ofRequest.includes(code) ? 'PROTOCOL' : 'UNEXPECTED', reason: details });
  const connection = firstThatFits(connections, code, details, context);
  if (connection !== undefined) return { ...connection, noAnswer: true };
  if (code !== undefined && !inconclusive.includes(code))
    return certain({ kind: 'UNEXPECTED', reason: `${details} (gRPC status ${code})` });
  return { verdict: { kind: 'UNAVAILABLE', reason: details }, refused: false, noAnswer: true };
}

function firstThatFits(
  rules: readonly Rule[],
  code: status | undefined,
  details: string,
  context: CallContext,
): Judgement | undefined {
  const rule = rules.find(
    ({ codes, pattern }) =>
      (code === undefined ? pattern !== undefined : (codes?.includes(code) ?? true)) &&
      (pattern?.test(details) ?? true),
  );
  if (rule === undefined) return undefined;
  const { verdict, refused = false } = rule;
  return { verdict: typeof verdict === 'function' ? verdict(details, context) : verdict, refused };
}

function httpStatus(details: string): string {
  return /HTTP status code (\d+)/.exec(details)?.[1] ?? '';
}
