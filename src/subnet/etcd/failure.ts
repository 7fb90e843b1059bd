import { RegistryError } from '../registry.ts';
import { CredentialsError } from './pem.ts';
import { type CallContext, notPermitted, noUser, refusedUser, type Verdict } from './refusal.ts';
import { tlsPattern, tlsVerdict } from './tls-failure.ts';

/** What is known about a gRPC call that failed. */
export interface CallFailure extends CallContext {
  /** The call changes something, so it matters whether it took effect. */
  readonly write: boolean;
  /** A connection took the request; without one it cannot have reached anybody. */
  readonly sent: boolean;
  readonly error: unknown;
}

// gRPC status codes (https://grpc.github.io/grpc/core/md_doc_statuscodes.html).
const cancelled = 1;
const unknownStatus = 2;
const deadlineExceeded = 4;
const permissionDenied = 7;
const resourceExhausted = 8;
const unimplemented = 12;
const internal = 13;
const unavailable = 14;
const unauthenticated = 16;

/** Statuses that leave open whether a request that was sent took effect. All others are the server's answer. */
const inconclusive: readonly number[] = [cancelled, unknownStatus, deadlineExceeded, internal, unavailable];

const hungUp = 'the connection was closed before it was of use';
const wrongPort = 'Check the address and port, and whether it needs https://.';

/** Fits a failure by its gRPC status or by a pattern in its details. */
interface Rule {
  readonly code?: number;
  readonly pattern?: RegExp;
  readonly verdict: Verdict | ((details: string, context: CallContext) => Verdict);
}

/** What etcd answers to a token that has run out, that a restart has lost, or that is older than the newest change of a role. */
const staleToken = /invalid auth token|revision (in header|of auth store) is old|user name is empty/;

/** Turns whatever etcd3 or grpc-js threw into the error the rest of the program knows. */
export function registryError(failure: CallFailure): RegistryError {
  const { endpoint, write, sent, error } = failure;
  if (error instanceof RegistryError) return error;
  if (error instanceof CredentialsError) return notAsked(endpoint, error);
  const { code, details } = statusOf(error);
  const verdict = judge(code, details, failure);
  const answered = staleToken.test(details) || /no leader|too many requests|space exceeded/.test(details);
  const lostAnswer = code === resourceExhausted && !details.startsWith('etcdserver');
  return new RegistryError(verdict.kind, endpoint, `etcd at ${endpoint}: ${verdict.reason}`, {
    cause: error,
    outcomeUnknown: write && sent && !answered && (inconclusive.includes(code) || lostAnswer),
    ...(verdict.remedy === undefined ? {} : { remedy: verdict.remedy }),
  });
}

function notAsked(endpoint: string, error: CredentialsError): RegistryError {
  const remedy = error.remedy === undefined ? {} : { remedy: error.remedy };
  const message = `etcd at ${endpoint} cannot be asked: ${error.message}`;
  return new RegistryError('CREDENTIALS', endpoint, message, { cause: error, ...remedy });
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
  const { endpoint } = context;
  const message = (text: string) => `etcd at ${endpoint}: ${text}`;
  if (compactRevision > 0) {
    const text = `the revision to watch from is compacted, the oldest that is left is ${compactRevision}`;
    return new RegistryError('COMPACTED', endpoint, message(text), { compactRevision });
  }
  // Judged by its text alone: an expired token and a missing permission have the same shape here.
  const text = reason === '' ? 'the server ended it without a reason' : reason;
  const verdict = judge(unavailable, text, context);
  const options = verdict.remedy === undefined ? {} : { remedy: verdict.remedy };
  return new RegistryError(verdict.kind, endpoint, message(verdict.reason), options);
}

/** gRPC status and details of what a call failed with; whatever else was thrown counts as status UNKNOWN. */
function statusOf(error: unknown): { readonly code: number; readonly details: string } {
  if (!(error instanceof Error)) return { code: unknownStatus, details: String(error) };
  if ('code' in error && typeof error.code === 'number' && 'details' in error)
    return { code: error.code, details: String(error.details) };
  return { code: unknownStatus, details: error.message };
}

