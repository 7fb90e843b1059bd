import { KernelError } from '../src/kernel/errors.ts';
import type { KernelEvent, KernelEvents } from '../src/kernel/kernel.ts';

/** An event before it is known who listens: `origin` is the connection that caused it, undefined for anybody else. */
export interface SimEvent {
  readonly event: KernelEvent;
  readonly origin: object | undefined;
}

/** One subscriber's stream. */
export class SimEventStream implements KernelEvents {
  readonly #owner: object;
  readonly #capacity: number;
  readonly #onClose: (stream: SimEventStream) => void;
  #events: KernelEvent[] = [];
  #lost = false;
  #closed = false;
  #wake: (() => void) | undefined;

  /** `owner`: events of this origin are marked `own`. `capacity`: how many may wait before events are lost. */
  constructor(owner: object, capacity: number, onClose: (stream: SimEventStream) => void) {
    this.#owner = owner;
    this.#capacity = capacity;
    this.#onClose = onClose;
  }

  push({ event, origin }: SimEvent): void {
    if (this.#events.length >= this.#capacity) this.overflow();
    if (!this.#lost) this.#events.push(withOwner(event, origin === this.#owner));
    this.#wake?.();
  }

  /** Everything that waits is lost, and all that comes until the listener has noticed. */
  overflow(): void {
    this.#lost = true;
    this.#events = [];
    this.#wake?.();
  }

  async next(signal: AbortSignal): Promise<readonly KernelEvent[]> {
    for (;;) {
      signal.throwIfAborted();
      const events = this.#take();
      if (events.length > 0) return events;
      await this.#something(signal);
    }
  }

  async drain(signal?: AbortSignal): Promise<readonly KernelEvent[]> {
    signal?.throwIfAborted();
    return this.#take();
  }

  close(): void {
    this.#closed = true;
    this.#onClose(this);
    this.#wake?.();
  }

  #take(): readonly KernelEvent[] {
    if (this.#closed) throw new KernelError('CLOSED', 'the event stream is closed');
    const events: readonly KernelEvent[] = this.#lost ? [{ type: 'overflow' }] : this.#events;
    this.#events = [];
    this.#lost = false;
    return events;
  }

  #something(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        this.#wake = undefined;
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#wake = wake;
      signal.addEventListener('abort', wake, { once: true });
    });
  }
}

function withOwner(event: KernelEvent, own: boolean): KernelEvent {
  return event.type === 'route-added' || event.type === 'route-removed' ? { ...event, own } : event;
}
