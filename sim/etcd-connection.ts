import type { Clock } from '../src/runtime/effects.ts';

/** Keepalive gives up a connection on which nothing arrives any more. */
const keepaliveMs = 14_000;

/** The addresses of a host, as its connections depend on them. */
export interface HostEnd {
  /** Where a connection that is made now comes from; undefined: from somewhere that is never lost. */
  source(): string | undefined;
  holds(address: string): boolean;
  /** Tells the host's daemon of a connection; `drop` ends it. To be called back when it has ended. */
  opened(local: string, drop: () => void): () => void;
}

/** A host's connection to one member: made at the first call, and dead once its local address is gone. */
export class SimConnection {
  readonly #clock: Clock;
  readonly #end: HostEnd | undefined;
  readonly #onDrop: () => void;
  #open: { readonly local: string; readonly closed: () => void } | undefined;
  #lostSinceMs: number | undefined;
  #dropped = new AbortController();

  /** `onDrop` is called when it ends with what is in it. */
  constructor(clock: Clock, end: HostEnd | undefined, onDrop: () => void) {
    this.#clock = clock;
    this.#end = end;
    this.#onDrop = onDrop;
  }

  /** Connects, unless it is connected. The result aborts when the connection is dropped. */
  use(): AbortSignal {
    const local = this.#open === undefined ? this.#end?.source() : undefined;
    if (local !== undefined && this.#end !== undefined)
      this.#open = { local, closed: this.#end.opened(local, () => this.#drop()) };
    return this.#dropped.signal;
  }

  /** Whether nothing arrives any more, because the host has lost the address that it was made from. */
  get stranded(): boolean {
    if (this.#open === undefined || this.#end?.holds(this.#open.local) !== false) {
      this.#lostSinceMs = undefined;
      return false;
    }
    const nowMs = this.#clock.monotonic();
    this.#lostSinceMs ??= nowMs;
    if (nowMs < this.#lostSinceMs + keepaliveMs) return true;
    this.#drop();
    return false;
  }

  close(): void {
    this.#open?.closed();
    this.#open = undefined;
    this.#lostSinceMs = undefined;
  }

  #drop(): void {
    this.close();
    this.#dropped.abort(new Error('dropped'));
    this.#dropped = new AbortController();
    this.#onDrop();
  }
}
