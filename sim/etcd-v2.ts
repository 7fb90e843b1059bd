import { posix } from 'node:path';
import type { Clock } from '../src/runtime/effects.ts';
import { unlessAborted, Wake } from '../src/runtime/wake.ts';
import { NoAnswer, type V2Answer, type V2Member, type V2Request } from '../src/subnet/etcd-v2/member.ts';
import { cutOff, V2Polls } from './etcd-v2-polls.ts';
import {
  isToldLive,
  type V2Change,
  type V2Data,
  V2KeySpace,
  type V2Put,
  V2Refusal,
} from './etcd-v2-store.ts';

/** How often the leader removes what is due. */
const expiryIntervalMs = 500;
/** Looks at which nothing can be due are left out, but for one within this time: the wall clock may jump. */
const longestExpiryMs = 60_000;
/** How long etcd waits for a leader before it answers that there is none. */
const leaderWaitMs = 7_000;

/** What a member does: isolated, it answers and knows of no leader; frozen, it accepts and says nothing. */
type MemberState = 'up' | 'down' | 'frozen' | 'isolated';

/** A user of v2, and the keys that it may use: `/net/*`, or one key. */
export interface V2User {
  readonly password: string;
  readonly rights: readonly string[];
}

/** Whom a request names. */
interface Named {
  readonly username: string;
  readonly password: string | undefined;
}

/** What {@link SimV2Etcd.snapshot} returns; opaque. */
export interface V2Snapshot {
  readonly data: V2Data;
}

/**
 * An etcd cluster's v2 store in memory, with the keys API of each member, on the given clock. Kept honest by the contract
 * suite, which runs on a real etcd too.
 */
export class SimV2Etcd {
  readonly members: readonly string[];
  /** False: an etcd without `--enable-v2`. */
  isServed = true;
  /** v2's users by name; undefined: authentication is off. Nobody else (`guest`) may do anything. */
  users: ReadonlyMap<string, V2User> | undefined;
  /** Whether a write that failed for want of a leader is done once there is one: either may happen. */
  writesLate = false;
  /** How many requests were made, polls included. */
  requests = 0;
  readonly #clock: Clock;
  readonly #keys: V2KeySpace;
  readonly #states = new Map<string, MemberState>();
  readonly #polls = new V2Polls();
  readonly #dueSooner = new Wake();
  readonly #closing = new AbortController();
  /** The index up to which an isolated or frozen member knows what happened. */
  readonly #applied = new Map<string, number>();
  /** What waits until a member answers again. */
  readonly #stuck = new Map<string, (() => void)[]>();
  /** Writes that wait for a leader, although nobody waits for them. */
  #proposed: (() => void)[] = [];
  #lost: { readonly applied: boolean } | undefined;
  #clusterId = 0xa7_ef94_4b95_7117n;

  constructor(clock: Clock, members: readonly string[] = ['etcd-0']) {
    this.#clock = clock;
    this.members = members;
    this.#keys = new V2KeySpace(() => clock.now());
    this.#keys.onChange = (change) => this.#tell(change);
    this.#keys.onDueSooner = () => this.#dueSooner.wake();
    void this.#expire();
  }

  get index(): number {
    return this.#keys.index;
  }

  /** How many polls are open. */
  get polls(): number {
    return this.#polls.count;
  }

  /** The way to a member, with these words as user and password. */
  member(name: string, username?: string, password?: string): V2Member {
    const endpoint = `http://${name}:2379`;
    const ask = (request: V2Request, signal: AbortSignal) => {
      const user = request.asUser && username !== undefined ? { username, password } : undefined;
      return this.#ask(name, request, user, signal);
    };
    return { endpoint, username, ask };
  }

  // What others do beside the client under test: flannel 0.7.1 (set, with and without ttl), an operator with etcdctl.

  set(key: string, value: string, ttlSeconds?: number): V2Change {
    return this.#keys.put(key, { value, ttlSeconds });
  }

  put(key: string, put: V2Put): V2Change {
    return this.#keys.put(key, put);
  }

  delete(key: string, options?: { readonly recursive?: boolean; readonly prevIndex?: number }): V2Change {
    return this.#keys.delete(key, options);
  }

