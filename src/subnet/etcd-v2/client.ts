import type { Clock } from '../../runtime/effects.ts';
import { excerpt } from '../../runtime/texts.ts';
import { isMissing, keyOf, keysBelow, nodeOf, outcomeUnknown, type WireNode } from './answers.ts';
import type { V2Member } from './member.ts';
import { V2Requests } from './requests.ts';
import {
  V2Error,
  type V2Event,
  type V2Listing,
  type V2Node,
  type V2Position,
  type V2Read,
  type V2Store,
  type V2Ttl,
} from './store.ts';
import { watchDirectory } from './watch.ts';

/** etcd itself gives up after 7 s without a leader: its answer tells more than silence does. */
const defaultDeadlineMs = 10_000;
const defaultPollMs = 60_000;

export interface V2ClientOptions {
  readonly clock: Clock;
  /** How long an answer may take; of a watch only its head. Default: 10 s. */
  readonly deadlineMs?: number;
  /** How long a watch waits for an event before it asks anew. Default: a minute. */
  readonly pollMs?: number;
}

/** etcd's v2 store, by the keys API of its members (at least one): see {@link V2Requests} for which of them is asked. */
export class V2Client implements V2Store {
  readonly #requests: V2Requests;
  readonly #clock: Clock;
  readonly #pollMs: number;

  constructor(members: readonly V2Member[], options: V2ClientOptions) {
    const { clock, deadlineMs = defaultDeadlineMs, pollMs = defaultPollMs } = options;
    this.#requests = new V2Requests(members, { clock, deadlineMs });
    this.#clock = clock;
    this.#pollMs = pollMs;
  }

  async list(dir: string, signal: AbortSignal): Promise<V2Listing> {
    const { node, position, endpoint } = await this.#read(dir, { recursive: 'true' }, signal);
    if (node !== undefined && node.dir !== true)
      throw wrongType(endpoint, `${excerpt(dir)} is a key, not a directory`);
    return { ...position, nodes: node === undefined ? [] : keysBelow(node) };
  }

  async get(key: string, signal: AbortSignal): Promise<V2Read> {
    const { node, position, endpoint } = await this.#read(key, {}, signal);
    if (node?.dir === true) throw wrongType(endpoint, `${excerpt(key)} is a directory, not a key`);
    return { ...position, node: node && keyOf(node) };
  }

  async create(key: string, value: string, ttl: V2Ttl, signal: AbortSignal): Promise<V2Node> {
    return await this.#write(key, { prevExist: 'false' }, { value, ...ttlField(ttl) }, signal);
  }

  async replace(
    key: string,
    value: string,
    prevIndex: number,
    ttl: V2Ttl,
    signal: AbortSignal,
  ): Promise<V2Node> {
    const query = prevIndexIs(prevIndex);
    return await this.#write(key, query, { value, ...ttlField(ttl) }, signal);
  }

  async expire(key: string, value: string, prevIndex: number, signal: AbortSignal): Promise<void> {
    await this.#write(key, prevIndexIs(prevIndex), { value, ttl: '0' }, signal);
  }

  watch(dir: string, after: V2Position, signal: AbortSignal): AsyncIterable<V2Event> {
    const watching = { requests: this.#requests, clock: this.#clock, pollMs: this.#pollMs };
    return watchDirectory(watching, dir, after, signal);
  }

  async #read(
    key: string,
    query: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<{
    readonly node: WireNode | undefined;
    readonly position: V2Position;
    readonly endpoint: string;
  }> {
    const call = { method: 'GET', key, query: { quorum: 'true', ...query } } as const;
    const { answer, member } = await this.#requests.ask(call, signal);
    const { index, clusterId } = answer;
    const { endpoint } = member;
    const node = nodeOf(answer);
    if (index === undefined || clusterId === undefined || (node === undefined && !isMissing(answer))) {
      const reason = `an answer for ${excerpt(key)} that cannot be read: ${excerpt(answer.text)}`;
      throw new V2Error(endpoint, { kind: 'UNEXPECTED', reason });
    }
    return { node, position: { index, clusterId }, endpoint };
  }

  async #write(
    key: string,
    query: Readonly<Record<string, string>>,
    form: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<V2Node> {
    const { answer, member } = await this.#requests.ask({ method: 'PUT', key, query, form }, signal);
    const node = nodeOf(answer);
    const written = node && keyOf(node);
    if (written !== undefined) return written;
    const reason = `its answer cannot be read; ${excerpt(key)} may be written or not`;
    throw new V2Error(member.endpoint, outcomeUnknown(reason));
  }
}

/** Without a ttl, or with an empty one, a write makes the key permanent, whatever it was. */
function ttlField(ttl: V2Ttl): Readonly<Record<string, string>> {
  if (ttl === 'permanent') return {};
  if (!Number.isSafeInteger(ttl) || ttl < 1) throw new RangeError(`no time to live in seconds: ${ttl}`);
  return { ttl: String(ttl) };
}

/** etcd takes `prevIndex=0` for no condition at all. */
function prevIndexIs(prevIndex: number): Readonly<Record<string, string>> {
  if (!Number.isSafeInteger(prevIndex) || prevIndex < 1)
    throw new RangeError(`no index of a key: ${prevIndex}`);
  return { prevIndex: String(prevIndex) };
}

function wrongType(endpoint: string, reason: string): V2Error {
  const remedy = 'Look at what lies there: ETCDCTL_API=2 etcdctl ls --recursive -p';
  return new V2Error(endpoint, { kind: 'WRONG_TYPE', reason, remedy });
}
