import type { Clock } from '../src/runtime/effects.ts';
import { Wake } from '../src/runtime/wake.ts';
import type {
  KeyValue,
  RegistryErrorCode,
  ResponseHeader,
  WatchBatch,
  WatchEvent,
  WatchRequest,
} from '../src/subnet/registry/registry.ts';
import type { Way } from './etcd-network.ts';
import { type Commit, eventInRange, Refusal } from './etcd-store.ts';

/** How a host's calls fare on their way to a member. */
export type Link = 'ok' | 'refused' | 'silent' | 'no-leader';

/** How long a stream lives on a link that is not ok: HTTP/2 keepalive, and etcd's own check for a leader. */
const graceMs = { refused: 0, silent: 14_000, 'no-leader': 4_000 } as const;

const createdDeadlineMs = 10_000;
const longestWaitMs = 3_600_000;
/** So many batches a stream can send once more. */
const mostRepeated = 8;

/** A key as it was put, or taken away, at a revision. */
export type KeyRevision = Pick<KeyValue, 'key' | 'modRevision'>;

export interface WatchSource {
  readonly clock: Clock;
  readonly host: string;
  readonly member: string;
  readonly progressIntervalMs: number;
  /** Events per message; more are cut into fragments. */
  readonly fragmentEvents: number;
  way(): Way;
  /** The newest revision the member knows of. */
  applied(): number;
  /** How long every message takes beyond the usual. */
  delayMs(): number;
  header(): ResponseHeader;
  since(startRevision: number): readonly Commit[];
  /** Streams that are told of commits and of changes of the links. */
  readonly streams: Set<SimStream>;
  /** Messages until the next stream to be opened is cut. */
  takeCut(): number;
  /** To be called when a message arrives, with the keys of its events. */
  heard(keys: readonly KeyRevision[]): void;
  error(kind: RegistryErrorCode, message: string, compactRevision?: number): Error;
}

/** One open watch stream of the simulated cluster. */
export class SimStream {
  readonly #source: WatchSource;
  readonly #request: WatchRequest;
  readonly #wake = new Wake();
  readonly #queue: Commit[] = [];
  /** What was sent last, to be sent again. */
  readonly #sent: Commit[] = [];
  #mutedSinceMs: number | undefined;
  #cut = false;
  #messagesLeft = Number.POSITIVE_INFINITY;

  constructor(source: WatchSource, request: WatchRequest) {
    this.#source = source;
    this.#request = request;
  }

  get host(): string {
    return this.#source.host;
  }

  get member(): string {
    return this.#source.member;
  }

  deliver(commit: Commit): void {
    const { key, rangeEnd, startRevision } = this.#request;
    if (startRevision !== undefined && commit.revision < startRevision) return;
    const events = commit.events.filter((event) => eventInRange(event, key, rangeEnd));
    if (events.length === 0) return;
    this.#queue.push({ revision: commit.revision, events });
    this.#wake.wake();
  }

  /** Sends the last `count` batches once more, before what comes next. */
  repeat(count: number): void {
    this.#queue.unshift(...this.#sent.slice(-count));
    this.#wake.wake();
  }

  /** The link may have changed. */
  nudge(): void {
    this.#wake.wake();
  }

  /** Is not cut after so many messages any more. */
  spare(): void {
    this.#messagesLeft = Number.POSITIVE_INFINITY;
  }

  /** Loses the stream with everything that is on its way. */
  cut(): void {
    this.#cut = true;
    this.#wake.wake();
  }

  /** The messages, as Registry.watch describes them. */
  async *messages(signal: AbortSignal): AsyncGenerator<WatchBatch> {
    const { streams } = this.#source;
    await this.#linked(createdDeadlineMs, signal);
    streams.add(this);
    try {
      this.#messagesLeft = this.#source.takeCut();
      const backlog = this.#backlog();
      if (!(backlog instanceof Refusal)) this.#queue.unshift(...backlog);
      yield this.#message({ events: [], fragment: false, kind: 'created' });
      if (backlog instanceof Refusal) {
        throw this.#source.error(backlog.kind, backlog.message, backlog.compactRevision);
      }
      for (;;) yield* await this.#next(signal);
    } finally {
      streams.delete(this);
    }
  }