/** What etcd itself says. */
const answers: readonly Rule[] = [
  {
    pattern: /requested lease not found/,
    verdict: { kind: 'LEASE_NOT_FOUND', reason: 'the etcd lease does not exist any more' },
  },
  {
    pattern: /has been compacted/,
    verdict: { kind: 'COMPACTED', reason: 'the revision asked for is compacted' },
  },
  { code: permissionDenied, pattern: /permission denied/, verdict: (_, context) => notPermitted(context) },
  {
    code: unauthenticated,
    pattern: /authentication failed/,
    verdict: (details, { names }) => refusedUser(details, names),
  },
  {
    pattern: staleToken,
    verdict: (details, { names }) =>
      names.username === undefined ? noUser(details) : refusedUser(details, names),
  },
  {
    pattern: /space exceeded/,
    verdict: {
      kind: 'EXHAUSTED',
      reason: 'the etcd database is full, it accepts no writes',
      remedy: 'Compact and defragment etcd, then disarm its NOSPACE alarm (etcdctl alarm disarm).',
    },
  },
  {
    pattern: /too many requests/,
    verdict: { kind: 'EXHAUSTED', reason: 'etcd is overloaded (too many requests)' },
  },
  {
    pattern: /no leader/,
    verdict: {
      kind: 'UNAVAILABLE',
      reason: 'no leader: this member is cut off from the majority of its cluster',
      remedy: 'Check the health of the other etcd members.',
    },
  },
];

/** What the way to etcd says. */
const connections: readonly Rule[] = [
  {
    code: unimplemented,
    pattern: /HTTP status code 4/,
    verdict: (details) => ({
      kind: 'NOT_ETCD',
      reason: `what answers there does not speak etcd's v3 API (${details})`,
      remedy: wrongPort,
    }),
  },
  {
    pattern: /Protocol error|Parse Error|invalid http|Unexpected content-type|without gRPC status/i,
    verdict: { kind: 'NOT_ETCD', reason: 'what answers there is not etcd (no gRPC)', remedy: wrongPort },
  },
  {
    pattern: /^Name resolution failed/,
    verdict: {
      kind: 'UNAVAILABLE',
      reason: 'the host name does not resolve',
      remedy: 'Check the name and the resolver.',
    },
  },
  {
    pattern: /ECONNREFUSED/,
    verdict: {
      kind: 'UNAVAILABLE',
      reason: 'connection refused, nothing listens there',
      remedy: 'Check that etcd runs there.',
    },
  },
  { pattern: tlsPattern, verdict: (details, { names }) => tlsVerdict(lastError(details), names) },
  {
    code: deadlineExceeded,
    verdict: {
      kind: 'UNAVAILABLE',
      reason: 'no answer within the deadline',
      remedy: 'Check that etcd runs there, is healthy, and that nothing filters the port.',
    },
  },
  {
    pattern: /^Received message larger than max/,
    verdict: (details) => ({ kind: 'PROTOCOL', reason: `the answer is too large (${details})` }),
  },
];

/** By the first rule that fits: etcd's own words before what the way to it says, and what nobody knows last. */
function judge(code: number, details: string, context: CallContext): Verdict {
  const answer = firstVerdict(answers, code, details, context);
  if (answer !== undefined) return answer;
  if (details.startsWith('etcdserver') && code !== unavailable && code !== deadlineExceeded)
    return { kind: 'PROTOCOL', reason: details };
  const connection = firstVerdict(connections, code, details, context);
  if (connection !== undefined) return connection;
  if (![unavailable, cancelled, internal, unknownStatus].includes(code))
    return { kind: 'PROTOCOL', reason: `${details} (gRPC status ${code})` };
  const reason = lastError(details);
  // What an etcd that serves https does with a client that speaks http.
  return { kind: 'UNAVAILABLE', reason, ...(reason === hungUp ? { remedy: wrongPort } : {}) };
}

function firstVerdict(
  rules: readonly Rule[],
  code: number,
  details: string,
  context: CallContext,
): Verdict | undefined {
  const rule = rules.find((one) => one.code === code || one.pattern?.test(details));
  return typeof rule?.verdict === 'function' ? rule.verdict(details, context) : rule?.verdict;
}

/** The cause inside grpc-js's wrapping, without the timestamp that would make every line a different one. */
function lastError(details: string): string {
  const inner = /Last error: (?:Error: )?(.*?)\.? Resolution note:/s.exec(details)?.[1] ?? details;
  const cause = inner.replace(/ \(\d{4}-\d\d-\d\dT[^)]*\)/, '');
  if (cause === 'Failed to connect') return hungUp;
  return cause;
}