  // Faults.

  /** Connections are refused, and those that are open are cut. */
  stop(member: string): void {
    this.#become(member, 'down');
    this.#stuck.delete(member);
    this.#polls.cut((at) => at === member);
  }

  freeze(member: string): void {
    this.#become(member, 'frozen');
  }

  /** Cuts a member off from the others. */
  isolate(member: string): void {
    this.#become(member, 'isolated');
  }

  /** Whatever was wrong with a member, it serves again. What it was asked while it was frozen it does now. */
  start(member: string): void {
    const from = this.#appliedBy(member) + 1;
    this.#states.delete(member);
    this.#applied.delete(member);
    for (const run of this.#stuck.get(member)?.splice(0) ?? []) run();
    if (this.#hasQuorum) for (const write of this.#proposed.splice(0)) carryOut(write);
    this.#polls.tell((at, dir) => (at === member ? this.#keys.scan(dir, from, this.index) : undefined));
  }

  /** The next write gets no answer, whether it is done or not. */
  loseNextAnswer(lost: { readonly applied: boolean }): void {
    this.#lost = lost;
  }

  /** Cuts the connections of all polls, as an etcd that stops does. */
  cutPolls(): void {
    this.#polls.cut(() => true);
  }

  /** Ends all polls with an answer that has no body. */
  endPolls(): void {
    this.#polls.end();
  }

  /** Cuts off the next event on its way to a poll. */
  cutNextEvent(): void {
    this.#polls.cutsNextEvent = true;
  }

  snapshot(): V2Snapshot {
    return { data: this.#keys.save() };
  }

  /** All members come back with the data of a snapshot, as a new cluster or with the id that they had. */
  restore({ data }: V2Snapshot, { sameId = false } = {}): void {
    this.#keys.load(data);
    this.#proposed = [];
    if (!sameId) this.#clusterId += 1n;
    for (const member of this.members) this.stop(member);
    for (const member of this.members) this.start(member);
  }

  /** Ends its timers and polls. */
  close(): void {
    this.#closing.abort(new Error('closed'));
    this.cutPolls();
  }

  async #ask(
    name: string,
    request: V2Request,
    user: Named | undefined,
    signal: AbortSignal,
  ): Promise<V2Answer> {
    signal.throwIfAborted();
    this.requests += 1;
    await Promise.resolve();
    const state = this.#states.get(name) ?? 'up';
    if (state === 'down') {
      const remedy = 'Check that etcd runs there.';
      throw new NoAnswer('UNAVAILABLE', 'connection refused, nothing listens there', {
        isSent: false,
        remedy,
      });
    }
    if (state === 'frozen') {
      // It is done later even if nobody waits any more: it lies in the socket of the member.
      const thawed = new Promise<void>((resolve) => {
        this.#stuck.set(name, [...(this.#stuck.get(name) ?? []), resolve]);
      });
      const done = thawed.then(() => this.#answer(name, request, user, signal));
      done.catch(() => undefined);
      return await unlessAborted(done, signal);
    }
    return await this.#answer(name, request, user, signal);
  }

  async #answer(
    name: string,
    request: V2Request,
    user: Named | undefined,
    signal: AbortSignal,
  ): Promise<V2Answer> {
    if (!this.isServed) return answered(404, '404 page not found\n');
    const key = posix.normalize(`/${request.key}`);
    try {
      this.#authorize(key, user);
      if (request.query['wait'] === 'true' && request.query['quorum'] !== 'true')
        return this.#poll(name, key, Number(request.query['waitIndex'] ?? 0), signal);
      const needsLeader = request.method === 'PUT' || request.query['quorum'] === 'true';
      if (needsLeader && (this.#states.get(name) === 'isolated' || !this.#hasQuorum)) {
        if (request.method === 'PUT' && this.writesLate)
          this.#proposed.push(() => void this.#write(name, key, request));
        await this.#clock.sleep(leaderWaitMs, signal);
        throw new V2Refusal(300, 'etcdserver: request timed out');
      }
      if (request.method === 'PUT') return this.#write(name, key, request);
      const node = this.#keys.get(key, request.query['recursive'] === 'true');
      return this.#result(name, 200, { action: 'get', node });
    } catch (error) {
      if (!(error instanceof V2Refusal)) throw error;
      const { code, message, about, status } = error;
      const index = code === 110 ? 0 : this.index;
      const text = JSON.stringify({ errorCode: code, message, cause: about, index });
      return answered(status, text, index, this.#id);
    }
  }

  #write(name: string, key: string, { query, form = {} }: V2Request): V2Answer {
    const lost = this.#lost;
    this.#lost = undefined;
    if (lost?.applied === false) throw cutOff();
    const { value = '', ttl = '' } = form;
    const { prevExist, prevIndex = '0' } = query;
    const change = this.#keys.put(key, {
      value,
      ttlSeconds: ttl === '' ? undefined : Number(ttl),
      prevExist: prevExist === undefined ? undefined : prevExist === 'true',
      prevIndex: Number(prevIndex),
    });
    if (lost !== undefined) throw cutOff();
    return this.#result(name, change.prevNode === undefined ? 201 : 200, change);
  }

  #poll(name: string, dir: string, waitIndex: number, signal: AbortSignal): V2Answer {
    const applied = this.#appliedBy(name);
    const past = waitIndex > 0 ? this.#keys.scan(dir, waitIndex, applied) : undefined;
    const body = this.#polls.open(name, dir, past, signal);
    // Who has seen the head need not want it.
    body.catch(() => undefined);
    return { ...answered(200, '', applied, this.#id), body: () => body };
  }

  #tell(change: V2Change): void {
    this.#polls.tell((member, dir) =>
      !this.#applied.has(member) && isToldLive(dir, change) ? change : undefined,
    );
  }