  /** What happened before the stream was opened; read at once, so that live events follow without a gap. */
  #backlog(): readonly Commit[] | Refusal {
    const { key, rangeEnd, startRevision } = this.#request;
    if (startRevision === undefined) return [];
    try {
      const commits = this.#source.since(startRevision).map(({ revision, events }) => {
        return { revision, events: events.filter((event) => eventInRange(event, key, rangeEnd)) };
      });
      const told = commits.filter(({ events }) => events.length > 0);
      // In one piece what the member knows of.
      const applied = this.#source.applied();
      const known = told.filter(({ revision }) => revision <= applied);
      const [last] = known.slice(-1);
      const piece = last && { revision: last.revision, events: known.flatMap(({ events }) => events) };
      return [...(piece ? [piece] : []), ...told.slice(known.length)];
    } catch (error) {
      if (error instanceof Refusal) return error;
      throw error;
    }
  }

  async #next(signal: AbortSignal): Promise<Generator<WatchBatch>> {
    const { clock, progressIntervalMs } = this.#source;
    const idleSinceMs = clock.monotonic();
    for (;;) {
      await this.#linked(undefined, signal);
      const commit = this.#takeNext();
      if (commit !== undefined) {
        const delayMs = this.#source.delayMs();
        if (delayMs > 0) await clock.sleep(delayMs, signal);
        this.#throwIfCut();
        return this.#fragments(commit.events);
      }
      const leftMs = idleSinceMs + progressIntervalMs - clock.monotonic();
      if (leftMs <= 0) return this.#progress();
      // Without end there is no timer that would be long enough.
      await this.#wake.waitAtMost(clock, Math.min(leftMs, this.#muteLeftMs(), longestWaitMs), signal);
    }
  }

  #takeNext(): Commit | undefined {
    const [next] = this.#queue;
    if (next === undefined || next.revision > this.#source.applied()) return undefined;
    this.#queue.shift();
    if (next.revision > (this.#sent.at(-1)?.revision ?? 0)) this.#sent.push(next);
    if (this.#sent.length > mostRepeated) this.#sent.shift();
    return next;
  }

  *#progress(): Generator<WatchBatch> {
    yield this.#message({ events: [], fragment: false, kind: 'progress' });
  }

  *#fragments(events: readonly WatchEvent[]): Generator<WatchBatch> {
    const size = this.#source.fragmentEvents;
    for (let start = 0; start < events.length; start += size) {
      const fragment = start + size < events.length;
      yield this.#message({ events: events.slice(start, start + size), fragment, kind: 'events' });
    }
  }

  #message(content: Omit<WatchBatch, 'header'>): WatchBatch {
    if (this.#messagesLeft-- <= 0) this.#cut = true;
    this.#throwIfCut();
    this.#source.heard(content.events.map((event) => (event.type === 'put' ? event.kv : event)));
    const { clusterId, revision } = this.#source.header();
    return { header: { clusterId, revision: Math.min(revision, this.#source.applied()) }, ...content };
  }

  #throwIfCut(): void {
    if (this.#cut) throw this.#source.error('UNAVAILABLE', 'Connection dropped');
  }

  #link(opening: boolean): Link {
    const { muted, streams } = this.#source.way();
    if (!muted) this.#mutedSinceMs = undefined;
    else this.#mutedSinceMs ??= this.#source.clock.monotonic();
    if (streams !== 'ok' || !muted) return streams;
    if (!opening && this.#muteLeftMs() <= 0) throw this.#source.error('UNAVAILABLE', reasons.silent);
    return opening ? 'silent' : 'ok';
  }

  /** How long a stream goes on on which nothing of the host's arrives. */
  #muteLeftMs(): number {
    const { clock } = this.#source;
    return this.#mutedSinceMs === undefined
      ? Number.POSITIVE_INFINITY
      : this.#mutedSinceMs + graceMs.silent - clock.monotonic();
  }

  /** Waits until the link is ok; rejects when it stays bad too long, or the stream was cut. */
  async #linked(openDeadlineMs: number | undefined, signal: AbortSignal): Promise<void> {
    const { clock } = this.#source;
    const sinceMs = clock.monotonic();
    for (;;) {
      signal.throwIfAborted();
      this.#throwIfCut();
      const opening = openDeadlineMs !== undefined;
      const link = this.#link(opening);
      if (link === 'ok') return;
      const limitMs =
        opening && link === 'no-leader' ? 0 : opening && link === 'silent' ? openDeadlineMs : graceMs[link];
      const leftMs = sinceMs + limitMs - clock.monotonic();
      if (leftMs <= 0) throw this.#source.error('UNAVAILABLE', reasons[link]);
      await this.#wake.waitAtMost(clock, leftMs, signal);
    }
  }
}

/** Why a call on such a link fails. */
export const reasons = {
  refused: 'connection refused, nothing listens there',
  silent: 'no answer within the deadline',
  'no-leader': 'no leader: this member is cut off from the majority of its cluster',
} as const;
