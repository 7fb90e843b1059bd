import { excerpt } from '../../runtime/texts.ts';
import type { V2Answer } from './member.ts';
import type { V2Event, V2Node, V2Verdict } from './store.ts';

/** A node as etcd writes it: a key, or a directory with what is below it. */
export interface WireNode {
  readonly key: string;
  readonly value?: string;
  readonly dir?: boolean;
  readonly nodes?: readonly WireNode[];
  readonly createdIndex: number;
  readonly modifiedIndex: number;
  readonly ttl?: number;
  readonly expiration?: string;
}

/** The whole of an answer. */
export interface Whole extends Pick<V2Answer, 'status' | 'index' | 'clusterId'> {
  readonly text: string;
}

/** An answer of etcd's that is no result: its number for it (package v2error), its words, and whom they are about. */
interface Refusal {
  readonly errorCode: number;
  readonly message: string;
  readonly cause: string;
}

const keyNotFound = 100;
const historyGone = 401;

/** Whether etcd says that a key, or a directory, does not exist. A proxy's 404 does not say so. */
export function isMissing(answer: Whole): boolean {
  return answer.status === 404 && refusalOf(answer)?.errorCode === keyNotFound;
}

/** Whether the events to wait for are no longer known. */
export function isHistoryGone(answer: Whole): boolean {
  return answer.status === 400 && refusalOf(answer)?.errorCode === historyGone;
}

/** The node of a result; undefined when the answer has none, so that it cannot be etcd's. */
export function nodeOf({ text }: Whole): WireNode | undefined {
  const node = objectOf(text)?.['node'];
  return isNode(node) ? node : undefined;
}

/** A key as the store's users know it; undefined for a directory. */
export function keyOf(node: WireNode): V2Node | undefined {
  const { key, value = '', dir = false, createdIndex, modifiedIndex, ttl = 0, expiration } = node;
  if (dir) return undefined;
  // A key that is due and not removed yet has an expiration and no ttl: etcd leaves zeros out. It is not permanent.
  const ttlSeconds = expiration === undefined ? undefined : Math.max(0, ttl);
  return { key, value, createdIndex, modifiedIndex, ttlSeconds };
}

/** All keys at or below a node, at any depth, in the order of their names. */
export function keysBelow(node: WireNode): readonly V2Node[] {
  const found: V2Node[] = [];
  const pending = [node];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const key = keyOf(next);
    if (key !== undefined) found.push(key);
    for (const below of next.nodes ?? []) pending.push(below);
  }
  return found.toSorted((a, b) => (a.key < b.key ? -1 : 1));
}

/** The event that a watch of `dir` got, and where the watch continues. Undefined event: a hidden key changed. */
export function eventOf(
  answer: Whole,
  dir: string,
): { readonly event: V2Event | undefined; readonly modifiedIndex: number } | undefined {
  const node = nodeOf(answer);
  const action = objectOf(answer.text)?.['action'];
  if (node === undefined) return undefined;
  const { key, modifiedIndex } = node;
  const told = (event: V2Event | undefined) => ({ event, modifiedIndex });
  // A watch shows live events without hidden names, and past ones with them.
  if (isHiddenBelow(dir, key)) return told(undefined);
  const put = keyOf(node);
  if (put === undefined) return told({ type: 'again', why: 'directory' });
  if (removals.has(String(action))) return told({ type: 'removed', key, index: modifiedIndex });
  return told({ type: 'put', node: put });
}

const removals: ReadonlySet<string> = new Set(['delete', 'expire', 'compareAndDelete']);

function isHiddenBelow(dir: string, key: string): boolean {
  const base = `/${dir}/`.replaceAll(/\/+/g, '/');
  return key.startsWith(base) && `/${key.slice(base.length)}`.includes('/_');
}

/** Whom a request was about, for messages. */
export interface Asked {
  readonly key: string;
  readonly username: string | undefined;
}

