import type { Clock } from '../runtime/effects.ts';
import { unlessAborted } from '../runtime/wake.ts';
import {
  concernsHost,
  type Kernel,
  KernelError,
  type KernelEvent,
  type KernelEvents,
  type Link,
  type LinkAddress,
} from './kernel.ts';

/** The longest that a dump of links and addresses is shared, even without events. */
const maxAgeMs = 5_000;
/** Events that may wait for a subscriber. Above this it gets an overflow, and dumps: memory has an end. */
const defaultMostWaiting = 50_000;

interface HostDump {
  readonly startedMs: number;
  readonly entries: Promise<{ readonly links: readonly Link[]; readonly addresses: readonly LinkAddress[] }>;
  /** A link or address has changed since it began, or it failed. */
  outdated: boolean;
}

/**
 * One connection to the kernel for all parts of a daemon. The routes of both families and the watch of the
 * interface read one stream of events, and share dumps of links and addresses. Each subscriber sees what a
 * subscription of its own would show.
 *
 * A dump is shared until an event outdates it. So nobody who has read an event gets a dump from before it,
 * and addresses keep the kernel's order, by which an interface is chosen.
 */
export class SharedKernel implements Kernel {
  readonly #inner: Kernel;
  readonly #clock: Clock;
  readonly #mostWaiting: number;
  #stream: Promise<SharedStream> | undefined;
  #dump: HostDump | undefined;
  #dumpStop = new AbortController();

  constructor(inner: Kernel, clock: Clock, mostWaiting = defaultMostWaiting) {
    this.#inner = inner;
    this.#clock = clock;
    this.#mostWaiting = mostWaiting;
  }