  #authorize(key: string, user: Named | undefined): void {
    if (this.users === undefined) return;
    const known = user && this.users.get(user.username);
    const mayUse = (right: string) =>
      right.endsWith('*') ? key.startsWith(right.slice(0, -1)) : right === key;
    if (known === undefined || known.password !== user?.password || !known.rights.some(mayUse))
      throw new V2Refusal(110, 'Insufficient credentials');
  }

  #result(name: string, status: number, content: object): V2Answer {
    return answered(status, JSON.stringify(content), this.#appliedBy(name), this.#id);
  }

  get #hasQuorum(): boolean {
    return this.members.filter((member) => !this.#states.has(member)).length > this.members.length / 2;
  }

  get #id(): string {
    return this.#clusterId.toString(16);
  }

  #appliedBy(member: string): number {
    return this.#applied.get(member) ?? this.index;
  }

  #become(member: string, state: MemberState): void {
    if (!this.members.includes(member)) throw new RangeError(`no member ${member}`);
    this.#states.set(member, state);
    if (!this.#applied.has(member)) this.#applied.set(member, this.index);
  }

  /** The leader's work, as long as a majority is there. No outage prolongs a time to live: it ends by the wall clock. */
  async #expire(): Promise<void> {
    const { signal } = this.#closing;
    const startMs = this.#clock.monotonic();
    while (!signal.aborted) {
      const leftMs = Math.min(Math.max(this.#keys.dueMs - this.#clock.now(), 1), longestExpiryMs);
      const sinceMs = this.#clock.monotonic() - startMs;
      const nextMs = Math.ceil((sinceMs + leftMs) / expiryIntervalMs) * expiryIntervalMs;
      const isSooner = await this.#dueSooner
        .waitAtMost(this.#clock, nextMs - sinceMs, signal)
        .catch(() => true);
      if (!isSooner && this.#hasQuorum) this.#keys.expireDue();
    }
  }
}

/** Does what nobody waits for any more; whether its condition holds by now is its affair. */
function carryOut(write: () => void): void {
  try {
    write();
  } catch (error) {
    if (!(error instanceof V2Refusal)) throw error;
  }
}

/** An answer that is there as a whole. */
function answered(status: number, text: string, index?: number, clusterId?: string): V2Answer {
  return { status, index, clusterId, body: () => Promise.resolve(text), drop: () => undefined };
}