/** What an answer means that is not the result. `isWrite`: it matters whether it took effect. */
export function verdictOn(answer: Whole, asked: Asked, isWrite: boolean): V2Verdict {
  const { status, text } = answer;
  const refusal = refusalOf(answer);
  const known = refusal && refusals[refusal.errorCode];
  if (known !== undefined) return known(asked, refusal as Refusal);
  if (status === 401 || status === 403) return refused(asked, refusal);
  // etcd gives up after 7 s without a leader (500, code 300); the write may be carried out once there is one.
  if (status >= 500) {
    const words = refusal === undefined ? `HTTP status ${status}` : wordsOf(refusal);
    if (isWrite) return outcomeUnknown(`it could not say whether it wrote ${excerpt(asked.key)} (${words})`);
    const remedy = 'Check that a majority of the members runs: etcdctl cluster-health.';
    return { kind: 'UNAVAILABLE', reason: `it cannot serve a consistent read (${words})`, remedy };
  }
  if (answer.clusterId === undefined && status === 404) return notServed;
  const words = refusal === undefined ? excerpt(text.trim()) : wordsOf(refusal);
  const reason = `an unexpected answer for ${excerpt(asked.key)}: HTTP status ${status} (${words})`;
  const remedy = 'Check the address and port, and whether it needs https://.';
  return { kind: 'UNEXPECTED', reason, ...(refusal === undefined ? { remedy } : {}) };
}

/** A write that may have taken effect. */
export function outcomeUnknown(reason: string): V2Verdict {
  return { kind: 'OUTCOME_UNKNOWN', reason, remedy: 'Read the key before the next attempt.' };
}

const notServed: V2Verdict = {
  kind: 'NOT_SERVED',
  reason: 'it does not serve the v2 API',
  remedy: 'etcd 3.4 and 3.5 do with --enable-v2=true; etcd 3.6 has none.',
};

function refused({ key, username }: Asked, refusal: Refusal | undefined): V2Verdict {
  const who = username === undefined ? 'it requires a user' : `user ${username} is refused`;
  const words = refusal === undefined ? 'no reason given' : wordsOf(refusal);
  const remedy =
    username === undefined
      ? 'Name a user of the v2 API: --etcd-username with --etcd-password-file.'
      : `v2 has users of its own. Check the password and the rights: ETCDCTL_API=2 etcdctl user get ${username}`;
  return { kind: 'REFUSED', reason: `${who} for ${excerpt(key)} (${words})`, remedy };
}

const wrongType = ({ key }: Asked, refusal: Refusal): V2Verdict => ({
  kind: 'WRONG_TYPE',
  reason: `${excerpt(key)} cannot be a key: ${excerpt(refusal.cause)} is ${refusal.errorCode === 102 ? 'a directory' : 'a key'}`,
  remedy: 'Look at what lies there: ETCDCTL_API=2 etcdctl ls --recursive -p',
});

/** By etcd's number: 100 to 199 are about keys. */
const refusals: Readonly<Record<number, (asked: Asked, refusal: Refusal) => V2Verdict>> = {
  [keyNotFound]: ({ key }) => ({ kind: 'NOT_FOUND', reason: `${excerpt(key)} does not exist` }),
  101: ({ key }, refusal) => ({
    kind: 'COMPARE_FAILED',
    reason: `${excerpt(key)} was written by somebody else (${wordsOf(refusal)})`,
    remedy: 'Read the key before the next attempt.',
  }),
  102: wrongType,
  104: wrongType,
  105: ({ key }) => ({ kind: 'EXISTS', reason: `${excerpt(key)} exists already` }),
  110: refused,
};

function wordsOf({ message, cause, errorCode }: Refusal): string {
  const words = [message, cause].filter((text) => text !== '').map((text) => excerpt(text));
  return `${words.join(': ')}, code ${errorCode}`;
}

function refusalOf({ text }: Whole): Refusal | undefined {
  const { errorCode, message = '', cause = '' } = objectOf(text) ?? {};
  return typeof errorCode === 'number'
    ? { errorCode, message: String(message), cause: String(cause) }
    : undefined;
}

function objectOf(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === 'object' && parsed !== null ? (parsed as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function isNode(node: unknown): node is WireNode {
  if (typeof node !== 'object' || node === null) return false;
  const { key, createdIndex, modifiedIndex } = node as Partial<WireNode>;
  return typeof key === 'string' && Number.isSafeInteger(createdIndex) && Number.isSafeInteger(modifiedIndex);
}
