import { KernelError, type KernelEvent, type KernelEvents } from '../src/kernel/kernel.ts';

/** One subscriber's stream. */
export class SimEventStream implements KernelEvents {
  readonly #onClose: (stream: SimEventStream) => void;
  #events: KernelEvent[] = [];
  #lost = false;
  #closed = false;
  #wake: (() => void) | undefined;

  constructor(onClose: (stream: SimEventStream) => void) {
    this.#onClose = onClose;
  }

  push(event: KernelEvent): void {
    if (!this.#lost) this.#events.push(event);
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