  async subscribe(): Promise<KernelEvents> {
    for (;;) {
      const opening = (this.#stream ??= this.#open());
      try {
        const stream = await opening;
        // The last subscriber may have left meanwhile.
        if (this.#stream === opening) return stream.join();
      } catch (error) {
        if (this.#stream === opening) this.#stream = undefined;
        throw error;
      }
    }
  }

  async links(signal?: AbortSignal): Promise<readonly Link[]> {
    return (await this.#host(signal)).links;
  }

  async addresses(signal?: AbortSignal): Promise<readonly LinkAddress[]> {
    return (await this.#host(signal)).addresses;
  }

  readonly missingCapabilities: Kernel['missingCapabilities'] = () => this.#inner.missingCapabilities();
  readonly routes: Kernel['routes'] = (family, signal) => this.#inner.routes(family, signal);
  readonly routesDigest: Kernel['routesDigest'] = (family, signal) =>
    this.#inner.routesDigest(family, signal);
  readonly routeTo: Kernel['routeTo'] = (address, signal) => this.#inner.routeTo(address, signal);
  readonly apply: Kernel['apply'] = (changes, signal) => this.#inner.apply(changes, signal);

  close(): void {
    this.#inner.close();
  }

  async #open(): Promise<SharedStream> {
    const events = await this.#inner.subscribe();
    return new SharedStream(events, {
      mostWaiting: this.#mostWaiting,
      onEvents: (batch) => {
        if (this.#dump !== undefined && batch.some(concernsHost)) this.#dump.outdated = true;
      },
      onEnd: (reason) => {
        this.#stream = undefined;
        // From now on no event outdates a dump.
        this.#dump = undefined;
        this.#dumpStop.abort(reason);
        this.#dumpStop = new AbortController();
      },
    });
  }

  async #host(signal: AbortSignal | undefined): HostDump['entries'] {
    signal?.throwIfAborted();
    // Without a stream no event would outdate a dump.
    if (this.#stream === undefined) return await this.#dumpHost(signal);
    const nowMs = this.#clock.monotonic();
    if (this.#dump === undefined || this.#dump.outdated || nowMs - this.#dump.startedMs >= maxAgeMs) {
      const entries = this.#dumpHost(this.#dumpStop.signal);
      const dump: HostDump = { startedMs: nowMs, entries, outdated: false };
      entries.catch(() => {
        dump.outdated = true;
      });
      this.#dump = dump;
    }
    return await unlessAborted(this.#dump.entries, signal);
  }

  async #dumpHost(signal: AbortSignal | undefined): HostDump['entries'] {
    const links = await this.#inner.links(signal);
    return { links, addresses: await this.#inner.addresses(signal) };
  }
}

interface StreamOptions {
  readonly mostWaiting: number;
  /** Called with each batch before any subscriber gets it. */
  readonly onEvents: (batch: readonly KernelEvent[]) => void;
  /** Called once: with its failure, or when the last subscriber left. */
  readonly onEnd: (reason: unknown) => void;
}

/** An error of its own for each drain would cost more than the rest of it. */
const drained = new Error('another one reads the events');

/** One stream of events for several subscribers. It is read while one of them waits. */
class SharedStream {
  readonly #events: KernelEvents;
  readonly #options: StreamOptions;
  readonly #subscribers = new Set<Subscription>();
  #reading: Promise<void> | undefined;
  #stopReading = new AbortController();
  #draining: Promise<void> = Promise.resolve();
  #drains = 0;
  #failure: unknown;
  #ended = false;

  constructor(events: KernelEvents, options: StreamOptions) {
    this.#events = events;
    this.#options = options;
  }

  join(): KernelEvents {
    const subscriber = new Subscription(this, this.#options.mostWaiting);
    this.#subscribers.add(subscriber);
    return subscriber;
  }

  leave(subscriber: Subscription): void {
    this.#subscribers.delete(subscriber);
    if (this.#subscribers.size === 0) this.#end();
  }

  throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** Resolves when there may be an event for somebody, or the stream failed. Never rejects. */
  more(): Promise<void> {
    if (this.#drains > 0) return this.#draining;
    this.#reading ??= this.#read(this.#stopReading.signal).finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  /** Resolves when each subscriber has all events from before this call. Never rejects. */
  drain(): Promise<void> {
    this.#drains += 1;
    this.#draining = this.#draining
      .then(() => this.#drainOnce())
      .finally(() => {
        this.#drains -= 1;
      });
    return this.#draining;
  }

  async #read(signal: AbortSignal): Promise<void> {
    try {
      this.#tell(await this.#events.next(signal));
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    }
  }

  async #drainOnce(): Promise<void> {
    this.#stopReading.abort(drained);
    await this.#reading;
    this.#stopReading = new AbortController();
    try {
      this.#tell(await this.#events.drain());
    } catch (error) {
      this.#fail(error);
    }
  }

  #tell(batch: readonly KernelEvent[]): void {
    this.#options.onEvents(batch);
    for (const subscriber of this.#subscribers) subscriber.take(batch);
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#end();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#events.close();
    this.#options.onEnd(this.#failure ?? new KernelError('CLOSED', 'the event stream is closed'));
  }
}

class Subscription implements KernelEvents {
  readonly #stream: SharedStream;
  readonly #mostWaiting: number;
  #waiting: KernelEvent[] = [];
  #closed = false;

  constructor(stream: SharedStream, mostWaiting: number) {
    this.#stream = stream;
    this.#mostWaiting = mostWaiting;
  }

  take(batch: readonly KernelEvent[]): void {
    const isLost = batch[0]?.type === 'overflow' || this.#waiting.length + batch.length > this.#mostWaiting;
    if (isLost) this.#waiting = [{ type: 'overflow' }];
    else this.#waiting.push(...batch);
  }

  async next(signal: AbortSignal): Promise<readonly KernelEvent[]> {
    for (;;) {
      signal.throwIfAborted();
      const events = this.#told();
      if (events.length > 0) return events;
      await unlessAborted(this.#stream.more(), signal);
    }
  }

  async drain(signal?: AbortSignal): Promise<readonly KernelEvent[]> {
    signal?.throwIfAborted();
    this.#throwIfUnusable();
    await unlessAborted(this.#stream.drain(), signal);
    return this.#told();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#stream.leave(this);
  }

  /** All waiting events; an overflow alone. */
  #told(): readonly KernelEvent[] {
    this.#throwIfUnusable();
    return this.#waiting.splice(0, this.#waiting[0]?.type === 'overflow' ? 1 : this.#waiting.length);
  }

  #throwIfUnusable(): void {
    if (this.#closed) throw new KernelError('CLOSED', 'the event stream is closed');
    this.#stream.throwIfFailed();
  }
}
